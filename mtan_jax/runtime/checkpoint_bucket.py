"""The checkpoints of a working directory in a bucket, whose local mirror is used by `checkpoint_folder`.

A checkpoint in a bucket is complete if it has its file of metrics, which is uploaded last and deleted first. At first,
a mirror has only these files; the arrays of a checkpoint are downloaded when they are read.
"""

import contextlib
import logging
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

from mtan_jax.runtime import bucket, compilation_cache, lease, mirror

METRICS = "metrics/metrics"  # in a checkpoint
_FOLDERS = ("checkpoints/", "damaged_checkpoints/")

log = logging.getLogger(__name__)

_METRICS = re.compile(rf"checkpoints/[0-9]+/{METRICS}")


def pull_run(workdir: pathlib.Path) -> None:
    """Downloads a working directory, without arrays, figures and event files; does nothing for a local one."""
    if mirror.remote(workdir) is None:
        return
    changed = mirror.pull(workdir, _describes)
    for path in workdir.glob("checkpoints/*"):
        metrics = path / METRICS
        if not metrics.exists():  # deleted from the bucket since an earlier call
            shutil.rmtree(path)
        elif metrics.relative_to(workdir).as_posix() in changed:  # the arrays are of an earlier call
            for each in [each for each in path.iterdir() if each.name != "metrics"]:
                shutil.rmtree(each) if each.is_dir() else each.unlink()


def _describes(name: str) -> bool:
    if "/" not in name:
        return not name.startswith((".", "events."))
    return _METRICS.fullmatch(name) is not None or name.startswith(f"{compilation_cache.FOLDER}/")


def push_run(workdir: pathlib.Path) -> None:
    """Uploads what has changed in a working directory, except checkpoints."""
    mirror.push(workdir, lambda name: not name.startswith(_FOLDERS))


@contextlib.contextmanager
def pushing_run(workdir: pathlib.Path, check_owned: Callable[[], None]) -> Iterator[None]:
    """Uploads what has changed in a working directory, except checkpoints, when the context ends.

    Args:
        workdir: of the run.
        check_owned: raises an error if the directory belongs to another run by now.

    Raises:
        BucketError: the bucket cannot be written. After another error, it is logged instead.
    """
    try:
        yield
    except bucket.BucketError:  # do not spend further minutes on retries
        raise
    except BaseException:
        try:
            check_owned()
            push_run(workdir)
        except (bucket.BucketError, ValueError) as error:
            log.warning("%s", error)
        raise
    check_owned()
    push_run(workdir)


def pull(checkpoint: pathlib.Path) -> None:
    """Downloads a checkpoint unless it is there; does nothing for a local one.

    Raises:
        FileNotFoundError: it was deleted from the bucket.
        BucketError: it cannot be read.
    """
    base = mirror.remote(checkpoint)
    if base is None:
        return
    try:
        mirror.pull(checkpoint)
        if METRICS not in bucket.find(base):  # deleted first, so the other files may have been incomplete
            raise FileNotFoundError(f"gs://{base} was deleted")
    except FileNotFoundError:
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise


def push(checkpoint: pathlib.Path) -> None:
    """Uploads a checkpoint after the rest of its working directory; does nothing for a local one.

    Raises:
        LockedError: another run has taken the working directory over.
        BucketError: the bucket cannot be written.
    """
    workdir = checkpoint.parents[1]
    base = mirror.remote(workdir)
    if base is None:
        return
    lease.check(base)
    push_run(workdir)
    mirror.push(checkpoint, lambda name: name != METRICS)
    lease.check(base)
    mirror.push(checkpoint)


def delete(checkpoint: pathlib.Path) -> None:
    """Deletes a checkpoint from its bucket; does nothing for a local one."""
    base = mirror.remote(checkpoint)
    if base is not None:
        bucket.delete([f"{base}/{METRICS}"])
        bucket.delete([f"{base}/{name}" for name in bucket.find(base)])


def delete_incomplete(folder: pathlib.Path) -> None:
    """Deletes the checkpoints whose upload or deletion was interrupted; does nothing for a local folder."""
    base = mirror.remote(folder)
    if base is not None:
        found = bucket.find(base)
        bucket.delete(
            [f"{base}/{name}" for name in found if "/" in name and f"{name.split('/')[0]}/{METRICS}" not in found]
        )


def move(checkpoint: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a checkpoint within its bucket; does nothing for a local one."""
    base, target_base = mirror.remote(checkpoint), mirror.remote(target)
    if base is not None and target_base is not None:
        while bucket.find(target_base):  # an earlier one of this step, which is not in the mirror
            target_base += ".1"
        for name in bucket.find(base):
            bucket.copy(f"{base}/{name}", f"{target_base}/{name}")
        delete(checkpoint)
