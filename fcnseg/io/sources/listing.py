"""Expand arguments to image and video files, and name their outputs."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fcnseg.errors import MediaError, OptionError, from_bytes, is_file, resolved, to_path, user_path
from fcnseg.files import as_path, free_name, given_path, name_key, natural_key, safe_path
from fcnseg.io.content import is_image
from fcnseg.io.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, first_bytes, read_bytes
from fcnseg.overwriting import MANIFEST, inputs_in, skipped_outputs
from fcnseg.progress import Callback, Message, is_hidden, no_callback, skipped_files, warn_unlisted
from fcnseg.remote import RemotePath
from fcnseg.remote import listing as remote_listing
from fcnseg.remote.listing import is_large

Named = tuple[str, Path]
"""An image's name (a relative path without suffix, "/" between folders) and its file."""

Choose = Callable[[Path, list[Path], Callback], list[Path]]
"""Selects files of a folder; the callback gets messages about those that are not taken."""


def in_folder(
    folder: Path, *, exclude: Path | None = None, callback: Callback = no_callback
) -> list[Named]:
    """The images under a folder and its subfolders, in natural order.

    Skips hidden files and folders, `exclude` (the folder of the outputs) and earlier outputs, about
    which the callback gets a message. MediaError if there are no images.
    """
    files = files_in(folder, exclude=exclude, callback=callback)
    images = media_in(files, IMAGE_SUFFIXES)
    if videos := [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]:
        why = "only images are taken here; give a video by itself"
        callback(replace(skipped_files(videos, why), level="warning"))
    if not images:
        raise no_images(f"{folder} has no images", files)
    return named(images, folder)


def media_in(files: Sequence[Path], suffixes: frozenset[str]) -> list[Path]:
    """The files with these suffixes, and images without a suffix; if there are none, .npy files."""
    found = [path for path in files if path.suffix.lower() in suffixes or is_bare_image(path)]
    return found or [path for path in files if path.suffix.lower() == ".npy"]


def files_in(
    folder: Path,
    *,
    exclude: Path | None = None,
    callback: Callback = no_callback,
    chunk: Sequence[RemotePath] = (),
) -> list[Path]:
    """All files under a folder except hidden ones, those in `exclude`, and earlier outputs.

    chunk: take these files of a remote folder instead of all.
    """
    outputs: list[Path] = []
    if isinstance(folder, RemotePath):
        listed = {path: path for path in chunk or folder.files_below()}
        tree = remote_listing.walk(listed, folder, MANIFEST)
        files: list[Path] = [
            listed[path] for path in _walk(tree, folder, exclude, outputs) if path in listed
        ]
    else:
        local = os.walk(folder, onerror=warn_unlisted(callback))
        files = list(_walk(local, folder, exclude, outputs))
    skipped = skipped_outputs(outputs, folder)
    if skipped:
        callback(Message(f"{skipped}."))
    return files


def is_bare_image(path: Path) -> bool:
    """Whether a file without a suffix begins like an image."""
    with suppress(MediaError):
        return not path.suffix and path.is_file() and is_image(first_bytes(path))
    return False


def matches(pattern: str) -> list[Path]:
    """The files that match a pattern; `**` includes subfolders."""
    found = (Path(name) for name in glob.glob(str(user_path(pattern)), recursive=True))  # noqa: PTH207
    return [path for path in found if path.is_file()]


def no_images(text: str, files: list[Path], *, pattern: bool = False) -> MediaError:
    """The MediaError that lists what was found instead of images. pattern: whether for a glob."""
    hint = f"image files end in {', '.join(sorted(IMAGE_SUFFIXES)[:12])} ..."
    if pattern and not files:
        hint = f"it starts from {Path.cwd()}; * stays in one folder, ** goes into sub-folders"
    return MediaError(f"{text}: {_what_is_there(files)}.", hint=hint)


def from_list(path: Path) -> list[Named]:
    """The files listed in a text file, one per line, in its order.

    Relative paths start from the list's folder, or from the current folder. Empty lines and lines
    that start with # are skipped.
    """
    files = _files_in_list(path)
    return named(files, common_folder(files), in_order=True)


