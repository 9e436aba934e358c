"""Everything that fcnseg reads, each kind as small sound files and a function that uses them."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fcnseg.errors import FcnsegError
from tests.faults.damage import damaged, damaged_text

_clock = itertools.count(10**18)


@dataclass(frozen=True)
class Kind:
    """write: makes sound files in a folder. use: what reads them, with fcnseg's errors only.

    spoiled: the suffixes of the files that are damaged; text: how.
    rename: whether a file is given another suffix at times.
    """

    write: Callable[[Path], None]
    use: Callable[[Path], None]
    spoiled: tuple[str, ...]
    text: bool = True
    rename: bool = True


class Tried:
    """A kind's files in a folder, of which one after another is damaged, used and mended."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        kind.write(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self.sound = {path: path.read_bytes() for path in files}
        self.targets = [path for path in files if path.name.endswith(kind.spoiled)]
        assert self.targets, "nothing to damage"
        for path, data in self.sound.items():
            self._put(path, data)  # or what is damaged would not be the newest

    def use(self) -> str:
        """What came of it: "read" or "refused"; another error than fcnseg's own escapes."""
        try:
            self.kind.use(self.folder)
        except FcnsegError:
            return "refused"
        return "read"

    def attempt(self, seed: str) -> str:
        """Damage a file, use the folder, mend the file."""
        chance = random.Random(seed)
        path = chance.choice(self.targets)
        spoil = damaged_text if self.kind.text else damaged
        data = spoil(self.sound[path], seed)
        if chance.random() < 0.01:
            data = b""
        renamed = self.kind.rename and chance.random() < 0.02
        place = path.with_suffix(chance.choice(SUFFIXES)) if renamed else path
        if place.exists():  # another file of it, or a folder
            place = path
        if place != path:
            path.unlink()
        self._put(place, data)
        try:
            return self.use()
        finally:
            place.unlink()
            self._put(path, self.sound[path])

    def _put(self, path: Path, data: bytes) -> None:
        """Write a file as of a new moment: two in one tick of a clock would look the same."""
        path.write_bytes(data)
        moment = next(_clock)
        os.utime(path, ns=(moment, moment))


SUFFIXES = (".json", ".xml", ".csv", ".txt", ".png", ".npy", ".safetensors", ".onnx", ".yaml", "")


def kinds() -> Mapping[str, Kind]:
    """All of them by name; what needs a package that is not here is left out."""
    from tests.faults import annotations, images, models, streams

    return {**annotations.KINDS, **models.kinds(), **streams.kinds(), **images.KINDS}
