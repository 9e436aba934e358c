"""Which files come out: what the source is, --out and --save together decide."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fcnseg.errors import OptionError
from fcnseg.events import Listener
from fcnseg.files import partial
from fcnseg.media._source import Kind, Source
from fcnseg.media.encoders import FOURCC
from fcnseg.media.images import VIDEO_SUFFIXES
from fcnseg.media.listing import safe_path
from fcnseg.media.manifest import Manifest
from fcnseg.media.records import CocoSink
from fcnseg.media.sinks import SUFFIXES, FileSink, FolderSink, Painter, Sink, VideoSink
from fcnseg.overwriting import Named

VIDEO_PICTURES = ("overlay", "color")
"""What a video can show; labels would not survive its compression."""

MOVING = ("video", "camera", "stream")
"""Kinds of sources whose pictures make a video."""

_IMAGE_OUT = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_DATA_OUT = {".npz": "probabilities", ".geojson": "geojson", ".json": "labelme"}


@dataclass(frozen=True)
class Plan:
    """Where the outputs go.

    shape: "file" (one file of one image), "video" (one video file) or "folder".
    path: the file or folder. save: the kinds to write, the first being the file's.
    alone: whether it has the outputs of its source only.
    """

    shape: Literal["file", "video", "folder"]
    path: Path
    save: tuple[str, ...]
    alone: bool = True

    @property
    def needs_probabilities(self) -> bool:
        """Whether the network has to give them."""
        return "probabilities" in self.save


def split(target: Plan, kind: Kind) -> tuple[Plan, Plan]:
    """What is a file for each frame, and what is one file of all frames, for a kind of source."""
    if target.shape == "file":
        return target, replace(target, save=())
    videos = VIDEO_PICTURES if kind in MOVING or target.shape == "video" else ()
    whole = tuple(name for name in target.save if name in (*videos, "coco"))
    each = tuple(name for name in target.save if name not in whole)
    return replace(target, save=each), replace(target, save=whole)


def default_save(kind: Kind) -> tuple[str, ...]:
    """What is written to a folder when nothing is said."""
    return ("overlay",) if kind in MOVING else ("overlay", "labels")


def plan(kind: Kind, out: Path, save: Sequence[str]) -> Plan:
    """What goes where, for a source of a kind; OptionError when it can't be."""
    suffix = "" if out.is_dir() else out.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return _video(kind, out, tuple(save) or ("overlay",))
    if suffix in _IMAGE_OUT or suffix in _DATA_OUT:
        return _file(kind, out, tuple(save))
    if out.exists() and not out.is_dir():
        raise OptionError(f"{out} is a file; {_several(kind)} need a folder.")
    return Plan("folder", out, tuple(dict.fromkeys(save or default_save(kind))))


def written(target: Plan, name: str) -> list[Named]:
    """Every file and folder that is written to. name: the source's."""
    path = target.path
    if target.shape == "file":
        return [("--out", path)]
    if target.shape == "video":
        return [("--out", path), ("--out", partial(path))]
    inside = [f"{safe_path(name)}_{kind}.mp4" for kind in VIDEO_PICTURES]
    inside += [*(kind for kind in target.save if kind in SUFFIXES), "coco.json"]
    return [("--out", path), *(("--out", path / one) for one in inside)]


def open_sinks(
    target: Plan, source: Source, painter: Painter, *, manifest: Manifest, listener: Listener
) -> list[Sink]:
    """The sinks that write what is planned; the listener hears how videos are encoded."""
    if target.shape == "file" and target.save:
        return [FileSink(target.path, target.save[0], painter)]
    sinks: list[Sink] = []
    name = safe_path(source.name)
    moving = source.kind in MOVING
    pictures = VIDEO_PICTURES if moving or target.shape == "video" else ()
    for kind in (kind for kind in target.save if kind in pictures):
        inside = target.path / f"{name}_{kind}.mp4"
        path = target.path if target.shape == "video" else inside
        sinks.append(
            VideoSink(
                path,
                kind,
                painter,
                fps=source.fps,
                timed=moving,
                sound=source.sound,
                live=source.live,
                listener=listener,
            )
        )
    each = [kind for kind in target.save if kind in SUFFIXES and kind not in pictures]
    if each:
        done = functools.partial(manifest.add, file=source.file)
        sinks.append(FolderSink(target.path, each, painter, done=done))
    if "coco" in target.save:
        coco = f"{name}_coco.json" if moving and not target.alone else "coco.json"
        sinks.append(CocoSink(target.path / coco, painter.classes))
    return sinks


def next_free(parent: Path, name: str) -> Path:
    """parent/name1, or with the first number above those taken."""
    taken = (path.name.removeprefix(name) for path in parent.glob(f"{name}*"))
    number = max((int(rest) for rest in taken if rest.isdecimal()), default=0) + 1
    return parent / f"{name}{number}"


def _video(kind: Kind, out: Path, save: tuple[str, ...]) -> Plan:
    if kind == "image":
        raise OptionError(
            f"One image does not make a video ({out.name}).", hint=f"-o {out.with_suffix('.png')}"
        )
    if out.suffix.lower() not in FOURCC:
        known = ", ".join(sorted(FOURCC))
        raise OptionError(f"Videos can't be written as {out.suffix}; known: {known}.")
    for name in save:
        if name not in VIDEO_PICTURES:
            raise OptionError(
                f"{name!r} can't be kept in a video ({out.name}): compression changes the values.",
                hint=f"give a folder: -o {out.with_suffix('')}",
            )
    if len(save) > 1:
        raise OptionError(
            f"One video can't show {' and '.join(save)}.", hint=f"-o {out.with_suffix('')}"
        )
    return Plan("video", out, save)


def _file(kind: Kind, out: Path, save: tuple[str, ...]) -> Plan:
    if kind != "image":
        raise OptionError(
            f"{_several(kind)} give more than one file, and {out.name} is one.".capitalize(),
            hint=f"a folder: -o {out.with_suffix('')}"
            + ("" if kind == "folder" else f", or a video: -o {out.with_suffix('.mp4')}"),
        )
    suffix = out.suffix.lower()
    chosen = save[0] if save else _DATA_OUT.get(suffix, "overlay")
    if len(save) > 1:
        raise OptionError(
            f"One file can't hold {' and '.join(save)}.", hint=f"-o {out.with_suffix('')}"
        )
    fits = suffix in _IMAGE_OUT if chosen in VIDEO_PICTURES else suffix == SUFFIXES.get(chosen)
    if not fits:
        wanted = ".png" if chosen in VIDEO_PICTURES else SUFFIXES.get(chosen, "")
        where = f"-o {out.with_suffix(wanted)}"
        raise OptionError(f"{chosen!r} can't be written as {suffix}.", hint=where)
    return Plan("file", out, (chosen,))


def _several(kind: Kind) -> str:
    return "several images" if kind == "folder" else f"the frames of a {kind}"
