"""Runs README's Python examples that use the package as `mtan`, each on its own.

python run_readme.py README.md
"""
# ruff: noqa: T201

import pathlib
import re
import sys

IMPORT = "import mtan_jax as mtan"


def main(path: pathlib.Path) -> None:
    """Runs the blocks in the current folder."""
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    examples = [block for block in blocks if IMPORT in block]
    if not examples:
        sys.exit(f"error: {path} has no Python example with {IMPORT!r}")
    for example in examples:
        print(example)
        exec(compile(example, str(path), "exec"), {"__name__": "__main__"})
    print(f"{path}: {len(examples)} Python examples ran")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
