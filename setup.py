"""Package metadata and dependencies. The lower bounds are the versions that CI tests on Python 3.11."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
URL = "https://github.com/mtan-jax/mtan_jax"
DOCS = ["myst-nb>=1.3", "sphinx>=8.2", "sphinx-book-theme>=1.1.4", "sphinx-copybutton>=0.5.2"]
LINT = ["mypy==2.4.1", "pre-commit>=4", "ruff==0.17.6"]
GCS = ["gcsfs>=2025.3"]
TEST = [
    *GCS,
    "dm-haiku>=0.0.17",
    "equinox>=0.13.8",
    "gcp-storage-emulator>=2026.7",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "scikit-learn>=1.6",
]


def version() -> str:
    """`mtan_jax.__version__`, read without importing the package."""
    (found,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "mtan_jax/__init__.py").read_text(), re.MULTILINE)
    return found


def readme() -> str:
    """README.md with absolute links, since an index shows it outside the repository."""
    text = (ROOT / "README.md").read_text()
    text = re.sub(r"(!\[[^]]*\]\()(?!https?://)", rf"\1{URL}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!https?://|#)", rf"\1{URL}/blob/main/", text)


setup(
    name="mtan_jax",
    version=version(),
    description="Multi-Task Attention Networks in JAX",
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls={
        "Homepage": URL,
        "Source": URL,
        "Issues": f"{URL}/issues",
        "Changelog": f"{URL}/blob/main/CHANGELOG.md",
        "Documentation": f"{URL}/tree/main/docs",
    },
    author="The mtan_jax authors",
    license_expression="MIT",
    keywords=["multi-task learning", "jax", "flax", "optax", "attention", "gradient balancing"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    # The configurations are edited at the top of a checkout, and installed as data of the package. So are the published
    # numbers, which are in `experiments/published/data`.
    packages=[*find_packages(include=["mtan_jax", "mtan_jax.*"]), "mtan_jax.configs", "mtan_jax.published"],
    package_dir={"mtan_jax.configs": "configs", "mtan_jax.published": "experiments/published/data"},
    package_data={"mtan_jax": ["py.typed", "data/*/*.json"], "mtan_jax.published": ["*.json"]},
    entry_points={"console_scripts": ["mtan-jax = mtan_jax.commands.console:console"]},
    python_requires=">=3.11",  # 3.12 or newer is recommended: JAX after 0.10.2 does not support 3.11
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8",
        "cloudpickle>=3.1",
        "etils[epath]>=1.12",
        "filelock>=4.3",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "h5py>=3.12",
        "ijson>=3.3",
        "jax>=0.10.2",
        "jaxtyping>=0.3",
        "matplotlib>=3.10",
        "ml-collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<1",
        "pandas>=2.2",
        "pillow>=11",
        "rich>=13.9",
        "safetensors>=0.5",
        "scipy>=1.14",
        "tensorboardX>=2.6.5",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.67",
    ],
    extras_require={
        "test": TEST,
        "docs": DOCS,
        "dev": [*LINT, *TEST],
        "gcs": GCS,
        "torch": ["torch>=2.6"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda13]>=0.10.2"],
    },
)
