"""Numerals as polylines, 1 wide and 2 high, centred at (0, 0)."""

import numpy as np

from mtan_jax.data.mini_decathlon.canvas import Points
from mtan_jax.data.mini_decathlon.outlines import arc

_SIX = np.concatenate([[(0.35, -1), (-0.1, -0.65), (-0.4, 0)], arc((0, 0.42), (0.5, 0.58), 190, 550)])

NUMERALS: tuple[Points, ...] = (
    arc((0, 0), (0.5, 1), 0, 360),
    np.array([(-0.3, -0.6), (0.08, -1), (0.08, 1)]),
    np.concatenate([arc((0, -0.5), (0.5, 0.5), 190, 390), [(-0.5, 1), (0.5, 1)]]),
    np.concatenate([arc((0, -0.5), (0.45, 0.5), 200, 450), arc((0, 0.5), (0.5, 0.5), 270, 520)]),
    np.array([(0.25, 1), (0.25, -1), (-0.5, 0.4), (0.55, 0.4)]),
    np.concatenate([[(0.45, -1), (-0.38, -1), (-0.42, -0.05)], arc((0, 0.38), (0.5, 0.62), 225, 500)]),
    _SIX,
    np.array([(-0.5, -1), (0.5, -1), (-0.1, 1)]),
    np.concatenate([arc((0, -0.52), (0.42, 0.48), 90, 450), arc((0, 0.48), (0.5, 0.52), 270, 630)]),
    -_SIX,
)
