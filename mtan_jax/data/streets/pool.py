"""Renders the scenes of a split in several processes, in order.

Each worker is a fresh Python interpreter that runs `worker`. So nothing of this process is copied (JAX may run threads
in it) and its main module is not imported again, as `multiprocessing` would do.
"""

import contextlib
import os
import pathlib
import queue
import subprocess
import sys
import threading
from collections.abc import Generator
from typing import IO

import numpy as np

import mtan_jax
from mtan_jax.data.streets.render import ARRAYS, render

Arrays = dict[str, np.ndarray]

_AHEAD = 4  # scenes a worker may be ahead of the reader
_SHARE = 16  # scenes that make a worker worth its start


def render_split(
    seed: int, split: str, count: int, image_size: tuple[int, int], processes: int | None = None
) -> Generator[Arrays, None, None]:
    """Yields the arrays of scenes 0 to `count - 1`, as `render` gives them.

    Args:
        seed: of the data set.
        split: "train" or "val".
        count: number of scenes.
        image_size: height and width in pixels.
        processes: number of workers; 1 renders in this process; None is one a core, fewer for a few scenes.

    Raises:
        RuntimeError: a worker ended early; its own message is on standard error.
    """
    if processes is None:
        processes = min(os.cpu_count() or 1, -(-count // _SHARE))
    if processes <= 1:
        for index in range(count):
            scene = render(seed, split, index, image_size)
            yield {name: scene[name] for name in ARRAYS}
        return
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_Worker([seed, split, first, count, processes, *image_size], image_size))
            for first in range(processes)
        ]
        for index in range(count):
            yield workers[index % processes].next_scene()


class _Worker:
    """A worker process and the thread that reads what it writes."""

    def __init__(self, arguments: list[int | str], image_size: tuple[int, int]):
        self._image_size = image_size
        self._scenes: queue.Queue[Arrays | None] = queue.Queue(_AHEAD)
        self._closed = False
        packages = [str(pathlib.Path(mtan_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mtan_jax.data.streets.worker", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(filter(None, packages))},
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._process.kill()
        with contextlib.suppress(queue.Empty):
            while True:  # lets go of a thread that waits for room
                self._scenes.get_nowait()
        self._thread.join()
        self._process.communicate()

    def next_scene(self) -> Arrays:
        scene = self._scenes.get()
        if scene is None:
            code = self._process.wait()
            raise RuntimeError(f"a process that renders scenes ended with code {code}; its message is above")
        return scene

    def _read(self) -> None:
        while not self._closed:
            scene = _read_scene(self._process.stdout, self._image_size) if self._process.stdout else None
            self._scenes.put(scene)
            if scene is None:
                return


def _read_scene(stream: IO[bytes], image_size: tuple[int, int]) -> Arrays | None:
    """The next scene, None at the end of the stream."""
    scene = {}
    for name, (dtype, channels) in ARRAYS.items():
        shape = (*image_size, *channels)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = stream.read(size)
        if len(data) < size:
            return None
        scene[name] = np.frombuffer(data, dtype).reshape(shape)
    return scene
