"""Reads picture files of any raster format and pixel type as RGB, and label and depth maps as integers."""

import io
import os
import re
import stat
import warnings
from collections.abc import Callable
from typing import BinaryIO, Literal, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_pixels import UnknownWhiteError, orientation, to_rgb

Image.init()  # registers all formats

# Vector graphics, documents, videos and containers, and formats that need a program besides Pillow.
_EXCLUDED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
_EXTENSIONS = {
    suffix: name
    for suffix, name in Image.registered_extensions().items()
    if (name in Image.OPEN or name == "MPO") and name not in _EXCLUDED  # MPO files are opened by the JPEG reader
}
# Formats without a signature, such as TGA, are recognized by suffix only: almost any file would match them.
_SIGNED = tuple(name for name in Image.ID if name in _EXTENSIONS.values() and Image.OPEN[name][1] is not None)

SUFFIXES = tuple(sorted(_EXTENSIONS))  # of all formats that can be read, such as ".png"; lower case
KNOWN_FORMATS = "PNG, JPEG, WebP, TIFF, BMP, GIF and other raster formats that Pillow reads"  # for messages

_STRAY = {"thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", "icon\r"}
_STRAY |= {"$recycle.bin", "#recycle", "@recycle", "#snapshot", "system volume information", "lost+found"}

# Pillow warns above `Image.MAX_IMAGE_PIXELS` pixels and raises above twice as many.
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)

Picture: TypeAlias = bytes | str | os.PathLike[str]
Result = TypeVar("Result")


def is_picture(name: str) -> bool:
    """Whether a file name has a picture's suffix and is not that of a stray file."""
    return os.path.splitext(name)[1].lower() in _EXTENSIONS and not is_stray(name)


def is_stray(name: str) -> bool:
    """Whether a name is that of a hidden, desktop or disk file or folder, such as `.DS_Store` or `__MACOSX`."""
    return name.startswith(".") or name.lower() in _STRAY


def printable(name: str | os.PathLike[str]) -> str:
    r"""Escapes bytes that are not UTF-8 for logs and messages, as in `caf\xe9.png`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_rgb(picture: Picture, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture as RGB, upright.

    - The EXIF orientation is applied. The first of several frames is read. Colour profiles are ignored.
    - Transparent pixels are composited over white.
    - 16-bit colour samples keep their upper 8 bits.
    - Unsigned 12-bit and 16-bit greyscale samples keep their upper 8 bits: black is 0, white is 65535 for 16 bits.
    - Greyscale of signed or 32-bit integers and of floats has no fixed white. White is the smallest value that no pixel
      exceeds, out of 255, 65535 and the dtype's maximum for integers, and out of 1, 255 and 65535 for floats. Negative
      values and NaN are black, infinity is white. Floats above 65535 are an error.

    Not thread-safe, because it silences Pillow's warnings; `read_stored` is.

    Args:
        picture: the path of a file, or its bytes.
        name: of the picture, for messages; ignored if `picture` is a path.

    Raises:
        RawDataError: the file is missing, not a picture or damaged, or exceeds `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read(picture, name, to_rgb)


def read_stored(picture: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture of a prepared set to the same pixels as `read_rgb`; thread-safe."""
    return _read(picture, name, to_rgb)


