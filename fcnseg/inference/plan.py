"""Which files come out, by the source, --out and --save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fcnseg.errors import OptionError
from fcnseg.files import is_stdout, partial, safe_path
from fcnseg.inference.outputs import COMBINED, SUFFIXES
from fcnseg.io.images import VIDEO_SUFFIXES
from fcnseg.io.sources.base import Kind
from fcnseg.io.sources.sequence import files_of_sequence, is_sequence
from fcnseg.io.video_writer import FOURCC
from fcnseg.overwriting import Named

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

    shape: "file" (one file of one image), "sequence" (a numbered file for each frame), "video" (one
        video file), "pipe" (a video on standard output) or "folder".
    path: the file, the pattern of files or the folder. save: the kinds to write, the first being
        the file's.
    alone: whether it has the outputs of its source only.
    """

    shape: Literal["file", "sequence", "video", "pipe", "folder"]
    path: Path
    save: tuple[str, ...]
    alone: bool = True

    @property
    def needs_probabilities(self) -> bool:
        """Whether the network has to give them."""
        return "probabilities" in self.save


def split(target: Plan, kind: Kind) -> tuple[Plan, Plan]:
    """What is a file for each frame, and what is one file of all frames, for a kind of source."""
    if target.shape in ("file", "sequence"):
        return target, replace(target, save=())
    if target.shape == "pipe":
        return replace(target, save=()), target
    videos = VIDEO_KINDS if kind in MOVING or target.shape == "video" else ()
    combined = tuple(name for name in target.save if name in (*videos, *COMBINED))
    each = tuple(name for name in target.save if name not in combined)
    return replace(target, save=each), replace(target, save=combined)


def default_save(kind: Kind) -> tuple[str, ...]:
    """What is written to a folder when nothing is said."""
    return ("overlay",) if kind in MOVING else ("overlay", "labels")


def plan(kind: Kind, out: Path, save: Sequence[str], *, raw: bool = False) -> Plan:
    """What goes where, for a source of a kind; OptionError when it can't be.

    raw: what goes to standard output is raw frames, which labels survive.
    """
    if is_stdout(out):
        return _pipe(out, tuple(save) or ("overlay",), raw=raw)
    suffix = "" if out.is_dir() else out.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return _video(kind, out, tuple(save) or ("overlay",))
    if (suffix in _IMAGE_OUT or suffix in _DATA_OUT) and is_sequence(out.name):
        return replace(_file("image", out, tuple(save)), shape="sequence")
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
    if target.shape == "pipe":
        return []
    if target.shape == "sequence":
        return [("--out", one) for one in files_of_sequence(path)]
    inside = [f"{safe_path(name)}_{kind}.mp4" for kind in VIDEO_KINDS]
    inside += [*(kind for kind in target.save if kind in SUFFIXES)]
    inside += COMBINED.values()
    return [("--out", path), *(("--out", path / one) for one in inside)]


def _pipe(out: Path, save: tuple[str, ...], *, raw: bool) -> Plan:
    if len(save) > 1:
        raise OptionError(f"Standard output can't carry {' and '.join(save)}.", hint="a folder")
    if save[0] not in VIDEO_KINDS and not (raw and save[0] == "labels"):
        hint = "with --format rawvideo it can" if save[0] == "labels" else "give a folder: -o out"
        raise OptionError(f"A video on standard output can't carry {save[0]!r}.", hint=hint)
    return Plan("pipe", out, save)


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
