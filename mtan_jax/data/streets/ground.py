"""The ground: road with markings, kerbs, pavements and grass."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from mtan_jax.data.streets.canvas import Canvas
from mtan_jax.data.streets.primitives import FLAT, NATURE
from mtan_jax.data.streets.shadows import ShadowMap
from mtan_jax.data.streets.street import FAR, Street
from mtan_jax.data.streets.textures import cell_random, detail, noise

_Values = Float[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True, eq=False)
class GroundLook:
    """Colours and markings of the ground, in reflectances and metres."""

    asphalt: Float[np.ndarray, "3"]
    slabs: Float[np.ndarray, "3"]
    slab_size: float
    grass: Float[np.ndarray, "3"]
    grass_verge: tuple[bool, bool]  # left, right: whether there is grass between the pavement and the houses
    dash: float  # length of the dashes of the centre line; 0 is no line
    edge_lines: bool
    parking_line: float  # distance from the kerb; 0 is no line
    zebra: bool
    paint: float  # reflectance of the markings
    wear: float  # how worn the markings are: 0 is new
    salt: int  # seed of random patches and slabs


def random_ground(rng: np.random.Generator) -> GroundLook:
    """Draws random asphalt (dark to light), paving (grey to red), grass (green to dry) and markings."""
    grey = rng.uniform(0.06, 0.24)
    paving = rng.uniform(0.12, 0.42) * np.array([1.0, rng.uniform(0.72, 1.0), rng.uniform(0.6, 1.02)])
    grass = rng.uniform(0.12, 0.34) * np.array([rng.uniform(0.4, 0.95), 1.0, rng.uniform(0.05, 0.3)])
    verge = rng.random(2) < 0.75
    return GroundLook(
        asphalt=grey * np.array([1.0, rng.uniform(0.95, 1.02), rng.uniform(0.9, 1.1)]),
        slabs=paving,
        slab_size=rng.uniform(0.3, 1.2),
        grass=grass,
        grass_verge=(bool(verge[0]), bool(verge[1])),
        dash=rng.choice([0.0, 1.0], p=[0.25, 0.75]) * rng.uniform(1.5, 5),
        edge_lines=rng.random() < 0.4,
        parking_line=rng.choice([0.0, 2.2], p=[0.7, 0.3]),
        zebra=rng.random() < 0.6,
        paint=rng.uniform(0.4, 0.75),
        wear=rng.uniform(0.1, 0.6),
        salt=int(rng.integers(1 << 30)),
    )


def draw_ground(canvas: Canvas, street: Street, look: GroundLook, shadows: ShadowMap) -> None:
    """Draws the ground where it is the nearest surface. Exact except for the kerb's face, which is interpolated."""
    index, inverse_depth, normal, x, z, face = _intersect(canvas, street)
    if not index.size:
        return
    lateral = street.lateral(x, z)
    footprint = 1 / (2 * canvas.camera.focal * inverse_depth)
    road = street.road(x, z)
    beyond = np.abs(lateral) - street.half_road - street.pavement
    verge = np.where(lateral > 0, look.grass_verge[1], look.grass_verge[0])
    grass = (road < 0) & (beyond > 0.02 * noise(x, z, 8.0)) & verge & ~face
    paved = (road < 0) & ~grass
    colours = np.empty((3, index.size), np.float32)
    for part, paint in ((road >= 0, _asphalt), (paved, _slabs), (grass, _grass)):
        at = np.flatnonzero(part)
        if at.size:
            colours[:, at] = paint(street, look, x[at], z[at], lateral[at], footprint[at])
    colours[:, face] = (0.8 * look.slabs + 0.06)[:, None]
    canvas.inverse_depth[index] = inverse_depth
    canvas.category[index] = np.where(grass, NATURE, FLAT)
    sunlit = shadows.at(x, z)
    colours = canvas.light.shade(colours, normal, sunlit, 0.75 + 0.25 * sunlit)
    for channel in range(3):
        canvas.normal[channel][index] = normal[channel]
        canvas.colour[channel][index] = colours[channel]


def _intersect(
    canvas: Canvas, street: Street
) -> tuple[Int[np.ndarray, "n"], _Values, Float[np.ndarray, "3 n"], _Values, _Values, Bool[np.ndarray, "n"]]:
    """Returns the first ground hits: sample, inverse depth, normal, x, z, and whether on the face of the kerb."""
    index, ray, upper = _hits(canvas, street, street.kerb)
    x, z = ray[0] / upper, ray[2] / upper
    over_road = street.road(x, z)
    face = np.zeros(index.size, bool)
    normal = np.zeros((3, index.size), np.float32)
    inverse_depth = upper.copy()
    # Over the road the ray continues down to road level. If it has left the road by then, it hit the kerb.
    down = np.flatnonzero(over_road > 0)
    lower = np.maximum(_inverse_depth(canvas, street, ray[:, down], 0.0), np.float32(0.5 / FAR))
    end_x, end_z = ray[0, down] / lower, ray[2, down] / lower
    over_end = street.road(end_x, end_z)
    part = np.clip(over_road[down] / np.maximum(over_road[down] - over_end, 1e-9), 0, 1)
    depth = 1 / upper[down] + part * (1 / lower - 1 / upper[down])
    inverse_depth[down] = 1 / depth
    x[down], z[down] = ray[0, down] * depth, ray[2, down] * depth
    normal[1], normal[2] = 1, -street.profile * z
    kerb = down[over_end < 0]
    face[kerb] = True
    normal[:, kerb] = _kerb_normal(street, x[kerb], z[kerb])
    normal /= np.sqrt((normal * normal).sum(0))
    seen = (inverse_depth > canvas.inverse_depth[index]) & (inverse_depth > 1 / FAR)
    return index[seen], inverse_depth[seen], normal[:, seen], x[seen], z[seen], face[seen]


