"""The plan of a training step as text."""

from typing import NotRequired, TypedDict

from mtan_jax.commands.plan_measurements import GIB, Chip, Measurements
from mtan_jax.experiment import Experiment

GB = 1e9
PARTS_SHOWN = 12


class Settings(TypedDict):
    """What a step was compiled for, and how.

    Attributes:
        topology: such as "v5e:2x4".
        chips: number of chips.
        devices: number of devices.
        examples_per_device: per step.
        jax: version of JAX.
        optimization_level: JAX_OPTIMIZATION_LEVEL; None if it is not set.
        libtpu_init_args: LIBTPU_INIT_ARGS; None if it is not set.
        fusion_memory_kib: limit on each fusion's on-chip memory; None: the default.
        lower_seconds: time to trace and lower the step.
        compile_seconds: time to compile it.
    """

    topology: str
    chips: int
    devices: int
    examples_per_device: int
    jax: str
    optimization_level: str | None
    libtpu_init_args: str | None
    fusion_memory_kib: int | None
    lower_seconds: NotRequired[float]
    compile_seconds: NotRequired[float]


def format_report(settings: Settings, measured: Measurements, chip: Chip, experiment: Experiment) -> str:
    """Formats a plan.

    Args:
        settings: of the compiled step.
        measured: of the compiled step.
        chip: one device's share of a chip.
        experiment: the run.
    """
    main_memory = measured["main_memory_bytes_per_step"]
    parts = list(measured["parts"].items())[:PARTS_SHOWN]
    return "\n".join(
        [
            _header(settings, experiment),
            "",
            *(f"{name:<22}{text}" for name, text in _rows(settings, measured, chip).items()),
            "",
            f"{'part':<44}{'main memory, GB':>16}{'share':>8}",
            *(f"{name:<44}{size / GB:>16.2f}{size / main_memory:>8.1%}" for name, size in parts),
        ]
    )


def _header(settings: Settings, experiment: Experiment) -> str:
    model = experiment.config.model
    height, width = experiment.data.info.image_size
    devices = settings["devices"] // settings["chips"]
    return (
        f"{model.arch} on {model.backbone}, width {model.width:g}, {model.dtype}, image {height}x{width}, "
        f"{len(experiment.tasks)} tasks, for {settings['topology']}: {settings['chips']} chips with {devices} "
        f"device{'s' if devices > 1 else ''} each, {settings['examples_per_device']} examples per device and step"
    )


def _rows(settings: Settings, measured: Measurements, chip: Chip) -> dict[str, str]:
    bound = "arithmetic" if measured["compute_seconds"] >= measured["main_memory_seconds"] else "memory"
    return {
        "fits": f"{'yes' if measured['fits'] else 'no'}: {measured['memory_bytes_per_chip'] / GIB:.2f} of "
        f"{chip.memory / GIB:.0f} GiB per device, {measured['temporary_bytes'] / GIB:.2f} of them temporary",
        "arithmetic": f"{measured['flops_per_step'] / 1e12:.3g} TFLOP per device, at best "
        f"{1e3 * measured['compute_seconds']:.1f} ms at {chip.flops / 1e12:.0f} TFLOP/s",
        "main memory": f"{measured['main_memory_bytes_per_step'] / GB:.1f} GB read and written, at best "
        f"{1e3 * measured['main_memory_seconds']:.1f} ms at {chip.bandwidth / GB:.0f} GB/s",
        "all memory": f"{measured['bytes_per_step'] / GB:.1f} GB as XLA counts, including copies into on-chip memory: "
        f"{1e3 * measured['memory_seconds']:.1f} ms at that rate",
        "collectives": f"{measured['collectives']}, {measured['collective_bytes'] / GB:.2f} GB",
        "a step, at best": f"{1e3 * measured['best_step_seconds']:.1f} ms, "
        f"{measured['best_examples_per_second']:.0f} examples/s on all chips; bound by {bound}",
        "XLA's estimate": f"{measured['estimated_cycles'] / 1e6:.1f} million cycles, for comparing programs",
        "compiled in": f"{settings['compile_seconds']:.0f} s, {measured['instructions']:,} instructions"
        + _compiler_settings(settings),
    }


def _compiler_settings(settings: Settings) -> str:
    text = ""
    if settings["optimization_level"]:
        text += f", JAX_OPTIMIZATION_LEVEL={settings['optimization_level']}"
    if settings["libtpu_init_args"]:
        text += f", LIBTPU_INIT_ARGS={settings['libtpu_init_args']}"
    if settings["fusion_memory_kib"]:
        text += (
            f", {settings['fusion_memory_kib']} KiB on chip per fusion (config.plan.fusion_memory=0: as in training)"
        )
    return text
