"""Which files come out, by the source, --out and --save; and the manifest of what is done."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fcnseg.errors import OptionError
from fcnseg.files import MANIFEST as NAME
from fcnseg.files import fitting, mark, partial, refuse_foreign, safe_path, stamp
from fcnseg.inference.outputs import COMBINED, SUFFIXES, TOOLS, Renderer
from fcnseg.inference.outputs.sinks import AnnotationSink, FileSink, FolderSink, Sink, VideoSink
from fcnseg.inference.prediction import CocoSink
from fcnseg.io.images import VIDEO_SUFFIXES, write_bytes
from fcnseg.io.sources.base import Frame, Kind, Source
from fcnseg.io.sources.listing import Named as NamedPath
from fcnseg.io.video_writer import FOURCC
from fcnseg.overwriting import Named
from fcnseg.progress import Callback

VIDEO_KINDS = ("overlay", "side", "color")
"""What a video can show; labels would not survive its compression."""

MOVING = ("video", "camera", "stream")
"""Kinds of sources whose frames make a video."""

_IMAGE_OUT = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


_DATA_OUT = {".npz": "probabilities", ".geojson": "geojson", ".json": "labelme", ".txt": "yolo"}


POLYGONS = ("geojson", "labelme", "yolo", "cvat", "labelstudio")
"""The outputs that --simplify is for."""


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
    videos = VIDEO_KINDS if kind in MOVING or target.shape == "video" else ()
    combined = tuple(name for name in target.save if name in (*videos, *COMBINED))
    each = tuple(name for name in target.save if name not in combined)
    return replace(target, save=each), replace(target, save=combined)


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
    inside = [f"{safe_path(name)}_{kind}.mp4" for kind in VIDEO_KINDS]
    inside += [*(kind for kind in target.save if kind in SUFFIXES)]
    inside += COMBINED.values()
    return [("--out", path), *(("--out", path / one) for one in inside)]


def open_sinks(
    target: Plan, source: Source, renderer: Renderer, *, manifest: Manifest, callback: Callback
) -> list[Sink]:
    """The sinks that write what is planned; the callback receives how videos are encoded."""
    if target.shape == "file" and target.save:
        return [FileSink(target.path, target.save[0], renderer)]
    sinks: list[Sink] = []
    name = safe_path(source.name)
    moving = source.kind in MOVING
    video_kinds = VIDEO_KINDS if moving or target.shape == "video" else ()
    for kind in (kind for kind in target.save if kind in video_kinds):
        inside = target.path / f"{name}_{kind}.mp4"
        path = target.path if target.shape == "video" else inside
        sinks.append(
            VideoSink(
                path,
                kind,
                renderer,
                fps=source.fps,
                timed=moving,
                sound=source.sound,
                aspect=source.aspect,
                live=source.live,
                callback=callback,
            )
        )
    each = [kind for kind in target.save if kind in SUFFIXES and kind not in video_kinds]
    if each:
        done = functools.partial(manifest.add, file=source.file)
        sinks.append(FolderSink(target.path, each, renderer, done=done))
    for kind in (kind for kind in target.save if kind in COMBINED):
        file = f"{name}_{COMBINED[kind]}" if moving and not target.alone else COMBINED[kind]
        if kind == "coco":
            sinks.append(CocoSink(target.path / file, renderer.classes))
        else:
            made = TOOLS[kind](renderer.classes, renderer.drawn, renderer.simplify)
            sinks.append(AnnotationSink(target.path / file, made))
    return sinks


def _video(kind: Kind, out: Path, save: tuple[str, ...]) -> Plan:
    if kind == "image":
        raise OptionError(
            f"One image does not make a video ({out.name}).", hint=f"-o {out.with_suffix('.png')}"
        )
    if out.suffix.lower() not in FOURCC:
        known = ", ".join(sorted(FOURCC))
        raise OptionError(f"Videos can't be written as {out.suffix}; known: {known}.")
    for name in save:
        if name not in VIDEO_KINDS:
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
    fits = suffix in _IMAGE_OUT if chosen in VIDEO_KINDS else suffix == SUFFIXES.get(chosen)
    if not fits:
        wanted = ".png" if chosen in VIDEO_KINDS else SUFFIXES.get(chosen, "")
        where = f"-o {out.with_suffix(wanted)}"
        raise OptionError(f"{chosen!r} can't be written as {suffix}.", hint=where)
    return Plan("file", out, (chosen,))


def _several(kind: Kind) -> str:
    return "several images" if kind == "folder" else f"the frames of a {kind}"


class Manifest:
    """A JSON line for each frame whose outputs are all in a folder, in the folder itself.

    A file that can't be read has a line, too: why, under "failed".

    kinds: the outputs of a frame. job: whatever else they depend on (model, options); lines
    of another job, and of a file that has changed since, do not count. resume: take over
    what an earlier run has done. rank: which of several processes this is; each writes lines
    of its own (appending to one file is not safe on network drives) until they are joined.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        job: Mapping[str, Any],
        *,
        resume: bool,
        rank: int = 0,
    ) -> None:
        self._folder, self._kinds = folder, [kind for kind in kinds if kind in SUFFIXES]
        self._path = folder / (f"manifest-{rank}.jsonl" if rank else NAME)
        text = json.dumps({**job, "kinds": sorted(kinds)}, sort_keys=True, default=str)
        self._job = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._before = "\n" if self._path.exists() else ""  # the last line may be cut
        self._done: dict[str, Any] = {}
        self._failed: dict[str, Any] = {}
        if resume:
            self._read()

    def begin(self) -> None:
        """Mark the folder as one of outputs; OptionError when what lies there is not ours."""
        if self._path.name == NAME:
            refuse_foreign(self._folder, self._kinds)
            mark(self._folder)

    def has(self, name: str, path: Path) -> bool:
        """Whether a frame's outputs are there, and made from its file as it is now."""
        if self._done.get(name) != stamp(path):
            return False
        return all(
            (self._folder / kind / fitting(name, SUFFIXES[kind])).exists() for kind in self._kinds
        )

    def add(self, frame: Frame, file: Path | None = None) -> None:
        """A frame's outputs are there. file: what it was in, if it is no file of its own."""
        path = frame.path or file
        if path is None:
            return
        seen = list(frame.stamp or stamp(path))
        self._append({"name": frame.name, "job": self._job, "stamp": seen})
        if frame.name in self._done:
            self._done[frame.name] = seen  # a watched file that has changed

    def fail(self, path: Path, why: str) -> None:
        """A file can't be read as it is now."""
        name = str(path.absolute())
        line = {"name": name, "job": self._job, "stamp": stamp(path), "failed": why}
        if self._failed.get(name) != line["stamp"]:
            self._append(line)

    def has_failed(self, path: Path) -> bool:
        """Whether an earlier run could not read a file, and it has not changed since."""
        return self._failed.get(str(path.absolute())) == stamp(path)

    def join(self) -> None:
        """One file of all processes' lines, once they have ended."""
        paths = self._paths()
        if any(path.name != NAME for path in paths):
            lines = [line for path in paths for line in path.read_bytes().splitlines() if line]
            write_bytes(self._folder / NAME, b"\n".join([*lines, b""]))
        for path in paths:
            if path.name != NAME:
                path.unlink()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as out:
            out.write(self._before + json.dumps(line) + "\n")
        self._before = ""

    def _read(self) -> None:
        for path in self._paths():
            for text in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):  # cut by a crash: not done
                    line = json.loads(text)
                    if line["job"] == self._job:
                        known = self._failed if "failed" in line else self._done
                        known[line["name"]] = line["stamp"]

    def _paths(self) -> list[Path]:
        """The first process's lines and those of the others, as they are there."""
        return sorted(self._folder.glob("manifest*.jsonl"))


