"""Subcommands and flags that the guides use, as their references list them.

The references were read in November 2026. The flags of gcloud were compared with the tables of Google Cloud SDK 528.
"""

GCLOUD = "https://cloud.google.com/sdk/gcloud/reference"
SLURM = "https://slurm.schedmd.com"
EVERYWHERE = {"--project", "--format", "--quiet"}  # https://cloud.google.com/sdk/gcloud/reference#GLOBAL-FLAGS

# Subcommand -> its flags. Each is described at the address GCLOUD/SUBCOMMAND.
GCLOUD_FLAGS = {
    "artifacts repositories create": {"--location", "--repository-format"},
    "auth configure-docker": set(),
    "compute tpus queued-resources create": {
        *("--accelerator-type", "--metadata-from-file", "--node-id", "--runtime-version", "--service-account"),
        *("--spot", "--zone"),
    },
    "compute tpus queued-resources delete": {"--force", "--zone"},
    "compute tpus queued-resources describe": {"--zone"},
    "compute tpus tpu-vm ssh": {"--command", "--worker", "--zone"},
    "container clusters create": {"--location", "--num-nodes", "--workload-pool"},
    "container clusters delete": {"--location"},
    "container clusters get-credentials": {"--location"},
    "container node-pools create": {
        *("--cluster", "--location", "--machine-type", "--num-nodes", "--spot", "--tpu-topology"),
        "--workload-metadata",
    },
    "iam service-accounts create": set(),
    "projects describe": set(),
    "storage buckets add-iam-policy-binding": {"--member", "--role"},
    "storage buckets create": {"--location", "--uniform-bucket-level-access"},
    "storage cp": set(),
}

# The options of sbatch, SLURM/sbatch.html.
SBATCH_OPTIONS = {
    *("--cpus-per-task", "--gpus-per-node", "--job-name", "--nodes", "--ntasks-per-node", "--open-mode", "--output"),
    *("--requeue", "--signal", "--time"),
}

# Program, and its subcommand if it has any -> its flags.
FLAGS = {
    "docker build": {"--build-arg", "--file", "--tag"},  # https://docs.docker.com/reference/cli/docker/buildx/build
    "docker push": set(),
    "kubectl apply": {"--filename"},  # https://kubernetes.io/docs/reference/kubectl/generated/kubectl_apply
    "kubectl create": set(),
    "kubectl delete": {"--filename"},
    "kubectl logs": {"--follow", "--selector"},  # .../kubectl_logs
    "mpirun": {"-np", "--npernode", "--map-by"},  # https://docs.open-mpi.org/en/v4.1.x, .../v5.0.x: man-openmpi/man1
    "sbatch": SBATCH_OPTIONS,
    "scontrol requeue": set(),  # https://slurm.schedmd.com/scontrol.html
    "squeue": {"--noheader", "--jobs", "--format"},  # https://slurm.schedmd.com/squeue.html
    "srun": {"--cpus-per-task", "--kill-on-bad-exit"},  # https://slurm.schedmd.com/srun.html
    "systemd-run": {"--property", "--setenv", "--unit", "--working-directory"},  # man 1 systemd-run
    "uv pip": {"-e"},
    "uv venv": {"--python"},  # https://docs.astral.sh/uv/reference/cli
    "xprof": {"--port"},  # https://docs.jax.dev/en/latest/profiling.html
}

# Commands of every Linux system, whose flags are not checked.
COMMON = {
    *("bash", "cd", "curl", "exec", "git", "journalctl", "nohup", "rm", "sed", "set", "sh", "sleep", "sudo"),
    *("tail", "true"),
}


def problem(words: list[str]) -> str | None:
    """What is wrong with a command; None if nothing is known to be.

    Flags after the name of another program, as in `srun ... python ...`, are that program's own.
    """
    name = words[0].rpartition("/")[2]
    if name == "gcloud":
        known, subcommands = GCLOUD_FLAGS, words[1:]
    elif name in COMMON:
        return None
    else:
        known, subcommands = FLAGS, [name, *words[1:]]
    for length in (5, 4, 3, 2, 1):
        flags = known.get(" ".join(subcommands[:length]))
        if flags is None:
            continue
        for word in subcommands[length:]:
            if word in ("python", "bash") or word.endswith("/python"):
                return None
            flag = word.partition("=")[0]
            if word.startswith("-") and flag not in flags and not (known is GCLOUD_FLAGS and flag in EVERYWHERE):
                return f"{flag} is no known flag of {' '.join(words[: length + (name == 'gcloud')])}"
        return None
    return f"{' '.join(words[:5])} is not a known command"
