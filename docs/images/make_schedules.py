"""Draws docs/images/schedules.png: python docs/images/make_schedules.py."""

import pathlib

import jax
import numpy as np
from matplotlib.figure import Figure

from mtan_jax.reporting.figure_style import DOTS_PER_INCH, save_png
from mtan_jax.weighting import schedules

STEPS = np.arange(1201, dtype=np.int32)
TASKS = '("semantic", "depth", "normal")'
# What each panel shows, as one writes it: functions of the step, or dictionaries of them.
PANELS = (
    ("constant(0.6)", "linear(1.0, 0.2, 800)"),
    ("cosine(1.0, 0.2, 800)", "cosine(0.0, 0.8, 400, transition_begin=400)"),
    ("step(0.2, 1.0, 500)", "piecewise({0: 0.0, 300: 0.8, 800: 0.8, 1000: 0.4})"),
    tuple(f"cyclic(0.2, 1.0, 600, phase={phase})" for phase in ("0", "1/3", "2/3")),
    (f"curriculum({TASKS}, 400, overlap=150)",),
    (f"curriculum({TASKS}, 150, overlap=50, low=0.2, repeat=True)",),
)


def draw() -> Figure:
    """The figure."""
    figure = Figure(figsize=(12, 6.4), dpi=DOTS_PER_INCH, layout="constrained")
    for i, (axis, codes) in enumerate(zip(figure.subplots(2, 3).flat, PANELS, strict=True)):
        for code in codes:
            made = eval(code, vars(schedules).copy())  # so that what is written is what is drawn
            for label, weight in made.items() if isinstance(made, dict) else [(code, made)]:
                values = jax.vmap(lambda step, weight=weight: jax.numpy.asarray(weight(step)))(STEPS)
                axis.plot(STEPS, values, label=label)
        if len(codes) == 1:
            axis.set_title(codes[0].replace(TASKS, "tasks"), fontsize=8)
        axis.set_ylim(-0.05, 1.5)
        axis.set_yticks([0, 0.5, 1])
        axis.legend(fontsize=8, loc="upper left", frameon=False)
        axis.grid(alpha=0.3)
        if i >= 3:
            axis.set_xlabel("step")
        if i % 3 == 0:
            axis.set_ylabel("weight")
    return figure


if __name__ == "__main__":
    save_png(draw(), pathlib.Path(__file__).with_name("schedules.png"))
