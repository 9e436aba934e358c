"""The parts of an inference job: each source, what is written of it, and what of that is done."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fcnseg.config import InferConfig
from fcnseg.distributed import Distributed
from fcnseg.errors import OptionError
from fcnseg.files import safe_path, stamp
from fcnseg.inference.outputs import COMBINED
from fcnseg.inference.outputs.manifest import Manifest
from fcnseg.inference.plan import POLYGONS, VIDEO_KINDS, Plan, plan, split
from fcnseg.inference.smoothing import check_is_video
from fcnseg.io.sources.base import Kind, Source
from fcnseg.io.sources.listing import Collected, Named
from fcnseg.remote import as_path


@dataclass(frozen=True, eq=False)
class Part:
    """One source of the job and what is written of it.

    spec, name: what `open_source` takes. opened: the source itself, where it was opened to see
    what it is. each: a file for each frame; done: those that are there. combined: one file of all
    frames; labels, kept: where labels are kept until it can be made, None if it is made at once.
    skipped: files that are skipped because an earlier run could not read them.
    """

    spec: str | tuple[Named, ...]
    name: str
    kind: Kind
    opened: Source | None
    each: Plan
    combined: Plan
    labels: Plan
    done: Manifest
    kept: Manifest | None
    whole: Manifest | None = None
    finished: int = 0
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

    def note_finished(self, outputs: Sequence[Path], frames: int) -> None:
        """Record that what is one file of all frames of a video is there."""
        files = [path for path in outputs if path.is_file()]
        if self.whole is not None and files and not self.finished:
            self.whole.finish(as_path(str(self.spec)), files, frames)

    def recorded(self, rank: int) -> int:
        """How many frames a process has recorded as done."""
        return min((manifest.recorded(rank) for manifest in self._manifests()), default=0)

    def flush(self) -> None:
        """Have what is recorded by now in the folders themselves."""
        for manifest in self._manifests():
            manifest.flush()

    def _manifests(self) -> list[Manifest]:
        """Those that are written."""
        in_folder = [self.done] if self.has_folder else []
        return in_folder if self.kept is None else [*in_folder, self.kept]

    @property
    def has_folder(self) -> bool:
        """Whether there is a folder of outputs, which has a manifest."""
        return self.each.shape == "folder" and bool(self.each.save or self.combined.save)


def make_parts(
    config: InferConfig,
    found: Collected,
    opened: Source | None,
    out: Path,
    models: Sequence[Path],
    distributed: Distributed,
) -> tuple[Part, ...]:
    """What is written of each source, and what of it the same job has done before."""
    stamps = [[model.resolve(), *stamp(model)] for model in models]
    by: dict[str, Any] = {
        "tile": config.tile,
        "model": stamps if len(stamps) > 1 else stamps[0] if stamps else None,
        **({"tta": True} if config.tta else {}),
        "drawn": [config.alpha, config.conf, sorted(config.classes), config.show_bands],
        "looks": [config.palette, config.legend, config.simplify],
        "smooth": config.smooth,
        "short_side": config.short_side,
        "page": config.page,
    }
    jobs: dict[str, dict[str, Any]] = {
        "each": by,
        "kept": {**by, "drawn": [config.conf, sorted(config.classes)], "looks": None},
        "whole": {
            **by,
            "frames": [config.every, config.limit, config.start, config.end, config.fps],
        },
    }

    @functools.cache  # thousands of videos have one manifest, to be read once
    def manifest(folder: Path, kinds: tuple[str, ...], job: str) -> Manifest:
        return Manifest(folder, kinds, jobs[job], resume=config.skip_done, rank=distributed.rank)

    parts = []
    for spec, name in found.specs:
        kind: Kind = "video" if name else "folder" if opened is None else opened.kind
        if config.smooth:
            check_is_video(kind)
        target = _target(config, kind, out, alone=found.count == 1)
        each, combined = split(target, kind)
        in_one = bool(combined.save) or config.shares is not None
        whole = None
        alone = combined.save and not (config.shares or config.show)
        if kind == "video" and target.shape == "folder" and alone:
            whole = manifest(target.path, combined.save, "whole")
        finished = 0 if whole is None else whole.finished(as_path(str(spec)))
        later = in_one and (distributed.size > 1 or config.skip_done) and not finished
        if later and config.watch:
            raise OptionError("--skip-done can't add what comes into a folder to one file.")
        labels = Plan("folder", _kept_folder(target, name), ("labels",))
        done = manifest(target.path, each.save, "each")
        kept = manifest(labels.path, labels.save, "kept") if later else None
        manifests = (done, kept, whole)
        parts.append(Part(spec, name, kind, opened, each, combined, labels, *manifests, finished))
    return tuple(parts)


def _target(config: InferConfig, kind: Kind, out: Path, *, alone: bool) -> Plan:
    """What is written of one source."""
    if only_shown(config):
        return Plan("folder", out, (), alone)
    target = plan(kind, out, config.save, raw=config.format == "rawvideo")
    if not alone and target.shape != "folder":
        raise OptionError(
            f"Several sources give more than one file, and {out.name} is one.",
            hint=f"a folder: -o {out.with_suffix('')}",
        )
    return replace(target, alone=alone)


def _kept_folder(target: Plan, name: str) -> Path:
    """A hidden folder for labels that are kept until the end, where outputs go."""
    if target.shape != "folder":
        return target.path.with_name(f".{target.path.name}.parts")
    folder = target.path / ".parts"
    if target.alone:
        return folder
    return folder / (f"videos/{safe_path(name)}.labels" if name else "images")


def only_shown(config: InferConfig) -> bool:
    """Whether a window or --shares is all that is wanted."""
    return config.out is None and not config.save and (config.show or config.shares is not None)


def refuse_unused(config: InferConfig, parts: Sequence[Part]) -> None:
    """OptionError for an option that was given, but of which nothing would come."""
    live = next((part.kind for part in parts if part.live), None)
    one = "one image is one frame" if parts[0].kind == "image" else ""
    still = {part.kind for part in parts} <= {"image", "folder"}
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
            "format" in config.chosen() and parts[0].combined.shape != "pipe",
            "it is for -o -",
        ),
        "--every": (config.every > 1 and one, one),
        "--conf": (config.conf > 0 and not labelled, "it is for labels, and none are written"),
        "--video-size": (config.video_size and still, "raw video is one file, or -"),
        "--page": (config.page is not None and not still, "a video has no pages"),
        "--alpha": ("alpha" in config.chosen() and undrawn, "no overlay is written or shown"),
        "--batch": (
            config.batch > 1 and (live or one),
            one or f"a {live} gives frame after frame",
        ),
        "--legend": (config.legend and not saved & set(VIDEO_KINDS), "no image is drawn"),
        "--palette": (config.palette and not colored, "nothing that is written has colors"),
        "--simplify": ("simplify" in config.chosen() and not saved & set(POLYGONS), "no polygons"),
    }
    for flag, why in [(flag, why) for flag, (found, why) in unused.items() if found]:
        raise OptionError(f"{flag} has no effect here: {why}.", hint=f"omit {flag}")


def refuse_rate(config: InferConfig, parts: Sequence[Part]) -> None:
    """OptionError for a rate where nothing that is written has one."""
    if config.fps is None:
        return
    if len(parts) > 1:
        raise OptionError("--fps is for one source, of images or a raw stream.")
    if not set(parts[0].combined.save) - set(COMBINED) and config.shares is None:
        raise OptionError(
            "--fps is for a video or --shares; files for each image have none.",
            hint="-o NAME.mp4 makes a video",
        )
