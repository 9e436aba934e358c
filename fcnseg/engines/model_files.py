"""What an exported file holds and names, read without its runtime; the errors for other files."""

from __future__ import annotations

import codecs
import html
import json
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from fcnseg.errors import PARSE_ERRORS, CheckpointError, cannot_read
from fcnseg.io.bands import Bands
from fcnseg.models.checkpoint import EXPORT, KEY
from fcnseg.models.weights import what_else

LOGITS, SCORES, LABELS = "logits", "scores", "labels"
"""The outputs of exported files: scores are what the logits are upsampled from, where they are
given; labels are there where the file computes them itself."""

ATTACHED = f"{KEY}.json"
"""The checkpoint's header among the files that are attached to files for phones."""

LITERT, EXECUTORCH = b"TFL3", b"ET12"
"""Identifiers of their formats: both are FlatBuffers, which have it after four bytes."""

PRECISION = "precision"
"""The key in an exported file's extras of its numeric precision, where that is not f32."""


def bands_in(header: str) -> tuple[int, str]:
    """How many bands the images have that a file's header asks for, and their type."""
    try:
        described = json.loads(header)["preprocess"].get("bands")
        bands = None if described is None else Bands.from_dict(described)
    except PARSE_ERRORS:
        bands = None  # whoever reads the header says what is wrong with it
    return (3, "uint8") if bands is None else (bands.carried, bands.dtype)


def header_in(path: Path) -> str | None:
    """The checkpoint's header in a file of `fcnseg export`, of whatever format; None in others.

    CheckpointError where the file can't be read.
    """
    with _mapped(path) as data:
        start = data[:8]
        if start[:4] == b"PK\x03\x04" or start[4:] in (LITERT, EXECUTORCH):
            return _in_zip(path)  # TorchScript and torch.export, or files for phones
        if start[:1] == b"<":
            found = re.search(rb'<%s value="([^"]*)"' % KEY.encode(), data)
            return html.unescape(found[1].decode(errors="replace")) if found else None
        with memoryview(data) as view:
            return metadata(view).get(KEY)


_EXTERNAL = (8, 9)
"""Fields of a LiteRT model that name files with its weights (Model in TFLite's schema)."""


def litert_header(path: Path) -> str:
    """The checkpoint's header of a LiteRT file.

    CheckpointError for other files, and where weights would be read from another file: runtimes
    open whatever is named.
    """
    with _mapped(path) as data:
        try:
            if data[4:8] != LITERT:
                raise ValueError("its identifier is not TFLite's")
            (root,) = struct.unpack_from("<I", data)
            (back,) = struct.unpack_from("<i", data, root)
            (size,) = struct.unpack_from("<H", data, root - back)
            ends = [4 + 2 * field for field in _EXTERNAL if 6 + 2 * field <= size]
            external = any(struct.unpack_from("<H", data, root - back + at)[0] for at in ends)
        except (ValueError, struct.error):
            raise not_loaded(path, "as a LiteRT file", "it is truncated or not one") from None
    if external:
        raise CheckpointError(
            f"{path} names other files for its weights; it was not opened.",
            hint="only LiteRT files with their weights inside are read: fcnseg export MODEL "
            "--format litert",
        )
    return _attached(path, "a LiteRT file")


def executorch_header(path: Path) -> str:
    """The checkpoint's header of an ExecuTorch file; CheckpointError for other files."""
    with _mapped(path) as data:
        known = data[4:8] == EXECUTORCH
    if not known:
        raise not_loaded(path, "as an ExecuTorch file", "it is truncated or not one")
    return _attached(path, "an ExecuTorch file")


def included(header: str) -> list[str]:
    """What a file's header says of `--include`; nothing where it is broken."""
    try:
        return list(json.loads(header)["extra"][EXPORT]["include"])
    except PARSE_ERRORS:
        return []


def _attached(path: Path, kind: str) -> str:
    header = _in_zip(path)
    if header is None:
        raise not_written_by_fcnseg(path, kind)
    return header


def check_data_files(path: Path) -> None:
    """CheckpointError where a model's weights would be read from outside its folder.

    ONNX files name them (external data), OpenVINO's have one beside them; the runtimes open what
    is named, or did in earlier versions. What links lead to counts: a model that is itself a link,
    as in a download cache, may have its weights beside what it leads to. A file that is neither
    is refused, too: runtimes might find names in it that this module does not.
    """
    named: set[str] | None
    with _mapped(path) as data:
        start = data[:64]
        if start.lstrip()[:1] == b"<" and "web page" in what_else(start):
            named = None
        elif start[:4].removeprefix(codecs.BOM_UTF8).startswith(b"<"):  # OpenVINO
            beside = path.with_suffix(".bin")
            named = {beside.name} if beside.exists() else set()
        else:
            with memoryview(data) as view:
                named = data_files(view)
    if named is None:
        kind = what_else(start)
        raise not_loaded(
            path,
            "as an OpenVINO file" if path.suffix.lower() == ".xml" else "as an ONNX file",
            "it is truncated or something else" if "ONNX" in kind else kind,
        )
    for name in sorted(named):
        _check_data_file(path, name)


