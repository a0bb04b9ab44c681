"""Renders every n-th scene of a split and writes its arrays to standard output. Started by `pool`.

Arguments: seed, split, first index, number of scenes in the split, step, height, width.
"""

import sys

from mtan_jax.data.streets.render import ARRAYS, render


def main() -> None:
    """Reads the arguments, renders and writes."""
    seed, split, *numbers = sys.argv[1:]
    first, count, step, height, width = map(int, numbers)
    for index in range(first, count, step):
        scene = render(int(seed), split, index, (height, width))
        for name in ARRAYS:
            sys.stdout.buffer.write(scene[name].tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
