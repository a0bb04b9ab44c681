"""Datasets in a bucket: prepared once, uploaded, and downloaded by each host.

Builders work on local mirrors (`mtan_jax.runtime.mirror`), which remain on the disk for later runs.
"""

import contextlib
import logging
import pathlib
from collections.abc import Callable
from typing import Protocol, TypeVar

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.manual_downloads import manual_folder
from mtan_jax.runtime import bucket, lock, mirror

COMPLETE = "dataset_info.json"  # the last file that is uploaded

log = logging.getLogger(__name__)


class Dataset(Protocol):
    """What `build` asks of a dataset."""

    @property
    def data_info(self) -> object: ...
    def is_prepared(self) -> bool: ...


Built = TypeVar("Built", bound=Dataset)


def build(make: Callable[..., Built], name: str, data_dir: str | None, raw_dir: str | None, *, again: bool) -> Built:
    """Makes the builder of a dataset whose folders may be mirrors of buckets.

    Raw data in a bucket are downloaded only if they are needed: to prepare the dataset on process 0, or to know its
    classes.

    Args:
        make: makes the builder, given `data_dir` and `raw_dir`.
        name: of the dataset.
        data_dir: local path of the prepared datasets, or None.
        raw_dir: local path of the raw release, or None.
        again: whether the dataset will be prepared even if it is prepared.

    Raises:
        BucketError: a bucket cannot be read.
    """
    if data_dir is not None:
        mirror.pull(pathlib.Path(data_dir), _describes)
    raw = manual_folder(data_dir, name) if raw_dir is None else pathlib.Path(raw_dir)
    if mirror.remote(raw) is None:
        return make(data_dir=data_dir, raw_dir=raw_dir)
    import jax  # takes seconds, and workers of preparations do not need it

    prepares = not jax.distributed.is_initialized() or jax.process_index() == 0
    if not (again and prepares):
        with contextlib.suppress(RawDataError):  # the classes are unknown without the raw data
            built = make(data_dir=data_dir, raw_dir=None)
            if built.is_prepared() or (built.data_info and not prepares):
                return built
    if mirror.pull(raw, exact=True):
        log.info("downloaded the raw data of %s to %s", name, raw)
    return make(data_dir=data_dir, raw_dir=raw_dir)


def pull(folder: pathlib.Path) -> None:
    """Downloads a prepared dataset; does nothing for a local one, or if the bucket does not hold all of it."""
    base = mirror.remote(folder)
    if base is not None and COMPLETE in bucket.find(base) and mirror.pull(folder):
        log.info("downloaded the prepared data in gs://%s", base)


def push(folder: pathlib.Path, *, again: bool) -> bool:
    """Uploads a prepared dataset unless the bucket holds it; does nothing for a local one.

    Args:
        folder: of the prepared dataset.
        again: whether it was prepared again and replaces that in the bucket.

    Returns:
        Whether it was uploaded; the local files then have the modification times of their objects.
    """
    base = mirror.remote(folder)
    if base is None:
        return False
    with lock.hold(folder.with_name(f"{folder.name}.upload.lock"), f"the upload of gs://{base}", wait=True):
        found = bucket.find(base)
        if COMPLETE in found and not again:
            return False
        bucket.delete([f"{base}/{COMPLETE}"])
        bucket.delete([f"{base}/{name}" for name in found if not (folder / name).exists()])
        mirror.push(folder, lambda name: name != COMPLETE)
        mirror.push(folder)
        mirror.pull(folder)
    log.info("uploaded the prepared data to gs://%s", base)
    return True


def _describes(name: str) -> bool:
    """Whether a file below the folder of prepared datasets describes one, rather than holding examples or raw data."""
    parts = name.split("/")
    return len(parts) == 4 and parts[0] != "downloads" and ".array_record" not in name