def _check_data_file(path: Path, name: str) -> None:
    """CheckpointError unless `name` is a file in the folder of `path`."""
    try:
        file = (path.parent / name).resolve()
        folders = path.parent.resolve(), path.resolve().parent
        inside = any(file.is_relative_to(folder) for folder in folders)
        there = file.is_file()
    except (OSError, RuntimeError, ValueError):  # links in a circle, NUL
        inside = there = False
    if not inside or "*" in name:  # ONNX Runtime's own mark for an address in memory has one
        raise CheckpointError(
            f"{path} names {name!r} as a file of its weights, which is outside its folder; it was "
            "not opened.",
            hint="only files in the model's own folder are read: save the model again with its "
            "weights inside it or beside it",
        )
    if not there:
        raise CheckpointError(
            f"{path} can't be loaded: its weights are in {name!r}, which is not there.",
            hint="its weights are in a file of their own, which has to be in the same folder",
        )


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """A file's content; CheckpointError where it can't be read."""
    try:
        with path.open("rb") as file:
            empty = not os.fstat(file.fileno()).st_size  # which can't be mapped
            data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise cannot_read(path, error, CheckpointError) from None
    with nullcontext(data) if isinstance(data, bytes) else data:
        yield data


_MOST_OF_HEADER = 1 << 26
"""Bytes; a real one has thousands."""


def _in_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith((f"extra/{KEY}", ATTACHED)):
                    with archive.open(entry) as file:  # its size may be claimed
                        return file.read(_MOST_OF_HEADER).decode(errors="replace")
            return None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, *PARSE_ERRORS):
        return None


def metadata(model: bytes | memoryview) -> dict[str, str]:
    """The metadata of an ONNX file (ModelProto.metadata_props), without the package onnx.

    What is not an ONNX file has none.
    """
    found: dict[str, str] = {}
    try:
        for number, value in _fields(memoryview(model)):
            if number == 14:  # metadata_props
                found.update([_entry(value)])
    except PARSE_ERRORS:
        return {}
    return found


def data_files(model: bytes | memoryview) -> set[str] | None:
    """The files that an ONNX file's tensors lie in (external data), as it names them.

    None for what is not an ONNX file.
    """
    try:
        return set(_locations(memoryview(model), "model"))
    except PARSE_ERRORS:
        return None


_HOLDING_TENSORS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
}  # fmt: skip
"""Fields of ONNX's messages under which there may be tensors (onnx.proto)."""


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    for number, value in _fields(message):
        if kind != "tensor":
            inside = _HOLDING_TENSORS[kind].get(number)
            yield from () if inside is None else _locations(value, inside)
        elif number == 13:  # external_data
            key, text = _entry(value)
            yield from (text,) if key == "location" else ()


def _entry(message: memoryview) -> tuple[str, str]:
    """A StringStringEntryProto: its key and value."""
    entry = {part: str(text, "utf-8") for part, text in _fields(message)}
    return entry.get(1, ""), entry.get(2, "")


def _fields(data: memoryview) -> list[tuple[int, memoryview]]:
    """The fields of a protobuf message that hold bytes, with their numbers."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag >> 32:  # a parser that keeps 32 bits would find another field here
            raise ValueError("no field has such a number")
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("the message is truncated")
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


class Port(NamedTuple):
    """An input or an output of a network: its type as the runtime calls it, its sizes or names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype}, {' x '.join(map(str, self.shape)) or 'no shape'})"


def not_written_by_fcnseg(
    path: Path, kind: str, inputs: Sequence[Port] = (), outputs: Sequence[Port] = ()
) -> CheckpointError:
    """The error for a model file that fcnseg did not write. inputs, outputs: what it has."""
    found = f" It takes {_listed(inputs)} and gives {_listed(outputs)}." if inputs else ""
    return CheckpointError(
        f"{path} is {kind}, but not one written by fcnseg: it does not say what its classes "
        f"are or how images are prepared for it.{found}",
        hint="what `fcnseg export MODEL` writes of a checkpoint says both",
    )


def check_logits(path: Path, outputs: Sequence[Port]) -> None:
    """CheckpointError unless a file gives logits: floats for each class and pixel.

    With labels, the scores that logits are upsampled from will do (`--include argmax-only`).
    """
    named = {port.name: port for port in outputs}
    logits = named.get(LOGITS) or (named.get(SCORES) if LABELS in named else None)
    floats = logits is not None and re.search(r"float|^b?f\d", logits.dtype)
    if logits is not None and floats and len(logits.shape) == 4:
        return
    raise CheckpointError(
        f"{path} gives {_listed(outputs)}; expected {LOGITS} (float, N x classes x H x W): it was "
        "changed after fcnseg wrote it.",
        hint="export the checkpoint again: fcnseg export MODEL",
    )


def not_loaded(path: Path, what: str, why: str) -> CheckpointError:
    """The error for a file that a runtime can't load."""
    external = any(word in why for word in ("External data", "external data", "bin file"))
    hint = "write it again with fcnseg export MODEL"
    if external:
        hint = "its weights are in a file of their own, which has to be in the same folder"
    return CheckpointError(f"{path} can't be loaded {what}: {why}.", hint=hint)


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(map(str, ports)) or "nothing"
