"""Shared by annotation formats: named areas, drawing them into labels, cached documents."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets import Pair, Pairing, Unusable
from fcnseg.datasets.pairing import Listing
from fcnseg.datasets.pairing.named_images import PairCollector, split_of
from fcnseg.datasets.pairing.path_words import partners_of
from fcnseg.errors import DatasetError, MediaError, as_text
from fcnseg.io.annotations import Cached, blank, fill_inside, fill_polygon, follow_edges
from fcnseg.io.images import image_size
from fcnseg.io.labels import RawLabels, is_lossy, read_raw_labels


@dataclass(frozen=True)
class Finder:
    """Finds the pairs of one kind of folder.

    needs: words (lower case), one of which must occur in a path; else the finder is skipped.
    """

    find: Callable[[Listing], Pairing | None]
    needs: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Format(Finder):
    """An annotation format: finds its pairs in a folder and reads their labels."""

    read: Callable[[Pair, Sequence[str]], RawLabels]


@dataclass(frozen=True, eq=False)
class Area:
    """A labeled area.

    rings: polygons, float (N, 2) x, y in pixels each; holes are subtracted.
    mask: bool (h, w) with its upper left corner (x, y), instead of rings.
    runs: start, length, start, length ... column-major, from 1, instead of rings.
    along_rows: whether runs are row-major.
    """

    name: str
    rings: Sequence[NDArray[np.float64]] = ()
    holes: Sequence[NDArray[np.float64]] = ()
    mask: NDArray[np.bool_] | None = None
    corner: tuple[int, int] = (0, 0)
    runs: Sequence[int] = ()
    along_rows: bool = False

    def __post_init__(self) -> None:
        """TypeError for an invalid name."""
        object.__setattr__(self, "name", _word(self.name).strip())

    def drawn(self, size: tuple[int, int], *, inside: bool = False) -> NDArray[np.bool_]:
        """Its pixels in an image of this size, bool (H, W).

        inside: whether the rings follow pixel edges; else pixels on the rings are included.
        """
        fill = fill_inside if inside else fill_polygon
        canvas = blank(size)
        for ring in self.rings:
            fill(canvas, ring, 1)
        for ring in self.holes:
            fill(canvas, ring, 0)
        if self.mask is not None:
            left, top = self.corner
            window = canvas[max(0, top) : top + self.mask.shape[0], max(0, left) :]
            part = self.mask[max(0, -top) :, max(0, -left) :]
            window = window[: part.shape[0], : part.shape[1]]
            window[part[: window.shape[0], : window.shape[1]]] = 1
        if len(self.runs):
            starts, lengths = np.array(self.runs[::2]) - 1, np.array(self.runs[1::2])
            if (starts < 0).any() or (starts + lengths > canvas.size).any():
                raise MediaError(f"Run lengths beyond an image of {canvas.size} pixels.")
            edges = np.zeros(canvas.size + 1, np.int32)
            np.add.at(edges, starts, 1)
            np.add.at(edges, starts + lengths, -1)
            runs = edges.cumsum()[:-1] > 0
            canvas |= runs.reshape(size) if self.along_rows else runs.reshape(size[::-1]).T
        return canvas > 0


def _word(value: object) -> str:
    """A name in a document as text; it may be a number there."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"a name is a text; found {value!r:.40}")
    return str(value)


