"""Whole runs as a user starts them, for the tests of stopped runs and of several processes."""

import copy
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
from helpers.compiling import xla_flags

from mtan_jax.experiment import Experiment
from mtan_jax.reporting import metrics_file
from mtan_jax.training import loop, restore, workdir

ROOT = pathlib.Path(__file__).parents[2]
TESTS = ROOT / "tests"

# A run with state of every kind: history of losses, moments, augmentation; periods that do not divide each other.
OPTIONS = {
    "weighting": "dwa",
    "data.augment": True,
    "duration": "13 steps",
    "log_every": "3 steps",
    "eval.every": "4 steps",
    "checkpoint.every": "2 steps",
    "checkpoint.best_metric": "normal/median",
}


class Run:
    """A run with the configuration of a file under tests/helpers/, in one or several processes.

    Args:
        config: name of the file.
        data_dir: where its data set is or will be.
        folder: for the output of processes and compiled programs.
        options: fields of the configuration, by dotted name.
    """

    def __init__(self, config, data_dir, folder, **options):
        self._file, self._folder = TESTS / "helpers" / f"{config}.py", folder
        self._options = {
            **OPTIONS,
            **options,
            "data.data_dir": str(data_dir),
            "compilation_cache": str(folder / "cache"),
        }

    def with_file(self, config):
        """The same run by another configuration file under tests/helpers/, for the processes that it starts."""
        other = copy.copy(self)
        other._file = TESTS / "helpers" / f"{config}.py"
        return other

    def with_options(self, **options):
        """The same run with other fields of the configuration."""
        other = copy.copy(self)
        other._options = {**self._options, **options}
        return other

    def copy(self, folder):
        """The same run with another folder for its output, so that both may run at once."""
        other = copy.copy(self)
        other._folder = folder
        return other

    def experiment(self):
        """The same run for this process."""
        spec = importlib.util.spec_from_file_location(self._file.stem, self._file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        for name, value in self._options.items():
            config.update_from_flattened_dict({name: value})
        experiment = Experiment.from_config(config)
        experiment.data.prepare()
        return experiment

    def arguments(self, folder):
        """The command line of the program."""
        options = [f"--config.{name}={value}" for name, value in self._options.items()]
        return [f"--config={self._file}", f"--workdir={folder}", *options]

    def start(self, folder, *flags, processes=1, devices=4):
        """Starts the program; each process has its share of the devices. Ends with `finish` or `kill`.

        `folder` and each of the flags are the same for all processes, or a list with one for each.
        """

        def each(value, i):
            return value[i] if isinstance(value, list) else value

        together = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"] if processes > 1 else []
        environment = {
            **os.environ,
            "XLA_FLAGS": xla_flags(devices // processes),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]),
        }
        started = []
        for i in range(processes):
            command = [sys.executable, "-m", "mtan_jax.main", *self.arguments(each(folder, i))]
            command += [each(flag, i) for flag in flags]
            command += [*together, *([f"--process_id={i}"] if processes > 1 else [])]
            self._folder.mkdir(exist_ok=True)
            with open(self._output(i, "out"), "wb") as out, open(self._output(i, "err"), "wb") as err:
                started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err))
        return started

    def finish(self, started, seconds=240):
        """Waits for the end of every process; returns what each wrote to stdout and to stderr."""
        try:
            for process in started:
                process.wait(seconds)
        finally:
            kill(started)
        texts = [self.read_output(i) for i in range(len(started))]
        assert not any(process.returncode for process in started), "\n".join(self._errors(started))
        return texts

    def fail(self, started, seconds):
        """Waits until every process has ended by itself with an error; returns what each wrote to stderr."""
        deadline = time.monotonic() + seconds
        try:
            for process in started:
                process.wait(max(deadline - time.monotonic(), 0.1))
        finally:
            kill(started)
        assert all(process.returncode for process in started)
        return self._errors(started)

    def kill_when(self, started, condition, seconds=240):
        """Kills every process at the moment when the condition becomes true."""
        try:
            self.wait_until(started, condition, seconds)
        finally:
            kill(started)

    def signal_when(self, started, condition, signum, seconds=240):
        """Sends a signal to the last process at the moment when the condition becomes true; returns the exit codes."""
        try:
            self.wait_until(started, condition, seconds)
            started[-1].send_signal(signum)
            return [process.wait(60) for process in started]
        finally:
            kill(started)

    def wait_until(self, started, condition, seconds=240):
        """Waits until the condition becomes true while every process runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            running = all(process.poll() is None for process in started)
            assert running, "\n".join(["ended by itself:", *self._errors(started)])
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.001)

    def read_output(self, process):
        """What a process wrote to stdout and to stderr."""
        return tuple(self._output(process, stream).read_text() for stream in ("out", "err"))

    def _errors(self, started):
        return [self._output(i, "err").read_text() for i in range(len(started))]

    def _output(self, process, stream):
        return self._folder / f"process{process}.{stream}"


def kill(started):
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    for process in started:
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_here(experiment, folder):
    """Trains in this process, as the program does."""
    workdir.claim(folder, experiment.config, write=True)
    return loop.train(experiment, folder)


def checkpoint_steps(folder):
    return sorted(int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit())


def unfinished_checkpoints(folder):
    return list(folder.glob("checkpoints/*-tmp"))


def read_state(experiment, folder, checkpoint="newest"):
    return jax.device_get(restore.restore(experiment, folder, checkpoint))


def read_metrics(folder):
    """All that was logged, without the machine's timing."""
    return metrics_file.read_metrics(folder / metrics_file.METRICS_FILE, timing=False)


def assert_same_run(experiment, found, expected):
    """Two working directories: the same metrics, line for line, and the same checkpoints, bit for bit."""
    np.testing.assert_equal(read_metrics(found), read_metrics(expected))
    assert checkpoint_steps(found) == checkpoint_steps(expected)
    for step in checkpoint_steps(expected):
        states = [read_state(experiment, folder, str(step)) for folder in (found, expected)]
        for a, b in zip(*map(jax.tree.leaves, states), strict=True):
            assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
