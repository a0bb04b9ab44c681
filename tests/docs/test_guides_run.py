"""Runs the commands of the guides and of README's section on pods, with two processes on virtual devices.

The texts of the commands are those of the pages. Only paths, the address of process 0, and sizes are substituted; the
programs of clusters have stand-ins.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import cityscapes_release, guides, shell_commands, whole_run
from helpers.compiling import xla_flags

from mtan_jax.reporting import metrics_file

PRINTED_FLAGS = "--xla_force_host_platform_device_count=8"
SIZE = {"duration": "2 steps", "log_every": "1 steps", "eval.every": "2 steps", "checkpoint.every": "2 steps"}

# Starts two processes with the variables of SLURM, and ends with their largest exit code.
SRUN = """#!/bin/bash
words=("${@/%cityscapes.py/cityscapes.py:smoke}")
while [[ "${words[0]}" == --* ]]; do words=("${words[@]:1}"); done
for i in 0 1; do
    SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_PROCID=$i SLURM_LOCALID=$i \\
        "${words[@]}" "${SIZE_FLAGS[@]}" > LOGS/$i.out 2> LOGS/$i.err &
    pids+=($!)
    echo $! > LOGS/$i.pid
done
status=0
for pid in "${pids[@]}"; do
    wait "$pid"
    code=$?
    if ((code > status)); then status=$code; fi
