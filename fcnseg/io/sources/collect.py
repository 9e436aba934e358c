"""Which sources the arguments of a command stand for: images together, each video alone.

A single argument may be anything that `open_source` takes. Several arguments, and a folder or
a glob with videos in it, become one source for all the images and one for each video, with
names that differ, so that every output has a file of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fcnseg.errors import MediaError, OptionError
from fcnseg.files import free_name, natural, safe_path
from fcnseg.io.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from fcnseg.io.sources import LIST_SUFFIXES, is_address, is_glob, listing, starts_as_image
from fcnseg.io.sources.listing import Named
from fcnseg.progress import Callback, no_callback

_FRAME_NUMBER = re.compile(r"_\d{6,}$")
"""How the name of a video's frame ends."""


@dataclass(frozen=True)
class Collected:
    """The sources of a job.

    images: named image files, which are one source; empty where there are none.
    videos: video files, each a source of its own, with the name its outputs take.
    single: a source that only `open_source` can tell the kind of, instead of all that.
    skipped: files of folders and globs that are neither images nor videos.
    """

    images: tuple[Named, ...] = ()
    videos: tuple[Named, ...] = ()
    single: str | None = None
    skipped: tuple[Path, ...] = ()

    @property
    def count(self) -> int:
        """How many sources there are."""
        return len(self.specs)

    @property
    def specs(self) -> list[tuple[str | tuple[Named, ...], str]]:
        """What `open_source` takes for each source: what is read, and a video's name."""
        if self.single is not None:
            return [(self.single, "")]
        images: list[tuple[str | tuple[Named, ...], str]] = [(self.images, "")]
        return images * bool(self.images) + [(str(path), name) for name, path in self.videos]


def collect(
    arguments: Sequence[str], *, exclude: Path | None = None, callback: Callback = no_callback
) -> Collected:
    """What the arguments stand for.

    exclude: a folder to skip (where outputs go); the callback receives earlier outputs that are
    skipped. MediaError where an argument is missing or has
    no images or videos; OptionError for a camera, a stream or stdin among several.
    """
    if len(arguments) == 1 and not _is_several(arguments[0]):
        return Collected(single=arguments[0])
    files: list[Path] = []
    skipped: list[Path] = []
    for argument in arguments:
        found, others = _files_of(argument, exclude, callback)
        files += found
        skipped += others
    files = list({path.resolve(): path for path in reversed(files)}.values())[::-1]
    root = Path(arguments[0]).expanduser() if len(arguments) == 1 else None
    root = root if root is not None and root.is_dir() else listing.common_folder(files)
    return _named(files, root, tuple(skipped), in_order=len(arguments) > 1)


def _named(files: list[Path], root: Path, skipped: tuple[Path, ...], in_order: bool) -> Collected:
    """Names that differ among images, among videos, and from any frame of a video."""
    videos = [path for path in files if _is_video(path)]
    images = [path for path in files if not _is_video(path)]
    named = listing.named(images, root, in_order=in_order)
    frames = {_FRAME_NUMBER.sub("", name) for name, _ in named if _FRAME_NUMBER.search(name)}
    taken = {name.casefold() for name, _ in named} | {name.casefold() for name in frames}
    numbered = [
        (free_name(safe_path(name), taken), path)
        for name, path in listing.named(videos, root, in_order=in_order)
    ]
    return Collected(tuple(named), tuple(numbered), skipped=skipped)


def _is_several(argument: str) -> bool:
    """Whether an argument is a folder or a glob, which may have videos in it."""
    path = Path(argument).expanduser()
    return path.is_dir() or (is_glob(argument) and not path.exists() and not is_address(argument))


def _files_of(
    argument: str, exclude: Path | None, callback: Callback
) -> tuple[list[Path], list[Path]]:
    """The images and videos of an argument, and the other files that it stands for."""
    path = Path(argument).expanduser()
    if argument == "-" or is_address(argument):
        raise OptionError(
            f"{'Standard input' if argument == '-' else argument} can't be one of several sources.",
            hint="several sources are image files, video files and folders; give this one alone",
        )
    if path.is_dir():
        return _split(listing.files_in(path, exclude=exclude, callback=callback), f"{path} has")
    if path.exists():
        return _listed(path) if path.suffix.lower() in LIST_SUFFIXES else ([path], [])
    if is_glob(argument):
        return _split(listing.matches(argument), f"{argument!r} matches", pattern=True)
    raise MediaError(
        f"There is no file or folder {path}.",
        hint="several sources are image files, video files and folders",
    )


def _listed(path: Path) -> tuple[list[Path], list[Path]]:
    """The files that a text file lists; a text that lists none is skipped (a shell's `*`)."""
    try:
        files = [file for _, file in listing.from_list(path)]
    except MediaError:
        files = []
    return (files, []) if any(file.exists() for file in files) else ([], [path])


def _split(files: list[Path], what: str, *, pattern: bool = False) -> tuple[list[Path], list[Path]]:
    """Images and videos in natural order, and the rest; MediaError when there are none."""
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    media = [path for path in files if path.suffix.lower() in known]
    if not media:
        raise listing.no_images(f"{what} no images or videos", files, pattern=pattern)
    return sorted(media, key=natural), [path for path in files if path not in set(media)]


def _is_video(path: Path) -> bool:
    """Whether a file is a video: by its suffix, or where that says nothing by its first bytes."""
    suffix = path.suffix.lower()
    return suffix in VIDEO_SUFFIXES or (
        suffix not in IMAGE_SUFFIXES and path.is_file() and not starts_as_image(path)
    )