@dataclass(frozen=True, eq=False)
class Annotated:
    """The entry of an image in a document.

    file: the image's name or path ("../" is relative to the document); also: an alternative name.
    size: (height, width); None if not stated.
    areas: back to front if `ordered`; else smaller ones are on top.
    edges: whether (0, 0) is stated to be a pixel's corner, not its center.
    epsg: the coordinate system of the areas; 0 for pixels.
    flat: number of shapes that cover no pixels (points, lines).
    """

    file: str
    size: tuple[int, int] | None = None
    areas: Sequence[Area] = ()
    flat: int = 0
    ordered: bool = False
    also: str = ""
    edges: bool = False
    epsg: int = 0

    def __post_init__(self) -> None:
        """TypeError for an invalid name."""
        for name in ("file", "also"):
            object.__setattr__(self, name, _word(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Document:
    """An annotation file: its images by id, and its list of classes, if it has one."""

    images: dict[str, Annotated] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def annotated(
    file: str, size: tuple[int, int] | None, shapes: Iterable[Area | None], **rest: Any
) -> Annotated:
    """An image's entry; shapes: None for those that cover no pixels. rest: see Annotated."""
    every = list(shapes)
    areas = [area for area in every if area is not None]
    return Annotated(file, size, areas, len(every) - len(areas), **rest)


Parser = Callable[[Path], Document]

Files = Callable[[Listing], list[str]]


def holding(suffix: str | tuple[str, ...], *heads: Sequence[bytes]) -> Files:
    """A function that lists the files with a suffix that contain all words of one of these heads
    (`marks`)."""
    suffixes = (suffix,) if isinstance(suffix, str) else suffix
    return lambda listing: [
        name
        for name in listing.with_suffix(*suffixes)
        if any(listing.says(name, head) for head in heads)
    ]


def outlined(
    label_format: str,
    files: Files,
    parse: Parser,
    why: str,
    in_pixels: Callable[[Annotated, Path], Annotated] = lambda image, _: image,
) -> Format:
    """A format of documents with areas. files: lists the files of the format.

    in_pixels: converts an entry's areas to pixels of the image file.
    """
    cached = Cached(parse)

    def find(listing: Listing) -> Pairing | None:
        chosen = files(listing)
        if not chosen:
            return None
        found = _gather(listing, chosen, cached, label_format, why, {})
        if found.pairs:
            return found
        return _gather(listing, chosen, cached, label_format, why, partners_of(listing, chosen))

    def read(pair: Pair, terms: Sequence[str]) -> RawLabels:
        image = cached(pair.labels).images.get(pair.part)
        if image is None:
            raise MediaError(f"{pair.labels} has no entry {pair.part!r}.")
        image = in_pixels(image, pair.image)
        return RawLabels(draw(image, image.size or image_size(pair.image), terms), None, "I")

    return Format(find, read)


def draw(image: Annotated, size: tuple[int, int], terms: Sequence[str]) -> NDArray[np.int32]:
    """Draw areas into labels, int32 (H, W): the numbers of their terms, from 1; 0 elsewhere."""
    labels = blank(size)
    inside = image.edges or follow_edges(ring for area in image.areas for ring in area.rings)
    drawn = [(area.drawn(size, inside=inside), terms.index(area.name) + 1) for area in image.areas
             if area.name in terms]  # fmt: skip
    if not image.ordered:
        drawn.sort(key=lambda one: -int(one[0].sum()))
    for mask, number in drawn:
        labels[mask] = number
    return labels


CONVERT = (
    "save the labels of each image as a PNG of its name (masks/a.png for images/a.jpg), or as COCO"
)
"""Hint for unsupported annotations."""

WHITE = 240
"""Minimum value of white after compression."""


def layer_areas(pair: Pair) -> dict[str, NDArray[np.bool_]]:
    """The area of each class of a pair, bool (H, W); MediaError if its files differ in size."""
    areas: dict[str, NDArray[np.bool_]] = {}
    for term, path in pair.layers:
        area = _shown(path)
        size = next(iter(areas.values()), area).shape
        if area.shape != size:
            raise MediaError(
                f"{path} is {area.shape[1]}x{area.shape[0]}, the image's other label files "
                f"are {size[1]}x{size[0]} (width x height)."
            )
        areas[term] = areas[term] | area if term in areas else area
    return areas


def _shown(path: Path) -> NDArray[np.bool_]:
    """The pixels of a file that are not black, bool (H, W).

    Black and white may have been changed by JPEG or resizing; other files contain 0 and numbers.
    """
    values = read_raw_labels(path).values
    brightness = values if values.ndim == 2 else values.max(2)
    most = int(brightness.max())
    lossy = most > 127 and is_lossy(path)
    white = WHITE <= most <= 255 or most == 65535
    return np.asarray(brightness > (most // 2 if lossy or white else 0))


def read_layers(pair: Pair, terms: Sequence[str]) -> RawLabels:
    """Combine the areas of all classes, small ones over large ones."""
    areas = layer_areas(pair)
    labels = np.zeros(next(iter(areas.values())).shape, np.int32)
    for name in sorted(areas, key=lambda name: -int(areas[name].sum())):
        labels[areas[name]] = terms.index(name) + 1
    return RawLabels(labels, None, "I")


def ellipse(x: float, y: float, across: float, down: float) -> NDArray[np.float64]:
    """An ellipse with center x, y as a ring; across, down: half its width and height."""
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.stack([x + across * np.cos(turns), y + down * np.sin(turns)], 1)


def rotated(
    ring: NDArray[np.float64], degrees: float, about: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Rotate a ring clockwise about a point (x, y), by default its centroid."""
    center = ring.mean(0) if about is None else about
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.asarray((ring - center) @ np.array([[cos, sin], [-sin, cos]]) + center)


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file; ValueError for other content, and for XML with entities."""
    data = path.read_bytes()
    if re.search(rb"<!(DOCTYPE|ENTITY)", data):
        raise ValueError("XML entities are not supported")
    try:
        return ElementTree.fromstring(data)  # noqa: S314, RUF100 - without entities it is harmless
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None


def _gather(
    listing: Listing,
    files: Sequence[str],
    parse: Parser,
    label_format: str,
    why: str,
    partners: Mapping[str, str],
) -> Pairing:
    """Collect the pairs of documents. partners: images of documents with a single entry."""
    gathered = PairCollector(listing)
    names: dict[str, None] = {}  # an ordered set
    for file, path, document in gathered.parsed(files, parse):
        used: set[str] = set()
        flat = sum(image.flat for image in document.images.values())
        if flat:
            gathered.notes.append(Unusable(path, "points, lines and tags cover no pixels", flat))
        for part, image in document.images.items():
            at = _find(gathered, image, file, single=not part)
            at = at or (partners.get(file) if not part else None)
            if at is None:
                gathered.note_missing(path, image.file, len(image.areas))
                continue
            pair = listing.pair(at, file, split_of(file), part=part)
            gathered.add_once(pair, len(image.areas))
            used.update(area.name for area in image.areas)
        listed = (name.strip() for name in document.names)
        names.update(dict.fromkeys((*listed, *sorted(used))))
    refuse_broken(gathered)
    return gathered.found(label_format, tuple(names), why)


def refuse_broken(gathered: PairCollector) -> None:
    """DatasetError if there are annotation files, but none can be read."""
    if gathered.broken and not gathered.pairs:
        raise DatasetError(gathered.broken[0][1], hint="export the annotations again")


def _find(gathered: PairCollector, image: Annotated, file: str, *, single: bool) -> str | None:
    """The listed image of a document's entry. single: whether it is the only entry."""
    if image.file.startswith("../"):
        folder = file.rpartition("/")[0]
        path = posixpath.normpath(as_text(f"{folder}/{image.file}"))
        return gathered.by_path.get(path.lower())
    find = gathered.find_own_image if single else gathered.find_image
    found = find(image.file, file)
    return found or (gathered.find_image(image.also, file) if image.also else None)
