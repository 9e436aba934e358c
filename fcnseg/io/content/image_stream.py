"""Split a stream of concatenated images (image2pipe).

The end of an image follows from its format: from a total length, or from the lengths of its parts.
After a damaged image the next one is found by its signature, so that only the damaged one is lost.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib

import numpy as np

from fcnseg.io.content import TiffForm, is_image, is_npy, is_tiff, reader_of
from fcnseg.io.content.byte_stream import MOST_AHEAD, ByteStream
from fcnseg.io.content.integrity import stated_length

_PNG = b"\x89PNG\r\n\x1a\n"

_JPEG = b"\xff\xd8\xff"

_BEGINNINGS = re.compile(
    rb"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    rb"|\xff\xd8\xff(?:\xe0..JFIF|\xe1..(?:Exif|http)|\xee\0\x0eAdobe|\xdb\0[\x43\x84\xc5]|\xfe\0)"
    rb"|GIF8[79]a|RIFF....WEBPVP8|BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|II(?:\*\0...[\0-\x3f]|\+\0\x08\0\0\0)|MM(?:\0\*[\0-\x3f]|\0\+\0\x08\0\0)"
    rb"|\0\0\0(?:[\x0c-\x40]ftyp(?:avif|hei[cxms]|mif1)|\x0c(?:jP  |JXL )\r\n)|\x93NUMPY[\1-\3]\0",
    re.DOTALL,
)
"""Signatures of images, long enough to be rare in other data."""

_PADDING = 32
"""Fewer bytes than this between images or at the end are padding; no image is that small."""

_MOST_OF_CHUNK = 1 << 26
"""Maximum bytes of a PNG's chunk, unless its pixels need more."""


def is_alone(stream: ByteStream, seconds: float) -> bool:
    """Whether only padding follows the first image; waits up to `seconds` for more."""
    if not stream.resume_with(seconds):
        return True
    return (
        stream.has_some() and len(rest := stream.peek(_PADDING)) < _PADDING and not is_image(rest)
    )


def next_image(stream: ByteStream) -> bytes:
    """The bytes of the next image of a stream, damaged or not; b"" at its end.

    Other data is returned, too, up to the beginning of the next image.
    """
    start = stream.peek(16)
    if start.startswith(_PNG):
        return _next_png(stream)
    if start.startswith(_JPEG):
        return _next_jpeg(stream)
    if not is_image(start):
        skipped = stream.read(stream.search(_BEGINNINGS, 1))
        if len(skipped) >= _PADDING:
            return skipped
        return next_image(stream) if stream.peek(1) else b""
    for walk in (_walk_gif, _walk_tiff, _walk_boxes, _walk_icon, _walk_array):
        if (found := walk(stream, start)) is not None:
            end, is_sound = found
            return stream.read(end) if is_sound else _up_to_next(stream, end)
    length = stated_length(stream.peek(64))
    if length is None:  # it ends where another image of its format begins
        return stream.read(stream.search(re.compile(re.escape(start[:8])), 8))
    data = stream.read(length) if length <= MOST_AHEAD else b""
    if len(data) == length:
        return data
    stream.give_back(data)
    return _up_to_next(stream, 8)


def _up_to_next(stream: ByteStream, start: int, taken: bytes = b"") -> bytes:
    """A damaged image, up to the next signature after `start`, or to the end of the stream.

    taken: its bytes that were already taken from the stream.
    """
    stream.give_back(taken)
    return stream.read(stream.search(_BEGINNINGS, start))


