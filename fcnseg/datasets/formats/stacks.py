"""Files with several images: TIFF pages, slices of NIfTI volumes, arrays (.npy, .npz).

A file of images is paired with the file of labels that has equally many pages of the same size
and, among several, shares most words of its path. Each page is a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcnseg.datasets import Pair, Pairing
from fcnseg.datasets.formats.documents import Format
from fcnseg.datasets.pairing import Listing, place_of, stem_of
from fcnseg.datasets.pairing.file_stats import FileStats, sample, stats_of, tell_labels
from fcnseg.datasets.pairing.path_words import RUN
from fcnseg.errors import DatasetError, MediaError, MissingExtra, cannot_read, reason
from fcnseg.io.content import open_with_pillow
from fcnseg.io.content.integrity import refuse_claim, unreadable_image
from fcnseg.io.labels import RawLabels, as_labels, read_numpy

TIFF, NIFTI, ARRAYS = (".tif", ".tiff"), (".nii", ".gz"), (".npy", ".npz")

IMAGE_KEYS = ("imgs", "images", "image", "img", "x")

LABEL_KEYS = ("gts", "masks", "labels", "gt", "mask", "label", "seg", "segmentation", "y")
"""Names of arrays in a .npz file."""

WINDOW = (0.5, 99.5)
"""Percentiles of values other than uint8 that are displayed as black and white."""


def _find(listing: Listing) -> Pairing | None:
    files = _stacks(listing)
    if not files:
        return None
    inside = [name for name in files if name.lower().endswith(".npz") and _has_both(listing, name)]
    sides = [(name, name) for name in inside] or _paired(listing, files)
    if not sides:
        return None
    pairs = [pair for image, labels in sides for pair in _pages(listing, image, labels)]
    used = {name for side in sides for name in side}
    why = f"each page of {sides[0][0]} is an image, with its labels in {sides[0][1]}"
    alone = tuple(listing.path(name) for name in files if name not in used)
    return Pairing("stacks", tuple(pairs), label_format="stacks", orphan_images=alone, why=(why,))


def _stacks(listing: Listing) -> list[str]:
    """The files that may contain several images, if most of their kind do."""
    nifti = [n for n in listing.with_suffix(*NIFTI) if n.lower().endswith((".nii", ".nii.gz"))]
    if nifti:
        return nifti
    tiffs = listing.with_suffix(*TIFF)
    some = sample(tiffs) if 2 * len(tiffs) >= len(listing.images) else []
    if some and 2 * sum(_page_count(listing.path(name)) > 1 for name in some) >= len(some):
        return [name for name in tiffs if _page_count(listing.path(name)) > 1]
    return [] if listing.images else list(listing.with_suffix(*ARRAYS))


def _page_count(path: Path) -> int:
    try:
        with open_with_pillow(path) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - decoders raise anything on invalid data
        return 0


def _has_both(listing: Listing, name: str) -> bool:
    try:
        keys = {key.lower() for key in np.load(listing.path(name), allow_pickle=False).files}
    except Exception:  # noqa: BLE001 - decoders raise anything on invalid data
        return False
    return not keys.isdisjoint(IMAGE_KEYS) and not keys.isdisjoint(LABEL_KEYS)


def _paired(listing: Listing, files: Sequence[str]) -> list[tuple[str, str]]:
    """(file of images, file of labels), by the content of the pages."""
    shown: dict[str, tuple[tuple[int, ...], FileStats]] = {}
    for name in files:
        try:
            stack = read_stack(listing.path(name), "labels")
        except MediaError:
            continue
        if stack.ndim >= 3:
            shown[name] = stack.shape[:3], _look(stack)
    found = []
    for labels, (shape, stat) in shown.items():
        others = [
            name
            for name, (other, seen) in shown.items()
            if name != labels and other == shape and _are_labels(labels, stat, name, seen)
        ]
        near = {name: len(_words(name) & _words(labels)) for name in others}
        best = [name for name in others if near[name] == max(near.values())]
        if len(best) == 1:
            found.append((best[0], labels))
        elif best:
            raise DatasetError(
                f"{listing.root}: {labels} may belong to {' or to '.join(best[:3])}.",
                hint="keep one of them in the folder, or give a file and its labels one name",
            )
    return found


def _are_labels(name: str, stat: FileStats, other: str, seen: FileStats) -> bool:
    """Whether the first of two files holds the other one's labels, by folders or by content."""
    roles = place_of(name).role, place_of(other).role
    if {*roles} == {"images", "labels"}:
        return roles[0] == "labels"
    return tell_labels([stat], [seen]) == 0


def _words(name: str) -> set[str]:
    return set(RUN.findall(name.lower()))