done
exit $status
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a small Cityscapes release, where the guides expect it."""
    folder = tmp_path_factory.mktemp("shared")
    scenes = [cityscapes_release.random_scene("train", "aachen", i) for i in range(32)]
    scenes += [cityscapes_release.random_scene("val", "ulm", 100 + i) for i in range(2)]
    cityscapes_release.write_release(folder / "cityscapes", scenes)
    return folder


def size_flags(shared, **size):
    return [f"--config.compilation_cache={shared / 'compiled'}", *(f"--config.{k}={v}" for k, v in size.items())]


def program_start(name):
    """The arguments of the only command in a source that starts the program on several processes."""
    starts = map(shell_commands.program_arguments, shell_commands.commands(guides.sources()[name]))
    (arguments,) = [words for words in starts if words and any(word.startswith("--coordinator") for word in words)]
    return arguments


def run_both(starts, folder, flags):
    """Runs two processes, given as their arguments and variables, and returns what each wrote to stderr."""
    started = []
    for i, (arguments, variables) in enumerate(starts):
        settings = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(guides.ROOT)}
        command = [sys.executable, "-m", "mtan_jax.main", *arguments]
        with open(folder / f"{i}.out", "w") as out, open(folder / f"{i}.err", "w") as err:
            environment = {**os.environ, **settings, **variables}
            started.append(subprocess.Popen(command, cwd=guides.ROOT, env=environment, stdout=out, stderr=err))
    try:
        for process in started:
            process.wait(900)
    finally:
        whole_run.kill(started)
    errors = [(folder / f"{i}.err").read_text() for i in range(2)]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return errors


def check_run(workdir, errors, steps):
    """Both processes have trained one run, which process 0 reported."""
    lines = metrics_file.read_metrics(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, steps + 1))
    assert [line["step"] for line in lines if line["split"] == "val"] == [steps]
    assert f"training cityscapes for {steps} steps" in errors[0]
    assert "training cityscapes" not in errors[1]


@pytest.mark.slow
def test_readmes_pod_command_runs_on_two_processes_with_8_devices_each(shared, tmp_path):
    arguments, port = program_start("README.md, block 0"), whole_run.free_port()
    assert "--coordinator=auto" in arguments
    starts = []
    for i in range(2):
        together = {"--coordinator=auto": [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={i}"]}
        smaller = {"--config=configs/cityscapes.py": ["--config=configs/cityscapes.py:smoke"]}
        words = [new for word in arguments for new in (together | smaller).get(word, [word])]
        words = [word.replace("SHARED_FOLDER/runs", str(tmp_path)) for word in words]
        words = [word.replace("SHARED_FOLDER", str(shared)) for word in words]
        starts.append(([*words, *size_flags(shared, **SIZE)], {}))
    errors = run_both(starts, tmp_path, PRINTED_FLAGS)
    check_run(tmp_path / "cityscapes", errors, steps=2)
    # What the guide calls a healthy start.
    (healthy,) = re.findall(r"^```text\n(preparing .*?)^```$", guides.TPU.read_text(), re.M | re.S)
    for line in healthy.splitlines():
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        assert re.search(f"^{pattern}", errors[0], re.M), line


@pytest.fixture
def slurm(shared, tmp_path):
    """The variables and stand-ins of a SLURM job of two tasks."""
    programs, logs = tmp_path / "bin", tmp_path / "logs"
    programs.mkdir()
    logs.mkdir()
    flags = " ".join(
        f"'{flag}'" for flag in size_flags(shared, **SIZE | {"duration": "24 steps", "eval.every": "24 steps"})
    )
    srun = SRUN.replace("LOGS", str(logs)).replace("#!/bin/bash\n", f"#!/bin/bash\nSIZE_FLAGS=({flags})\n")
    texts = {"srun": srun, "squeue": "#!/bin/bash\necho RUNNING\n"}
    texts["python"] = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    texts["scontrol"] = f'#!/bin/bash\necho "$@" >> {logs}/scontrol\n'
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "shared").mkdir()
    for name in ("cityscapes", "tensorflow_datasets"):
        (shared / name).mkdir(exist_ok=True)
        (tmp_path / "shared" / name).symlink_to(shared / name)
    variables = {"SLURM_JOB_ID": str(free_job_id()), "SLURM_CPUS_PER_TASK": "1", "SHARED": str(tmp_path / "shared")}
    variables |= {"XLA_FLAGS": xla_flags(1), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(guides.ROOT)}
    return {**os.environ, **variables, "PATH": f"{programs}:{os.environ['PATH']}"}


def free_job_id():
    """A job number for which JAX chooses a free port."""
    for job in range(os.getpid(), os.getpid() + 4096):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", job % 2**12 + 65536 - 2**12)):
                return job
    raise RuntimeError("no port is free")


@pytest.mark.slow
def test_a_slurm_job_is_requeued_at_its_time_limit_and_continues(slurm, tmp_path):
    logs, workdir = tmp_path / "logs", tmp_path / "shared" / "runs" / "cityscapes"
    command = ["bash", str(guides.DEPLOY / "train.slurm")]
    job = subprocess.Popen(command, cwd=guides.ROOT, env=slurm, start_new_session=True)
    try:
        deadline = time.monotonic() + 900
        while not (workdir / "metrics.jsonl").exists() or (workdir / "metrics.jsonl").read_text().count("\n") < 2:
            assert job.poll() is None, (logs / "0.err").read_text()
            assert time.monotonic() < deadline, (logs / "0.err").read_text()
            time.sleep(0.01)
        for i in range(2):  # as SLURM does without B:
            os.kill(int((logs / f"{i}.pid").read_text()), signal.SIGTERM)
        assert job.wait(60) == 143, (logs / "0.err").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert (logs / "scontrol").read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
    (step,) = {re.search(r"stopped by SIGTERM at step (\d+) of 24", (logs / f"{i}.err").read_text())[1] for i in (0, 1)}
    assert subprocess.run(command, cwd=guides.ROOT, env=slurm, check=False).returncode == 0
    assert f"resuming from step {step} of 24" in (logs / "0.err").read_text()
    assert (logs / "scontrol").read_text().count("\n") == 1
    lines = metrics_file.read_metrics(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 25))


def started_by(name, shared, folder):
    """The arguments and variables of both processes, as the launcher of a block or job of Kubernetes starts them."""
    sources = guides.sources()
    source = name if name in sources else next(source for source, text in sources.items() if name in text)
    job = free_job_id()
    port = job % 2**12 + 65536 - 2**12
    for i in range(2):
        words = program_start(source)
        for pattern, new in {
            r"^(--config=.*cityscapes(\.py)?)$": r"\1:smoke",
            r"^--coordinator=(?!auto).*": f"--coordinator=127.0.0.1:{port}",
            r"^--process_id=.*": f"--process_id={i}",
            r"\$OMPI_COMM_WORLD_SIZE": "2",
            r"(\$SHARED|/shared)/runs": str(folder),
            r"=(\$SHARED|/shared)/": f"={shared}/",
        }.items():
            words = [re.sub(pattern, new, word) for word in words]
        variables = {}
        if "--coordinator=auto" in words:  # those of mpirun
            variables = {"OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1,10.96.0.1:34911"}
            numbers = {"SIZE": 2, "RANK": i, "LOCAL_RANK": i}
            variables |= {f"OMPI_COMM_WORLD_{key}": str(number) for key, number in numbers.items()}
        yield [*words, *size_flags(shared, **SIZE)], variables


@pytest.mark.long
@pytest.mark.parametrize("name", ["--npernode", "OMPI_COMM_WORLD_SIZE", "--process_id=0", "gpu_job.yaml"])
def test_commands_of_other_launchers_run(name, shared, tmp_path):
    errors = run_both(started_by(name, shared, tmp_path), tmp_path, xla_flags(1))
    check_run(tmp_path / "cityscapes", errors, steps=2)
