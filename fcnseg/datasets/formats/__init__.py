"""Read the stored labels of a pair in any label format."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets import Encoding, Pair
from fcnseg.datasets.encoding.values import decode
from fcnseg.datasets.formats.annotation_tools import CVAT, LABEL_STUDIO, VIA
from fcnseg.datasets.formats.any_json import ANY_JSON
from fcnseg.datasets.formats.documents import CONVERT, Format, read_layers
from fcnseg.datasets.formats.gathered import COCO_HEAD
from fcnseg.datasets.formats.masks import ALONG_ROWS, ARRAYS, RUN_LENGTHS
from fcnseg.datasets.formats.named_masks import ADE20K_JSON, LABELME_FOLDERS, PANOPTIC
from fcnseg.datasets.formats.platforms import DARWIN, DATUMARO, HASTY, SUPERANNOTATE, SUPERVISELY
from fcnseg.datasets.formats.polygons import draw_coco, draw_labelme, draw_yolo
from fcnseg.datasets.formats.regions import (
    ASAP,
    CITYSCAPES_JSON,
    GEOJSON,
    IMAGE_SCOPE,
    LABELBOX,
    LABELME_XML,
    PAGE_XML,
    SA_1B,
    XBD,
)
from fcnseg.datasets.formats.stacks import STACKS, read_page
from fcnseg.datasets.pairing import Listing, marks, stem_of, suffix_of
from fcnseg.errors import (
    DatasetError,
    FcnsegError,
    MediaError,
    cannot_read,
    did_you_mean,
    from_bytes,
    reason,
)
from fcnseg.io.bands import Bands
from fcnseg.io.bands.files import bands_of
from fcnseg.io.content import name_other, upright
from fcnseg.io.content.matlab import read_matlab
from fcnseg.io.images import read_bytes, read_image, read_orientation
from fcnseg.io.labels import RawLabels, read_alpha, read_raw_labels


def read_stored(pair: Pair, label_format: str, class_words: Sequence[str]) -> RawLabels:
    """Read the stored values of a pair's pixels; MediaError when they can't be read.

    DatasetError, which lists the known formats, for an unknown one.
    """
    if label_format not in _READERS:
        known = ", ".join(_READERS)
        raise DatasetError(
            f"No label format {label_format!r}; known: {known}.",
            hint=did_you_mean(label_format, _READERS, "correct `store` in the dataset.toml"),
        )
    try:
        return _READERS[label_format](pair, class_words)
    except FcnsegError:
        raise
    except OSError as error:
        raise cannot_read(pair.labels, error) from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise MediaError(f"{pair.labels} is malformed: {reason(error)}.") from None


def read_sample(
    pair: Pair, encoding: Encoding, bands: Bands | None = None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Read a pair's image, uint8 (H, W, 3), and labels, uint8 (H, W), 255 = ignore.

    bands: return the image's stored values, (H, W, carried), instead.
    Labels that were drawn on the stored image are rotated by its EXIF orientation, too.
    MediaError for a file that can't be read, DatasetError if the sizes differ.
    """
    image: NDArray[Any] = read_pair_image(pair) if bands is None else bands_of(pair.image, bands)
    labels = decode(read_stored(pair, encoding.label_format, encoding.class_words), encoding)
    if pair.page is None and labels.shape == image.shape[1::-1] != image.shape[:2]:
        orientation = read_orientation(read_bytes(pair.image))
        labels = upright(labels, orientation if orientation >= 5 else 1)
    if image.shape[:2] != labels.shape:
        raise DatasetError(
            f"{pair.image} is {image.shape[1]}x{image.shape[0]} and its labels {pair.labels} are "
            f"{labels.shape[1]}x{labels.shape[0]} (width x height).",
            hint="make the two the same size, or remove the pair",
        )
    return image, labels


def read_pair_image(pair: Pair) -> NDArray[np.uint8]:
    """Read a pair's image, uint8 (H, W, 3) RGB; MediaError when it can't be read."""
    return read_image(pair.image) if pair.page is None else read_page(pair.image, pair.page)