def _look(stack: NDArray[Any]) -> FileStats:
    """The statistics of the sampled page with the most contrast."""
    middle = [np.asarray(stack[page]) for page in sample(range(len(stack)))]
    page = max(middle, key=lambda page: float(np.std(page)))
    single = page if page.ndim == 2 else page[..., 0] if page.shape[2] != 3 else page
    if single.dtype.kind == "f" and not np.array_equal(single, np.rint(single)):  # 0 to 1
        single = (single - single.min()) * (255 / max(float(np.ptp(single)), 1e-9))
    values = np.rint(single - single.min()).astype(np.int32)
    return stats_of(RawLabels(values, None, "I"))


def _pages(listing: Listing, image: str, labels: str) -> list[Pair]:
    place = place_of(image)
    split = place.split or place_of(labels).split
    base = "/".join((*place.rest, stem_of(image).removesuffix(".nii")))
    count = len(read_stack(listing.path(image), "images"))
    paths = listing.path(image), listing.path(labels)
    return [Pair(*paths, split, f"{base}/{page:04}", str(page), page=page) for page in range(count)]


def read_stack(path: Path, side: str) -> NDArray[Any]:
    """Read the pages of a file, (N, H, W) or (N, H, W, C); MediaError when it can't be read.

    side: "images" or "labels", for a .npz file with both.
    """
    try:
        return _cached(path, path.stat().st_mtime_ns, side)
    except MediaError:  # an OSError too
        raise
    except OSError as error:
        raise cannot_read(path, error) from None


@lru_cache(maxsize=4)
def _cached(path: Path, changed: int, side: str) -> NDArray[Any]:
    del changed
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _read_nifti(path)
    if name.endswith(ARRAYS):
        return _read_arrays(path, side)
    try:
        with open_with_pillow(path) as image:
            refuse_claim(image.size, path.stat().st_size, path)
            count = int(getattr(image, "n_frames", 1))
            return np.stack([_page(image, page) for page in range(count)])
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise unreadable_image(path, error) from None


def _page(image: Image.Image, number: int) -> NDArray[Any]:
    image.seek(number)
    page = np.asarray(image)
    return page.astype(np.uint8) if page.dtype == np.bool_ else page


def _read_nifti(path: Path) -> NDArray[Any]:
    """The slices along the last spatial axis."""
    try:
        import nibabel  # noqa: PLC0415, RUF100 - needed for these files alone
    except ImportError:
        raise MissingExtra(f"Reading {path}, a NIfTI volume,", "nifti") from None
    try:
        image: Any = nibabel.load(path)
        volume = np.asanyarray(image.dataobj)
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise MediaError(f"{path} can't be read: {reason(error)}.") from None
    volume = volume[..., 0] if volume.ndim == 4 else volume  # the first of several sequences
    if volume.ndim != 3:
        raise MediaError(f"{path} is no volume: {volume.ndim} dimensions.")
    return np.moveaxis(volume, 2, 0)


def _read_arrays(path: Path, side: str) -> NDArray[Any]:
    keys = IMAGE_KEYS if side == "images" else LABEL_KEYS
    try:
        array = read_numpy(path, keys)
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise MediaError(f"{path} holds no array of {side}: {reason(error)}.") from None
    if array.ndim not in (2, 3, 4):
        raise MediaError(f"{path} holds no array of {side}: {array.ndim} dimensions.")
    array = array.view(np.uint8) if array.dtype == np.bool_ else array
    one = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4) and array.shape[0] > 4)
    return array[None] if one else array


def read_page(path: Path, page: int) -> NDArray[np.uint8]:
    """Read a page as an image, uint8 (H, W, 3) RGB."""
    stack = read_stack(path, "images")
    shown = np.asarray(stack[page])
    if shown.dtype != np.uint8:
        low, high = _window(path, path.stat().st_mtime_ns)
        scaled = (shown.astype(np.float32) - low) * (255 / max(high - low, 1e-9))
        shown = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    if shown.ndim == 2:
        shown = shown[..., None]
    return np.repeat(shown[..., :1], 3, 2) if shown.shape[2] < 3 else shown[..., :3].copy()


@lru_cache(maxsize=16)
def _window(path: Path, changed: int) -> tuple[float, float]:
    """The values displayed as black and white: 0 and 255 if the file's range is 0..255."""
    del changed
    stack = read_stack(path, "images")
    some = np.stack([np.asarray(stack[page]) for page in sample(range(len(stack)))])
    low, high = float(some.min()), float(some.max())
    if low >= 0 and 1 < high <= 255:
        return 0.0, 255.0
    first, last = np.percentile(some, WINDOW)
    return float(first), float(last)


def _read(pair: Pair, _: Sequence[str]) -> RawLabels:
    stack = read_stack(pair.labels, "labels")
    if pair.page is None or pair.page >= len(stack):
        raise MediaError(f"{pair.labels} has {len(stack)} pages, not page {pair.part}.")
    return as_labels(pair.labels, np.asarray(stack[pair.page]))


STACKS = Format(_find, _read, needs=(*TIFF, *NIFTI, *ARRAYS))
