"""What a picture file says of itself before it is decoded: its size, how it is to be turned, whether its values are bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Turn = tuple[int, int, int, int]
"""(a, b, c, d): a pixel (x, y) is shown at (a x + c y, b x + d y), up to an offset."""

EXIF_TURNS: dict[int, Turn] = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
UPRIGHT = EXIF_TURNS[1]

_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # with what follows it a segment; the others stand among a scan's bytes
_PNM = re.compile(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)")
_PAM = re.compile(rb"P7\n(?:[^\n]*\n)*?WIDTH (\d+)\n(?:[^\n]*\n)*?HEIGHT (\d+)")


@dataclass(frozen=True)
class Header:
    """size: width and height in pixels, as stored; None where it is not known. turn: to be done after decoding. turned: whether OpenCV
    turns it itself. precise: it holds numbers that OpenCV does not make 8 bits of. jpeg: of a JPEG file.
    """

    size: tuple[int, int] | None = None
    turn: Turn = UPRIGHT
    turned: bool = False
    precise: bool = False
    jpeg: Jpeg | None = None


def read_header(data: bytes) -> Header:
    """Of a picture file's bytes, whatever they are: nothing is raised for those that are damaged or unknown."""
    try:
        return _read(data)
    except (IndexError, ValueError):
        return Header()