def _pixels(pair: Pair, _: Sequence[str]) -> RawLabels:
    raw = read_raw_labels(pair.labels)
    if raw.pages > 1:
        raise MediaError(
            f"{pair.labels} holds {raw.pages} images; the labels of an image are one.",
            hint="save all classes in one image, or each in a file of its own: masks/CLASS/a.png",
        )
    return raw


def _alpha(pair: Pair, _: Sequence[str]) -> RawLabels:
    alpha = read_alpha(pair.labels)
    if alpha is None:
        raise MediaError(
            f"{pair.labels} has no transparency; the other label files store theirs there."
        )
    return RawLabels(alpha, None, "L")


def _opaque(pair: Pair, class_words: Sequence[str]) -> RawLabels:
    """The colors of opaque pixels; others are black."""
    raw, alpha = _pixels(pair, class_words), read_alpha(pair.labels)
    if alpha is not None:
        raw.values[alpha < 128] = 0
    return raw


def _drawn(
    draw: Callable[[Pair, Sequence[str]], NDArray[np.int32]],
) -> Callable[[Pair, Sequence[str]], RawLabels]:
    return lambda pair, class_words: RawLabels(draw(pair, class_words), None, "I")


FORMATS: Mapping[str, Format] = {
    "panoptic": PANOPTIC,
    "cvat-xml": CVAT,
    "via": VIA,
    "label-studio": LABEL_STUDIO,
    "supervisely": SUPERVISELY,
    "darwin": DARWIN,
    "datumaro": DATUMARO,
    "hasty": HASTY,
    "superannotate": SUPERANNOTATE,
    "image-scope": IMAGE_SCOPE,
    "labelme-xml": LABELME_XML,
    "page-xml": PAGE_XML,
    "asap": ASAP,
    "xbd": XBD,
    "sa-1b": SA_1B,
    "labelbox": LABELBOX,
    "cityscapes-json": CITYSCAPES_JSON,
    "geojson": GEOJSON,
    "labelme-folders": LABELME_FOLDERS,
    "ade20k-json": ADE20K_JSON,
    "run-lengths": RUN_LENGTHS,
    "arrays": ARRAYS,
    "stacks": STACKS,
}
"""Annotation formats: find(listing) returns the pairs, read(pair, terms) the labels."""

_REFUSED: Sequence[tuple[str, tuple[bytes, ...]]] = (
    ("Encord", marks(b'"data_units"', b'"data_title"')),
    ("Kili", marks(b'"jsonResponse"', b'"normalizedVertices"')),
    ("ISAT", marks(b'"ISAT"', b'"category"', b'"segmentation"')),
    ("Dataloop", marks(b'"annotations"', b'"coordinates"', b'"filename"')),
)


_BOX = marks(b"<bndbox>")

_BOX_COLUMNS = marks(b"xmin", b"ymax")

_CREATE_ML = marks(b'"annotations"', b'"coordinates"', b'"width"', b'"label"')

_TEXT_BOXES = re.compile(
    r"[A-Za-z_]\w*( -?[\d.]+){14,15}\s*"  # KITTI's label_2: a class, then 14 numbers
    r"|(-?[\d.]+ ){8}\S+ \d\s*"  # DOTA's labelTxt: four corners, a class, whether it is difficult
    r"|(-?\d+,){7}-?\d+,?\s*"  # VisDrone: left, top, width, height and four more numbers
)
"""A line of a text file that describes a box."""

