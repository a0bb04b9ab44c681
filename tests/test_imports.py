"""Imports point one way: no file imports from a folder above its own, and no files import each other in a circle."""

import ast
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "mtan_jax"
# The top floor first. A file imports from its own folder and from those that come later.
FLOORS = (
    "main",
    "compare",
    "sweep",
    "commands",
    "training",
    "experiment",
    "reporting",
    "interop",
    "steps",
    "models",
    "tasks",
    "weighting",
    "data",
    "config",
    "runtime",
    "types",
)
MOST_ENTRIES = 18


def modules():
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imports(path, known):
    """The modules that a file imports, those imported within functions or for type checking included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: set(imports(path, known)) - {name} for name, path in known.items()}


def test_every_folder_has_a_floor():
    entries = {name.split(".")[1] for name in modules() if "." in name}
    assert entries <= set(FLOORS)


def test_no_file_imports_from_a_floor_above(graph):
    floors = {floor: i for i, floor in enumerate(FLOORS)}
    upward = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if "." in name and "." in other and floors[other.split(".")[1]] < floors[name.split(".")[1]]
    ]
    assert not upward


def test_no_files_import_each_other_in_a_circle(graph):
    # A package's __init__ may re-export what its files define; these import from each other, not from it.
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_the_package_is_small_at_the_top():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
