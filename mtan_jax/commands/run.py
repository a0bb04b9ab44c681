"""A run in its working directory."""

import dataclasses
import os
import pathlib

import ml_collections

from mtan_jax.experiment import Experiment
from mtan_jax.reporting.metrics_file import METRICS_FILE, read_metrics
from mtan_jax.runtime import checkpoint_bucket, compilation_cache, mirror, paths
from mtan_jax.steps.state import TrainState
from mtan_jax.training import open_run, restore
from mtan_jax.training import workdir as workdirs

Row = dict[str, object]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run in its working directory.

    Attributes:
        experiment: the run's dataset, tasks, network and update chain.
        workdir: the folder of checkpoints, metrics and figures; for one in a bucket, the local mirror.

    Example:
        >>> run = Run.open(config, "runs/x")  # doctest: +SKIP
        >>> pandas.DataFrame(run.metrics)  # doctest: +SKIP
    """

    experiment: Experiment
    workdir: pathlib.Path

    @classmethod
    def open(cls, config: ml_collections.ConfigDict, workdir: str | os.PathLike[str], *, write: bool = False) -> "Run":
        """Opens a trained run; its dataset may be absent, and it may still be training.

        Args:
            config: the configuration that the run was trained with.
            workdir: its working directory, a local path or "gs://BUCKET/FOLDER".
            write: whether results will be written to the working directory.

        Raises:
            ValueError: the configuration is invalid.
            WorkdirError: the working directory belongs to a run with another configuration.
            PathError: the working directory cannot be read or written.
            BucketError: a bucket cannot be read.
        """
        folder = mirror.local(os.fspath(workdir), "--workdir")
        checkpoint_bucket.pull_run(folder)
        experiment = open_run.open_run(config, folder)
        paths.check_folder(folder, "--workdir", write=write)
        workdirs.claim(folder, config, write=False)
        return cls(experiment, folder)

    @property
    def config(self) -> ml_collections.ConfigDict:
        return self.experiment.config

    @property
    def metrics(self) -> list[Row]:
        """The rows of `metrics.jsonl`: step, epoch, split, and the metrics by "task/metric"."""
        checkpoint_bucket.pull_run(self.workdir)
        return read_metrics(self.workdir / METRICS_FILE)

    def restore(self, checkpoint: str = "newest") -> TrainState:
        """Reads a checkpoint: "newest", "best", a step, or "initial" (the state before the first step)."""
        return restore.restore(self.experiment, self.workdir, checkpoint)

    def prepare_data(self, mode: str, checkpoint: str, *, images: bool = False) -> None:
        """Prepares the dataset if a mode reads it; see `mtan_jax.training.open_run.prepare_data`."""
        if checkpoint == restore.INITIAL:
            self.experiment.load_weights()  # reports a bad file before the dataset is prepared
        open_run.prepare_data(self.experiment, self.workdir, mode, images=images)
        use_compilation_cache(self.config, self.workdir)  # nothing is compiled before


def use_compilation_cache(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Keeps compiled programs for later runs, as `config.compilation_cache` says."""
    compilation_cache.use(config.compilation_cache, workdir)
