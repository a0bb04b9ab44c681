"""The reader of picture files: formats, orientation, bit depth, transparency, damage and size."""

import io
import os
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import SUFFIXES, is_picture, is_stray, printable, read_integers, read_rgb, storable

ORIENTATION = 0x0112
CORNERS = np.array([[[10] * 3, [60] * 3, [110] * 3], [[160] * 3, [210] * 3, [250] * 3]], np.uint8)  # 2 high, 3 wide


def encode(array, form, mode=None, **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def rotated(array, form, orientation, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(array, form, exif=exif, **options)


def grey(data, name="x"):
    rgb = read_rgb(data, name)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[..., 0], rgb[..., 2])
    return rgb[..., 0].tolist()


# Orientation: EXIF names the sides of the scene where the first row and the first column are.

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda a: a.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation):
    for form in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = rotated(CORNERS, form, orientation, **options)
        np.testing.assert_array_equal(read_rgb(data, f"x.{form}"), UPRIGHT[orientation](CORNERS), err_msg=form)


def test_phone_picture_is_upright():
    scene = np.zeros((300, 400, 3), np.uint8)  # stored on its side: the sky is on the left
    scene[:, :130], scene[:, 130:] = (120, 180, 255), (90, 90, 90)
    upright = read_rgb(rotated(scene, "JPEG", 6), "phone.jpg")
    assert upright.shape == (400, 300, 3)
    np.testing.assert_allclose(upright[:120].mean((0, 1)), (120, 180, 255), atol=2)  # JPEG is lossy
    np.testing.assert_allclose(upright[140:].mean((0, 1)), (90, 90, 90), atol=2)


def test_damaged_or_unknown_exif_is_ignored():
    for exif in (b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12", b"Exif\0\0nonsense"):
        data = encode(CORNERS, "PNG", exif=exif)
        np.testing.assert_array_equal(read_rgb(data, "x.png"), CORNERS)
    np.testing.assert_array_equal(read_rgb(rotated(CORNERS, "PNG", 9), "x.png"), CORNERS)


# Greyscale of more than 8 bits


def test_grey_of_16_bits_keeps_its_upper_8_bits():
    values = np.array([[0, 255, 256, 300], [32768, 40000, 65000, 65535]], np.uint16)
    by_hand = [[0, 0, 1, 1], [128, 156, 253, 255]]  # divided by 256, rounded down
    for form in ("PNG", "TIFF", "PPM"):
        assert grey(encode(values, form)) == by_hand, form
    assert grey(encode(values[:, :2] // 2, "PNG")) == [[0, 0], [64, 78]]  # never stretched to the picture's own range
    big_endian = b"P5 2 1 65535\n" + struct.pack(">2H", 256, 65535)
    assert grey(big_endian) == [[1, 255]]


def test_grey_ramp_of_16_bits_is_not_white():
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    np.testing.assert_array_equal(read_rgb(encode(ramp, "PNG"), "grey16.png")[0, :, 0], np.arange(256))


def tiff(values, bits, **tags):
    """A little-endian TIFF file with one strip of integers of any bit depth."""
    height, width = values.shape
    data = values.tobytes()
    fields = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(data)}
    fields |= {int(tag[1:]): value for tag, value in tags.items()}
    fields[273] = 8 + 2 + 12 * len(fields) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", 0) + data


def test_tiff_declares_bits_and_sign_and_white():
    twelve = np.array([[0x10, 0xF0, 0xFF, 0x80, 0x00, 0x0F]], np.uint8)  # 0x10f, 0x0ff, 0x800, 0x00f, packed
    data = tiff(twelve, 12, t256=4, t279=6)
    assert grey(data) == [[0x10, 0x0F, 0x80, 0x00]]
    white_is_zero = tiff(np.array([[0, 256, 65535]], np.uint16), 16, t262=0)
    assert grey(white_is_zero) == [[255, 254, 0]]
    signed = tiff(np.array([[-5, 0, 256, 32767]], np.int16), 16, t339=2)
    assert grey(signed) == [[0, 0, 2, 255]]  # white is 2**15 - 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-7, 0, 17, 255], [0, 0, 17, 255]),  # white is 255
        ([0, 255, 256, 65535], [0, 0, 1, 255]),  # white is 65535
        ([0, 65536, 2**30, 2**31 - 1], [0, 0, 128, 255]),  # white is 2**31 - 1
    ],
)
def test_integers_of_32_bits_are_scaled_to_the_smallest_white(values, expected):
    assert grey(encode(np.array([values], np.int32), "TIFF")) == [expected]


