"""XLA's flags for the tests, most of whose time goes into compiling what runs for moments."""

import importlib.metadata

# LLVM's optimisations would double the time and change no fusion.
FLAGS = "--xla_backend_optimization_level=0"
# JAX 0.10 still has the older of its two ways to write the code of a fusion, and the newer doubles the time; one
# module in place of many saves a third of the rest. Later versions do not know the first flag, so they show that the
# tests hold either way, and so do the tests that start the program without any flags.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def xla_flags(devices: int) -> str:
    """The value of XLA_FLAGS for so many virtual CPU devices."""
    return f"--xla_force_host_platform_device_count={devices} {FLAGS}"
