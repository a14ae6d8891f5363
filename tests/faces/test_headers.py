"""Picture files of every kind: upright as Pillow shows them, whole or refused, and refused for their size before there is memory for it."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.faces.headers import read_header
from fhrt.faces.inputs import as_frame, decode_picture

Image = pytest.importorskip("PIL.Image", reason="without Pillow there are no files to compare with")
from PIL import ImageOps, TiffImagePlugin, features  # noqa: E402

ROUGH = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8), (76, 50), interpolation=cv2.INTER_CUBIC)
FORMATS = {
    "bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "jpeg": ("JPEG", {"quality": 95}),
    "jpeg-progressive": ("JPEG", {"quality": 95, "progressive": True}),
    "jp2": ("JPEG2000", {}),
    "png": ("PNG", {}),
    "ppm": ("PPM", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "webp": ("WEBP", {"quality": 95}),
    "webp-lossless": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {"quality": 95}),
}
TURNED = ("jpeg", "png", "tiff", "webp", "webp-lossless", "avif")


def encoded(name: str, picture: NDArray[np.uint8] = ROUGH, **options: object) -> bytes:
    form, always = FORMATS[name]
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form, **always, **options)
    return file.getvalue()


def exif(orientation: int, order: str = ">", kind: int = 3) -> bytes:
    value = struct.pack(order + {3: "H", 4: "I"}[kind], orientation).ljust(4, b"\0")
    head = (b"MM" if order == ">" else b"II") + struct.pack(order + "HI", 42, 8)
    return b"Exif\0\0" + head + struct.pack(order + "HHHI", 1, 0x112, kind, 1) + value + bytes(4)


def check_as_pillow_shows(data: bytes) -> None:
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"), np.int64)
    mine = decode_picture(data, "a file")[..., ::-1]
    assert mine.shape == shown.shape and np.abs(mine - shown).mean() < 3
    assert (as_frame(Image.open(io.BytesIO(data)), "rgb") == shown).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", TURNED)
def test_every_orientation_of_every_format(name: str, orientation: int) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    check_as_pillow_shows(encoded(name, **({"tiffinfo": tags} if name == "tiff" else {"exif": exif(orientation)})))


@pytest.mark.parametrize("kind", [3, 4], ids=["SHORT", "LONG"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_an_orientation_may_be_a_long_of_either_order(name: str, order: str, kind: int) -> None:
    check_as_pillow_shows(encoded(name, exif=exif(6, order, kind)))
    assert decode_picture(encoded(name, exif=exif(6, order, kind)), "").shape == (76, 50, 3)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_an_orientation_of_xmp_counts_where_exif_has_none(name: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    if name == "png":
        info = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
        chunk = struct.pack(">I", len(info)) + b"iTXt" + info + struct.pack(">I", zlib.crc32(b"iTXt" + info))
        data = encoded("png")
        check_as_pillow_shows(data[:33] + chunk + data[33:])
    else:
        check_as_pillow_shows(encoded(name, xmp=xmp))


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_says_the_size(name: str) -> None:
    assert read_header(encoded(name)).size == (76, 50)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_damaged_raises_nothing_else(name: str) -> None:
    """Whatever a header says, a file is read or refused by one typed line."""
    data, random = encoded(name), np.random.default_rng(1)
    for _ in range(60):
        harmed = bytearray(data)
        for at in random.integers(0, min(len(data), 400), 3):
            harmed[at] = random.integers(0, 256)
        try:
            frame = decode_picture(bytes(harmed[: random.integers(1, len(data) + 1)]), "a file")
        except BadInputError as error:
            assert "\n" not in str(error)
        else:
            assert frame.dtype == np.uint8 and frame.ndim == 3


@pytest.mark.parametrize("restart", [0, 4])
@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_may_lack_its_end_marker_but_no_pixels(progressive: int, restart: int) -> None:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    for picture in (np.tile(ROUGH, (4, 4, 1)), np.full((50, 76, 3), 128, np.uint8)):  # the latter as grey as what is missing
        jpeg = cv2.imencode(".jpg", picture, options)[1].tobytes()
        whole = decode_picture(jpeg, "whole")
        for end in (b"", b"\xff", b"\xff\xff\xff\xd9", b"\xff\xd9dhav\x59"):
            assert np.array_equal(decode_picture(jpeg[:-2] + end, "whole"), whole)
    jpeg = cv2.imencode(".jpg", np.tile(ROUGH, (4, 4, 1)), options)[1].tobytes()
    begin = jpeg.index(b"\xff\xda") + 14
    for share in (0.0, 0.2, 0.5, 0.9):
        cut = jpeg[: int(begin + share * (len(jpeg) - begin))].rstrip(b"\xff")
        for end in (b"", b"\xff\xd9"):
            with pytest.raises(BadInputError, match="truncated"):
                decode_picture(cut + end, "cut")


@pytest.mark.parametrize("name", ["PF", "Pf", "hdr", "float32", "int32", "exr"])
def test_numbers_that_are_no_bytes_are_refused_with_what_to_do(name: str) -> None:
    numbers = ROUGH.astype(np.float32) / 255
    if name == "int32":
        file = io.BytesIO()
        Image.fromarray(ROUGH[..., 0].astype(np.int32) << 8).save(file, "TIFF")
        data = file.getvalue()
    elif name == "exr":
        data = b"\x76\x2f\x31\x01" + bytes(100)
    else:
        ending = {"PF": ".pfm", "Pf": ".pfm", "hdr": ".hdr", "float32": ".tiff"}[name]
        data = cv2.imencode(ending, numbers[..., 0] if name == "Pf" else numbers)[1].tobytes()
    with pytest.raises(BadInputError, match=r"scale them to 0\.\.255") as caught:
        decode_picture(data, "a file")
    assert "damaged" not in str(caught.value)
    for ending in (".png", ".tiff"):
        assert np.array_equal(decode_picture(cv2.imencode(ending, ROUGH.astype(np.uint16) * 257)[1].tobytes(), ""), ROUGH)


@pytest.mark.parametrize("name", FORMATS)
def test_too_many_pixels_are_refused_before_they_are_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(name)
    monkeypatch.setenv("FHRT_MAX_PIXELS", "3800")
    assert decode_picture(data, "").shape == (50, 76, 3)
    monkeypatch.setenv("FHRT_MAX_PIXELS", "3799")
    monkeypatch.setattr("cv2.imdecode", None)
    for take in (lambda: decode_picture(data, "a file"), lambda: as_frame(Image.open(io.BytesIO(data)))):
        with pytest.raises(BadInputError, match="76x50 pixels, more than 3799; FHRT_MAX_PIXELS"):
            take()


def test_the_limit_without_a_setting_holds_a_phones_picture_and_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FHRT_MAX_PIXELS", raising=False)
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    with pytest.raises(BadInputError, match="20000x20000"):
        decode_picture(head + struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0) + b"IEND", "bomb.png")
    with pytest.raises(BadInputError, match="not a picture"):
        decode_picture(head + struct.pack(">IIBBBBB", 16320, 12240, 8, 2, 0, 0, 0) + b"IEND", "phone.png")
