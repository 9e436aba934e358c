"""What is done of a folder of images, so that an interrupted job goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcnseg.frames import Frame
from fcnseg.media.sinks import SUFFIXES

NAME = "manifest.jsonl"


class Manifest:
    """A JSON line for each image whose outputs are all in a folder, in the folder itself.

    kinds: the outputs of an image. job: whatever else they depend on (model, options); lines
    of another job, and of an image that has changed since, do not count. resume: take over
    what an earlier run has done.
    """

    def __init__(
        self, folder: Path, kinds: Sequence[str], job: Mapping[str, Any], *, resume: bool
    ) -> None:
        self._folder, self._kinds = folder, [kind for kind in kinds if kind in SUFFIXES]
        text = json.dumps({**job, "kinds": sorted(kinds)}, sort_keys=True, default=str)
        self._job = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._before = "\n" if (folder / NAME).exists() else ""  # the last line may be cut
        self._done = self._read() if resume else {}

    def has(self, name: str, path: Path) -> bool:
        """Whether an image's outputs are there, and made from the file as it is now."""
        if self._done.get(name) != stamp(path):
            return False
        return all(
            (self._folder / kind / f"{name}{SUFFIXES[kind]}").exists() for kind in self._kinds
        )

    def add(self, frame: Frame) -> None:
        """An image's outputs are there."""
        if frame.path is None:
            return
        line = {"name": frame.name, "job": self._job, "stamp": stamp(frame.path)}
        with (self._folder / NAME).open("a", encoding="utf-8") as file:
            file.write(self._before + json.dumps(line, ensure_ascii=False) + "\n")
        self._before = ""

    def _read(self) -> dict[str, Any]:
        path = self._folder / NAME
        if not path.exists():
            return {}
        done = {}
        for text in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError):  # a line cut by a crash: not done
                line = json.loads(text)
                if line["job"] == self._job:
                    done[line["name"]] = line["stamp"]
        return done


def stamp(path: Path) -> list[int]:
    """What changes when a file does; empty when there is none."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]
