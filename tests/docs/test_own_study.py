"""The page about a study of one's own: its files and commands run as they stand, and it is as short as it says."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from helpers.compiling import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_study.md").read_text()
FILES = {name: text for text, name in re.findall(r"```python\n(# (\S+)\n.*?)```", PAGE, re.DOTALL)}
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_it_takes_at_most_sixty_lines():
    lines = [line for text in (*FILES.values(), *COMMANDS) for line in text.splitlines()]
    assert list(FILES) == ["discs.py", "grid.py"]
    assert len([line for line in lines if line.strip() and not line.startswith("#")]) <= 60


@pytest.mark.slow
def test_it_ends_with_a_latex_table(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    environment = {
        **os.environ,
        "XLA_FLAGS": xla_flags(devices=1),
        "PYTHONPATH": str(ROOT),
        "TFDS_DATA_DIR": str(tmp_path / "data"),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in COMMANDS:
        subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, check=True, timeout=1200)
    table = (tmp_path / "table.tex").read_text()
    for name in ("equal", "dwa", "schedule"):
        assert re.search(rf"weighting=\\?{name}.* & 2 & ", table)
    assert r"\toprule" in table
