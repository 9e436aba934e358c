"""The header in an exported file, read without the runtime that the file is for."""

from __future__ import annotations

import html
import mmap
import re
import zipfile
import zlib
from pathlib import Path

from fcnseg.engines.base import HEADER_KEY
from fcnseg.errors import STRANGE, CheckpointError


def header_in(path: Path) -> str | None:
    """The checkpoint's header in a file of `fcnseg export`, of whatever format; None in others.

    CheckpointError where the file can't be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data[:4]
            if start == b"PK\x03\x04":  # TorchScript, torch.export
                return _in_zip(path)
            if start[:1] == b"<":
                return _in_xml(data)
            with memoryview(data) as view:
                return metadata(view).get(HEADER_KEY)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}.") from None
    except ValueError:  # it is empty, and can't be mapped
        return None


def _in_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = (name for name in archive.namelist() if name.endswith(f"extra/{HEADER_KEY}"))
            return next((archive.read(name).decode(errors="replace") for name in names), None)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, *STRANGE):
        return None


def _in_xml(data: mmap.mmap) -> str | None:
    found = re.search(rb'<%s value="([^"]*)"' % HEADER_KEY.encode(), data)
    return html.unescape(found[1].decode(errors="replace")) if found else None


def metadata(model: bytes | memoryview) -> dict[str, str]:
    """The metadata of an ONNX file (ModelProto.metadata_props), without the package onnx.

    What is not an ONNX file has none.
    """
    found = {}
    try:
        for number, value in _fields(memoryview(model)):
            if number == 14:  # metadata_props: StringStringEntryProto(key = 1, value = 2)
                entry = {part: str(text, "utf-8") for part, text in _fields(value)}
                found[entry[1]] = entry.get(2, "")
    except STRANGE:
        return {}
    return found


def _fields(data: memoryview) -> list[tuple[int, memoryview]]:
    """The fields of a protobuf message that hold bytes, with their numbers."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("the message is cut short")
            fields.append((tag >> 3, data[at : at + length]))
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"no wire type {kind}")
    return fields


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits from `at` on, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
