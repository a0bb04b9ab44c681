"""Scripts that let a cluster's scheduler run a sweep."""

import json
import pathlib
import shlex
from collections.abc import Sequence

from mtan_jax.sweep.command import Command

_SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@90
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={logs}

# {count}. Adapt the #SBATCH lines to the cluster, and submit the script with `sbatch {script}`.
# At the time limit, and when a task is preempted, SLURM sends SIGTERM to the run, which saves its step and exits with
# 143; the task is then requeued and continues.
cd {folder}

command() {{
    case "$SLURM_ARRAY_TASK_ID" in
{cases}
    esac
}}

status=0
command || status=$?

# SLURM requeues a preempted task by itself, but not one that reaches its time limit. A task that was preempted or
# canceled is COMPLETING by now.
if [ "$status" = 143 ]; then
    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
    if [ "$state" = RUNNING ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$status"
"""

_KUBERNETES = """\
# {count}, one pod per run. Replace IMAGE and the name of the volume claim, adapt the resources, and apply the file with
# `kubectl apply --filename={script}`. Files that the runs read, such as configurations, must exist in the image or on
# the volume.
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {number}
  parallelism: {parallelism}
  backoffLimitPerIndex: 3
  maxFailedIndexes: {number}
  podFailurePolicy: # a run that was stopped by SIGTERM is started again, without counting as a failure
    rules:
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
      - action: Ignore
        onExitCodes:
          operator: In
          values: [143]
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 60
      containers:
        - name: train
          image: IMAGE
          command:
            - bash
            - -c
            - |
              case "$JOB_COMPLETION_INDEX" in
{cases}
              esac
          resources:
            limits:
              nvidia.com/gpu: 1
          volumeMounts:
            - name: shared
              mountPath: {mount}
            - name: memory
              mountPath: /dev/shm
      volumes:
        - name: shared
          persistentVolumeClaim:
            claimName: shared # ReadWriteMany
        - name: memory # for batches from loader processes
          emptyDir:
            medium: Memory
"""


def slurm_script(commands: Sequence[Command], folder: pathlib.Path, script: str) -> str:
    """An array job with one task per run.

    Args:
        commands: the runs.
        folder: of the sweep.
        script: name of the file that the script will be written to.
    """
    cases = "\n".join(f"        {i}) srun {command} ;;" for i, command in enumerate(commands))
    return _SLURM.format(
        name=folder.name,
        last=len(commands) - 1,
        logs=folder / "slurm-%a.log",
        count=_count(commands),
        script=script,
        folder=shlex.quote(str(pathlib.Path.cwd())),
        cases=cases,
    )


def kubernetes_job(commands: Sequence[Command], folder: pathlib.Path, script: str, parallelism: int) -> str:
    """An indexed Job with one pod per run.

    Args:
        commands: the runs; their working directories are absolute paths on the volume.
        folder: of the sweep.
        script: name of the file that the Job will be written to.
        parallelism: number of pods that run at a time.

    Raises:
        ValueError: the folder is not an absolute path, or the Job's name would not be one of Kubernetes.
    """
    if not folder.is_absolute() or len(folder.parts) < 3:
        raise ValueError(
            f"--workdir={folder}: expected a folder on a volume that all pods mount, such as /shared/runs/NAME"
        )
    name = folder.name.lower().replace("_", "-").replace(".", "-")
    if not name.replace("-", "").isalnum() or not name.isascii() or len(name) > 52 or name[0] == "-" or name[-1] == "-":
        raise ValueError(f"--workdir={folder}: expected a last part of at most 52 letters, digits and '-', as in a Job")
    cases = "\n".join(f"                {i}) exec {command} ;;" for i, command in enumerate(commands))
    return _KUBERNETES.format(
        name=name,
        number=len(commands),
        count=_count(commands),
        script=script,
        parallelism=min(parallelism, len(commands)),
        cases=cases,
        mount=json.dumps(f"/{folder.parts[1]}"),
    )


def _count(commands: Sequence[Command]) -> str:
    return f"{len(commands)} run{'s' if len(commands) > 1 else ''} of a sweep"
