"""Links between the pages resolve, and the files that the pages name exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")])
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)#?([^)\s]*)\)")
ADDRESS = re.compile(r"https?://\S+")
FILE = re.compile(r"\b(?:mtan_jax|docs|tests|configs|experiments)/[\w./]*\w")


def prose(page):
    return CODE_BLOCK.sub("", page.read_text())


def anchors(page):
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for file, anchor in LINK.findall(prose(page)):
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page):
    missing = [name for name in FILE.findall(ADDRESS.sub("", prose(page))) if not (ROOT / name).exists()]
    assert not missing


def test_the_design_page_names_folders_and_files_that_exist():
    table = re.search(r"^\| below `mtan_jax/`.*?\n\n", prose(ROOT / "docs" / "design.md"), re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.group().strip().splitlines()[2:]]
    for entry, _, files in rows:
        folder = ROOT / "mtan_jax" / entry.strip("`")
        missing = [name for name in re.findall(r"`([^`]+)`", files) if not (folder / name).exists()]
        assert folder.exists() and not missing, f"{entry}: {missing}"  # noqa: PT018
    entries = {path.name for path in (ROOT / "mtan_jax").iterdir()} - {"__init__.py", "py.typed", "__pycache__"}
    assert {entry.strip("`/") for entry, _, _ in rows} == entries
