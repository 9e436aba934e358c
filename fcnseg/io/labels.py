"""Read label files of any mode as arrays of stored values.

Pillow reads them, as OpenCV would convert palette indices to colors. The meaning of the values
(colors, 0/255, an ignore value) is determined elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fcnseg.errors import MediaError, cannot_read, reason
from fcnseg.io import cv2
from fcnseg.io.content import REDUCED, may_be_turned
from fcnseg.io.content.integrity import check_claim, is_cut, opened_image
from fcnseg.io.content.matlab import read_matlab
from fcnseg.io.images import (
    ORIENTATION,
    decode_array,
    read_bytes,
)

LOSSY_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif"))
"""Suffixes of lossy formats, whose values may differ from those that were drawn."""


def is_lossy(*paths: Path) -> bool:
    """Whether one of some label files is JPEG, by the suffixes or, of a few, the first bytes."""
    if any(path.suffix.lower() in LOSSY_SUFFIXES for path in paths):
        return True
    for path in paths[:: max(1, len(paths) // 16)]:
        with contextlib.suppress(OSError), path.open("rb") as file:
            if file.read(3) == b"\xff\xd8\xff":  # renamed
                return True
    return False


@dataclass(frozen=True, eq=False)
class RawLabels:
    """The stored content of a label file.

    values: int32 (H, W), the stored numbers (palette indices, gray levels); or uint8 (H, W, 3)
        RGB for a file in color.
    palette: uint8 (N, 3) RGB, or None.
    mode: the file's mode in Pillow ("P", "L", "1", "I;16", "LA", "RGB", "RGBA" ...).
    pages: number of images of this size in the file; the values are those of the first.
    """

    values: NDArray[np.int32] | NDArray[np.uint8]
    palette: NDArray[np.uint8] | None
    mode: str
    pages: int = 1


def read_raw_labels(path: str | Path) -> RawLabels:
    """Read a label file's stored values, upright; MediaError when it can't be read."""
    data = read_bytes(path)
    if _png_header(data) == (8, 0) and not may_be_turned(data) and not is_cut(data):
        check_claim(data, path)
        grey = decode_array(data)  # for gray PNGs the same as Pillow, but faster
        if grey is not None and grey.ndim == 2:
            return RawLabels(grey.astype(np.int32), None, "L")
    with opened_image(data, path) as image:
        mode, palette = image.mode, _palette_of(image)
        values = _values(image, data)
        pages = _page_count(image)
    if values is None:
        raise MediaError(
            f"{path} holds numbers that are not integers; labels are class indices.",
            hint="save the labels as a PNG of whole numbers",
        )
    return RawLabels(values, palette, mode, pages)


def _page_count(image: Image.Image) -> int:
    """Number of images in a file; 1 if the second is a mask or thumbnail of the first."""
    size, count = image.size, getattr(image, "n_frames", 1)
    if count > 1:
        image.seek(1)
        if image.size != size or getattr(image, "tag_v2", {}).get(254, 0) & REDUCED:
            return 1
    return count


def _values(image: Image.Image, data: bytes) -> NDArray[np.int32] | NDArray[np.uint8] | None:
    """(H, W) int32 numbers or (H, W, 3) uint8 colors; None if they are not integers."""
    depth, color = _png_header(data)
    if depth == 16 and color in (2, 4, 6):
        return _sixteen_bits(data)
    image = _upright(image)
    if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"):
        return np.array(image.convert("RGB"), np.uint8)
    values = np.asarray(image)
    if values.ndim == 3:  # LA, La, PA: the second channel is opacity
        values = values[:, :, 0]
    integers = _integers(values)
    # Pillow scales these to 0..255
    if integers is not None and image.mode == "L" and depth in (2, 4):
        integers //= 255 // (2**depth - 1)
    return integers


NO_DATA = 1e38
"""GIS programs mark missing data in float rasters by values beyond this, or NaN."""


def _integers(numbers: NDArray[Any]) -> NDArray[np.int32] | None:
    """Convert to int32, missing floats to -1; None if some are not integers or do not fit."""
    if numbers.dtype.kind == "f":
        numbers = np.where(np.abs(numbers) < NO_DATA, numbers, -1)  # NaN compares false
        if not np.array_equal(numbers, np.rint(numbers)):
            return None
    fits = numbers.min() >= -(2**31) and numbers.max() < 2**31
    return numbers.astype(np.int32) if fits else None


def _upright(image: Image.Image) -> Image.Image:
    is_upright = image.getexif().get(ORIENTATION, 1) == 1  # avoids a copy
    return image if is_upright else ImageOps.exif_transpose(image)


def _sixteen_bits(data: bytes) -> NDArray[np.int32] | NDArray[np.uint8]:
    """Values of a PNG with 16-bit colors, or gray with alpha; Pillow keeps only the upper 8 bits.

    For colors: the lower 8 bits if any channel has only values below 256, as such a channel
    contains classes, possibly beside a channel of object numbers (Synthia); else the upper 8 bits.
    """
    pixels = decode_array(data)
    if pixels is None:
        raise OSError("a 16-bit PNG that can't be decoded")
    if _png_header(data)[1] == 4:
        return (pixels if pixels.ndim == 2 else pixels[:, :, 0]).astype(np.int32)
    colors = np.asarray(pixels[:, :, 2::-1], np.uint16)
    largest = colors.max((0, 1))
    numbers = ((largest > 0) & (largest < 256)).any()
    return (colors & 255 if numbers else colors >> 8).astype(np.uint8)


def _png_header(data: bytes) -> tuple[int, int]:
    """A PNG's bit depth and color type (4: gray with alpha); (0, 0) for other files."""
    return (data[24], data[25]) if data[:4] == b"\x89PNG" and len(data) > 25 else (0, 0)