def _read(data: bytes) -> Header:
    if data.startswith(b"\xff\xd8"):
        jpeg = Jpeg(data)
        return Header(jpeg.size, EXIF_TURNS[jpeg.orientation], jpeg=jpeg)
    if data.startswith(b"\x89PNG"):
        chunks = list(_png(data))
        size = next((_numbers(body, ">", 4, 0, 4) for kind, body in chunks if kind == b"IHDR"), None)
        exif = next((body for kind, body in chunks if kind == b"eXIf"), b"")
        xmp = next((body for kind, body in chunks if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp")), b"")
        return Header(size, EXIF_TURNS[_orientation(exif, xmp)])
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        riff = dict(_riff(data))
        return Header(_webp_size(riff), EXIF_TURNS[_orientation(riff.get(b"EXIF", b""), riff.get(b"XMP ", b""))])
    if data[4:8] == b"ftyp":
        return _heif(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        tags = dict(_tiff_tags(data))
        precise = 3 in tags.get(339, ()) or max(tags.get(258, (1,))) > 16
        size = (tags[256][0], tags[257][0]) if {256, 257} <= tags.keys() else None
        return Header(size, turned=True, precise=precise)
    if data.startswith(b"GIF8"):
        return Header(_numbers(data, "<", 2, 6, 8))
    if data.startswith(b"BM"):
        old = data[14:18] == b"\x0c\0\0\0"  # OS/2's, of half the size
        width, height = _numbers(data, "<", 2, 18, 20) if old else _numbers(data, "<", 4, 18, 22)
        return Header((width, height if height < 1 << 31 else (1 << 32) - height))  # negative: from the top
    if data.startswith(b"\0\0\0\x0cjP  ") or data.startswith(b"\xff\x4f\xff\x51"):
        at = data.index(b"\xff\x4f\xff\x51")
        right, bottom, left, top = (int.from_bytes(data[at + 8 + 4 * n : at + 12 + 4 * n], "big") for n in range(4))
        return Header((right - left, bottom - top))
    if data.startswith(b"\x59\xa6\x6a\x95"):
        return Header(_numbers(data, ">", 4, 4, 8))
    if found := _PNM.match(data) or _PAM.match(data):
        return Header((int(found[1][:9]), int(found[2][:9])))
    return Header(precise=data[:3] in (b"PF\n", b"Pf\n") or data.startswith((b"#?RADIANCE", b"#?RGBE", b"\x76\x2f\x31\x01")))


class Jpeg:
    """A JPEG file's segments: its `size`, and its `orientation`, EXIF's number from 1 to 8.

    end: where its last scan ends; None where there is none, or scans are missing. closed: whether an end marker follows. plain: one scan
    holds the picture, row by row, in Huffman's code. arithmetic: the code is another.
    """

    def __init__(self, data: bytes) -> None:
        self.size: tuple[int, int] | None = None
        self.end: int | None = None
        self.closed = self.arithmetic = False
        exif = xmp = b""
        missing: dict[int, list[int]] = {}  # component → the bits that each of its coefficients still lacks
        scans, progressive, at = 0, False, 2
        while found := _JPEG_MARKER.search(data, at):
            if scans and self.end is None:
                self.end = found.start()
            kind, at = data[found.end() - 1], found.end()
            if kind == 0xD9:
                self.closed = True
                break
            length = int.from_bytes(data[at : at + 2], "big")
            body = data[at + 2 : at + length]
            if kind == 0xE1 and body.startswith(b"Exif\0\0"):
                exif = exif or body
            elif kind == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/"):
                xmp = xmp or body
            elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and self.size is None:
                height, width = _numbers(body, ">", 2, 1, 3)
                self.size = width, height
                missing = {body[6 + 3 * each]: [16] * 64 for each in range(body[5])}
                progressive, self.arithmetic = kind & 3 == 2, kind > 0xC8
            elif kind == 0xDA and length > 6 and len(body) == length - 2:
                scans, self.end = scans + 1, None
                for component in body[1 : 1 + 2 * body[0] : 2]:
                    if component in missing:
                        first, last = (body[-3], body[-2]) if progressive else (0, 63)
                        missing[component][first : last + 1] = [body[-1] & 15 if progressive else 0] * (last + 1 - first)
            at += length
        if scans and self.end is None and at <= len(data):
            self.end = len(data)
        # A progressive picture that is closed may leave the finest scans out; one whose end is missing must have them.
        if at > len(data) or any(lacks[0] == 16 or (not self.closed and any(lacks)) for lacks in missing.values()):
            self.end = None
        while self.end and data[self.end - 1] == 0xFF:
            self.end -= 1
        self.plain = scans == 1 and not progressive and len(missing) <= 3
        self.orientation = _orientation(exif, xmp)


def _orientation(exif: bytes, xmp: bytes) -> int:
    """EXIF's number, 1 to 8; XMP's where EXIF has none, as Pillow has it."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        values = dict(_tiff_tags(exif)).get(274, ())
    except (IndexError, ValueError):
        values = ()
    if values:
        return values[0] if values[0] in EXIF_TURNS else 1
    found = _XMP.search(xmp)
    return int(found[1]) if found else 1


def _tiff_tags(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The whole numbers (SHORT, LONG, LONG8) of a TIFF file's first directory, which EXIF is, too; BigTIFF's as well."""
    order = "little" if data[:2] == b"II" else "big"
    big = b"+" in data[2:4]
    word, count, entry = (8, 8, 20) if big else (4, 2, 12)

    def number(at: int, size: int) -> int:
        if at + size > len(data):
            raise IndexError
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    begin = number(8 if big else 4, word)
    for index in range(min(number(begin, count), 4096)):
        at = begin + count + index * entry
        tag, kind, values = number(at, 2), number(at + 2, 2), number(at + 4, word)
        size = {3: 2, 4: 4, 13: 4, 16: 8}.get(kind)
        if size is None or not values:
            continue
        at += 4 + word
        if size * values > word:
            at = number(at, word)
        yield tag, tuple(number(at + size * each, size) for each in range(min(values, 16)))


def _png(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        yield kind, b"" if kind == b"IDAT" else data[at + 8 : at + 8 + length]
        at += 12 + length


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _webp_size(chunks: dict[bytes, bytes]) -> tuple[int, int] | None:
    if body := chunks.get(b"VP8X"):
        width, height = _numbers(body, "<", 3, 4, 7)
        return width + 1, height + 1
    if body := chunks.get(b"VP8 "):
        width, height = _numbers(body, "<", 2, 6, 8)
        return width & 0x3FFF, height & 0x3FFF
    if body := chunks.get(b"VP8L"):
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _heif(data: bytes) -> Header:
    """AVIF: the size of its largest item, and the turns that its main item is given. EXIF's orientation does not count."""
    meta = next((body for kind, body in _boxes(data, 0) if kind == b"meta"), b"")
    inside = dict(_boxes(meta, 4))
    item = int.from_bytes(inside[b"pitm"][4 : 8 if inside[b"pitm"][0] else 6], "big") if b"pitm" in inside else 0
    properties = dict(_boxes(inside.get(b"iprp", b""), 0))
    known = list(_boxes(properties.get(b"ipco", b""), 0))
    sizes = [_numbers(body, ">", 4, 4, 8) for kind, body in known if kind == b"ispe"]
    turn = UPRIGHT
    for index in _associated(properties.get(b"ipma", b""), item):
        kind, body = known[index - 1] if 0 < index <= len(known) else (b"", b"")
        if kind == b"irot":  # so many quarters, counter-clockwise
            for _ in range(body[0] & 3):
                turn = _then(turn, EXIF_TURNS[8])
        elif kind == b"imir":
            turn = _then(turn, EXIF_TURNS[2] if body[0] & 1 else EXIF_TURNS[4])
    return Header(max(sizes, key=lambda size: size[0] * size[1], default=None), turn)


def _associated(ipma: bytes, item: int) -> Iterator[int]:
    """The numbers, from 1 on, of an item's properties."""
    if len(ipma) < 8:
        return
    id_size, wide = (4 if ipma[0] else 2), ipma[3] & 1
    at = 8
    for _ in range(int.from_bytes(ipma[4:8], "big")):
        if at + id_size >= len(ipma):
            return
        mine, count = int.from_bytes(ipma[at : at + id_size], "big") == item, ipma[at + id_size]
        at += id_size + 1
        for _ in range(count):
            if mine:
                yield int.from_bytes(ipma[at : at + 1 + wide], "big") & (0x7FFF if wide else 0x7F)
            at += 1 + wide


def _boxes(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= len(data):
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + length if length else len(data)
        if end < at + head:
            return
        yield kind, b"" if kind == b"mdat" else data[at + head : end]
        at = end


def _then(first: Turn, second: Turn) -> Turn:
    """One turn after the other."""
    a, b, c, d = first
    e, f, g, h = second
    return e * a + g * b, f * a + h * b, e * c + g * d, f * c + h * d


def _numbers(data: bytes, order: str, size: int, *places: int) -> tuple[int, int]:
    one, other = (int.from_bytes(data[at : at + size], "little" if order == "<" else "big") for at in places)
    if max(places) + size > len(data):
        raise IndexError
    return one, other
