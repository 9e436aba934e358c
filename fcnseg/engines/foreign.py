"""What is said of model files that fcnseg did not write, or that were changed since."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fcnseg.engines.base import LOGITS
from fcnseg.errors import CheckpointError


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
    """CheckpointError unless a file gives logits: floats for each class and pixel."""
    logits = next((port for port in outputs if port.name == LOGITS), None)
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
