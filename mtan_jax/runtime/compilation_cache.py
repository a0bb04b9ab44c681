"""Compiled programs kept from run to run, in JAX's cache, with a checksum on each.

JAX writes an entry in place, so a kill or a full disk leaves half of one. It warns of such an entry in each run, and
never replaces it. Here it is removed and compiled again.
"""

import logging
import os
import pathlib
import shutil
import zlib
from typing import Any

import jax
from jax._src import compilation_cache as jax_cache

from mtan_jax.runtime import home

log = logging.getLogger(__name__)

_KEY_SUFFIX = "-crc32"  # tells entries with a checksum from JAX's own
_CHECKSUM_BYTES = 4
_jax_file_cache = jax_cache.get_file_cache


def use(text: str) -> None:
    """Keeps compiled programs in a folder.

    Args:
        text: the folder, as in `config.compilation_cache`. Where it cannot be used, a temporary folder takes its place,
            with a message.

    Raises:
        PathError: it is remote.
    """
    jax_cache.get_file_cache = _checked_file_cache
    jax.config.update("jax_compilation_cache_dir", str(home.compilation_cache(text)))


def _checked_file_cache(path: str) -> Any:
    cache = _jax_file_cache(path)
    return cache and (CheckedCache(cache[0], pathlib.Path(path)), cache[1])


class CheckedCache:
    """JAX's cache, but an entry is read only where its checksum is right, and a disk that fails stops no run."""

    def __init__(self, cache: Any, path: pathlib.Path):
        self._cache, self._path = cache, path
        self._writes = True

    def get(self, key: str) -> bytes | None:
        """The entry; None where there is none or it is damaged, and then it is removed."""
        try:
            stored = self._cache.get(key + _KEY_SUFFIX)
        except Exception as error:  # a folder of that name, or the disk
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
        """Keeps an entry; after a first failure, such as a full disk, nothing is kept any more."""
        if not self._writes:
            return
        try:
            self._cache.put(key + _KEY_SUFFIX, value + _checksum(value))
        except Exception as error:
            self._writes = False
            log.warning("compiled programs cannot be kept in %s any more (%s)", self._path, error)
            self._unlink(key)

    def _remove(self, key: str, reason: object) -> None:
        removed = self._unlink(key)
        then = "it is removed and compiled again" if removed else "it cannot be removed; it is compiled again"
        log.warning("a compiled program in %s is damaged (%s); %s", self._path, reason, then)

    def _unlink(self, key: str) -> bool:
        entry = self._path / f"{key}{_KEY_SUFFIX}-cache"
        try:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        except OSError:
            return False
        return not os.path.lexists(entry)


def _checksum(value: bytes) -> bytes:
    return zlib.crc32(value).to_bytes(_CHECKSUM_BYTES, "big")