@dataclass(frozen=True, eq=False)
class Part:
    """One source of the job and what is written of it.

    spec, name: what `open_source` takes. opened: the source itself, where it was opened to see
    what it is. each: a file for each frame; done: those that are there. combined: one file of all
    frames; labels, kept: where labels are kept until it can be made, None if it is made at once.
    skipped: files that are skipped because an earlier run could not read them.
    """

    spec: str | tuple[NamedPath, ...]
    name: str
    kind: Kind
    opened: Source | None
    each: Plan
    combined: Plan
    labels: Plan
    done: Manifest
    kept: Manifest | None
    skipped: list[Path] = field(default_factory=list)

    @property
    def live(self) -> bool:
        """Whether its frames come once only."""
        return self.opened is not None and self.opened.live

    def is_done(self, name: str, path: Path) -> bool:
        """Whether nothing of a frame has to be written, or can be."""
        if self.has_failed(path):
            self.skipped.append(path)
            return True
        written = not self.each.save or self.done.has(name, path)
        kept = self.kept is None or self.kept.has(name, path)
        return written and kept

    def has_failed(self, path: Path) -> bool:
        """Whether an earlier run could not read a file as it is now."""
        return any(manifest.has_failed(path) for manifest in self._manifests())

    def note_failures(self, failures: Sequence[tuple[str, str]]) -> None:
        """Record files of which nothing can be made: (path, why).

        What is not there, or not ours to read, may be tomorrow without a change of the file.
        """
        for path, why in failures:
            for manifest in self._manifests() if os.access(path, os.R_OK) else ():
                manifest.fail(Path(path), why)

    def _manifests(self) -> list[Manifest]:
        """Those that are written."""
        in_folder = [self.done] if self.has_folder else []
        return in_folder if self.kept is None else [*in_folder, self.kept]

    @property
    def has_folder(self) -> bool:
        """Whether there is a folder of outputs, which has a manifest."""
        return self.each.shape == "folder" and bool(self.each.save or self.combined.save)
