"""XLA's flags for the tests, most of whose time goes into compiling what runs for moments."""

import importlib.metadata

# LLVM's optimisations would double the time and change no fusion.
FLAGS = "--xla_backend_optimization_level=0"
# JAX 0.10 still has the older of XLA's two ways to write the code of a fusion, which compiles in half the time. Later
# versions have the newer one only and do not know the flag: with them the tests pass by the newer one, and so do, with
# any version, the tests that start the program without flags.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"


def xla_flags(devices: int) -> str:
    """The value of XLA_FLAGS for so many virtual CPU devices."""
    return f"--xla_force_host_platform_device_count={devices} {FLAGS}"
