"""Scan all label files and images of a dataset once, on all cores, with a cache.

Only a few hundred bytes are kept per file, whatever the size of the images.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets import Description, Pair, Pairing, files_of
from fcnseg.datasets.encoding.values import LOSSY, MOST_VALUES, ValueCounts, Values, count_values
from fcnseg.datasets.many_files import CountsOfFiles, ScanCache, WorkerPool, stamp
from fcnseg.errors import MediaError
from fcnseg.io.fingerprint import THUMBNAIL, ImageSummary, summarize_image
from fcnseg.io.images import encode_image
from fcnseg.io.labels import RawLabels, is_lossy, read_alpha

MOST_COLORS = 512
"""Approximate maximum number of images for mean and standard deviation."""

MANY = 4000
"""Minimum number of uncached files to start processes; break-even is at about half of it."""

_CHUNK = 2048  # files per write to the cache

_PART = 32  # files per task

_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")

Tell = Callable[[int], None]

Read = Callable[[Pair, str, Sequence[str]], RawLabels]
"""Reads the stored labels of a pair; a module-level function, so that it can be pickled."""

ReadPage = Callable[[Path, int], NDArray[np.uint8]]
"""Reads a page of a file with several images; a module-level function, too."""

_Seen = tuple[str, bool]  # (JSON of the result, True) or (JSON of the error message, False)


@dataclass
class LabelScan:
    """The stored values of the label files, in the order of the pairs.

    alphas: value counts of the opacity channels; None for files without one.
    problems: pair index -> why its labels could not be read.
    lossy: whether any file is a JPEG.
    """

    counts: CountsOfFiles = field(default_factory=CountsOfFiles)
    alphas: CountsOfFiles = field(default_factory=CountsOfFiles)
    problems: dict[int, str] = field(default_factory=dict)
    lossy: bool = False


@dataclass
class ImageScan:
    """Properties of the images, in the order of the pairs.

    sizes: int32 (N, 2) height, width, upright; 0 if unreadable.
    orientations: uint8 (N,), EXIF's. deep: bool (N,), more than 8 bits. clear: bool (N,),
        partly transparent. digests, fingerprints: uint64 (N,), see ImageSummary.
    layouts: see ImageSummary.layout; "" if unreadable.
    thumbnails: uint8 (N, 64). mean, spread: mean and deviation of RGB in 0..1, over all images.
    problems: pair index -> why its image could not be read.
    """

    sizes: NDArray[np.int32]
    orientations: NDArray[np.uint8]
    deep: NDArray[np.bool_]
    clear: NDArray[np.bool_]
    digests: NDArray[np.uint64]
    fingerprints: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    layouts: list[str]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    spread: tuple[float, ...] = (0.0, 0.0, 0.0)
    problems: dict[int, str] = field(default_factory=dict)


def scan_labels(
    found: Pairing,
    pairs: Sequence[Pair],
    cache: ScanCache,
    pool: WorkerPool,
    read: Read,
    tell: Tell = lambda _: None,
) -> LabelScan:
    """Read the labels of these pairs in the format found; `tell` is called with the number done."""
    sort = "|".join((found.label_format, *found.class_words))
    jobs = [_Job(f"{p.labels}\0{p.part}#{sort}", files_of(p), p) for p in pairs]
    scan = LabelScan(lossy=is_lossy(*(pair.labels for pair in pairs)))
    look = partial(_scan_labels_of, read, found.label_format, found.class_words)
    apart = not found.label_format.startswith("coco")
    for index, seen in enumerate(_each(jobs, look, cache, pool, tell, apart=apart)):
        if isinstance(seen, str):
            scan.problems[index] = seen
            scan.counts.append(None)
            scan.alphas.append(None)
        else:
            scan.counts.append(ValueCounts(*seen[0]))
            scan.alphas.append(ValueCounts(*seen[1]) if seen[1] else None)
    return scan


def scan_images(
    pairs: Sequence[Pair],
    cache: ScanCache,
    pool: WorkerPool,
    read: ReadPage,
    tell: Tell = lambda _: None,
) -> ImageScan:
    """Read the images of all pairs; `tell` is called with the number done."""
    count = len(pairs)
    scan = ImageScan(
        np.zeros((count, 2), np.int32),
        np.ones(count, np.uint8),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
        np.zeros(count, np.uint64),
        np.zeros(count, np.uint64),
        np.zeros((count, THUMBNAIL**2), np.uint8),
        [""] * count,
    )
    moments, looked = np.zeros((2, 3)), 0
    every = max(1, count // MOST_COLORS)
    colored = {(str(pair.image), pair.page) for pair in pairs[::every]}
    jobs = [
        _Job(
            f"{pair.image}\0picture{'' if pair.page is None else pair.page}",
            (pair.image,),
            (pair.image, pair.page, (str(pair.image), pair.page) in colored),
        )
        for pair in pairs
    ]
    look = partial(_scan_image_of, read=read)
    for index, seen in enumerate(_each(jobs, look, cache, pool, tell)):
        if isinstance(seen, str):
            scan.problems[index] = seen
            continue
        one = ImageSummary(**dict(zip(_SUMMARY_FIELDS, seen, strict=True)))
        scan.sizes[index] = one.size
        scan.orientations[index], scan.deep[index] = one.orientation, one.bits > 8
        scan.clear[index], scan.digests[index] = one.alpha, one.digest
        scan.fingerprints[index] = one.fingerprint
        scan.layouts[index] = sys.intern(one.layout)
        scan.thumbnails[index] = np.frombuffer(bytes.fromhex(one.thumbnail), np.uint8)
        if one.mean:
            mean, spread = np.array(one.mean), np.array(one.spread)
            moments += np.stack([mean, spread**2 + mean**2])
            looked += 1
    first, second = moments / max(1, looked)
    scan.mean = tuple(round(float(v), 4) for v in first)
    scan.spread = tuple(round(float(v), 4) for v in np.sqrt(np.maximum(0, second - first**2)))
    return scan


@dataclass(frozen=True, slots=True)
class _Job:
    """A file to scan, and its cache key, valid while its files are unchanged.

    key: begins with the path of a file that must exist, and a NUL.
    """

    key: str
    files: tuple[Path, ...]
    task: Any


@dataclass(frozen=True)
class _PendingBatch:
    """A batch of jobs in progress.

    known: cached records by key. parts: the other jobs, in the order of `looked`.
    """

    jobs: Sequence[_Job]
    stamps: Mapping[str, str]
    known: Mapping[str, str]
    parts: Sequence[Sequence[_Job]]
    looked: Iterator[list[_Seen]]


def _each(
    jobs: Sequence[_Job],
    look: Callable[[Any], Any],
    cache: ScanCache,
    pool: WorkerPool,
    tell: Tell,
    *,
    apart: bool = True,
) -> Iterator[Any]:
    """Yield the result of `look` for each job's task as plain data, or an error message, in order.

    apart: whether processes may be used; not if all jobs need the same large file in memory.
    """
    starts = range(0, len(jobs), _CHUNK)
    batches = (_submit(jobs, start, look, cache, pool, apart=apart) for start in starts)
    done = 0
    for begun in _prefetch_one(batches):
        for seen in _collect(begun, cache):
            yield seen
            done += 1
            tell(done)


def _prefetch_one(batches: Iterator[_PendingBatch]) -> Iterator[_PendingBatch]:
    """Yield the batches with one prefetched, so that workers do not wait."""
    last: _PendingBatch | None = None
    for begun in batches:
        if last is not None:
            yield last
        last = begun
    if last is not None:
        yield last


def _submit(
    jobs: Sequence[_Job],
    start: int,
    look: Callable[[Any], Any],
    cache: ScanCache,
    pool: WorkerPool,
    *,
    apart: bool,
) -> _PendingBatch:
    """Start the jobs that are not in the cache."""
    some = jobs[start : start + _CHUNK]
    stamps = {job.key: stamp(job.files) for job in some}
    known = cache.get(stamps)
    fresh = list({job.key: job for job in some if job.key not in known}.values())
    expected = len(fresh) / len(some) * (len(jobs) - start)
    if apart and expected >= MANY:
        pool.start_processes()
    parts = [fresh[at : at + _PART] for at in range(0, len(fresh), _PART)]
    tasks = [[job.task for job in part] for part in parts]
    return _PendingBatch(some, stamps, known, parts, pool.map(partial(_scan_batch, look), tasks))


def _collect(begun: _PendingBatch, cache: ScanCache) -> Iterator[Any]:
    """Yield cached and new results in order; write new ones to the cache."""
    ready: dict[str, Any] = dict(zip(begun.known, _parsed(begun.known.values()), strict=True))
    records: dict[str, tuple[str, str]] = {}
    parts = zip(begun.parts, begun.looked, strict=True)
    for job in begun.jobs:
        while job.key not in ready:
            part, seen = next(parts)
            texts = _parsed(text for text, _ in seen)
            for one, (text, complete), what in zip(part, seen, texts, strict=True):
                ready[one.key] = what
                if complete:  # errors are not cached
                    records[one.key] = begun.stamps[one.key], text
        yield ready[job.key]
    cache.put(records)


def _parsed(texts: Iterable[str]) -> list[Any]:
    """Parse many JSON texts at once, which takes half the time."""
    return list(json.loads(f"[{','.join(texts)}]"))


def _scan_batch(look: Callable[[Any], Any], tasks: Sequence[Any]) -> list[_Seen]:
    """The result of `look` for each task, or the error message."""
    found: list[_Seen] = []
    for task in tasks:
        try:
            found.append((json.dumps(look(task), separators=(",", ":")), True))
        except MediaError as error:
            found.append((json.dumps(error.message), False))
    return found


def _scan_labels_of(read: Read, label_format: str, words: Sequence[str], pair: Pair) -> list[Any]:
    raw = read(pair, label_format, words)
    lossy = is_lossy(pair.labels)
    may_show = label_format == "pixels" and raw.mode in _WITH_ALPHA
    alpha = read_alpha(pair.labels) if may_show else None
    through = None if alpha is None else count_values(RawLabels(alpha, None, "L"))
    return [_plain(count_values(raw, lossy=lossy)), through and _plain(through)]


def _plain(one: ValueCounts) -> list[Any]:
    return [getattr(one, name) for name in _COUNTS]


def _scan_image_of(task: tuple[Path, int | None, bool], read: ReadPage) -> list[Any]:
    path, page, colors = task
    data = None if page is None else encode_image(read(path, page))
    seen = summarize_image(path, data=data, colors=colors)
    return [getattr(seen, name) for name in _SUMMARY_FIELDS]


_COUNTS = tuple(field.name for field in dataclasses.fields(ValueCounts))

_SUMMARY_FIELDS = tuple(field.name for field in dataclasses.fields(ImageSummary))


def detect_transparency(
    found: Pairing, labels: LabelScan, again: Callable[[Pairing], LabelScan]
) -> tuple[Pairing, LabelScan]:
    """Detect labels in the opacity channel, if it varies and the colors do not; or in the few
    colors of opaque pixels, if the transparent ones show a photograph.

    again: scans the label files in another format.
    """
    opacities = {value for one in labels.alphas.good() for value in one.values}
    if found.label_format != "pixels" or len(opacities) < 2:
        return found, labels
    colors = {value for one in labels.counts.good() for value in one.values}
    photos = any(one.rest for one in labels.counts.good())
    if len(colors) > 1 and not photos and len(colors) <= LOSSY:
        return found, labels
    opaque = again(replace(found, label_format="opaque")) if len(colors) > 1 else labels
    drawn = {value for one in opaque.counts.good() for value in one.values}
    if 2 < len(drawn) <= MOST_VALUES and not any(one.rest for one in opaque.counts.good()):
        why = "the label files' colors count where they are not transparent"
        return replace(found, label_format="opaque", why=(*found.why, why)), opaque
    why = "the label files' transparency says what is what, not their colors"
    found = replace(found, label_format="alpha", why=(*found.why, why))
    return found, replace(labels, counts=labels.alphas)


@dataclass(frozen=True)
class ScanResult:
    """A dataset's description and the results of scanning its files.

    labels, image_scan: in the order of `description.pairs`; image_scan only if requested or
    needed for a random split. values: of all label files.
    """

    description: Description
    labels: LabelScan
    values: Values
    image_scan: ImageScan | None

    @property
    def images(self) -> ImageScan:
        """The image_scan, which must have been requested."""
        assert self.image_scan is not None, "scan(images=True)"
        return self.image_scan
