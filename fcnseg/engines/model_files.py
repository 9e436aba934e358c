"""Headers, metadata and external weights of exported files, read without their runtimes.

Also the errors for files that are not exported by fcnseg.
"""

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
from fcnseg.models.weights import guess_content

LOGITS, SCORES, LABELS = "logits", "scores", "labels"
"""Names of the outputs of exported files. Logits are upsampled from scores. Scores and labels are
optional."""

ATTACHED = f"{KEY}.json"
"""Name of the checkpoint's header in the zip archive appended to LiteRT and ExecuTorch files."""

LITERT, EXECUTORCH = b"TFL3", b"ET12"
"""File identifiers of these FlatBuffers formats, at byte 4."""

PRECISION = "precision"
"""The key in a checkpoint's `extra` of an exported file's numeric precision, if it is not f32."""


def bands_in(header: str) -> tuple[int, str]:
    """The number of bands of a network's input images, and their dtype, by a file's header."""
    try:
        described = json.loads(header)["preprocess"].get("bands")
        bands = None if described is None else Bands.from_dict(described)
    except PARSE_ERRORS:
        bands = None  # Checkpoint.from_header reports what is wrong
    return (3, "uint8") if bands is None else (bands.carried, bands.dtype)


def header_in(path: Path) -> str | None:
    """The checkpoint's header in a file of `fcnseg export`, in any format; None in other files.

    CheckpointError when the file can't be read.
    """
    with _mapped(path) as data:
        start = data[:8]
        if start[:4] == b"PK\x03\x04" or start[4:] in (LITERT, EXECUTORCH):
            return _header_in_zip(path)  # TorchScript, torch.export, LiteRT, ExecuTorch
        if start[:1] == b"<":
            found = re.search(rb'<%s value="([^"]*)"' % KEY.encode(), data)
            return html.unescape(found[1].decode(errors="replace")) if found else None
        with memoryview(data) as view:
            return metadata(view).get(KEY)


_EXTERNAL = (8, 9)
"""Fields of a LiteRT model that refer to files with its weights (Model in TFLite's schema)."""


def litert_header(path: Path) -> str:
    """The checkpoint's header of a LiteRT file.

    CheckpointError for other files, and when weights would be read from another file: runtimes
    open any path that is named.
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
    return _attached_header(path, "a LiteRT file")


def executorch_header(path: Path) -> str:
    """The checkpoint's header of an ExecuTorch file; CheckpointError for other files."""
    with _mapped(path) as data:
        known = data[4:8] == EXECUTORCH
    if not known:
        raise not_loaded(path, "as an ExecuTorch file", "it is truncated or not one")
    return _attached_header(path, "an ExecuTorch file")


def included(header: str) -> list[str]:
    """The values of `--include` that a file was exported with; none if its header is broken."""
    try:
        return list(json.loads(header)["extra"][EXPORT]["include"])
    except PARSE_ERRORS:
        return []


def _attached_header(path: Path, kind: str) -> str:
    header = _header_in_zip(path)
    if header is None:
        raise not_written_by_fcnseg(path, kind)
    return header


def check_data_files(path: Path) -> None:
    """CheckpointError if a runtime would read a model's weights from outside its folder.

    ONNX files contain their paths (external data), OpenVINO's have a .bin beside them; runtimes
    open any path, or did in earlier versions. Symbolic links are resolved: a model that is a link,
    as in a download cache, may have its weights beside the link's target. Files in neither format
    are refused as well: a runtime might find paths in them that this module does not.
    """
    named: set[str] | None
    with _mapped(path) as data:
        start = data[:64]
        if start.lstrip()[:1] == b"<" and "web page" in guess_content(start):
            named = None
        elif start[:4].removeprefix(codecs.BOM_UTF8).startswith(b"<"):  # OpenVINO
            beside = path.with_suffix(".bin")
            named = {beside.name} if beside.exists() else set()
        else:
            with memoryview(data) as view:
                named = data_files(view)
    if named is None:
        kind = guess_content(start)
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
    except (OSError, RuntimeError, ValueError):  # circular links, NUL
        inside = there = False
    if not inside or "*" in name:  # ONNX Runtime's tag for an address in memory contains "*"
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
    """Map a file into memory; CheckpointError when it can't be read."""
    try:
        with path.open("rb") as file:
            empty = not os.fstat(file.fileno()).st_size  # mmap refuses empty files
            data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise cannot_read(path, error, CheckpointError) from None
    with nullcontext(data) if isinstance(data, bytes) else data:
        yield data


_MAX_HEADER_BYTES = 1 << 26
"""Far more than any header has (thousands)."""


def _header_in_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith((f"extra/{KEY}", ATTACHED)):
                    with archive.open(entry) as file:  # its stated size may be false
                        return file.read(_MAX_HEADER_BYTES).decode(errors="replace")
            return None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, *PARSE_ERRORS):
        return None


def metadata(model: bytes | memoryview) -> dict[str, str]:
    """The metadata of an ONNX file (ModelProto.metadata_props), read without the package onnx.

    Empty for other files.
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
    """The paths of an ONNX file's external data, as written in it; None for other files."""
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
"""Fields of ONNX's messages that can contain tensors (onnx.proto)."""


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    for number, value in _fields(message):
        if kind != "tensor":
            inside = _HOLDING_TENSORS[kind].get(number)
            yield from () if inside is None else _locations(value, inside)
        elif number == 13:  # external_data
            key, text = _entry(value)
            yield from (text,) if key == "location" else ()


def _entry(message: memoryview) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    entry = {part: str(text, "utf-8") for part, text in _fields(message)}
    return entry.get(1, ""), entry.get(2, "")


def _fields(data: memoryview) -> list[tuple[int, memoryview]]:
    """The length-delimited fields of a protobuf message, with their numbers."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag >> 32:  # a parser that truncates to 32 bits would see another field
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
    """Decode the varint at `at`; return it and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


class Port(NamedTuple):
    """An input or output of a network. dtype: as the runtime names it. shape: sizes or symbols."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype}, {' x '.join(map(str, self.shape)) or 'no shape'})"


def not_written_by_fcnseg(
    path: Path, kind: str, inputs: Sequence[Port] = (), outputs: Sequence[Port] = ()
) -> CheckpointError:
    """The error for a model file that fcnseg did not write, with its inputs and outputs."""
    found = f" It takes {_listed(inputs)} and gives {_listed(outputs)}." if inputs else ""
    return CheckpointError(
        f"{path} is {kind}, but not one written by fcnseg: it does not say what its classes "
        f"are or how images are prepared for it.{found}",
        hint="files written by `fcnseg export MODEL` contain both",
    )


def check_logits(path: Path, outputs: Sequence[Port]) -> None:
    """CheckpointError unless a file outputs logits: floats for each class and pixel.

    A file with labels may have the scores that logits are upsampled from instead
    (`--include argmax-only`).
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