def test_unsigned_integers_of_32_bits_do_not_wrap():
    assert grey(tiff(np.array([[0, 2**24, 2**31, 2**32 - 1]], np.uint32), 32)) == [[0, 1, 128, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-0.5, 0, 0.5, 1], [0, 0, 128, 255]),  # white is 1: 127.5 is rounded to even
        ([0, 1, 100.4, 255], [0, 1, 100, 255]),  # white is 255
        ([0, 257, 32896, 65535], [0, 1, 128, 255]),  # white is 65535 = 255 * 257
        ([np.nan, 0.2, np.inf, -np.inf], [0, 51, 255, 0]),
        ([np.nan, np.nan, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_floats_are_scaled_to_the_smallest_white(values, expected):
    assert grey(encode(np.array([values], np.float32), "TIFF")) == [expected]


def test_floats_without_a_known_white_are_an_error():
    data = encode(np.array([[0, 70000]], np.float32), "TIFF")
    with pytest.raises(RawDataError, match=r"^dem.tif: the largest .* is 70000; expected at most 65535. Rescale"):
        read_rgb(data, "dem.tif")


# Transparency and colour


def test_transparent_pixels_are_composited_over_white():
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    expected = [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]]  # 51 / 255 = 0.2: 0.2 c + 0.8 * 255
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read_rgb(encode(rgba, form), "x"), expected)
    alpha = Image.fromarray(np.array([[255, 0, 51]], np.uint8))
    assert grey(encode(Image.merge("LA", [Image.new("L", (3, 1), 100), alpha]), "PNG")) == [[100, 255, 224]]


def test_transparent_entries_of_a_palette_and_keys_are_composited_over_white():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([200, 100, 0, 10, 20, 30, 200, 100, 0])
    expected = [[[244, 224, 204], [10, 20, 30], [255, 255, 255]]]
    np.testing.assert_array_equal(read_rgb(encode(image, "PNG", transparency=b"\x33\xff\x00"), "x.png"), expected)
    np.testing.assert_array_equal(read_rgb(encode(image, "PNG"), "x.png")[0, 0], [200, 100, 0])
    np.testing.assert_array_equal(read_rgb(encode(image, "GIF", transparency=1), "x.gif")[0, 1], [255, 255, 255])
    assert grey(encode(np.array([[7, 8]], np.uint8), "PNG", transparency=7)) == [[255, 8]]
    assert grey(encode(np.array([[700, 8000]], np.uint16), "PNG", transparency=700)) == [[255, 31]]


def test_cmyk_is_not_inverted():
    picture = Image.new("CMYK", (16, 16))
    picture.paste((255, 0, 0, 0), (0, 0, 16, 8))  # all cyan above, no ink below
    for form in ("TIFF", "JPEG"):  # Pillow writes JPEG files as Adobe does, inverted, and marks them so
        rgb = read_rgb(encode(picture, form), "x")
        np.testing.assert_allclose(rgb[2, 2], [0, 255, 255], atol=3)
        np.testing.assert_allclose(rgb[13, 13], [255, 255, 255], atol=3)


def test_other_modes():
    assert grey(encode(np.array([[True, False]]), "PNG")) == [[255, 0]]
    lab = Image.new("LAB", (1, 1), (255, 128, 128))  # L* of 100, no colour
    np.testing.assert_allclose(read_rgb(encode(lab, "TIFF"), "x")[0, 0], [255, 255, 255], atol=2)
    big = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0x00FF, 0x0100)
    assert read_rgb(b"P6 2 1 65535\n" + big, "x.ppm").tolist() == [[[0x12, 0x56, 0x9A], [255, 1, 1]]]


