"""Runs README's Python examples that use the package as `mtan`, each on its own.

python run_readme.py README.md
"""
# ruff: noqa: T201

import pathlib
import re
import sys

FIRST_LINE = "import mtan_jax as mtan"


def main(path: pathlib.Path) -> None:
    """Runs the blocks in the current folder."""
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    examples = [block for block in blocks if FIRST_LINE in block]
    for example in examples:
        print(example)
        exec(compile(example, str(path), "exec"), {"__name__": "__main__"})
    print(f"{path}: {len(examples)} Python examples ran")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