_TEXTS = 100
"""How many text files are looked at."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")

PACKED = (
    *_ARCHIVES, ".parquet", ".arrow", ".tfrecord", ".tfrecords", ".h5", ".hdf5", ".mat", ".mdb",
    ".pkl",
)  # fmt: skip
"""Suffixes of archives and containers (WebDataset, Hugging Face, NYU's Matlab file)."""

_ANNOTATIONS = (
    ".xml", ".json", ".ndjson", ".jsonl", ".mat", ".txt", ".csv", ".h5", ".hdf5", ".parquet",
    ".tfrecord", ".shp", ".svg", ".xcf", ".psd", ".nrrd", ".mha",
)  # fmt: skip
"""Suffixes of annotations, in supported and other formats."""


def unread_annotations(listing: Listing) -> tuple[str, str]:
    """Possible annotations beside images without labels, and a hint; "" for none."""
    hint = "export the dataset as segmentation (polygons or masks)"
    named = {".xml": _BOX, ".csv": _BOX_COLUMNS, ".json": _CREATE_ML}
    boxes = [name for suffix, words in named.items() for name in listing.saying(words, suffix)]
    if boxes := boxes or _text_boxes(listing):
        held = "and similar files hold" if boxes[1:] else "holds"
        return f"; {boxes[0]} {held} bounding boxes", hint
    if boxes := listing.saying(COCO_HEAD, ".json"):
        return f"; {boxes[0]} is a COCO file of boxes or keypoints, without outlines", hint
    for tool, words in _REFUSED:
        if files := listing.saying(words, ".json"):
            text = f"; {files[0]} is {tool}'s own JSON, which is not read"
            return text, f"export as COCO from {tool}"
    if packed := listing.with_suffix(*_ARCHIVES):
        return f"; {packed[0]} may hold them", f"unpack {packed[0]}"
    for suffix in _ANNOTATIONS:
        if names := listing.with_suffix(suffix):
            seen = f"{len(names)} {suffix} file{'s' * (len(names) > 1)}"
            held = _arrays_in(listing.path(names[0])) if suffix == ".mat" else ""
            first = f"first: {names[0]}{held}"
            return f" that can be read; {seen} ({first}) may be annotations", CONVERT
    return "", ""


def _text_boxes(listing: Listing) -> list[str]:
    """The text files whose last line is a box, as KITTI, DOTA and VisDrone have it."""
    found = []
    for name in listing.with_suffix(".txt")[:_TEXTS]:
        with suppress(OSError):
            lines = from_bytes(listing.path(name).read_bytes()).splitlines()
            if lines and _TEXT_BOXES.fullmatch(lines[-1]):
                found.append(name)
    return found


def _arrays_in(path: Path) -> str:
    """The content of a Matlab file: ", which holds labels, names"; "" when it can't be read."""
    names: list[str] = []

    def choose(some: Sequence[str]) -> str:
        names.extend(some)
        return some[0]

    with suppress(Exception):  # decoders raise anything on invalid data
        read_matlab(path.read_bytes(), choose)
    return f", which holds {', '.join(names[:6])}" if names else ""


def unread_images(listing: Listing) -> tuple[str, str]:
    """Files named like label files without images, and a hint; "" for none."""
    labels = {*listing.images}
    stems = {stem_of(name).lower() for name in labels}
    others = [
        name
        for name in listing.files
        if name not in labels
        and stem_of(name).lower() in stems
        and suffix_of(name) not in _ANNOTATIONS
    ]
    if not others:
        return "", ""
    with suppress(OSError), listing.path(others[0]).open("rb") as file:
        what, hint = name_other(file.read(400)) or ("of no known format", "")
        return f"; {others[0]} and similar files, of the same names, are no images: {what}", hint
    return "", ""


_READERS: Mapping[str, Callable[[Pair, Sequence[str]], RawLabels]] = {
    "pixels": _pixels,
    "alpha": _alpha,
    "opaque": _opaque,
    "layers": read_layers,
    "coco": _drawn(draw_coco),
    "coco-boxes": _drawn(partial(draw_coco, fill=True)),
    "labelme": _drawn(draw_labelme),
    "yolo": _drawn(draw_yolo),
    "yolo-boxes": _drawn(partial(draw_yolo, fill=True)),
    "run-lengths-rows": ALONG_ROWS.read,
    "json": ANY_JSON.read,
    **{label_format: one.read for label_format, one in FORMATS.items()},
}