def _files_in_list(path: Path, without: frozenset[str] = frozenset()) -> list[Path]:
    """The files in a list; without: suffixes of files to omit."""
    text = from_bytes(read_bytes(path))
    if "\0" in text:  # not allowed in names
        raise MediaError(f"{path} is not a text file that lists images.")
    lines = [line.strip() for line in text.splitlines()]
    # FFmpeg's lists: the word "file", then a quoted name.
    quoted = re.compile(r"""^(?:file\s+)?(["'])(.+)\1$""")
    listed = [(line, quoted.sub(r"\2", line)) for line in lines if line and line[0] != "#"]
    if not listed:
        raise MediaError(f"{path} lists no files.", hint="write one image a line")
    listed = [both for both in listed if Path(both[1]).suffix.lower() not in without]
    return [_listed_file(line, plain, path.parent) for line, plain in listed]


def _listed_file(line: str, plain: str, folder: Path) -> Path:
    """The file of a line: literally, without quotes, or with Windows' separators."""
    for text in (line, plain, plain.replace("\\", "/")):
        file = given_path(to_path(text))
        if isinstance(file, RemotePath):
            return file
        if found := next(filter(is_file, (folder / file, file)), None):
            return found
    if is_address(plain):
        raise MediaError(f"A list names files; found the address {plain}.", hint="give it alone")
    return folder / given_path(to_path(plain))


def named(files: Iterable[Path], root: Path, *, in_order: bool = False) -> list[Named]:
    """Files with names relative to `root`, in natural order unless `in_order`.

    If several files would get the same name, the suffix is added: a.png, a.jpg -> a_png, a_jpg.
    """
    ordered = list(files) if in_order else sorted(files, key=natural_key)
    stems = [_relative(path, root).with_suffix("").as_posix() for path in ordered]
    shared = Counter(map(name_key, stems))
    taken: set[str] = set()
    result = []
    for stem, path in zip(stems, ordered, strict=True):
        alone = shared[name_key(stem)] == 1
        wanted = stem if alone else f"{stem}_{path.suffix.lower().removeprefix('.')}"
        result.append((free_name(wanted, taken), path))
    return result


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest common folder of files."""
    parents = [str(path.absolute().parent) for path in files]
    try:
        return as_path(os.path.commonpath(parents))
    except ValueError:  # several drives
        return Path("/")


def _walk(
    walk: Iterable[tuple[str | Path, list[str], list[str]]],
    folder: Path,
    exclude: Path | None,
    outputs: list[Path],
) -> Iterator[Path]:
    """Yield the files under a folder; folders of earlier outputs are added to `outputs`.

    walk: os.walk(folder), or an iterable of the same form.
    """
    left_out = resolved(exclude) if exclude is not None else None
    for place, folders, files in walk:
        here = place if isinstance(place, Path) else Path(place)
        theirs = inputs_in(here, files) if here != folder else None
        if theirs is not None:
            outputs.append(here)
            folders.clear()
            files = [name for name in theirs if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        folders[:] = sorted(
            name for name in folders if not is_hidden(name) and resolved(here / name) != left_out
        )
        yield from (here / name for name in files if not name.startswith("."))


def _relative(path: Path, root: Path) -> Path:
    try:
        return path.absolute().relative_to(root.absolute())
    except ValueError:
        return Path(path.name)


def _what_is_there(files: list[Path]) -> str:
    kinds = Counter(path.suffix.lower() or "no suffix" for path in files).most_common(5)
    found = ", ".join(f"{count} x {kind}" for kind, count in kinds)
    return f"found {found}" if found else "there are no files"


_FRAME_NUMBER = re.compile(r"_\d{6,}$")  # suffix of the names of video frames


@dataclass(frozen=True)
class Collected:
    """The sources of a job.

    images: named image files, which form one source; may be empty.
    videos: video files, each a separate source, with the names of their outputs.
    single: a source whose kind only `open_source` can determine; then the others are empty.
    skipped: files in folders and globs that are neither images nor videos.
    """

    images: tuple[Named, ...] = ()
    videos: tuple[Named, ...] = ()
    single: str | None = None
    skipped: tuple[Path, ...] = ()

    @property
    def count(self) -> int:
        """Number of sources."""
        return len(self.specs)

    @property
    def specs(self) -> list[tuple[str | tuple[Named, ...], str]]:
        """The arguments of `open_source` for each source: `spec`, and a video's `name`."""
        if self.single is not None:
            return [(self.single, "")]
        images: list[tuple[str | tuple[Named, ...], str]] = [(self.images, "")]
        return images * bool(self.images) + [(str(path), name) for name, path in self.videos]