def storable(picture: Picture, name: str = "") -> bytes:
    """Returns a picture as the bytes of a JPEG or PNG file that plain decoders read to the pixels of `read_rgb`.

    Upright JPEG and PNG files in 8-bit RGB or greyscale without transparency are returned unchanged. All others are
    converted to PNG.

    Raises:
        RawDataError: as in `read_rgb`.
    """
    where = _where(picture, name)
    if not isinstance(picture, bytes):
        with _open(picture, where) as file:
            picture = file.read()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels = _read(picture, where, lambda image: None if _is_plain(image, picture) else to_rgb(image))
    if pixels is None and not caught:  # Pillow would repeat a warning each time the set is read
        return picture
    encoded = io.BytesIO()
    Image.fromarray(read_rgb(picture, where) if pixels is None else pixels).save(encoded, "PNG")
    return encoded.getvalue()


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Loads the image; returns whether its file can be stored unchanged."""
    image.load()
    return (
        (
            image.format in ("JPEG", "MPO") or (image.format == "PNG" and data[24] == 8)
        )  # byte 24 of a PNG file is its bit depth
        and image.mode in ("L", "RGB")
        and "transparency" not in image.info
        and orientation(image) == 1
    )


def read_integers(picture: Picture, name: str, kind: Literal["uint8", "uint16"]) -> Shaped[np.ndarray, "h w"]:
    """Reads the unscaled values of a one-channel picture, such as labels; for a palette, its indices.

    Raises:
        RawDataError: as in `read_rgb`, or the picture has another number of channels or another dtype.
    """
    modes = {"uint8": ("L", "P"), "uint16": ("I;16", "I;16L", "I;16B", "I")}[kind]

    def values(image: Image.Image) -> np.ndarray:
        image.load()
        if image.mode not in modes:
            where = _where(picture, name)
            raise RawDataError(f"{where}: expected a picture of one {kind} channel, got Pillow mode {image.mode!r}.")
        return np.asarray(image).astype(kind)

    return _read(picture, name, values)


def _read(picture: Picture, name: str, convert: Callable[[Image.Image], Result]) -> Result:
    """Opens and converts a picture; any error of Pillow becomes a `RawDataError` that names the picture."""
    where = _where(picture, name)
    limit = Image.MAX_IMAGE_PIXELS
    with _open(picture, where) as file:
        try:
            with Image.open(file, formats=_formats(where)) as image:
                if limit is not None and image.width * image.height > limit:
                    raise Image.DecompressionBombError(f"{image.width * image.height} pixels")
                return convert(image)
        except RawDataError:
            raise
        except UnknownWhiteError as error:
            raise RawDataError(f"{where}: {error}.") from error
        except _TOO_LARGE as error:
            pixels = re.search(r"\d+", str(error))
            raise RawDataError(
                f"{where}: too large: {int(pixels[0]) if pixels else 'more':,} pixels; the limit is {limit:,} "
                "(PIL.Image.MAX_IMAGE_PIXELS). Downscale it."
            ) from error
        except UnidentifiedImageError as error:
            empty = file.seek(0, os.SEEK_END) == 0
            reason = "the file is empty" if empty else f"expected {KNOWN_FORMATS}"
            raise RawDataError(f"{where}: cannot be read as a picture: {reason}. Replace or remove it.") from error
        except MemoryError as error:
            raise RawDataError(f"{where}: does not fit in memory. Downscale it.") from error
        except Exception as error:  # for damaged files Pillow raises anything from SyntaxError to RuntimeError
            reason = f"truncated or damaged ({error or type(error).__name__})"
            raise RawDataError(f"{where}: cannot be read as a picture: {reason}. Replace or remove it.") from error


def _open(picture: Picture, where: str) -> BinaryIO:
    if isinstance(picture, bytes):
        return io.BytesIO(picture)
    try:
        mode = os.stat(picture).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return open(picture, "rb")
    except IsADirectoryError as error:
        raise RawDataError(f"{where}: a folder, not a picture. Rename or remove it.") from error
    except (OSError, ValueError) as error:
        raise RawDataError(f"{where}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    # Opening a pipe would wait for its writer, and some devices never end.
    raise RawDataError(f"{where}: a pipe, a socket or a device, not a picture. Remove it.")


def _where(picture: Picture, name: str) -> str:
    return name if isinstance(picture, bytes) else printable(picture)


def _formats(name: str) -> tuple[str, ...]:
    named = _EXTENSIONS.get(os.path.splitext(name)[1].lower())
    return _SIGNED if named is None or named in (*_SIGNED, "MPO") else (*_SIGNED, named)
