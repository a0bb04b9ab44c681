"""Metadata and dependencies. The lower bounds are the versions that the tests run with on Python 3.11."""

from setuptools import find_packages, setup

setup(
    name="mtan_jax",
    version="0.1.0",
    description="Multi-Task Attention Networks in JAX",
    license="MIT",
    packages=find_packages(include=["mtan_jax", "mtan_jax.*"]),
    package_data={"mtan_jax": ["py.typed", "data/*/*.json"]},
    python_requires=">=3.11",
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
        "pillow>=11",
        "safetensors>=0.5",
        "scipy>=1.14",
        "tensorboardX>=2.6.5",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.67",
    ],
    extras_require={
        "test": ["pytest>=8", "pytest-xdist>=3.6", "scikit-learn>=1.6"],
        "dev": ["mypy==2.4.1", "pre-commit>=4", "pytest>=8", "pytest-xdist>=3.6", "ruff==0.17.6", "scikit-learn>=1.6"],
        "torch": ["torch>=2.6"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda13]>=0.10.2"],
    },
)
