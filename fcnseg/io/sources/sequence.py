"""Numbered images (frame_%04d.png) as a video, and remote folders of images."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from fcnseg.errors import MediaError
from fcnseg.files import safe_path
from fcnseg.io.images import IMAGE_SUFFIXES
from fcnseg.io.sources import listing
from fcnseg.io.sources.base import Selection, Skip, Source
from fcnseg.io.sources.files import SEQUENCE_NUMBER, ImageFiles
from fcnseg.io.sources.reader import USUAL_RATE
from fcnseg.progress import Callback, Message, skipped_files
from fcnseg.remote import RemotePath
from fcnseg.remote.listing import chunks

_GAPS_NAMED = 8


def files_of_sequence(pattern: Path) -> list[Path]:
    """The files that match a sequence's pattern, ordered by number."""
    return [path for _, path in _numbered(pattern)]


def _numbered(pattern: Path) -> list[tuple[int, Path]]:
    """The numbers and files of a sequence, ordered by number."""
    found = SEQUENCE_NUMBER.search(pattern.name)
    if found is None or not pattern.parent.is_dir():
        return []
    before, after = (re.escape(part) for part in SEQUENCE_NUMBER.split(pattern.name)[::2])
    wanted = re.compile(f"{before}(\\d{{{found[1] or 1},}}){after}")
    matched = ((wanted.fullmatch(path.name), path) for path in pattern.parent.iterdir())
    return sorted((int(match[1]), path) for match, path in matched if match and path.is_file())


def _missing(numbers: list[int]) -> str:
    """The missing numbers between the first and the last: "3, 7-9"; "" for none."""
    gaps = [(a + 1, b - 1) for a, b in itertools.pairwise(numbers) if b - a > 1]
    named = [f"{first}" if first == last else f"{first}-{last}" for first, last in gaps]
    more = [f"and {len(gaps) - _GAPS_NAMED} more gaps"] if len(gaps) > _GAPS_NAMED else []
    return ", ".join(named[:_GAPS_NAMED] + more)


def open_sequence(
    pattern: Path, fps: Fraction | None, selection: Selection, callback: Callback
) -> Source:
    """Open numbered images as a video."""
    numbered = _numbered(pattern)
    files = [path for _, path in numbered]
    if not files:
        raise MediaError(
            f"No image matches {pattern}.",
            hint="%04d stands for numbers of four digits and more, %d for those without zeros",
        )
    if fps is None:
        note = f"{float(USUAL_RATE):g} frames/s are assumed (--fps changes that)"
        callback(Message(f"{pattern} states no rate; {note}"))
    missing = _missing([number for number, _ in numbered])
    if missing:
        note = f"no file has number {missing}; the others follow each other without a gap"
        callback(Message(f"{pattern}: {note}", "warning"))
    rate = fps or USUAL_RATE
    last = None if selection.end is None else math.ceil(selection.end * rate)
    within = slice(math.ceil(selection.start * rate), last)
    named = listing.named(files, pattern.parent, in_order=True)
    source = ImageFiles(named, "video", selection, callback, within)
    if not source.count:
        length = float(len(files) / rate)
        raise MediaError(
            f"{pattern} is {length:.1f} s long; nothing is left from {selection.start:g} s on."
        )
    alone = SEQUENCE_NUMBER.sub("", pattern.stem).strip("_-. ")
    source.name = safe_path(alone or pattern.parent.name or "frames")
    source.assume_rate(rate)
    return source


class StreamedFolder(ImageFiles):
    """The images of a remote folder, listed while they are read; their count is unknown.

    Files are listed in chunks; the order is natural and names are unique within each chunk.
    exclude: a folder to skip.
    """

    def __init__(
        self,
        folder: RemotePath,
        selection: Selection,
        exclude: Path | None,
        callback: Callback,
    ) -> None:
        super().__init__([], "folder", selection, callback)
        self._folder, self._exclude, self.count = folder, exclude, None
        self._chosen = self._choose()

    def skip(self, done: Skip) -> None:
        """Skip the images for which `done` is true, as they are listed."""
        self._skip = done

    def _choose(self) -> Iterator[tuple[int, str, Path]]:
        """Yield the images of this process's shard, with their indices."""
        rank, size, fresh = self._selection.rank, self._selection.size, 0
        wanted = itertools.islice(enumerate(self._named()), 0, None, self._selection.every)
        for at, (index, (name, path)) in enumerate(wanted):
            if self._skip(name, path):
                self.skipped += not rank
                continue
            if self._selection.is_full(fresh):
                return
            if (fresh if self._selection.limit else at) % size == rank:
                yield index, name, path
            fresh += 1

    def _named(self) -> Iterator[listing.Named]:
        folder, found = self._folder, 0
        for chunk in chunks(folder):
            files = listing.files_in(
                folder, exclude=self._exclude, callback=self._callback, chunk=chunk
            )
            images = [
                path
                for path in files
                if path.suffix.lower() in IMAGE_SUFFIXES or listing.is_bare_image(path)
            ]
            taken = {*images}
            if others := [path for path in files if path not in taken]:
                why = "not an image (of a video, give the address)"
                self._callback(skipped_files(others, why))
            found += len(images)
            yield from listing.named(images, folder)
        if not found:
            raise listing.no_images(f"{folder} has no images", [])