def test_the_first_frame_is_read():
    frames = [Image.new("RGB", (4, 3), (value, value, value)) for value in (10, 200)]
    for form in ("GIF", "TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert grey(data) == [[10] * 4] * 3, form


# Names


def test_every_raster_format_of_pillow_is_a_picture():
    for name in ("a.webp", "A.WEBP", "b.JPG", "c.tif", "d.gif", "f.jp2", "g.bmp", "h.jfif", "i.mpo", "j.ppm"):
        assert is_picture(name), name
    for name in ("a.txt", "b", "c.eps", "d.pdf", "e.mp4", "f.mpg", "g.h5", "h.heic", "png", "i.wmf", "j.npy"):
        assert not is_picture(name), name
    assert all(is_picture(f"x{suffix}") for suffix in SUFFIXES)


def test_files_of_desktops_and_notebooks_are_stray():
    for name in ("._x.jpg", ".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini", "@eaDir", "__MACOSX"):
        assert is_stray(name), name
    for name in ("#recycle", "@Recycle", "#snapshot", "$RECYCLE.BIN", "lost+found", "System Volume Information"):
        assert is_stray(name), name
    assert not is_picture("._x.jpg")
    for name in ("x.jpg", "cat", "_cat", "__init__", "thumbs"):
        assert not is_stray(name), name


def test_undecodable_names_are_printable(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    assert printable(name) == r"caf\xe9.png"
    assert printable("café.png") == "café.png"
    (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(RawDataError, match=re.escape(r"caf\xe9.png: cannot be read as a picture")) as error:
        read_rgb(tmp_path / name)
    str(error.value).encode("utf-8")


# Damage and size


def test_a_file_without_signature_is_read_by_its_suffix_alone():
    data = encode(CORNERS, "TGA")
    np.testing.assert_array_equal(read_rgb(data, "x.tga"), CORNERS)
    with pytest.raises(RawDataError, match=r"x.jpg: cannot be read as a picture: expected PNG, JPEG"):
        read_rgb(data, "x.jpg")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("size", [(20000, 10000), (10000, 10000)], ids=["raises in Pillow", "warns in Pillow"])
def test_huge_picture_is_one_message(tmp_path, size):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    pixels = {20000: "200,000,000", 10000: "100,000,000"}[size[0]]
    message = f"^{re.escape(str(path))}: too large: {pixels} pixels; the limit is 89,478,485 .* Downscale it.$"
    with pytest.raises(RawDataError, match=message):  # a warning that leaks would be another exception
        read_rgb(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as a picture: the file is empty"),
        (b"a text", "cannot be read as a picture: expected PNG, JPEG"),
        (encode(CORNERS, "PNG")[:-30], "truncated or damaged"),
        (encode(np.tile(CORNERS, (20, 20, 1)), "JPEG")[:-200], "truncated or damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected PNG, JPEG"),  # no Ghostscript is started
    ],
    ids=["empty", "text", "png", "jpeg", "eps"],
)
def test_unreadable_files_are_named(tmp_path, data, message):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(RawDataError, match=f"^{re.escape(str(path))}: .*{message}"):
        read_rgb(path)


def test_folders_and_missing_files_are_named(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(RawDataError, match=r"x.png: a folder, not a picture. Rename or remove it."):
        read_rgb(tmp_path / "x.png")
    (tmp_path / "dead.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(RawDataError, match=r"dead.png: cannot be opened \(No such file or directory\)"):
        read_rgb(tmp_path / "dead.png")


@pytest.mark.parametrize("read", [read_rgb, storable, lambda path: read_integers(path, "", "uint8")])
def test_a_named_pipe_is_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "link.png").symlink_to("x.png")
    for name in ("x.png", "link.png"):
        with pytest.raises(RawDataError, match=f"{name}: a pipe, a socket or a device, not a picture. Remove it."):
            read(tmp_path / name)


def test_damage_of_any_format_is_a_message():
    """Overwrites a few bytes and truncates half of the files: each is read or reported."""
    rng = np.random.default_rng(0)
    read, messages = 0, []
    for form in ("BMP", "DDS", "GIF", "ICNS", "ICO", "JPEG", "PCX", "PNG", "PPM", "SGI", "TIFF", "WEBP"):
        good = encode(CORNERS, form)
        for trial in range(40):
            data = bytearray(good)
            for place in rng.integers(0, min(len(data), 400), 3):
                data[place] = rng.integers(256)
            try:
                read_rgb(bytes(data[: len(data) if trial % 2 else rng.integers(len(data))]), "x")
                read += 1
            except RawDataError as error:
                messages.append(str(error))
    assert min(read, len(messages)) > 50
    assert all(message.startswith("x: ") for message in messages)


def test_warnings_of_pillow_do_not_leak():
    frames = [Image.new("RGB", (8, 8), value) for value in ("red", "blue")]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    malformed = data.replace(b"MPF\0II*\0", b"MPF\0II*\1").replace(b"MPF\0MM\0*", b"MPF\0MM\1*")
    assert malformed != data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(read_rgb(malformed, "x.jpg")[0, 0], [254, 0, 0], atol=2)
        plain = storable(malformed, "x.jpg")
        with Image.open(io.BytesIO(plain)) as image:  # does not warn
            assert image.format == "PNG"


# Stored form


@pytest.mark.parametrize(
    "data",
    [
        encode(CORNERS, "PNG"),
        encode(CORNERS, "JPEG"),
        encode(CORNERS[..., 0], "PNG"),
        encode(CORNERS[..., 0], "JPEG"),
        rotated(CORNERS, "JPEG", 1),
    ],
    ids=["png", "jpeg", "grey png", "grey jpeg", "orientation 1"],
)
def test_plain_pictures_are_stored_as_they_are(tmp_path, data):
    assert storable(data, "x") == data
    (tmp_path / "x").write_bytes(data)
    assert storable(tmp_path / "x") == data


ODD = {
    "webp": encode(CORNERS, "WEBP"),
    "tiff": encode(CORNERS, "TIFF"),
    "bmp": encode(CORNERS, "BMP"),
    "16 bits": encode(np.array([[300, 40000]], np.uint16), "PNG"),
    "16 bits rgb": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)))
    + chunk(b"IEND", b""),
    "palette": encode(CORNERS, "PNG", mode="P"),
    "1 bit": encode(CORNERS, "PNG", mode="1"),
    "cmyk": encode(CORNERS, "JPEG", mode="CMYK"),
    "alpha": encode(np.full((2, 3, 4), 100, np.uint8), "PNG"),
    "key": encode(CORNERS[..., 0], "PNG", transparency=10),
    "rotated": rotated(CORNERS, "JPEG", 6),
    "gif": encode(CORNERS, "GIF"),
}


