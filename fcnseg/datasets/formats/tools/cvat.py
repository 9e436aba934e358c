"""CVAT for images 1.1: an annotations.xml with an <image> for each picture."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.formats.gathered import head_says
from fcnseg.datasets.formats.tools.base import Annotated, Area, Document, box, ellipse, outlined
from fcnseg.datasets.pairing.listing import Listing

_HEAD = (b"<annotations", b"<image ")


def _files(listing: Listing) -> list[str]:
    files = listing.with_suffix(".xml")
    return [name for name in files if head_says(listing.path(name), _HEAD)]


def _parse(path: Path) -> Document:
    data = path.read_bytes()
    if re.search(rb"<!(DOCTYPE|ENTITY)", data):
        raise ValueError("entities are not read")
    try:
        root = ElementTree.fromstring(data)  # noqa: S314, RUF100 - without entities it is harmless
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    images = {
        image.get("id", str(number)): _image(image)
        for number, image in enumerate(root.iter("image"))
    }
    names = tuple(label.text or "" for label in root.findall("meta//labels/label/name"))
    return Document(images, tuple(name for name in names if name))


def _image(image: ElementTree.Element) -> Annotated:
    shapes = sorted(image, key=lambda shape: int(shape.get("z_order", 0)))
    areas = [area for area in map(_area, shapes) if area is not None]
    flat = sum(shape.tag in ("polyline", "points", "skeleton") for shape in shapes)
    size = int(image.attrib["height"]), int(image.attrib["width"])
    return Annotated(image.attrib["name"], size, areas, flat, ordered=True)


def _area(shape: ElementTree.Element) -> Area | None:
    name, value = shape.get("label", ""), shape.get
    if shape.tag == "polygon":
        pairs = [point.split(",") for point in shape.attrib["points"].split(";") if point]
        return Area(name, [np.array(pairs, np.float64)])
    if shape.tag == "box":
        return Area(
            name, [box(*(float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr")))]
        )
    if shape.tag == "ellipse":
        across = [float(shape.attrib[key]) for key in ("cx", "cy", "rx", "ry")]
        return Area(name, [ellipse(*across)])
    if shape.tag == "mask":
        size = int(shape.attrib["height"]), int(shape.attrib["width"])
        corner = round(float(value("left", 0))), round(float(value("top", 0)))
        return Area(name, mask=_runs(shape.attrib["rle"], size), corner=corner)
    return None


def _runs(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """CVAT's run lengths: along the rows, beginning with a run of zeros."""
    lengths = np.array([int(part) for part in text.split(",")])
    filled = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.asarray(filled.reshape(size))


FORMAT = outlined("cvat-xml", _files, _parse, "an XML file with <image> entries is CVAT's")