def _palette_of(image: Image.Image) -> NDArray[np.uint8] | None:
    """The palette, uint8 (N, 3) RGB, or None."""
    colors = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    return None if colors is None else np.array(colors, np.uint8).reshape(-1, 3)


def decode_mask(data: bytes) -> NDArray[np.bool_]:
    """Decode a mask (as in labelme's files) to bool (h, w): values other than 0."""
    with opened_image(data, "a mask") as image:
        return np.asarray(image.convert("L")) > 0


def region_areas(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The area in pixels of each connected region (8-connectivity) of a mask (H, W)."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return np.asarray(stats[1:count, cv2.CC_STAT_AREA])


def connected_regions(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the connected regions (8-connectivity) of equal values: int32 (H, W), from 0.

    Also returns their areas in pixels, int64 (regions,).
    """
    numbers = np.zeros(labels.shape, np.int32)
    areas: list[NDArray[np.int32]] = []
    count = 0
    for value in np.unique(labels).tolist():
        mask = labels == value
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        box = slice(top, top + height), slice(left, left + width)  # most classes fill a part only
        here = mask[box]
        found, parts, stats, _ = cv2.connectedComponentsWithStats(here.view(np.uint8))
        np.copyto(numbers[box], parts + (count - 1), where=here)
        areas.append(stats[1:, cv2.CC_STAT_AREA])
        count += found - 1
    return numbers, np.concatenate(areas).astype(np.int64)


FLAT = 32
"""Maximum difference of adjacent pixels, per channel, that JPEG causes within a drawn area."""

COLORFUL = 48
"""Minimum range of the channels of a drawn color; less is gray."""


def flat_colors(
    packed: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The colors in flat areas of a lossy image, and the number of pixels close to each.

    packed: (H, W). In a small area, JPEG changes almost every pixel, but only slightly; transitions
    between two colors are not flat. None for a gray image.
    """
    channels = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)
    around = np.ones((3, 3), np.uint8)
    change = cv2.dilate(channels, around) - cv2.erode(channels, around)
    flat = change.max(2) <= FLAT
    colorful = np.ptp(channels, axis=2) >= COLORFUL
    if (flat & colorful).sum() < packed.size / 1000:
        return None
    colors, often = np.unique(packed[flat], return_counts=True)
    cells = colors & 0xF8F8F8  # 8 levels of each channel
    order = np.lexsort((-often, cells))
    _, first = np.unique(cells[order], return_index=True)
    pixels = np.add.reduceat(often[order], first)
    colors = colors[order][first]
    rising = np.argsort(colors)
    return colors[rising].astype(np.int64), pixels[rising].astype(np.int64)


# --- arrays: .npy, .npz, .mat, text with a number for each pixel ---

_LABEL_KEYS = (
    "mask", "masks", "label", "labels", "segmentation", "seg", "gt", "groundtruth", "annotation",
    "target", "type_map", "class_map", "labelmap", "semantic", "arr_0", "y",
)  # fmt: skip
"""Names of label arrays in files with several arrays, most likely first."""

_OBJECT_KEYS = ("inst_map", "instance_map", "instances", "inst")
"""Names of arrays of object numbers, used if there are no labels."""


def read_array(path: Path) -> RawLabels:
    """Read an array file's numbers or colors, without pickle; MediaError for other content."""
    try:
        array = _ARRAY_READERS.get(path.suffix.lower(), read_numpy)(path)
    except OSError as error:
        raise cannot_read(path, error) from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise MediaError(
            f"{path} holds no array of labels: {reason(error)}.",
            hint="save the labels as a PNG, or as a .npy file of whole numbers (height, width)",
        ) from None
    return as_labels(path, array)


def is_pickled(path: Path) -> bool:
    """Whether a file holds Python objects, which are not read (Cellpose's a_seg.npy)."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return b"'descr': '|O'" in file.read(128)
    return False


def holds_objects(path: Path) -> bool:
    """Whether the array that `read_array` reads has the name of object numbers."""
    names: list[str] = []

    def choose(some: Sequence[str]) -> str:
        names.append(_key(some))
        return names[-1]

    try:
        if path.suffix.lower() == ".mat":
            read_matlab(read_bytes(path), choose)
        elif path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as loaded:
                choose(loaded.files)
    except Exception:  # noqa: BLE001 - the scan reports invalid files
        return False
    return bool(names) and names[-1].lower() in _OBJECT_KEYS


def read_numpy(path: Path, keys: Sequence[str] = ()) -> NDArray[Any]:
    """A file's only array, or the one named like labels, or like one of `keys`."""
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return np.asarray(loaded[_key(list(loaded.files), keys)])


def _key(names: Sequence[str], keys: Sequence[str] = ()) -> str:
    """The name of the label array; ValueError if it is ambiguous."""
    by_word = {name.lower(): name for name in names}
    for word in keys or (*_LABEL_KEYS, *_OBJECT_KEYS):
        if word in by_word:
            return by_word[word]
    if len(names) != 1:
        raise ValueError(f"none of {', '.join(names) or 'no arrays'} is called labels or mask")
    return names[0]


def as_labels(path: Path, array: NDArray[Any]) -> RawLabels:
    """Convert an array of numbers, colors or layers to labels; MediaError for other content."""
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim == 3 and array.size:
        if array.shape[2] == 3 and array.dtype == np.uint8 and array.max() > 1:
            return RawLabels(array, None, "RGB")
        array = _from_layers(array)
    plain = array.ndim == 2 and array.size > 0 and array.dtype.kind in "buif"
    integers = _integers(array) if plain else None
    if integers is None:
        raise MediaError(
            f"{path} holds {array.dtype} {array.shape}; labels are whole numbers (height, width)."
        )
    return RawLabels(integers, None, "I")


def _from_layers(array: NDArray[Any]) -> NDArray[Any]:
    """Convert one layer per class (first or last axis) to class numbers; other arrays unchanged.

    Layers contain 0 and 1, or 0 and object numbers.
    """
    for axis in (2, 0):
        if array.shape[axis] < 256 and ((array != 0).sum(axis) == 1).all():
            number = np.asarray((array != 0).argmax(axis))
            things, last = array.max(axis) > 1, array.shape[axis] - 1
            if things.any() and not things[number == last].any():
                return np.where(number == last, 0, number + 1)  # PanNuke: background comes last
            return number
    return array


def _read_matrix(path: Path) -> NDArray[Any]:
    text = path.read_text(encoding="utf-8-sig")
    rows = [line.replace(",", " ").replace(";", " ").split() for line in text.splitlines()]
    return np.array([row for row in rows if row], np.int64)


_ARRAY_READERS: Mapping[str, Callable[[Path], NDArray[Any]]] = {
    ".mat": lambda path: read_matlab(read_bytes(path), _key),
    ".txt": _read_matrix, ".csv": _read_matrix,
}  # fmt: skip


def read_alpha(path: str | Path) -> NDArray[np.int32] | None:
    """Read an image file's opacity, int32 (H, W) 0..255, upright; None if it has none."""
    with opened_image(read_bytes(path), path) as image:
        if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa"):
            return None
        return np.asarray(_upright(image).getchannel("A"), np.int32)
