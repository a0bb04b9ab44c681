"""Renders the image and the maps of a scene from a seed, a split and an index."""

from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, UInt8
from numpy.typing import DTypeLike

from mtan_jax.data.streets.camera import Camera
from mtan_jax.data.streets.canvas import NEAR, Canvas
from mtan_jax.data.streets.culling import drawing_order, faces
from mtan_jax.data.streets.ground import draw_ground
from mtan_jax.data.streets.light import develop
from mtan_jax.data.streets.primitives import VOID
from mtan_jax.data.streets.scene import Scene, random_scene
from mtan_jax.data.streets.shadows import ShadowMap

SPLITS = {"train": 0, "val": 1}
# The dtype and channels of each array of a scene.
ARRAYS: dict[str, tuple[DTypeLike, tuple[int, ...]]] = {
    "image": (np.uint8, (3,)),
    "semantic": (np.int8, ()),
    "depth": (np.float32, (1,)),
    "normal": (np.float32, (3,)),
}


class RenderedScene(TypedDict):
    """The image of a scene, and its maps at the pixel centres.

    Attributes:
        image: RGB.
        semantic: class map, -1 where void.
        depth: inverse depth along the camera axis in 1/m, 0 where undefined.
        normal: unit vectors in camera coordinates (x to the right, y up, z towards the viewer), 0 where undefined.
        camera: "fx", "fy", "cx", "cy" in pixels, where pixel centres have integer coordinates, and "baseline" in
            metres.
    """

    image: UInt8[np.ndarray, "h w 3"]
    semantic: Int8[np.ndarray, "h w"]
    depth: Float32[np.ndarray, "h w 1"]
    normal: Float32[np.ndarray, "h w 3"]
    camera: dict[str, float]


def render(seed: int, split: str, index: int, image_size: tuple[int, int]) -> RenderedScene:
    """Renders one scene, deterministically and independently of other scenes.

    Args:
        seed: seed of the dataset.
        split: "train" or "val".
        index: index of the scene in the split.
        image_size: height and width in pixels; the layout does not depend on it.

    Raises:
        ValueError: if the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}; expected one of {', '.join(SPLITS)}.")
    stream = [seed, SPLITS[split], index]
    scene = random_scene(np.random.default_rng([*stream, 0]), image_size)
    finish = np.random.default_rng([*stream, 1])
    canvas = _draw(scene)
    rows, columns = canvas.rows, canvas.columns
    colour = canvas.colour.reshape(3, rows, columns)
    bonnet = _bonnet(finish, rows, columns, colour)
    border, holes = _ignored(finish, rows, columns)
    colour[:, border] *= 0.05

    centres = (slice(1, None, 2), slice(1, None, 2))
    sky = canvas.inverse_depth.reshape(rows, columns)[centres] == 0
    gone = (bonnet | border)[centres]
    semantic = canvas.category.reshape(rows, columns)[centres].copy()
    semantic[gone] = VOID
    depth = canvas.inverse_depth.reshape(rows, columns)[centres].copy()
    depth[gone | holes[centres]] = 0
    normal = _in_camera(canvas.normal.reshape(3, rows, columns)[:, *centres], scene.camera)
    normal[gone | sky] = 0
    return {
        "image": develop(finish, _tent(colour)),
        "semantic": semantic,
        "depth": depth[..., None],
        "normal": normal,
        "camera": {
            "fx": scene.camera.focal,
            "fy": scene.camera.focal,
            "cx": scene.camera.centre[0],
            "cy": scene.camera.centre[1],
            "baseline": scene.camera.baseline,
        },
    }


def _draw(scene: Scene) -> Canvas:
    canvas = Canvas(scene.camera, scene.light)
    shadows = ShadowMap(scene.street, scene.light.to_sun)
    for i in drawing_order(scene.primitives, scene.camera, NEAR):
        canvas.draw(scene.primitives[i])
    if scene.light.sun.any():
        casters = [p for p in scene.primitives if p.shadow and shadows.reaches(p)]
        for primitive, sunny in zip(casters, faces(casters, scene.light.to_sun, infinite=True), strict=True):
            if sunny:  # the sunlit side of a closed body casts its whole shadow
                shadows.add(primitive)
    draw_ground(canvas, scene.street, scene.ground, shadows)
    drawn = canvas.inverse_depth > 0
    sky = np.flatnonzero(~drawn)
    canvas.colour[:, sky] = scene.light.sky_colour(canvas.directions(sky))
    hazy = canvas.colour[:, drawn]
    scene.light.through_haze(hazy, 1 / canvas.inverse_depth[drawn])
    canvas.colour[:, drawn] = hazy
    return canvas


def _tent(samples: Float[np.ndarray, "3 r q"]) -> Float[np.ndarray, "h w 3"]:
    """Averages the samples around each pixel centre with the weights (1, 2, 1) / 4 along both axes."""
    rows = 0.25 * (samples[:, :-2:2] + samples[:, 2::2]) + 0.5 * samples[:, 1:-1:2]
    pixels = 0.25 * (rows[..., :-2:2] + rows[..., 2::2]) + 0.5 * rows[..., 1:-1:2]
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _in_camera(normal: Float[np.ndarray, "3 h w"], camera: Camera) -> Float[np.ndarray, "h w 3"]:
    right, up, forward = camera.rotation
    axes = np.stack([right, up, -forward]).astype(np.float32)
    return np.ascontiguousarray(np.tensordot(normal, axes, (0, 1)))


def _bonnet(
    rng: np.random.Generator, rows: int, columns: int, colour: Float[np.ndarray, "3 r q"]
) -> Bool[np.ndarray, "r q"]:
    """Paints the bonnet of the camera's own car in half of the scenes; returns its mask."""
    present = rng.random() < 0.5
    rise, bow, tilt = rng.uniform(0.03, 0.1), rng.uniform(0.0, 0.25), rng.uniform(-0.02, 0.02)
    paint, shine = rng.uniform(0.02, 0.5) * rng.uniform(0.85, 1.15, 3), rng.uniform(0.05, 0.4)
    y, x = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns)[None] - 0.5
    edge = 1 - rise + bow * x * x + tilt * x
    where = (y > edge) & present
    depth = ((y - edge) * np.ones_like(x))[where]
    mirrored = colour[:, : rows // 2].mean((1, 2))
    colour[:, where] = (paint * 0.6 + shine * mirrored)[:, None] * (0.5 + 6 * depth)
    return where


def _ignored(
    rng: np.random.Generator, rows: int, columns: int
) -> tuple[Bool[np.ndarray, "r q"], Bool[np.ndarray, "r q"]]:
    """Returns the masks of a thin border, as rectified images have, and of holes in the depth map."""
    width = rng.uniform(0, 0.015, 4) * (rng.random() < 0.35)
    y, x = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns)[None]
    border = (y < width[0]) | (y > 1 - width[1]) | (x < width[2]) | (x > 1 - width[3])
    holes = np.zeros((rows, columns), bool)
    for _ in range(rng.integers(0, 4)):
        (cx, cy), (rx, ry) = rng.uniform(0, 1, 2), rng.uniform(0.01, 0.05, 2)
        holes |= ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
    return border, holes
