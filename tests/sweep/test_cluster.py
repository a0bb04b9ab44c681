"""Scripts for clusters: the right command per task, with stand-ins for the cluster's programs."""

import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

from mtan_jax.sweep import cluster, product
from mtan_jax.sweep.command import make_commands
from mtan_jax.sweep.grid import name_runs

pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")  # ml_collections' own
FOLDER = pathlib.Path("/shared/runs/a sweep")


def commands(folder=FOLDER):
    return make_commands(
        name_runs(product("streets:smoke", {"tasks": [["depth"], ["normal"]], "seed": [0, 1]})), folder
    )


def stand_in(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("status", [0, 143])
def test_each_task_of_the_array_trains_its_run_and_is_requeued_at_the_time_limit(tmp_path, status):
    stand_in(tmp_path, "srun", f'printf "%s\\n" "$@" > {tmp_path}/arguments; exit {status}')
    stand_in(tmp_path, "squeue", "echo RUNNING")
    stand_in(tmp_path, "scontrol", f'echo "$@" > {tmp_path}/requeued')
    script = cluster.slurm_script(commands(), FOLDER, "sweep.slurm")
    assert "#SBATCH --array=0-3\n" in script
    for i, command in enumerate(commands()):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(i), "SLURM_JOB_ID": "7"}
        result = subprocess.run(["bash", "-c", script], env=environment, check=False)
        assert result.returncode == status
        assert (tmp_path / "arguments").read_text().splitlines() == ["python", *command.arguments[1:]]
    assert (tmp_path / "requeued").exists() == (status == 143)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_each_pod_of_the_job_trains_its_run(tmp_path):
    folder = pathlib.Path("/shared/runs/My_sweep")
    job = yaml.safe_load(cluster.kubernetes_job(commands(folder), folder, "job.yaml", 3))
    assert job["metadata"]["name"] == "my-sweep"
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (4, 3)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["volumeMounts"][0]["mountPath"] == "/shared"
    stand_in(tmp_path, "python", f'printf "%s\\n" "$@" > {tmp_path}/arguments')
    for i, command in enumerate(commands(folder)):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(i)}
        subprocess.run(container["command"], env=environment, check=True)
        assert (tmp_path / "arguments").read_text().splitlines() == command.arguments[1:]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("runs/x", "expected a folder on a volume"),
        ("/a/runs/x y", "expected a last part"),
    ],
)
def test_folders_that_pods_cannot_use(folder, message):
    with pytest.raises(ValueError, match=message):
        cluster.kubernetes_job(commands(), pathlib.Path(folder), "job.yaml", 1)
