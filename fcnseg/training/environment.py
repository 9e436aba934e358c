"""What a run was made with: written beside its options, compared when it is resumed or repeated.

The same options, data, versions and processor give the same weights; this is all but the options.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fcnseg.datasets import Description, files_of, sizes
from fcnseg.errors import STRANGE, to_bytes
from fcnseg.progress import Callback, Message
from fcnseg.training.run_folder import RunFolder, write_atomically

PACKAGES = ("fcnseg", "torch", "torchvision", "numpy", "opencv-python", "pillow")

_HASHED = 1 << 16
"""Bytes at the beginning of a file that are hashed: all of most label files."""


def environment(description: Description, device: torch.device) -> dict[str, Any]:
    """Versions, machine, the data's digest, and fcnseg's commit where it runs from a checkout."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "data": {**sizes(description.pairs), "digest": digest_of(description)},
    }


def digest_of(description: Description) -> str:
    """Of the names, splits, sizes and first 64 KiB of all images and label files, and the classes.

    The same wherever the folder lies.
    """
    whole = hashlib.sha256(to_bytes(repr(description.classes.names)))
    seen: set[Path] = set()
    for pair in description.pairs:
        whole.update(to_bytes(f"\n{pair.name}\n{pair.split}"))
        for path in (pair.image, *files_of(pair)):
            if path not in seen:  # one document may have the labels of all images
                seen.add(path)
                whole.update(_start_of(path))
    return whole.hexdigest()


def note_environment(
    run: RunFolder, now: Mapping[str, Any], before: RunFolder | None, callback: Callback
) -> None:
    """Say what differs from an earlier run, and write environment.json where there is none.

    InputError when it can't be written.
    """
    for sentence in differences(before, now) if before else ():
        callback(Message(f"{sentence} The weights will differ from its own.", "warning"))
    if not run.environment.exists():
        text = json.dumps(now, indent=2) + "\n"
        write_atomically(run.environment, lambda file: file.write(to_bytes(text)))


def differences(run: RunFolder, now: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each thing that differs from what a run was made with; none for old runs."""
    with suppress(OSError, *STRANGE):
        before = json.loads(run.environment.read_bytes())
        for name in [name for name in now if name in before and before[name] != now[name]]:
            if name == "data":
                yield f"The dataset has changed since {run.folder} began: {_changed(before, now)}."
            else:
                yield f"{run.folder} was trained with {name} {before[name]}; now it is {now[name]}."


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    had, has = ({k: v for k, v in one["data"].items() if k != "digest"} for one in (before, now))
    return "files have other contents" if had == has else f"it had {_text(had)}, now {_text(has)}"


def _text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def _start_of(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return f"\n{path.stat().st_size}\n".encode() + file.read(_HASHED)
    return b"\ngone"


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit that fcnseg runs from, "-dirty" where files differ; None for an installed one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    return None
