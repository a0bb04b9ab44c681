"""Every command of the guides for Cloud TPU and clusters, and of README's section on pods, is free of mistakes.

`test_guides_run.py` runs those that virtual devices can run.
"""

import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import pytest
import yaml
from absl.testing import flagsaver
from helpers import cloud_commands, guides, shell_commands
from helpers.guides import CLUSTERS, DEPLOY, JOBS, ROOT, TPU

from mtan_jax import main
from mtan_jax.commands import command_line
from mtan_jax.config import check_fields
from mtan_jax.runtime import interrupts, profiler
from mtan_jax.training import loop

# ml_collections' own.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")

# Variables that the cluster sets, and those of the user.
VARIABLES = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "BUCKET": "my-bucket", "SHARED": "/shared"}


def every_command():
    return [(name, words) for name, text in guides.sources().items() for words in shell_commands.commands(text)]


def program_starts():
    starts = [(name, shell_commands.program_arguments(words)) for name, words in every_command()]
    return [(name, arguments) for name, arguments in starts if arguments is not None]


def substituted(argument):
    """An argument with values in place of the variables of the shell and of Kubernetes."""
    argument = re.sub(r"\$\(JOB_COMPLETION_INDEX\)", "1", argument)
    return re.sub(r"\$(\w+)", lambda match: VARIABLES[match[1]], argument)


def test_every_place_has_the_commands_that_it_is_about():
    names = {name.partition(",")[0] for name, _ in program_starts()}
    assert names == {"cloud_tpu.md", "clusters.md", "README.md", *JOBS, "train.slurm", "tpu_startup.sh"}
    assert len(program_starts()) >= 12
    words = [words[0] for _, words in every_command()]
    assert words.count("gcloud") >= 20
    assert {"kubectl", "docker", "sbatch", "mpirun", "srun", "scontrol"} <= set(words)


