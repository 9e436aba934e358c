"""Weights files: read without executing code in them, downloaded with a checksum."""

from __future__ import annotations

import argparse
import hashlib
import re
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fcnseg.errors import PARSE_ERRORS, CheckpointError
from fcnseg.files import atomic_write, utf8_name
from fcnseg.progress import Callback, Progress, no_callback

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]

CHUNK = 1 << 20  # bytes read at a time

TORCH = (b"PK\x03\x04", b"\x80")  # first bytes of torch.save's files: a zip archive, or a pickle


def read_state(file: Path) -> State:
    """Read a state dict from a .safetensors or a PyTorch file without executing code in it.

    Raises CheckpointError when the file is missing, damaged or holds something else.
    """
    import safetensors.torch
    import torch

    if not file.is_file():
        raise CheckpointError(f"No weights file {file}.", hint="give the path of an existing file")
    try:
        with file.open("rb") as opened:
            is_safetensors = file.suffix == ".safetensors" or opened.read(9)[8:] == b"{"
        if is_safetensors:
            with utf8_name(file) as name:
                return safetensors.torch.load_file(name)
        plain = torch.serialization.safe_globals([argparse.Namespace])  # torchvision's `args`
        with plain, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript files, of which it warns, are errors here
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles can raise anything
        why = why_unreadable(file, error)
        damaged = "damaged" in why or "empty" in why
        hint = "in the program that wrote it: torch.save(model.state_dict(), 'weights.pth')"
        hint = "unpack it, and give the model in it" if "archive of" in why else hint
        raise CheckpointError(
            f"{file} is not a weights file that fcnseg reads: {why}.",
            hint=f"copy it again; or, {hint}" if damaged else hint,
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise CheckpointError(
            f"{file} holds no weights (a table of names and tensors).",
            hint="the weights of a run are in its best.safetensors",
        )
    return state


def download(url: str, callback: Callback = no_callback) -> Path:
    """Return a file in torch's cache folder; download it if it is not there yet.

    A name with the first digits of a SHA-256 (resnet18-f37072fd.pth) is checked against the
    downloaded content. Raises CheckpointError when the file can't be downloaded.
    """
    import torch

    name = url.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    try:
        with atomic_write(path) as file:
            digest = _fetch(url, file, name, callback)
            wanted = re.search(r"-([0-9a-f]{8,})\.", name)
            if wanted and not digest.startswith(wanted[1]):
                raise OSError(f"its SHA-256 begins with {digest[:8]}, expected {wanted[1]}")
    except (OSError, HTTPException) as error:  # URLError is an OSError
        raise CheckpointError(
            f"{name} could not be downloaded from {url}: {first_line(error)}.",
            hint=f"connect to the internet once, or put the file into {path.parent}",
        ) from error
    return path


def _fetch(url: str, file: BinaryIO, name: str, callback: Callback) -> str:
    """Download a URL into a file; return its SHA-256."""
    digest = hashlib.sha256()
    done = 0
    with urllib.request.urlopen(url, timeout=30) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        while chunk := response.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            callback(Progress(f"downloading {name}", done, total, "bytes"))
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")
    return digest.hexdigest()


def why_unreadable(file: Path, error: BaseException) -> str:
    """Why a weights file could not be read, in words for a message."""
    text = str(error)
    program = re.search(r"GLOBAL (\S+)", text)
    if file.is_file() and not file.stat().st_size:
        return "the file is empty"
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    if names := _archived(file):
        return f"it is an archive of other files ({', '.join(names[:3])} ...)"
    if program:
        return (
            f"it holds objects of another program ({program[1]}), and reading those would run its "
            "code"
        )
    if "TorchScript" in text:
        return "it is a TorchScript program, for torch.jit.load"
    if "central directory" in text or "zip archive" in text or isinstance(error, EOFError):
        return "it is cut off or damaged"
    with file.open("rb") as opened:
        content = guess_content(opened.read(64))
    if content != DAMAGED and "PyTorch" not in content:
        return content
    writer = "safetensors" if file.suffix == ".safetensors" else "torch.save"
    return f"it was not written by {writer}, or is damaged"


def _archived(file: Path) -> list[str]:
    """The names in a zip archive that torch.save did not write; [] for other files."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, *PARSE_ERRORS):
        return []
    return [] if any(name.endswith("/data.pkl") for name in names) else names


def first_line(error: BaseException) -> str:
    """The first lines of an exception's message, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300].rstrip(".") or type(error).__name__


DAMAGED = "it is damaged, truncated or something else"


def guess_content(start: bytes) -> str:
    """What a file that is not the expected kind of model is, guessed from its first bytes."""
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer (`git lfs pull` downloads the file itself)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, perhaps a download that failed"
    if start.startswith(b"\x89HDF") or start[4:8] == b"TFL3":
        return "it is a model of TensorFlow"
    if start.startswith(TORCH):
        return "it looks like a PyTorch file (.pt, .pth), which can hold code"
    if start.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"RIFF")):
        return "it looks like an image"
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x3a"):  # ir_version; producer or graph
        return "it looks like an ONNX file, which is named *.onnx and runs as it is"
    if b"<net " in start:
        return "it looks like a model for OpenVINO, which is named *.xml and runs as it is"
    if start[8:9] == b"{":
        return "it looks like a checkpoint, which is named *.safetensors"
    return DAMAGED
