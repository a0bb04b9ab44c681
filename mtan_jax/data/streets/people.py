"""Pedestrians and cyclists."""

import numpy as np

from mtan_jax.data.streets.primitives import HUMAN, VEHICLE, Frame, Polygon, Primitive, Surface, ellipsoid, limb
from mtan_jax.data.streets.textures import Values, rough

_FAR = 30.0  # metres; people farther away are drawn without arms
_SKIN = np.array([[0.55, 0.36, 0.27], [0.4, 0.25, 0.17], [0.2, 0.12, 0.08], [0.62, 0.42, 0.33]])


def _cloth(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.25:
        return rng.uniform(0.015, 0.3) * rng.uniform(0.85, 1.15, 3)
    return rng.uniform(0.3, 0.9) * (rng.dirichlet([0.5, 0.3, 0.4]) ** 0.8)


def person(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a standing or walking person at `frame` on the ground, facing `ahead`."""
    tall = rng.uniform(1.5, 1.92) if rng.random() < 0.88 else rng.uniform(1.0, 1.4)
    wide = rng.uniform(0.9, 1.2) * tall / 1.75
    step = rng.uniform(-0.13, 0.13) * tall
    swing = -0.8 * step + rng.uniform(-0.05, 0.05)
    coat = Surface(HUMAN, rough(_cloth(rng), 0.12, 2.5), sunlit)
    trousers = Surface(HUMAN, rough(_cloth(rng), 0.1, 2.5), sunlit)
    skin = Surface(HUMAN, rough(rng.choice(_SKIN)), sunlit)
    hair = Surface(HUMAN, rough(rng.choice([0.02, 0.06, 0.25]) * np.array([1.0, 0.75, 0.5])), sunlit)
    hip, shoulder = 0.5 * tall, 0.8 * tall
    half = 0.11 * wide
    parts: list[Primitive] = [
        limb(frame, [(-half, 0.07, step), (-0.7 * half, hip, 0)], 0.085 * wide, trousers, shadow=True),
        limb(frame, [(half, 0.07, -step), (0.7 * half, hip, 0)], 0.085 * wide, trousers, shadow=True),
        ellipsoid(frame, (0, 0.66 * tall, 0), (0.21 * wide, 0.2 * tall, 0.14 * wide), coat, shadow=True),
        ellipsoid(frame, (0, 0.925 * tall, 0.02), (0.075 * tall / 1.2, 0.075 * tall, 0.08 * tall), skin, shadow=True),
        ellipsoid(frame, (0, 0.95 * tall, -0.02), (0.072 * tall / 1.1, 0.06 * tall, 0.08 * tall), hair),
    ]
    if frame.origin[2] > _FAR:
        return parts
    for side in (-1, 1):
        hand = (side * 0.27 * wide, 0.45 * tall, side * swing)
        parts.append(limb(frame, [(side * 0.21 * wide, shoulder, 0), hand], 0.055 * wide, coat))
    if rng.random() < 0.25:
        bag = Surface(HUMAN, rough(_cloth(rng)), sunlit)
        parts.append(ellipsoid(frame, (0, 0.68 * tall, -0.2 * wide), (0.15, 0.2, 0.1), bag))
    return parts


def cyclist(rng: np.random.Generator, frame: Frame, sunlit: float) -> list[Primitive]:
    """Builds a cyclist. The bicycle is a flat polygon of class vehicle with see-through wheels."""
    coat, trousers = (Surface(HUMAN, rough(_cloth(rng), 0.1, 2.5), sunlit) for _ in range(2))
    skin = Surface(HUMAN, rough(rng.choice(_SKIN)), sunlit)
    wheel, base = 0.34, 1.05

    def frame_and_wheels(u: Values, v: Values) -> Values:
        along = np.minimum(np.abs(u - wheel), np.abs(u - wheel - base))
        ring = np.abs(np.hypot(along, v - wheel) - wheel + 0.03) < 0.04
        between = (u > wheel) & (u < wheel + base)
        bars = between & ((np.abs(v - 0.75) < 0.035) | (np.abs(v - 0.3 - 0.5 * np.abs(u - 0.85)) < 0.035))
        post = (np.abs(u - wheel - 0.9 * base) < 0.03) & (v > wheel)
        return ring | bars | post

    metal = Surface(VEHICLE, rough(rng.uniform(0.02, 0.4, 3)), sunlit, frame_and_wheels)
    half = base / 2 + wheel
    plane = frame([(0, 0, -half), (0, 0, half), (0, 1.05, half), (0, 1.05, -half)])
    pedal = rng.uniform(0.2, 0.4)
    return [
        Polygon(plane, metal),
        limb(frame, [(-0.1, pedal, 0.1), (-0.09, 0.95, -0.15)], 0.09, trousers, shadow=True),
        limb(frame, [(0.1, 0.6 - pedal, 0.1), (0.09, 0.95, -0.15)], 0.09, trousers, shadow=True),
        limb(frame, [(0, 0.95, -0.18), (0, 1.42, 0.1)], 0.19, coat, shadow=True),
        limb(frame, [(-0.2, 1.35, 0.08), (-0.24, 1.02, 0.42)], 0.05, coat),
        limb(frame, [(0.2, 1.35, 0.08), (0.24, 1.02, 0.42)], 0.05, coat),
        ellipsoid(frame, (0, 1.65, 0.2), (0.1, 0.13, 0.11), skin, shadow=True),
    ]