@pytest.mark.parametrize("name", ODD)
def test_other_pictures_are_stored_as_png_of_the_same_pixels(name):
    stored = storable(ODD[name], name)
    assert stored.startswith(b"\x89PNG")
    pixels = read_rgb(ODD[name], name)
    np.testing.assert_array_equal(tfds.features.Image(shape=(None, None, 3)).decode_example_np(stored), pixels)
    np.testing.assert_array_equal(read_rgb(stored, name), pixels)
    assert storable(stored, name) == stored


def test_unreadable_pictures_are_not_stored(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encode(np.tile(CORNERS, (20, 20, 1)), "JPEG")[:-200])
    with pytest.raises(RawDataError, match=r"x.jpg: cannot be read as a picture: truncated or damaged"):
        storable(tmp_path / "x.jpg")


# Raw label and depth maps


def test_integers_are_read_as_they_are():
    labels = np.array([[0, 7, 255]], np.uint8)
    np.testing.assert_array_equal(read_integers(encode(labels, "PNG"), "x", "uint8"), labels)
    palette = Image.fromarray(np.array([[0, 2, 1]], np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    np.testing.assert_array_equal(read_integers(encode(palette, "PNG"), "x", "uint8"), [[0, 2, 1]])
    depth = np.array([[0, 300, 65535]], np.uint16)
    read = read_integers(encode(depth, "PNG"), "x", "uint16")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, depth)
    with pytest.raises(RawDataError, match=r"^x: expected a picture of one uint8 channel, got Pillow mode 'RGB'"):
        read_integers(encode(CORNERS, "PNG"), "x", "uint8")
