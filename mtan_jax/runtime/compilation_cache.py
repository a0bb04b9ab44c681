"""JAX's persistent compilation cache with a checksum per entry.

JAX writes entries in place, so a kill or a full disk can leave a truncated one. JAX warns about it in every run and
never replaces it. This module removes it, so that the program is compiled and cached again.
"""

import logging
import os
import pathlib
import shutil
import zlib

import jax
from jax._src import compilation_cache as jax_cache
from jax._src.compilation_cache_interface import CacheInterface

from mtan_jax.runtime import home, mirror

log = logging.getLogger(__name__)

FOLDER = "compiled"  # in the working directory of a run of several processes or in a bucket
_KEY_SUFFIX = "-crc32"  # distinguishes entries with a checksum from JAX's own
_CHECKSUM_BYTES = 4
_jax_file_cache = jax_cache.get_file_cache


def use(text: str, workdir: pathlib.Path | None = None) -> None:
    """Enables the compilation cache.

    In a run of several processes, JAX lets only process 0 write to it, so the default is a folder in the working
    directory, which all processes read. The same holds for a working directory in a bucket, from which a new machine
    downloads compiled programs.

    Args:
        text: the folder, as in `config.compilation_cache`; see `mtan_jax.runtime.home.compilation_cache`. "" disables
            the cache, also where JAX_COMPILATION_CACHE_DIR is set.
        workdir: the working directory, if there is one.

    Raises:
        PathError: the path is remote.
    """
    jax_cache.get_file_cache = _checked_file_cache
    if workdir is not None and home.is_default_cache(text):
        text = str(workdir / FOLDER) if jax.process_count() > 1 or mirror.remote(workdir) else text
    jax_cache.reset_cache()  # several processes have compiled a collective, and perhaps opened another cache
    jax.config.update("jax_compilation_cache_dir", str(home.compilation_cache(text)) if text else None)


def _checked_file_cache(path: str) -> tuple[CacheInterface, str] | None:
    cache = _jax_file_cache(path)
    return cache and (CheckedCache(cache[0], pathlib.Path(path)), cache[1])


class CheckedCache(CacheInterface):
    """Wraps JAX's cache: verifies a checksum on reading, and disk errors do not stop the run."""

    def __init__(self, cache: CacheInterface, path: pathlib.Path):
        self._cache, self._path = cache, path
        self._writes = True

    def get(self, key: str) -> bytes | None:
        """Returns the entry, or None if it is missing or damaged. A damaged entry is removed."""
        try:
            stored = self._cache.get(key + _KEY_SUFFIX)
        except Exception as error:  # a folder of that name, or a disk error
            self._remove(key, error)
            return None
        if stored is None:
            return None
        value, checksum = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
        if checksum == _checksum(value):
            return value
        self._remove(key, "its checksum is wrong")
        return None

    def put(self, key: str, value: bytes) -> None:
        """Stores an entry. After a failure, such as a full disk, nothing more is stored."""
        if not self._writes:
            return
        try:
            self._cache.put(key + _KEY_SUFFIX, value + _checksum(value))
        except Exception as error:
            self._writes = False
            log.warning("compiled programs can no longer be stored in %s (%s)", self._path, error)
            self._unlink(key)

    def _remove(self, key: str, reason: object) -> None:
        removed = self._unlink(key)
        then = "removed; compiling it again" if removed else "cannot be removed; compiling it again"
        log.warning("a compiled program in %s is damaged (%s): %s", self._path, reason, then)

    def _unlink(self, key: str) -> bool:
        entry = self._path / f"{key}{_KEY_SUFFIX}-cache"
        try:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        except OSError:
            return False
        return not os.path.lexists(entry)


def _checksum(value: bytes) -> bytes:
    return zlib.crc32(value).to_bytes(_CHECKSUM_BYTES, "big")
