"""Open a SOURCE argument: image files, a video or a live stream."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

from fcnseg.errors import MediaError, OptionError, cannot_read, closest, user_path
from fcnseg.files import as_path, given_path, safe_filename
from fcnseg.io import cv2
from fcnseg.io.bands.files import page_times
from fcnseg.io.content import is_image, name_other
from fcnseg.io.content.byte_stream import ByteStream
from fcnseg.io.content.integrity import is_known_to_pillow
from fcnseg.io.images import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    first_bytes,
    from_file_url,
    read_bytes,
)
from fcnseg.io.sources import listing
from fcnseg.io.sources import stdin as piped
from fcnseg.io.sources.base import Selection, Source
from fcnseg.io.sources.files import (
    ImageFiles,
    WatchedFolder,
    check_watch,
    count_pages,
    refuse_page,
    stands_for_sequence,
    warn_unused_pages,
)
from fcnseg.io.sources.listing import LIST_SUFFIXES, Named, is_address, is_glob
from fcnseg.io.sources.live import (
    Connect,
    LiveSource,
    camera_number,
    connect_live,
    connected,
    open_camera,
)
from fcnseg.io.sources.network import refuse_link_local, without_password
from fcnseg.io.sources.network.served import ServedImage, probe
from fcnseg.io.sources.pyav import PyavReader
from fcnseg.io.sources.reader import NoVideoError, RawVideo, usable_rate
from fcnseg.io.sources.sequence import (
    StreamedFolder,
    files_of_sequence,
    open_sequence,
)
from fcnseg.io.sources.video import VideoFile, video_file
from fcnseg.overwriting import Named as Role
from fcnseg.overwriting import is_below, refuse_overwriting
from fcnseg.progress import Callback, no_callback
from fcnseg.remote import RemotePath
from fcnseg.remote.listing import missing


class PipedVideo(VideoFile):
    """A video from a pipe, decoded as it arrives."""

    def __init__(
        self,
        stream: ByteStream,
        selection: Selection,
        callback: Callback,
        raw: RawVideo | None = None,
    ) -> None:
        self._stream = stream
        name = "What is piped in"
        reader = (
            piped.read_streamed(stream, name) if raw is None else piped.read_raw(stream, name, raw)
        )
        super().__init__("stdin", selection, callback, name="stdin", reader=reader)
        stream.over = lambda: self._over
        self.sound = self.file = None

    def close(self) -> None:
        """Stop reading."""
        super().close()
        self._stream.close()


def open_source(
    spec: str | Path | Sequence[Named],
    *,
    name: str = "",
    every: int = 1,
    limit: int = 0,
    start: float = 0.0,
    end: float | None = None,
    fps: float | None = None,
    raw: RawVideo | None = None,
    watch: bool = False,
    exclude: Path | None = None,
    rank: int = 0,
    size: int = 1,
    page: str | None = None,
    connect: Connect | None = None,
    callback: Callback = no_callback,
) -> Source:
    """Open the source that `spec` names.

    spec: an image, a folder (with its subfolders), a glob, a sequence (frame_%04d.png), a text file
        that lists images, a video, a camera's number or (on Linux) name, a stream's URL, or "-" for
        standard input. A sequence of (name, image file) is one source of kind "folder".
    name: name of a video's outputs, "/" between folders; "" for its file's name.
    every, limit: take every N-th frame, at most `limit` (0: all).
    start, end: seconds of a video.
    fps: frame rate of sources that state none: several images, a raw stream.
    raw: size and pixel format of raw video.
    watch: watch a folder for new images.
    exclude: a folder to skip (that of the outputs).
    rank, size: take only the shard of process `rank` among `size`.
    page: of files with several pages or frames: a number from 1 on, "all"; None: the first.
    connect: opens cameras and streams; default: `connect_live`.
    callback: receives messages, e.g. about lost connections; may be called from another thread.
    MediaError when it can't be read; OptionError for invalid numbers.
    """
    selection = Selection(every, limit, start, end, rank, size, page or "")
    rate = None if fps is None else usable_rate(fps)
    if page is not None:
        refuse_page(spec)
    if not isinstance(spec, str | Path):
        source: Source = ImageFiles(list(spec), "folder", selection, callback)
    elif raw is not None:
        source = _open_raw(str(spec), raw, selection, callback)
    elif stands_for_sequence(str(spec)) and not watch:
        source = open_sequence(user_path(spec), rate, selection, callback)
    elif name:
        source = video_file(as_path(spec), selection, callback, name, several=True)
    else:
        found = functools.partial(_open_any, str(spec), selection, exclude, connect, callback)
        source = found(watch=watch)
    return source if rate is None else _at_rate(source, rate)


def _at_rate(source: Source, fps: Fraction) -> Source:
    try:
        source.assume_rate(fps)
    except OptionError:
        source.close()
        raise
    return source


def _open_any(
    text: str,
    selection: Selection,
    exclude: Path | None,
    connect: Connect | None,
    callback: Callback,
    *,
    watch: bool,
) -> Source:
    """Open the source that a text names, before a rate is set."""
    if watch:
        check_watch(text)
    if text == "-":
        return _open_stream(piped.open_stdin(), selection, callback)
    text = from_file_url(text)
    live = functools.partial(open_camera, selection=selection, connect=connect, callback=callback)
    if isinstance(remote := as_path(text), RemotePath):
        return _open_remote(remote, selection, exclude, live, callback)
    if is_address(text):
        return _open_address(text, selection, connect, callback)
    path = user_path(text)
    if watch:
        return WatchedFolder(path, selection, exclude=exclude, callback=callback)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:  # Python 3.11 raises where the name is too long
        raise cannot_read(f"{text:.60}", error) from None
    if is_folder:
        found = listing.in_folder(path, exclude=exclude, callback=callback)
        return ImageFiles(found, "folder", selection, callback)
    if is_there:
        return _open_file(path, selection, live, callback)
    if is_glob(text):
        return ImageFiles(_matching(text), "folder", selection, callback)
    return _open_camera(text, live)


def refuse_sources(
    outputs: Sequence[Role], sources: Iterable[str | Path], *, kept: Sequence[Role] = ()
) -> None:
    """OptionError when an output is one of the sources' files, or contains one.

    Images and videos in a source folder count. kept: see fcnseg.overwriting.
    """
    inputs = [("the source", path) for spec in sources for path in _files_of(spec)]
    folders = [path for _, path in inputs if path.is_dir()]
    inputs += [
        ("a file of the source", path)
        for _, path in outputs
        if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()
        if any(is_below(path, folder) for folder in folders)
    ]
    refuse_overwriting(outputs, inputs, kept=kept)


def _files_of(spec: str | Path) -> list[Path]:
    """The files or folder of a source; none for a camera, a pipe or a URL."""
    text = from_file_url(str(spec))
    path = given_path(text)
    if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        return [path, *(file for _, file in listing.from_list(path))]
    if path.exists():
        return [path]
    if stands_for_sequence(text):
        return files_of_sequence(path)
    pattern = text != "-" and "://" not in text and is_glob(text)
    return listing.matches(text) if pattern else []


def _open_camera(text: str, live: Callable[[int], Source]) -> Source:
    """Open a camera by its number or a part of its name; else the MediaError for a missing file."""
    if text.isdecimal():
        return live(int(text))
    path = user_path(text)
    number = camera_number(text) if len(path.parts) == 1 else None
    if number is None:
        raise _missing(path)
    return live(number)


def _matching(pattern: str) -> list[Named]:
    """The images that match a pattern; MediaError if there are none."""
    files = listing.matches(pattern)
    images = listing.media_in(files, IMAGE_SUFFIXES)
    if not images:
        raise listing.no_images(f"No image matches {pattern!r}", files, pattern=True)
    return listing.named(images, listing.common_folder(images))


def _open_file(
    path: Path,
    selection: Selection,
    live: Callable[[int], Source],
    callback: Callback,
) -> Source:
    suffix = path.suffix.lower()
    if path.is_fifo():  # mkfifo, <(...): can be read only once
        return _open_stream(piped.open_pipe(path), selection, callback)
    device = re.fullmatch(r"/dev/video(\d+)", path.as_posix())
    if device:
        return live(int(device[1]))
    if suffix in LIST_SUFFIXES:
        return ImageFiles(listing.from_list(path), "folder", selection, callback)
    start = first_bytes(path)
    if other := name_other(start):  # FFmpeg would find a video in a PDF that contains a JPEG
        raise MediaError(f"{path} is {other[0]}, neither an image nor a video.", hint=other[1])
    image = is_image(start)
    if suffix in VIDEO_SUFFIXES and (not image or start[:2] == b"\xff\xd8"):  # JPEG: MJPEG is so
        return video_file(path, selection, callback)
    is_odd = suffix not in IMAGE_SUFFIXES and not is_known_to_pillow(path)
    if not image and (is_odd or start[4:8] == b"ftyp"):
        try:
            return video_file(path, selection, callback)
        except NoVideoError:  # a file with sound only raises another MediaError
            raise MediaError(
                f"{path} is neither an image nor a video that can be read.",
                hint="an image (.png ...), a video (.mp4 ...), a folder, or a .txt listing images",
            ) from None
    data = read_bytes(path) if selection.page == "all" else b""
    if count_pages(data) <= 1:
        return ImageFiles([(path.stem, path)], "image", selection, callback)
    return ImageFiles([(path.stem, path)], "folder", selection, callback, times=page_times(data))


def _open_remote(
    path: RemotePath,
    selection: Selection,
    exclude: Path | None,
    live: Callable[[int], Source],
    callback: Callback,
) -> Source:
    """Open a folder, an image or a video in remote storage."""
    if path.is_dir():
        return StreamedFolder(path, selection, exclude, callback)
    if not path.exists():
        raise missing(path)
    return _open_file(path, selection, live, callback)


def _open_address(
    address: str, selection: Selection, connect: Connect | None, callback: Callback
) -> Source:
    """Open an image or a video file on a server, or a live stream."""
    refuse_link_local(address)
    is_web = urlsplit(address).scheme.lower() in ("http", "https")
    served = probe(address) if is_web and connect is None else None
    if served is not None and served.image is not None:
        warn_unused_pages(served.image, without_password(address), callback)
        return ServedImage(address, served.image)
    if served is not None and served.is_text:
        raise MediaError(
            f"{without_password(address)} is {served.kind}: neither an image nor a video.",
            hint="the address of the image or the video itself, not of a page that shows it",
        )
    connect = connect or connect_live
    capture = connected(address, connect)
    is_file = served is not None and served.is_file
    if is_file or 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < 2**40:
        capture.release()
        return VideoFile(
            address, selection, callback, name=safe_filename(without_password(address))
        )
    return LiveSource(address, capture, connect=connect, selection=selection, callback=callback)


def _open_stream(stream: ByteStream, selection: Selection, callback: Callback) -> Source:
    """Open piped data: concatenated images, or a video."""
    if is_image(stream.peek(16)):
        images = piped.PipedImages(stream, selection)
        warn_unused_pages(images.first, "What is piped in", callback)
        return images
    return PipedVideo(stream, selection, callback)


def _open_raw(text: str, raw: RawVideo, selection: Selection, callback: Callback) -> Source:
    """Open raw video from a pipe or a file."""
    options = raw.options()
    if text == "-":
        return PipedVideo(piped.open_stdin(), selection, callback, raw)
    path = user_path(text)
    if not path.is_file():
        raise MediaError(f"There is no file {path}.", hint="raw video is a file, or - for stdin")
    reader = PyavReader(
        str(path.absolute()), path, has_times=False, options=options, container="rawvideo"
    )
    return VideoFile(path, selection, callback, reader=reader)


def _missing(path: Path) -> MediaError:
    """The MediaError for a missing path, with the most similar existing name."""
    if path.is_symlink():
        return MediaError(f"{path} is a link to {path.readlink()}, which is not there.")
    hint = "a path, a quoted glob, a camera's number, an address (rtsp://, http://) or - for stdin"
    if path.parent.is_dir():
        close = closest(path.name, (item.name for item in path.parent.iterdir()), cutoff=0.8)
        hint = f"did you mean {path.parent / close[0]}?" if close else hint
    return MediaError(f"There is no file or folder {path}.", hint=hint)