def _next_png(stream: ByteStream) -> bytes:
    """A PNG, by the lengths of its chunks; a wrong checksum starts a search for the next image."""
    taken, most = bytearray(stream.read(8)), _MOST_OF_CHUNK
    while len(header := stream.read(8)) == 8:
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        here = len(taken)
        if length > most or not kind.isalpha():
            return _up_to_next(stream, here, bytes(taken + header))
        body = stream.read(length + 4)
        taken += header + body
        if zlib.crc32(kind + body[:-4]) != int.from_bytes(body[-4:], "big"):
            if found := _BEGINNINGS.search(taken, here + 8):
                stream.give_back(bytes(taken[found.start() :]))
                return bytes(taken[: found.start()])
        elif kind == b"IHDR" and length == 13:  # up to four values of two bytes per pixel
            width, height = struct.unpack_from(">II", body)
            most = max(most, height * (8 * width + 1) * 9 // 8)
        if kind == b"IEND":
            return bytes(taken)
    return bytes(taken + header)


def _next_jpeg(stream: ByteStream) -> bytes:
    """A JPEG, by the lengths of its segments; a scan ends at a marker other than a restart."""
    taken, last = bytearray(stream.read(2)), 2  # last: offset of the last segment
    while len(marker := stream.read(2)) == 2:
        kind = marker[1]
        if marker == b"\xff\xd8":  # the next image begins
            stream.give_back(marker)
            return bytes(taken)
        if marker[0] != 0xFF or kind == 0:
            return _up_to_next(stream, last, bytes(taken + marker))
        if kind == 0xFF:  # padding before a marker
            stream.give_back(marker[1:])
            continue
        taken += marker
        if kind == 0xD9:  # the end
            return bytes(taken + _more_images(stream, bytes(taken)))
        if kind == 0x01 or 0xD0 <= kind <= 0xD7:
            continue
        last = len(taken)
        length = stream.read(2)
        taken += length + stream.read(max(0, int.from_bytes(length, "big") - 2))
        if kind == 0xE1:  # EXIF may contain a thumbnail, itself a JPEG
            last = len(taken)
        if kind == 0xDA:
            last = len(taken)
            data, is_cut = _scan(stream)
            taken += data
            if is_cut:
                return bytes(taken)
    return _up_to_next(stream, last, bytes(taken + marker))


_INDEX = re.compile(rb"\xff\xe2..MPF\0(?:II\*|MM\0)", re.DOTALL)
"""Index of further images in a JPEG: stereo cameras (MPO), phones (Ultra HDR)."""

_ENTRIES = 0xB002
"""The index's tag with the length and offset of each image."""

_MOST_OF_IMAGES = 1 << 28
"""Maximum bytes of a JPEG's further images."""


def _more_images(stream: ByteStream, first: bytes) -> bytes:
    """The further images of a JPEG, by the offsets and lengths of its index.

    b"" without an index, or if the data that follow do not match it.
    """
    found = _INDEX.search(first)
    if found is None:
        return b""
    base = found.end() - 3
    form, read = TiffForm(first[base : base + 4]), reader_of(first[base:])
    try:
        tags, _ = form.read_tags(read, form.read_place(read, form.inline))
        listed = [read(form.place_of(tag) or 0, tag.size) for tag in tags if tag.code == _ENTRIES]
        entries = [*struct.iter_unpack(f"{form.order}4xII4x", b"".join(listed))]
    except struct.error:
        return b""
    others = [(base + place - len(first), length) for length, place in entries if place]
    end = max((start + length for start, length in others), default=0)
    if not others or not 0 <= min(others)[0] < 1 << 16 or end > _MOST_OF_IMAGES:
        return b""
    if stream.ahead(min(others)[0], 3) != _JPEG:
        return b""
    data = stream.read(end)
    pieces = [data[start : start + length].rstrip(b"\0") for start, length in others]
    if all(piece.startswith(_JPEG) and piece.endswith(b"\xff\xd9") for piece in pieces):
        return data
    stream.give_back(data)
    return b""


def _scan(stream: ByteStream) -> tuple[bytes, bool]:
    """A JPEG's compressed data up to the next marker, which stays in the stream; and whether a PNG
    begins before it."""
    position = 0
    while (position := stream.find(0xFF, position)) >= 0:
        after = stream.at(position + 1)
        if after is not None and after != 0 and not 0xD0 <= after <= 0xD7:
            break
        position += 2
    data = stream.read(position if position >= 0 else None)
    cut = data.find(_PNG)
    if cut >= 0:
        stream.give_back(data[cut:])
        return data[:cut], True
    return data, False


_Walked = tuple[int, bool] | None
"""(end of the image, True); (offset from which to search for the next one, False) if damaged; None
for another format."""


def _walk_gif(stream: ByteStream, start: bytes) -> _Walked:
    """A GIF: blocks of sub-blocks with lengths, up to the trailer."""
    if start[:4] != b"GIF8":
        return None

    def colors(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    position = last = 13 + colors(start[10]) if len(start) > 10 else 8
    while (kind := stream.at(position)) in (0x21, 0x2C):
        head = stream.ahead(position, 10)
        if len(head) < 10:
            break
        position += 2 if kind == 0x21 else 11 + colors(head[9])
        last = position  # in truncated data, sub-blocks may extend into the next image
        while size := stream.at(position):
            position += size + 1
        position += 1
    return (position + 1, True) if kind == 0x3B else (last, False)


_PARTS = ((273, 279), (324, 325), (513, 514))
"""A TIFF's tags with offsets and byte counts of pixels: strips, tiles, JPEG data."""

_FOLDERS = (330, 34665, 34853, 40965)
"""A TIFF's tags with offsets of further directories."""

_NAMED = {*_FOLDERS, *(tag for pair in _PARTS for tag in pair)}


def _walk_tiff(stream: ByteStream, start: bytes) -> _Walked:
    """A TIFF: the largest offset that its tags refer to."""
    if not is_tiff(start):
        return None
    form, end, seen, is_known = TiffForm(start), 8, {0}, True
    try:
        waiting = [form.read_place(stream.ahead, form.inline)]
        while waiting:
            if (at := waiting.pop()) in seen:
                continue
            seen.add(at)
            tags, after = form.read_tags(stream.ahead, at)
            waiting.append(form.read_place(stream.ahead, after))
            ends = [(form.place_of(tag) or 0) + tag.size for tag in tags]
            end = max([end, after + form.inline, *ends])
            named = {
                tag.code: form.numbers(tag, stream.ahead) for tag in tags if tag.code in _NAMED
            }
            waiting += [place for code in _FOLDERS for place in named.get(code, ())]
            for places, lengths in _PARTS:
                parts = zip(named.get(places, ()), named.get(lengths, ()), strict=False)
                end = max([end, *(place + length for place, length in parts)])
                is_known &= places not in named or lengths in named
    except struct.error:  # a directory is missing
        return 8, False
    if stream.at(end - 1) is None:
        return 8, False
    return end, is_known


def _walk_boxes(stream: ByteStream, start: bytes) -> _Walked:
    """AVIF, HEIC, JPEG 2000 and JPEG XL: boxes, up to other data or the first box of an image."""
    if start[4:8] not in (b"ftyp", b"jP  ", b"JXL "):
        return None
    position = last = 0
    while head := stream.ahead(position, 16):
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if position and _BEGINNINGS.match(head + bytes(8)):
            return position, True
        if size < 8 or not head[4:8].strip().isalnum():
            return (position, True) if position and is_image(head) else (last + 8, False)
        last, position = position, position + size
    return (position, True) if stream.at(position - 1) is not None else (last + 8, False)


def _walk_icon(stream: ByteStream, start: bytes) -> _Walked:
    """An ICO: the largest offset in its list of images."""
    if start[:2] != b"\0\0" or start[2] not in (1, 2):
        return None
    entries = int.from_bytes(start[4:6], "little")
    listed = stream.ahead(6, 16 * entries)
    sizes = [struct.unpack_from("<II", listed, at + 8) for at in range(0, len(listed) - 15, 16)]
    end = max((size + place for size, place in sizes), default=0)
    return (end, True) if end > 6 and stream.at(end - 1) is not None else (8, False)


def _walk_array(stream: ByteStream, start: bytes) -> _Walked:
    """A .npy file: the number of values in its header."""
    if not is_npy(start):
        return None
    wide = start[6] > 1
    length = int.from_bytes(start[8 : 12 if wide else 10], "little")
    heading = stream.ahead(8, length + 4 if wide else length + 2)
    read = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
    try:
        shape, _, dtype = read(io.BytesIO(heading))
    except Exception:  # noqa: BLE001 - NumPy evaluates the header
        return 8, False
    end = 8 + len(heading) + math.prod(shape) * dtype.itemsize
    return (end, True) if end > 8 and stream.at(end - 1) is not None else (8, False)