def collect(
    arguments: Sequence[str],
    chosen: Choose = lambda _, files, __: files,
    *,
    exclude: Path | None = None,
    callback: Callback = no_callback,
) -> Collected:
    """The sources that the arguments name.

    chosen: see Choose. exclude: a folder to skip (that of the outputs). MediaError if an argument
    does not exist or has no media; OptionError for a camera, a stream or stdin among several.
    """
    if not all(arguments) or not arguments:
        raise OptionError("A source is empty.", hint='the current folder is "."')
    if len(arguments) == 1 and not _is_several(arguments[0]):
        return Collected(single=arguments[0])
    files, skipped = list[Path](), list[Path]()
    for argument in arguments:
        found, others = _files_of(argument, chosen, exclude, callback)
        files += found
        skipped += others
    files = list({resolved(path): path for path in reversed(files)}.values())[::-1]
    first = given_path(arguments[0])
    is_list = first.suffix.lower() in LIST_SUFFIXES and first.is_file()
    root = first if len(arguments) == 1 and first.is_dir() else common_folder(files)
    return _named(files, root, tuple(skipped), in_order=len(arguments) > 1 or is_list)


def _named(files: list[Path], root: Path, skipped: tuple[Path, ...], in_order: bool) -> Collected:
    """Assign unique names to images and videos, also different from those of video frames."""
    videos = [path for path in files if _is_video(path)]
    images = [path for path in files if not _is_video(path)]
    stills = named(images, root, in_order=in_order)
    frames = {_FRAME_NUMBER.sub("", name) for name, _ in stills if _FRAME_NUMBER.search(name)}
    taken = {name.casefold() for name, _ in stills} | {name.casefold() for name in frames}
    numbered = [
        (free_name(safe_path(name), taken), path)
        for name, path in named(videos, root, in_order=in_order)
    ]
    return Collected(tuple(stills), tuple(numbered), skipped=skipped)


def _is_several(argument: str) -> bool:
    """Whether an argument is a folder, a glob or a list that may include videos."""
    path = given_path(argument)
    if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        with suppress(MediaError):  # raised again when it is read
            return any(map(_is_video, _files_in_list(path, without=IMAGE_SUFFIXES)))
    if path.is_dir():
        return not is_large(path)
    return is_glob(argument) and not path.exists() and not is_address(argument)


def _files_of(
    argument: str, chosen: Choose, exclude: Path | None, callback: Callback
) -> tuple[list[Path], list[Path]]:
    """The images and videos of an argument, and its other files."""
    path = given_path(argument)
    camera = argument.isdecimal() and not path.exists()
    if argument == "-" or camera or (is_address(argument) and not isinstance(path, RemotePath)):
        what = "Standard input" if argument == "-" else f"{'Camera ' * camera}{argument}"
        hint = "several sources are image files, video files and folders; give this one alone"
        raise OptionError(f"{what} can't be one of several sources.", hint=hint)
    if is_large(path):
        raise remote_listing.too_many(path)
    if path.is_dir():
        files = chosen(path, files_in(path, exclude=exclude, callback=callback), callback)
        return _split(files, f"{path} has")
    if path.exists():
        return _listed(path) if path.suffix.lower() in LIST_SUFFIXES else ([path], [])
    if isinstance(path, RemotePath):
        raise remote_listing.missing(path)
    if is_glob(argument):
        return _split(matches(argument), f"{argument!r} matches", pattern=True)
    raise MediaError(
        f"There is no file or folder {path}.",
        hint="several sources are image files, video files and folders",
    )


def _listed(path: Path) -> tuple[list[Path], list[Path]]:
    """The files in a list; a text that lists no existing one (from a shell's `*`) is skipped."""
    files: list[Path] = []
    with suppress(MediaError):
        files = _files_in_list(path)
    return (files, []) if any(file.exists() for file in files) else ([], [path])


def _split(files: list[Path], what: str, *, pattern: bool = False) -> tuple[list[Path], list[Path]]:
    """Split files into media, in natural order, and others; MediaError if there are no media."""
    media = media_in(files, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    if not media:
        raise no_images(f"{what} no images or videos", files, pattern=pattern)
    return sorted(media, key=natural_key), [path for path in files if path not in set(media)]


def _is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix, or else because it does not begin like an image."""
    suffix = path.suffix.lower()
    return suffix in VIDEO_SUFFIXES or (
        suffix not in IMAGE_SUFFIXES and path.is_file() and not is_image(first_bytes(path))
    )


LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})  # of text files that list images


def is_address(text: str) -> bool:
    """Whether a source is a URL: rtsp://, http://, file:// ..."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text) is not None


def is_glob(text: str) -> bool:
    """Whether a path contains a glob character."""
    return any(character in text for character in "*?[")
