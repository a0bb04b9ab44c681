"""Converts the pixels of any opened Pillow image to upright RGB."""

import contextlib

import numpy as np
from jaxtyping import Integer, Shaped, UInt8
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin


class UnknownWhiteError(ValueError):
    """The floats of a greyscale picture exceed every known value of white."""


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an opened image by the rules of `mtan_jax.data.raw.image_files.read_rgb`.

    Raises:
        UnknownWhiteError: a floating-point grey value exceeds 65535.
        Exception: for damaged files, Pillow raises errors of many types.
    """
    bits, fixed = _sample_bits(image)
    white_is_zero = _tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1) == 0
    make_upright(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        grey = _grey_of_floats(values) if image.mode == "F" else _grey_of_integers(values, bits, fixed)
        if white_is_zero:  # Pillow inverts samples of up to 8 bits only
            grey = 255 - grey
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey = np.where(values == transparent, np.uint8(255), grey)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "P" or image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def make_upright(image: Image.Image) -> None:
    """Loads the image and applies its EXIF orientation in place; damaged EXIF is ignored."""
    image.load()  # may raise: damaged pixels are an error
    with contextlib.suppress(Exception):  # the EXIF parser raises errors of many types
        ImageOps.exif_transpose(image, in_place=True)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image, 1 (upright) to 8; 1 if it is absent or EXIF is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the EXIF parser raises errors of many types
        return 1
    return value if value in range(1, 9) else 1


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """The first value of a TIFF tag; `default` for images in other formats."""
    value = image.tag_v2.get(tag, default) if isinstance(image, TiffImagePlugin.TiffImageFile) else default
    return value[0] if isinstance(value, tuple) else value


def _sample_bits(image: Image.Image) -> tuple[int, bool]:
    """Bits of an integer sample without its sign, and whether white is the maximum that these bits can hold."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = _tag(image, TiffImagePlugin.BITSPERSAMPLE, 1)
        signed = _tag(image, TiffImagePlugin.SAMPLEFORMAT, 1) == 2
        return bits - signed, bits <= 16 and not signed
    # Depending on its version, Pillow opens 16-bit PNG and PPM files as "I;16" or "I"; it scales PPM to 16 bits.
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        return 16, True
    return 31, False


def _grey_of_integers(values: Integer[np.ndarray, "h w"], bits: int, fixed: bool) -> UInt8[np.ndarray, "h w"]:
    if bits == 32:
        values = values.view(np.uint32)
    if not fixed:
        highest = int(values.max())
        bits = next(each for each in sorted({8, 16, bits}) if highest < 2**each)
    return (np.maximum(values, 0) >> (bits - 8)).astype(np.uint8)


def _grey_of_floats(values: Shaped[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    finite = values[np.isfinite(values)]
    highest = finite.max(initial=0.0)
    if highest > 65535:
        raise UnknownWhiteError(
            f"the largest floating-point grey value is {highest:g}; expected at most 65535. Rescale the picture so "
            "that white is 1, 255 or 65535"
        )
    white = next(each for each in (1, 255, 65535) if highest <= each)
    scaled = np.nan_to_num(values.astype(np.float64) / white, nan=0.0, posinf=1.0, neginf=0.0)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
