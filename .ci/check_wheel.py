"""Checks an installed wheel: it is what runs, with configurations, data and published numbers, and no other file.

    python check_wheel.py CHECKOUT

Exits with 1 where something is missing.
"""
# ruff: noqa: T201

import importlib.metadata
import pathlib
import sys

import mtan_jax
from mtan_jax.commands import config_file


def main(checkout: pathlib.Path) -> None:
    """Compares the installed files with those of the checkout."""
    package = pathlib.Path(mtan_jax.__file__).parent
    if checkout in package.parents:
        sys.exit(f"error: {package} was imported, expected an installed wheel")
    if importlib.metadata.version("mtan_jax") != mtan_jax.__version__:
        sys.exit(f"error: version {importlib.metadata.version('mtan_jax')}, expected {mtan_jax.__version__}")
    expected = {path.relative_to(checkout / "mtan_jax") for path in files(checkout / "mtan_jax")}
    expected |= {path.relative_to(checkout) for path in files(checkout / "configs")}
    published = (checkout / "experiments" / "published" / "data").glob("*.json")
    expected |= {pathlib.Path("published") / path.name for path in published}
    found = {path.relative_to(package) for path in files(package)}
    if found != expected:
        sys.exit(
            f"error: missing {sorted(map(str, expected - found))}, unexpected {sorted(map(str, found - expected))}"
        )
    for name in config_file.known_names():
        config_file.load_config(name)
    print(f"{package}: {len(found)} files, configurations {', '.join(config_file.known_names())}")


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder but compiled ones."""
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
