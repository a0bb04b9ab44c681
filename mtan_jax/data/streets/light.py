"""Sun, sky, haze and the camera's sensor: turns reflectance into an image."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from mtan_jax.data.streets.textures import noise

Colour = Float[np.ndarray, "3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Light:
    """The weather of a scene; colours are linear RGB.

    Attributes:
        to_sun: unit vector towards the sun.
        sun: colour of the sun, 0 if overcast.
        ambient: light from the whole sky.
        bounce: light from the ground.
        canyon: fraction of the light from sky and ground, 0 to 1, that houses block for surfaces facing across the
            street (along x) but not for surfaces facing along the open street.
        zenith: colour of the sky overhead.
        horizon: colour of the sky at the horizon and of the haze.
        clouds: cloud cover, 0 (none) to 1.
        cloud_shift: offset of the clouds in the noise.
        haze: extinction coefficient in 1/m.
    """

    to_sun: Float[np.ndarray, "3"]
    sun: Colour
    ambient: Colour
    bounce: Colour
    canyon: float
    zenith: Colour
    horizon: Colour
    clouds: float
    cloud_shift: float
    haze: float

    def shade(
        self,
        reflectance: Float[np.ndarray, "3 n"],
        normal: Float[np.ndarray, "3 *n"],
        sunlit: Float[np.ndarray, "n"] | float,
        open_sky: Float[np.ndarray, "n"] | float = 1.0,
    ) -> Float[np.ndarray, "3 n"]:
        """Returns the radiance of surfaces.

        Args:
            reflectance: in 0..1.
            normal: unit vectors in world coordinates, one for all or one per column.
            sunlit: 0 in full shade, 1 in the sun.
            open_sky: fraction of the sky's light that arrives.
        """
        facing = np.asarray(np.maximum(self.to_sun.astype(np.float32) @ normal, 0) * sunlit, np.float32)
        share = np.asarray((0.5 + 0.5 * normal[1]) * open_sky, np.float32)
        across = np.float32(1) - np.float32(self.canyon) * np.square(normal[0], dtype=np.float32)
        sun, ambient, bounce = (c.astype(np.float32)[:, None] for c in (self.sun, self.ambient, self.bounce))
        return reflectance * (sun * facing + ((ambient - bounce) * share + bounce) * across)

    def sky_colour(self, direction: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 n"]:
        """Returns the sky's radiance in the given directions, which need not have unit length."""
        unit = direction / np.sqrt((direction * direction).sum(0))
        rise = np.clip(unit[1], 0, 1)
        part = 1 - np.exp(-4 * rise)
        sun, zenith, horizon = (c.astype(np.float32)[:, None] for c in (self.sun, self.zenith, self.horizon))
        colours = horizon + (zenith - horizon) * part
        flat = 1 / (rise + 0.12)
        cover = noise(unit[0] * flat + self.cloud_shift, unit[2] * flat, 7.0, 1.6)
        cover = np.clip(cover * 0.5 + 1.6 * self.clouds - 0.6, 0, 1) * (0.3 + 0.7 * part)
        grey = 0.75 * horizon.mean() + 0.35 * sun * (0.4 + 0.6 * unit[1])
        colours = colours + (grey - colours) * (0.8 * cover)
        glow = np.clip(self.to_sun.astype(np.float32) @ unit, 0, 1) ** 24
        return colours + 0.3 * sun * (glow * (1 - cover))

    def through_haze(self, colours: Float[np.ndarray, "3 n"], depth: Float[np.ndarray, "n"]) -> None:
        """Adds the haze in front of surfaces at `depth` metres, in place."""
        clear = np.exp(np.float32(-self.haze) * depth)
        for channel, horizon in zip(colours, self.horizon.astype(np.float32), strict=True):
            channel -= horizon
            channel *= clear
            channel += horizon


def random_light(rng: np.random.Generator) -> Light:
    """Draws random weather and time of day: sun or clouds, high or low sun, clear or hazy, neutral or warm."""
    overcast = rng.random() < 0.35
    low = rng.uniform(0, 1)
    elevation = np.radians(8 + 55 * low)
    azimuth = rng.uniform(0, 2 * np.pi)
    to_sun = np.array([np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)])
    warm = np.array([1.0, 0.72 + 0.24 * low, 0.45 + 0.45 * low])
    strength = 0.0 if overcast else rng.uniform(1.5, 3.2) * (0.45 + 0.55 * low)
    blue = np.array([0.75, 0.9, 1.1]) if not overcast else np.array([0.95, 1.0, 1.05])
    ambient = blue * rng.uniform(0.55, 1.0) * (1.3 if overcast else 0.9)
    horizon = np.array([0.8, 0.86, 0.92]) * rng.uniform(0.8, 1.25) * (0.85 + 0.15 * warm)
    zenith = horizon * (rng.uniform(0.8, 1.05) if overcast else np.array([0.35, 0.55, 0.95]) * rng.uniform(0.6, 1.2))
    haze = np.exp(rng.uniform(np.log(0.0005), np.log(0.005)))
    return Light(
        to_sun,
        strength * warm,
        ambient,
        ambient * rng.uniform(0.35, 0.6) + 0.12 * strength * warm,
        rng.uniform(0.4, 0.65),
        zenith,
        horizon,
        0.0 if overcast else rng.uniform(0, 1),
        rng.uniform(5, 50),
        haze,
    )


def develop(rng: np.random.Generator, radiance: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Simulates the camera: exposure, colour balance, vignetting, tone curve, noise and 8-bit quantization."""
    height, width = radiance.shape[:2]
    exposure = np.exp(rng.normal(0, 0.15)) * 0.36 / max(float(radiance.mean()), 0.05) ** 0.9
    balance = np.exp(rng.normal(0, 0.05, 3))
    gamma = rng.uniform(1 / 2.2, 1 / 1.8)
    shot, read = rng.uniform(0.004, 0.018), rng.uniform(0.002, 0.01)
    edge = rng.uniform(0, 0.35)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    vignette = (1 - edge * (x * x + y * y) / 2)[..., None]
    signal = radiance * (exposure * balance).astype(np.float32) * vignette.astype(np.float32)
    signal = signal / (1 + 0.25 * signal)
    sensor = rng.standard_normal(signal.shape, dtype=np.float32)
    signal = signal + sensor * np.sqrt(shot**2 * np.maximum(signal, 0) + read**2).astype(np.float32)
    return (255 * np.clip(signal, 0, 1) ** np.float32(gamma) + 0.5).clip(0, 255).astype(np.uint8)
