"""Supervisely: DATASET/img/a.jpg, DATASET/ann/a.jpg.json, and the classes in meta.json."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.datasets.formats.gathered import head_says
from fcnseg.datasets.formats.polygons import read_json
from fcnseg.datasets.formats.tools.base import Annotated, Area, Document, box, outlined
from fcnseg.datasets.pairing.listing import Listing
from fcnseg.io.labels import decode_mask

MOST_BYTES = 1 << 28
"""A bitmap does not unpack to more."""


def _files(listing: Listing) -> list[str]:
    files = [name for name in listing.with_suffix(".json") if "/ann/" in f"/{name}"]
    return [name for name in files if head_says(listing.path(name), (b'"objects"', b'"size"'))]


def _parse(path: Path) -> Document:
    data = read_json(path)
    size = int(data["size"]["height"]), int(data["size"]["width"])
    areas = [area for area in map(_area, data["objects"]) if area is not None]
    flat = len(data["objects"]) - len(areas)
    # The image's folder stands beside the file's: two datasets may have images of one name.
    image = f"../img/{path.name.removesuffix('.json')}"
    return Document({"": Annotated(image, size, areas, flat, ordered=True)}, _names(path))


def _names(path: Path) -> tuple[str, ...]:
    """The classes of the project's meta.json, in order."""
    for folder in path.parents[1:4]:
        if (folder / "meta.json").is_file():
            return tuple(str(one["title"]) for one in read_json(folder / "meta.json")["classes"])
    return ()


def _area(thing: Mapping[str, Any]) -> Area | None:
    kind, name = thing["geometryType"], str(thing["classTitle"])
    if kind == "bitmap":
        try:
            packed = zlib.decompressobj().decompress(
                base64.b64decode(thing["bitmap"]["data"]), MOST_BYTES
            )
        except (zlib.error, binascii.Error) as error:
            raise ValueError(f"a bitmap can't be unpacked: {error}") from None
        left, top = thing["bitmap"]["origin"]
        return Area(name, mask=decode_mask(packed), corner=(int(left), int(top)))
    points = thing.get("points", {})
    rings = [np.array(points.get("exterior", ()), np.float64).reshape(-1, 2)]
    if kind == "polygon":
        holes = [np.array(ring, np.float64).reshape(-1, 2) for ring in points.get("interior", ())]
        return Area(name, rings, holes)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = rings[0]
        return Area(name, [box(x0, y0, x1, y1)])
    return None


FORMAT = outlined(
    "supervisely", _files, _parse, "JSON files with objects in ann/ are Supervisely's"
)
