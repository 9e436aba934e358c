"""Labels as arrays: .npy, .npz and Matlab's .mat, named like their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.description import Found, Pair
from fcnseg.datasets.formats.gathered import Gathered
from fcnseg.datasets.formats.tools.base import Format
from fcnseg.datasets.pairing.by_words import bare_stem, place_of
from fcnseg.datasets.pairing.listing import Listing, stem_of
from fcnseg.errors import MediaError
from fcnseg.io.labels import RawLabels

_SUFFIXES = (".npy", ".npz", ".mat")


_KEYS = (
    "mask", "masks", "label", "labels", "segmentation", "seg", "gt", "groundtruth", "annotation",
    "target", "inst_map", "type_map", "labelmap", "arr_0", "y",
)  # fmt: skip
"""What labels are called in files of several arrays, the likeliest first."""


def _find(listing: Listing) -> Found | None:
    arrays = listing.with_suffix(*_SUFFIXES)
    if not arrays or not listing.images:
        return None
    gathered = Gathered(listing)
    by_key: dict[tuple[str, ...], list[str]] = {}
    for name in arrays:
        stem = bare_stem(stem_of(name))
        for key in ((*place_of(name).key, stem), (place_of(name).split, stem), (stem,)):
            by_key.setdefault(key, []).append(name)
    used = set()
    for name in listing.images:
        place, stem = place_of(name), bare_stem(stem_of(name))
        keys = ((*place.key, stem), (place.split, stem), (stem,))
        partners = next((by_key[key] for key in keys if key in by_key), [])
        if len(partners) == 1 and partners[0] not in used:
            used.add(partners[0])
            split = place.split or place_of(partners[0]).split
            inside = "/".join((*place.rest, stem_of(name)))
            pair = Pair(listing.path(name), listing.path(partners[0]), split, inside)
            gathered.pairs.append(pair)
    gathered.orphans += [listing.path(name) for name in arrays if name not in used]
    why = f"arrays (*{Path(arrays[0]).suffix}) are named like the images"
    return gathered.found("arrays", (), why) if gathered.pairs else None


def _read(pair: Pair, _: Sequence[str]) -> RawLabels:
    """The stored numbers, or colours; MediaError for another content. Nothing is unpickled."""
    path = pair.labels
    try:
        array = _read_mat(path) if path.suffix.lower() == ".mat" else _read_numpy(path)
    except OSError as error:
        raise MediaError(f"{path} can't be read: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise MediaError(
            f"{path} holds no array of labels: {error}.",
            hint="save the labels as a PNG, or as a .npy file of whole numbers (height, width)",
        ) from None
    return _as_labels(path, array)


def _read_numpy(path: Path) -> NDArray[Any]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return np.asarray(loaded[_key(list(loaded.files))])


def _read_mat(path: Path) -> NDArray[Any]:
    try:
        from scipy.io import loadmat  # noqa: PLC0415, RUF100 - needed for these files alone
    except ImportError:
        raise MediaError(
            f"{path} is a Matlab file, which takes scipy to read.", hint="pip install scipy"
        ) from None
    try:
        data: Mapping[str, Any] = loadmat(path)
    except NotImplementedError:
        raise ValueError("Matlab's version 7.3 (HDF5) is not read; save it with -v7") from None
    arrays = {key: value for key, value in data.items() if not key.startswith("__")}
    for key, value in list(arrays.items()):
        while value.dtype.names is not None or value.dtype == object:  # structs and cells
            names = value.dtype.names
            inner = value.ravel()[0]
            value = np.asarray(inner[_key(list(names))] if names else inner)
        arrays[key] = value
    return np.asarray(arrays[_key([key for key, value in arrays.items() if value.ndim >= 2])])


def _key(names: Sequence[str]) -> str:
    """The array that holds labels; ValueError where that can't be told."""
    by_word = {name.lower(): name for name in names}
    for word in _KEYS:
        if word in by_word:
            return by_word[word]
    if len(names) != 1:
        raise ValueError(f"none of {', '.join(names) or 'no arrays'} is called labels or mask")
    return names[0]


def _as_labels(path: Path, array: NDArray[Any]) -> RawLabels:
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8 and array.max() > 1:
        return RawLabels(array, None, "RGB")
    if array.ndim == 3 and array.size:
        array = _from_layers(array)
    whole = array.ndim == 2 and array.size > 0 and array.dtype.kind in "buif"
    if not whole or not np.array_equal(array, np.rint(array)) or np.abs(array).max() > 2**31 - 1:
        raise MediaError(
            f"{path} holds {array.dtype} {array.shape}; labels are whole numbers (height, width)."
        )
    return RawLabels(array.astype(np.int32), None, "I")


def _from_layers(array: NDArray[Any]) -> NDArray[Any]:
    """One layer of 0 and 1 for each class, first or last, as numbers; else as it is."""
    for axis in (2, 0):
        if array.shape[axis] < 256 and (array.sum(axis) == 1).all() and array.max() == 1:
            return np.asarray(array.argmax(axis))
    return array


FORMAT = Format(_find, _read)
