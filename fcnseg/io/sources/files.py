"""Frames that are already there: image files and video files, none left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fcnseg.errors import MediaError
from fcnseg.io.images import read_image
from fcnseg.io.sources import listing
from fcnseg.io.sources.base import Frame, ImageSource, Kind, Selection

Skip = Callable[[str, Path], bool]
"""Whether an image or a frame of a video, by its name and file, is to be passed over."""


def nothing(name: str, path: Path) -> bool:
    """Pass over nothing."""
    del name, path
    return False


class ImageFiles(ImageSource):
    """One image file or several, each read when its turn comes.

    A single image that can't be read raises; of several, it is noted in `failures`.
    """

    def __init__(
        self,
        files: list[listing.Named],
        kind: Kind,
        selection: Selection,
        skip: Skip = nothing,
    ) -> None:
        super().__init__()
        self.kind, self._selection = kind, selection
        wanted = [(index, *named) for index, named in enumerate(files)][:: selection.every]
        fresh = [item for item in wanted if not skip(item[1], item[2])]
        self._chosen = fresh[: selection.limit or None][selection.rank :: selection.size]
        self.skipped = 0 if selection.rank else len(wanted) - len(fresh)  # counted once
        self.count = len(self._chosen)

    def __iter__(self) -> Iterator[Frame]:
        for index, name, path in self._chosen:
            if self._over:
                return
            self.taken += 1
            try:
                image = read_image(path)
            except MediaError as error:
                if self.kind == "image":
                    raise
                self.failures.append((str(path), error.message))
                continue
            yield Frame(image, index, self._time(index), name, path)