def _hits(
    canvas: Canvas, street: Street, level: float
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "3 n"], _Values]:
    """Returns the samples whose rays hit the ground at `level`, with their rays and inverse depths."""
    free = np.flatnonzero(canvas.inverse_depth < 0.5)
    ray = canvas.directions(free)
    inverse_depth = _inverse_depth(canvas, street, ray, level)
    hit = (inverse_depth > 1 / FAR) & (inverse_depth > canvas.inverse_depth[free])
    return free[hit], ray[:, hit], inverse_depth[hit]


def _inverse_depth(canvas: Canvas, street: Street, ray: Float[np.ndarray, "3 n"], level: float) -> _Values:
    """Returns the inverse depth at which rays first hit y = level + profile z^2 / 2; at most 0 if they miss."""
    above = canvas.camera.eye[1] - level
    # For a ray (dx, dy, dz), the larger root w of: above w^2 + dy w - profile dz^2 / 2 = 0.
    inside = ray[1] ** 2 + 2 * above * street.profile * ray[2] ** 2
    root = np.sqrt(np.maximum(inside, 0)) - ray[1]
    return np.where(inside >= 0, root / (2 * above), 0).astype(np.float32)


def _kerb_normal(street: Street, x: _Values, z: _Values) -> Float[np.ndarray, "3 n"]:
    """Returns horizontal directions from the kerb to the road: the gradient of `Street.road`."""
    step = 0.02
    along_x = street.road(x + step, z) - street.road(x - step, z)
    along_z = street.road(x, z + step) - street.road(x, z - step)
    return np.stack([along_x, np.full_like(along_x, 1e-9), along_z])


def _asphalt(
    street: Street, look: GroundLook, x: _Values, z: _Values, lateral: _Values, footprint: _Values
) -> Float[np.ndarray, "3 n"]:
    worn = noise(x, z, 31.0, 1.3)
    tone = 1 + 0.1 * worn + 0.1 * noise(x, z, 2.5, 0.4) * detail(footprint, 0.03)
    patch = cell_random(np.floor(lateral / 1.7), np.floor(z / 4.3), look.salt) > 0.93
    tone = tone * np.where(patch, 0.78, 1.0)
    colours = look.asphalt.astype(np.float32)[:, None] * np.maximum(tone, 0.3)
    on_street = (z < street.crossing[0] - 1.0) | (z > street.crossing[1] + 1.0)
    line = np.zeros(x.size, bool)
    if look.dash:
        line |= (np.abs(lateral) < 0.07) & (z / look.dash % 2 < 1)
    if look.edge_lines:
        line |= np.abs(np.abs(lateral) - street.half_road + 0.35) < 0.06
    if look.parking_line:
        line |= np.abs(np.abs(lateral) - street.half_road + look.parking_line) < 0.05
    line &= on_street
    if look.zebra:
        before = street.crossing[0] - z
        line |= (before > 1.2) & (before < 4.2) & (lateral % 1.0 < 0.5) & (np.abs(lateral) < street.half_road - 0.2)
        line |= (before > 5.2) & (before < 5.6) & (np.abs(lateral) < street.half_road - 0.2)
    paint = np.flatnonzero(line)
    strength = np.clip(1 - look.wear * np.maximum(worn[paint] + 0.3, 0), 0, 1)
    colours[:, paint] += strength * (look.paint - colours[:, paint])
    return colours


def _slabs(
    street: Street, look: GroundLook, x: _Values, z: _Values, lateral: _Values, footprint: _Values
) -> Float[np.ndarray, "3 n"]:
    size = look.slab_size
    joint = (lateral / size % 1 < 0.05) | (z / size % 1 < 0.05)
    tone = 1 + 0.09 * noise(x, z, 17.0, 1.2)
    tone += (
        0.16 * (cell_random(np.floor(lateral / size), np.floor(z / size), look.salt) - 0.5) * detail(footprint, size)
    )
    tone *= 1 - 0.3 * joint * detail(footprint, 0.05 * size)
    stone = np.abs(np.abs(lateral) - street.half_road - 0.08) < 0.08
    colours = look.slabs.astype(np.float32)[:, None] * tone
    colours[:, stone] = 0.5 * colours[:, stone] + 0.17
    return colours


def _grass(
    street: Street, look: GroundLook, x: _Values, z: _Values, lateral: _Values, footprint: _Values
) -> Float[np.ndarray, "3 n"]:
    del street, lateral, footprint
    tone = np.exp(0.22 * noise(x, z, 6.0, 0.6) + 0.15 * noise(x, z, 40.0, 1.4))
    return look.grass.astype(np.float32)[:, None] * tone
