"""The outputs of an inference job for each of its sources, by --out and --save."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fcnseg.config import InferConfig
from fcnseg.errors import FolderPath, OptionError, quoted
from fcnseg.files import as_path, is_stdout, kind_of, partial, safe_path
from fcnseg.inference.outputs import COMBINED, SUFFIXES
from fcnseg.inference.outputs.manifest import Manifest
from fcnseg.io.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from fcnseg.io.sources.base import MOVING, Kind, Source
from fcnseg.io.sources.files import is_sequence
from fcnseg.io.sources.listing import Named as NamedImage
from fcnseg.io.sources.sequence import files_of_sequence
from fcnseg.io.video_writer import FOURCC
from fcnseg.overwriting import MANIFEST, Named, is_file_name

VIDEO_KINDS = ("overlay", "side", "color")
"""The kinds that a video can show; labels would not survive its compression."""

_IMAGE_OUT = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

_DATA_OUT = {".npz": "probabilities", ".geojson": "geojson", ".json": "labelme", ".txt": "yolo"}

_POLYGONS = ("geojson", "labelme", "yolo", "cvat", "labelstudio")
"""The outputs that --simplify applies to."""


@dataclass(frozen=True)
class Target:
    """Where outputs are written.

    shape: "file" (one file of one image), "sequence" (a numbered file for each frame), "video" (one
        video file), "pipe" (a video on standard output) or "folder".
    path: the file, the pattern of files or the folder. save: the kinds to write; a single file is
        of the first one.
    alone: whether it contains the outputs of one source only.
    """

    shape: Literal["file", "sequence", "video", "pipe", "folder"]
    path: Path
    save: tuple[str, ...]
    alone: bool = True

    def kept_folder(self, name: str) -> Path:
        """A hidden folder beside the outputs for labels that are kept until the end."""
        if self.shape != "folder":
            return self.path.with_name(f".{self.path.name}.parts")
        folder = self.path / ".parts"
        if self.alone:
            return folder
        return folder / (f"videos/{safe_path(name)}.labels" if name else "images")


def split(target: Target, kind: Kind) -> tuple[Target, Target]:
    """Split a target into the outputs for each frame and those with one file for all frames."""
    if target.shape in ("file", "sequence"):
        return target, replace(target, save=())
    if target.shape == "pipe":
        return replace(target, save=()), target
    videos = VIDEO_KINDS if kind in MOVING or target.shape == "video" else ()
    combined = tuple(name for name in target.save if name in (*videos, *COMBINED))
    each = tuple(name for name in target.save if name not in combined)
    return replace(target, save=each), replace(target, save=combined)


def target_of(config: InferConfig, kind: Kind, out: Path, *, alone: bool) -> Target:
    """The target for one source."""
    if only_shown(config):
        return Target("folder", out, (), alone)
    target = choose_target(kind, out, config.save, raw=config.format == "rawvideo")
    if not alone and target.shape != "folder":
        raise OptionError(
            f"Several sources give more than one file, and {out.name} is one.",
            hint=f"a folder: {_free(out)}",
        )
    return replace(target, alone=alone)


def choose_target(kind: Kind, out: Path, save: Sequence[str], *, raw: bool = False) -> Target:
    """Choose the target for a kind of source; OptionError for impossible combinations.

    raw: standard output carries raw frames, which preserve labels.
    """
    if is_stdout(out):
        return _pipe(out, tuple(save) or ("overlay",), raw=raw)
    suffix = "" if out.is_dir() or isinstance(out, FolderPath) else out.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return _video(kind, out, tuple(save) or ("overlay",))
    if (suffix in _IMAGE_OUT or suffix in _DATA_OUT) and is_sequence(out.name):
        return replace(_file("image", out, tuple(save)), shape="sequence")
    if suffix in _IMAGE_OUT or suffix in _DATA_OUT:
        return _file(kind, out, tuple(save))
    if out.exists() and not out.is_dir():
        raise OptionError(f"{out} is {kind_of(out)}; {_several(kind)} need a folder.")
    if suffix and (suffix in IMAGE_SUFFIXES or is_file_name(out)):
        raise _no_such_file(kind, out, save)
    usual = ("overlay",) if kind in MOVING else ("overlay", "labels")
    return Target("folder", out, tuple(dict.fromkeys(save or usual)))


def written(target: Target, name: str) -> list[Named]:
    """Every file and folder that is written to. name: of the source."""
    path = target.path
    if target.shape == "file":
        return [("--out", path)]
    if target.shape == "video":
        return [("--out", path), ("--out", partial(path))]
    if target.shape == "pipe":
        return []
    if target.shape == "sequence":
        return [("--out", one) for one in files_of_sequence(path)]
    inside = [f"{safe_path(name)}_{kind}.mp4" for kind in VIDEO_KINDS]
    inside += [*(kind for kind in target.save if kind in SUFFIXES)]
    inside += [*COMBINED.values(), MANIFEST]
    return [("--out", path), *(("--out", path / one) for one in inside)]


def single_files(target: Target, name: str) -> list[str]:
    """The files for all frames that may be written into a folder. name: of the source."""
    if target.shape != "folder":
        return []
    files = [COMBINED[kind] for kind in target.save if kind in COMBINED]
    files += [f"{safe_path(name)}_{file}" for file in files]
    return [*files, *(f"{safe_path(name)}_{k}.mp4" for k in VIDEO_KINDS if k in target.save)]


def _pipe(out: Path, save: tuple[str, ...], *, raw: bool) -> Target:
    if len(save) > 1:
        raise OptionError(f"Standard output can't carry {' and '.join(save)}.", hint="a folder")
    if save[0] not in VIDEO_KINDS and not (raw and save[0] == "labels"):
        hint = "with --format rawvideo it can" if save[0] == "labels" else "give a folder: -o out"
        raise OptionError(f"A video on standard output can't carry {save[0]!r}.", hint=hint)
    return Target("pipe", out, save)


def _video(kind: Kind, out: Path, save: tuple[str, ...]) -> Target:
    if kind == "image":
        hint = f"{_free(out, '.png')}; of an animation, or a file of several pages: --page all"
        raise OptionError(f"One image does not make a video ({out.name}).", hint=hint)
    if out.suffix.lower() not in FOURCC:
        known = ", ".join(sorted(FOURCC))
        raise OptionError(f"Videos can't be written as {out.suffix}; known: {known}.")
    for name in save:
        if name not in VIDEO_KINDS:
            raise OptionError(
                f"{name!r} can't be kept in a video ({out.name}): compression changes the values.",
                hint=f"give a folder: {_free(out)}",
            )
    if len(save) > 1:
        raise OptionError(f"One video can't show {' and '.join(save)}.", hint=_free(out))
    return Target("video", out, save)


def _file(kind: Kind, out: Path, save: tuple[str, ...]) -> Target:
    if kind != "image":
        raise OptionError(
            f"{_several(kind)} give more than one file, and {out.name} is one.".capitalize(),
            hint=f"a folder: {_free(out)}"
            + ("" if kind == "folder" else f", or a video: {_free(out, '.mp4')}"),
        )
    suffix = out.suffix.lower()
    chosen = save[0] if save else _DATA_OUT.get(suffix, "overlay")
    if len(save) > 1:
        raise OptionError(f"One file can't hold {' and '.join(save)}.", hint=_free(out))
    fits = suffix in _IMAGE_OUT if chosen in VIDEO_KINDS else suffix == SUFFIXES.get(chosen)
    if not fits:
        wanted = ".png" if chosen in VIDEO_KINDS else SUFFIXES.get(chosen, "")
        raise OptionError(f"{chosen!r} can't be written as {suffix}.", hint=_free(out, wanted))
    return Target("file", out, (chosen,))


def _no_such_file(kind: Kind, out: Path, save: Sequence[str]) -> OptionError:
    known = {*_IMAGE_OUT, *_DATA_OUT} if kind == "image" else FOURCC
    inside = next((COMBINED[name] for name in save if name in COMBINED), "")
    where = "" if kind == "folder" or inside else ".mp4" if kind in MOVING else ".png"
    return OptionError(
        f"No {out.suffix} files are written; known: {', '.join(sorted(known))}, a folder.",
        hint=_free(out, where)
        + (f" (a folder, with {inside} in it)" if inside else f"; a folder: -o {quoted(out)}/"),
    )


def _free(out: Path, suffix: str = "") -> str:
    """An unused --out with another suffix, as typed: an existing file may be the source itself."""
    path = out.with_suffix(suffix)
    return f"-o {quoted(path.with_name(f'{path.stem}_out{suffix}') if path.exists() else path)}"


def _several(kind: Kind) -> str:
    named = {"folder": "several images", "image": "the outputs of an image"}
    return named.get(kind, f"the frames of a {kind}")


@dataclass(frozen=True, eq=False)
class Part:
    """One source of the job and its outputs.

    spec, name: arguments of `open_source`. opened: the source, if it was opened to determine its
    kind. each: the files for each frame; done: their manifest. combined: the files for all frames.
    labels, kept: where labels are kept until these can be written, and their manifest; None if
    they are written directly. video, finished: the manifest of a video's combined files, and how
    many frames the finished ones have. skipped: files that an earlier run could not read.
    """

    spec: str | tuple[NamedImage, ...]
    name: str
    kind: Kind
    opened: Source | None
    each: Target
    combined: Target
    labels: Target
    done: Manifest
    kept: Manifest | None
    video: Manifest | None = None
    finished: int = 0
    skipped: list[Path] = field(default_factory=list)

    @property
    def live(self) -> bool:
        """Whether its frames can be read only once."""
        return self.opened is not None and self.opened.live

    def is_done(self, name: str, path: Path) -> bool:
        """Whether a frame can be skipped: its outputs are written, or its file is unreadable."""
        if self.has_failed(path):
            self.skipped.append(path)
            return True
        written = not self.each.save or self.done.has(name, path)
        kept = self.kept is None or self.kept.has(name, path)
        return written and kept

    def has_failed(self, path: Path) -> bool:
        """Whether an earlier run could not read the current version of a file."""
        return any(manifest.has_failed(path) for manifest in self._manifests())

    def note_failures(self, failures: Sequence[tuple[str, str]]) -> None:
        """Record files that can't be read: (path, why).

        Not those that are missing or lack permission: that can change while the file does not.
        """
        for path, why in failures:
            for manifest in self._manifests() if os.access(path, os.R_OK) else ():
                manifest.fail(Path(path), why)

    def note_finished(self, outputs: Sequence[Path], frames: int) -> None:
        """Record that the files for all frames of a video are written."""
        files = [path for path in outputs if path.is_file()]
        if self.video is not None and files and not self.finished:
            self.video.finish(as_path(str(self.spec)), files, frames)

    def recorded(self, rank: int) -> int:
        """How many frames a process has recorded as done."""
        return min((manifest.recorded(rank) for manifest in self._manifests()), default=0)

    def flush(self) -> None:
        """Write everything recorded so far to the folders."""
        for manifest in self._manifests():
            manifest.flush()

    def _manifests(self) -> list[Manifest]:
        """The manifests that this part writes."""
        in_folder = [self.done] if self.has_folder else []
        return in_folder if self.kept is None else [*in_folder, self.kept]

    @property
    def has_folder(self) -> bool:
        """Whether outputs are in a folder, which then has a manifest."""
        return self.each.shape == "folder" and bool(self.each.save or self.combined.save)


def only_shown(config: InferConfig) -> bool:
    """Whether only a window or --shares is requested."""
    return config.out is None and not config.save and (config.show or config.shares is not None)


def refuse_unused(config: InferConfig, parts: Sequence[Part]) -> None:
    """OptionError for an option that was given but has no effect."""
    live = next((part.kind for part in parts if part.live), None)
    one = "one image is one frame" if parts[0].kind == "image" else ""
    kinds = {part.kind for part in parts}
    still, pictured = kinds <= {"image", "folder"}, bool(kinds & {"image", "folder"})
    saved = {name for part in parts for name in (*part.each.save, *part.combined.save)}
    labelled = config.show or config.shares or saved - {"probabilities"}
    colored = config.show or saved & {*VIDEO_KINDS, "labels"}
    undrawn = not config.show and not saved & {"overlay", "side"}
    times = "images have no times" if still else f"a {live} has no beginning to count from"
    unused = {
        "--start": (config.start > 0 and (still or live), times),
        "--end": (config.end is not None and (still or live), times),
        "--skip-done": (
            config.skip_done and parts[0].each.shape in ("file", "sequence"),
            "--out is no folder",
        ),
        "--format": (
            config.format is not None and parts[0].combined.shape != "pipe",
            "it is for -o -",
        ),
        "--every": (config.every > 1 and one, one),
        "--conf": (config.conf > 0 and not labelled, "it is for labels, and none are written"),
        "--video-size": (config.video_size and still, "raw video is one file, or -"),
        "--page": (config.page is not None and not pictured, "a video has no pages"),
        "--alpha": ("alpha" in config.chosen() and undrawn, "no overlay is written or shown"),
        "--batch": (config.batch > 1 and (live or one), one or f"a {live} gives frame after frame"),
        "--legend": (config.legend and not saved & set(VIDEO_KINDS), "no image is drawn"),
        "--palette": (config.palette and not colored, "nothing that is written has colors"),
        "--simplify": ("simplify" in config.chosen() and not saved & set(_POLYGONS), "no polygons"),
    }
    for flag, why in [(flag, why) for flag, (found, why) in unused.items() if found]:
        raise OptionError(f"{flag} has no effect here: {why}.", hint=f"omit {flag}")


def refuse_rate(config: InferConfig, parts: Sequence[Part]) -> None:
    """OptionError for --fps when no output has a frame rate."""
    if config.fps is None:
        return
    if len(parts) > 1:
        raise OptionError("--fps is for one source, of images or a raw stream.")
    if not set(parts[0].combined.save) - set(COMBINED) and config.shares is None:
        raise OptionError(
            "--fps is for a video or --shares; files for each image have none.",
            hint="-o NAME.mp4 makes a video",
        )