@pytest.mark.parametrize(("name", "arguments"), program_starts(), ids=lambda value: str(value)[:60])
def test_the_program_accepts_its_arguments(name, arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = ["main.py", *map(substituted, arguments)]
    monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks for overrides there
    with flagsaver.flagsaver():
        assert command_line.parse(argv) == ["main.py"]
        config = main.CONFIG.value
        check_fields(config)
        profiler.parse_steps(config.profile)
        processes, process = main.NUM_PROCESSES.value, main.PROCESS_ID.value
        assert main.COORDINATOR.value in (None, "auto") or 0 <= process < processes
        chips = 16 if name.startswith(("cloud_tpu", "tpu_")) else 8  # of the slice, or GPUs of the cluster
        assert config.batch_size % chips == 0 or ":smoke" in argv[1]


def test_a_mistake_is_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    for argument in ("--config.batchsize=8", "--coordinater=auto", "--num_processes=two"):
        argv = ["main.py", "--config=configs/cityscapes.py", argument]
        monkeypatch.setattr(sys, "argv", argv)
        with flagsaver.flagsaver(), pytest.raises(SystemExit):
            command_line.parse(argv)
    for command in ("gcloud compute tpus tpu-vm ssh x --workers=all", "gcloud tpus create", "kubectl log", "slurm x"):
        assert cloud_commands.problem(command.split()), command


@pytest.mark.parametrize("name", list(guides.sources()))
def test_the_shell_accepts_it(name):
    text = guides.sources()[name]
    words = [word for command in shell_commands.commands(text) for word in command]
    inner = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    for script in (text, *inner):
        result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")


def test_commands_of_clouds_and_clusters_are_known():
    problems = {}
    for name, words in every_command():
        is_python = words[0] in shell_commands.PROGRAMS or words[0] in ("pip", "mtan-jax")
        if not is_python and (problem := cloud_commands.problem(words)):
            problems[name] = problem
    assert not problems


def test_python_snippets_compile():
    snippets = [
        words[words.index("-c") + 1] for _, words in every_command() if words[0].endswith("python") and "-c" in words
    ]
    assert snippets
    for snippet in snippets:
        compile(snippet, "snippet", "exec")


def test_scripts_that_commands_name_exist():
    for _, words in every_command():
        for word in words:
            for path in re.findall(r"\b(?:docs|configs)/[\w./]*\w", word):
                assert (ROOT / path).is_file(), words
            if word.startswith("--metadata-from-file="):
                assert (DEPLOY / word.rpartition("=")[2]).is_file()


@pytest.fixture
def setup_arguments(monkeypatch):
    """The arguments of `setup` in setup.py."""
    found = {}
    fake = types.SimpleNamespace(setup=found.update, find_packages=lambda include: ["mtan_jax"])
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    return found


def installed_extras():
    """The extras of every requirement with any, in pip's commands and in the Dockerfile."""
    words = [word for _, words in every_command() if "pip" in words for word in words]
    texts = [*words, *re.findall(r"^ARG EXTRAS=(\S+)", (DEPLOY / "Dockerfile").read_text(), re.M)]
    texts += re.findall(r"--build-arg=EXTRAS=(\S+)", CLUSTERS.read_text())
    texts += re.findall(r"pip install '([^']+)'", TPU.read_text())
    found = [re.fullmatch(r"(?:(?:\.|mtan_jax)\[)?([a-z,]+)\]?", text) for text in texts if "," in text or "[" in text]
    return {extra for match in found for extra in match[1].split(",")} | {"cuda"}


@pytest.mark.parametrize("extra", sorted(installed_extras()))
def test_extras_exist(extra, setup_arguments):
    assert extra in installed_extras()
    assert extra in setup_arguments["extras_require"]


def test_the_dockerfile_copies_what_the_installation_reads(setup_arguments):
    lines = [line.split() for line in (DEPLOY / "Dockerfile").read_text().splitlines()]
    copied = [source for words in lines if words[:1] == ["COPY"] for source in words[1:-1]]
    assert all((ROOT / source).exists() for source in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)
    read = re.findall(r'ROOT / "([\w.]+)', (ROOT / "setup.py").read_text())
    assert {"mtan_jax", *read, *setup_arguments["package_dir"].values(), "setup.py", "pyproject.toml"} <= set(copied)
    (base,) = [words[1] for words in lines if words[:1] == ["FROM"]]
    version = tuple(map(int, re.search(r"python:(\d+)\.(\d+)", base).groups()))
    assert version >= (3, 12)
    assert setup_arguments["python_requires"] == ">=3.11"
    (run,) = [" ".join(words) for words in lines if words[:1] == ["RUN"]]
    assert run.endswith('pip install --no-cache-dir ".[${EXTRAS}]"')


@pytest.mark.parametrize(("name", "resource"), list(zip(JOBS, ("google.com/tpu", "nvidia.com/gpu"), strict=True)))
def test_the_jobs_of_kubernetes_have_what_a_run_needs(name, resource):
    service, job = yaml.safe_load_all((DEPLOY / name).read_text())
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    ignored = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    assert {"operator": "In", "values": [128 + 15]} in [rule.get("onExitCodes") for rule in ignored]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # as podFailurePolicy demands
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["terminationGracePeriodSeconds"] > interrupts.PATIENCE
    (main_container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in main_container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert "/dev/shm" in mounts.values()  # loader processes need more than the default of 64 MB
    devices = main_container["resources"]["limits"][resource] * spec["completions"]
    (batch_size,) = [w.partition("=")[2] for w in main_container["command"] if w.startswith("--config.batch_size=")]
    assert int(batch_size) % devices == 0
    if name == "gpu_job.yaml":
        assert "--coordinator=mtan-0.mtan:29400" in main_container["command"]
        assert f"--num_processes={spec['completions']}" in main_container["command"]
        assert service["metadata"]["name"] == job["metadata"]["name"] == "mtan"
    else:
        rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
        assert rows * columns == devices
        (pool,) = [words for _, words in every_command() if words[1:4] == ["container", "node-pools", "create"]]
        assert {f"--tpu-topology={rows}x{columns}", f"--num-nodes={spec['completions']}"} <= set(pool)


def test_the_options_in_the_slurm_script_are_known():
    script = (DEPLOY / "train.slurm").read_text()
    options = dict(line.partition("=")[::2] for line in re.findall(r"^#SBATCH (\S+)$", script, re.M))
    assert len(options) == script.count("#SBATCH")
    assert options.keys() <= cloud_commands.SBATCH_OPTIONS
    assert options["--ntasks-per-node"] == options["--gpus-per-node"]
    signal, _, seconds = options["--signal"].partition("@")
    assert signal == "TERM"  # not B:TERM
    assert int(seconds) > interrupts.PATIENCE


def test_quoted_messages_and_numbers_are_those_of_the_program():
    code = "".join(path.read_text() for path in (ROOT / "mtan_jax").rglob("*.py"))
    table = TPU.read_text().partition("## What errors mean")[2]
    own = [text for text in re.findall(r"^\| `([^`]+)` \|", table, re.M) if "Python" not in text]
    assert len(own) == 4
    for text in own:
        for part in text.removeprefix("config.batch_size").split("..."):
            assert part.strip(" =") in code, text
    for text in re.findall(r"^\| `([^`]+)` \(JAX\)", table, re.M):
        clusters = pathlib.Path(jax.__file__).parent / "_src"
        paths = [clusters / "distributed.py", clusters / "clusters" / "cloud_tpu_cluster.py"]
        assert any(text in path.read_text() for path in paths), text
    page = " ".join(TPU.read_text().split())
    assert f"longer than {interrupts.PATIENCE:.0f} s, they end without saving" in page
    assert "resuming from step" in pathlib.Path(loop.__file__).read_text()
    ids = re.findall(r"JAX_LOCAL_DEVICE_IDS", CLUSTERS.read_text())
    assert len(ids) == 2
    assert "JAX_LOCAL_DEVICE_IDS" in (pathlib.Path(jax.__file__).parent / "_src" / "distributed.py").read_text()


@pytest.mark.parametrize(
    ("status", "state", "requeued"),
    [(143, "RUNNING", True), (143, "COMPLETING", False), (0, "RUNNING", False), (1, "RUNNING", False)],
)
def test_the_slurm_script_requeues_a_job_at_its_time_limit(status, state, requeued, tmp_path):
    """Stand-ins for the commands of SLURM: srun ends with a status, squeue prints a state, scontrol notes its call."""
    for name, body in {
        "srun": f"exit {status}",
        "squeue": f"echo {state}",
        "scontrol": f'echo "$@" >> {tmp_path}/called',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SHARED": "/shared", "SLURM_JOB_ID": "7"}
    environment["SLURM_CPUS_PER_TASK"] = "8"
    command = ["bash", str(DEPLOY / "train.slurm")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (status, "")
    called = tmp_path / "called"
    assert (called.read_text() if called.exists() else None) == ("requeue 7\n" if requeued else None)
