"""The guides for Cloud TPU and clusters, and the files that they name: every source of commands."""

import pathlib
import re
import shlex
from typing import Any

import yaml
from helpers import shell_commands

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
TPU, CLUSTERS = ROOT / "docs" / "cloud_tpu.md", ROOT / "docs" / "clusters.md"
SCRIPTS = ("train.slurm", "tpu_startup.sh", "tpu_spot.sh")
JOBS = ("tpu_job.yaml", "gpu_job.yaml")


def readme_section() -> str:
    """README's section on pods."""
    (section,) = re.findall(r"^## Cloud TPU pods\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
    return section


def sources() -> dict[str, str]:
    """Each source of commands, by name: the blocks of the pages, scripts, and containers."""
    found = {f"{page.name}, block {i}": text for page in (TPU, CLUSTERS) for i, text in enumerate(blocks(page))}
    found |= {f"README.md, block {i}": t for i, t in enumerate(shell_commands.indented_blocks(readme_section()))}
    inline = re.findall(r"`(--mode=plan[^`]*)`", readme_section())
    found["README.md, plan"] = f"python -m mtan_jax.main --config=configs/cityscapes.py {' '.join(inline[0].split())}"
    found |= {name: (DEPLOY / name).read_text() for name in SCRIPTS}
    found |= {name: shlex.join(container(name)["command"]) for name in JOBS}
    return found


def blocks(page: pathlib.Path) -> list[str]:
    """The bash blocks of a page, also those within a list."""
    found = re.findall(r"^( *)```bash\n(.*?)^ *```$", page.read_text(), re.M | re.S)
    return [re.sub(f"^{indent}", "", text, flags=re.M) for indent, text in found]


def container(name: str) -> dict[str, Any]:
    """The container of a job of Kubernetes."""
    _, job = yaml.safe_load_all((DEPLOY / name).read_text())
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return found
