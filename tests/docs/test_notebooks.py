"""The notebooks in docs/notebooks run from the first cell to the last, and their numbers are right.

Marked slow, because CI runs all cells when it builds the site.
"""

import os
import pathlib
import re
import subprocess
import sys

import pandas as pd
import pytest
from helpers.compiling import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.md"))


def run(path, folder, *, then):
    """Runs all cells as one program, and saves every figure."""
    cells = re.findall(
        r"^```{code-cell}[^\n]*\n(?::tags:[^\n]*\n\n)?(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL
    )
    assert cells
    save = "for number in plt.get_fignums():\n    plt.figure(number).savefig(f'{number}.png')\n"
    (folder / "notebook.py").write_text("\n".join([*cells, save, then]))
    environment = {
        **os.environ,
        "XLA_FLAGS": xla_flags(devices=1),
        "PYTHONPATH": str(ROOT),
        "TFDS_DATA_DIR": str(folder / "data"),
        "MPLBACKEND": "agg",
    }
    subprocess.run([sys.executable, "notebook.py"], cwd=folder, env=environment, check=True, timeout=1200)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path):
    then = (
        "train_rows.to_csv('rows.csv')\nopen('names.txt', 'w').write(' '.join(delta_m.index))\n"
        if path.stem == "schedules"
        else ""
    )
    run(path, tmp_path, then=then)
    if path.stem == "schedules":
        rows = pd.read_csv(tmp_path / "rows.csv")
        late = rows[rows["schedule"] == "late normals"].groupby("step")["weights/normal"].mean()
        assert (late[1], late[4], late[12]) == (0.0, 10.0, 20.0)  # 20 min(2 s / 12, 1) at step s - 1
        assert rows["schedule"].nunique() == 4
        names = (tmp_path / "names.txt").read_text().split()
        assert sorted(names) == ["alternating", "equal-losses", "late-normals", "static"]
