"""Georeferencing of GeoTIFFs, to be copied to outputs. Needs the extra `geo` (rasterio)."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from fcnseg.io.content.tiff import numbers_of, tiff_tags

_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION, _GEO_KEYS = 33550, 33922, 34264, 34735

_PLACED = (_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION)
"""TIFF tags: pixel scale, tie points, transformation."""

_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072

_PIXEL_IS_POINT = 2

_WORLD = (".tfw", ".tifw", ".wld", ".tif.aux.xml", ".tiff.aux.xml")
"""Sidecar files with the georeferencing of an image."""

TIFF_SUFFIXES = (".tif", ".tiff")
"""Suffixes of files that may be georeferenced."""


@dataclass(frozen=True)
class Georeference:
    """The transformation from pixels to map coordinates.

    transform: a, b, c, d, e, f of x = a * column + b * row + c, y = d * column + e * row + f;
        (0, 0) is the upper left corner of the first pixel.
    wkt: the coordinate system; "" if unknown. epsg: its code, or None.
    """

    transform: tuple[float, ...]
    wkt: str
    epsg: int | None

    def on_map(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Convert points (N, 2) of x, y from pixels to map coordinates."""
        a, b, c, d, e, f = self.transform
        matrix = np.array([[a, d], [b, e]])
        return np.asarray(points @ matrix + np.array([c, f]))

    def in_pixels(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """The inverse of `on_map`, rounded to a millionth of a pixel."""
        a, b, c, d, e, f = self.transform
        matrix = np.linalg.inv(np.array([[a, d], [b, e]]))
        return np.asarray((points - np.array([c, f])) @ matrix).round(6)

    def crs(self) -> dict[str, Any]:
        """GeoJSON's "crs" member; {} if the coordinate system is unknown."""
        if self.epsg is None:
            return {}
        name = f"urn:ogc:def:crs:EPSG::{self.epsg}"
        return {"crs": {"type": "name", "properties": {"name": name}}}

    def sidecar(self) -> bytes:
        """The content of NAME.png.aux.xml, which georeferences NAME.png for GDAL and QGIS."""
        a, b, c, d, e, f = self.transform
        numbers = ", ".join(map(repr, (c, a, b, f, d, e)))  # GDAL's order
        place = f"<GeoTransform>{numbers}</GeoTransform>"
        system = f"<SRS>{escape(self.wkt)}</SRS>" if self.wkt else ""
        return f"<PAMDataset>{system}{place}</PAMDataset>\n".encode()


def georeference_of(path: Path) -> Georeference | None:
    """The georeference of a TIFF; None if it has none or rasterio is not installed."""
    if not has_rasterio():
        return None
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError:
        return None


def georeference_in_tags(path: Path) -> Georeference | None:
    """The georeference in a GeoTIFF's tags, read without rasterio; None if there is none.

    Source: OGC GeoTIFF 1.1, 7.1 (raster to model transformation) and 7.2 (GeoKeys).
    """
    tags = tiff_tags(path) if path.suffix.lower() in TIFF_SUFFIXES else {}
    try:
        if _TRANSFORMATION in tags:
            numbers = [float(number) for number in tags[_TRANSFORMATION]]
            a, b, _, c, d, e, _, f = numbers[:8]
        else:
            a, height = (float(number) for number in tags[_PIXEL_SCALE][:2])
            column, row, _, x, y, _ = (float(number) for number in tags[_TIE_POINTS][:6])
            b, c, d, e, f = 0.0, x - column * a, 0.0, -height, y + row * height
        keys = numbers_of(tags.get(_GEO_KEYS, ()))
        stated = dict(zip(keys[4::4], keys[7::4], strict=True))
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    if stated.get(_RASTER_TYPE) == _PIXEL_IS_POINT:
        c, f = c - (a + b) / 2, f - (d + e) / 2
    if not a * e - b * d:
        return None
    return Georeference((a, b, c, d, e, f), "", stated.get(_PROJECTED) or stated.get(_GEOGRAPHIC))


@functools.lru_cache(maxsize=64)
def _read(path: Path, changed: int) -> Georeference | None:
    del changed  # part of the key
    import rasterio
    from rasterio.errors import RasterioError

    # rasterio warns of files without georeferencing, and warning filters are not thread-safe.
    beside = any(path.with_suffix(suffix).exists() for suffix in _WORLD)
    if not beside and not set(_PLACED) & set(tiff_tags(path)):
        return None
    try:
        with rasterio.open(path) as file:
            crs, transform = file.crs, file.transform
    except RasterioError:
        return None
    if transform.is_identity:
        return None
    numbers = tuple(float(number) for number in tuple(transform)[:6])
    return Georeference(numbers, crs.to_wkt() if crs else "", crs.to_epsg() if crs else None)


def has_rasterio() -> bool:
    """Whether rasterio (extra `geo`) is installed."""
    return importlib.util.find_spec("rasterio") is not None


def not_copied(path: Path) -> str:
    """A message for a georeferenced TIFF if rasterio is missing; else ""."""
    if has_rasterio() or not set(_PLACED) & set(tiff_tags(path)):
        return ""
    return (
        f"{path.name} is georeferenced; outputs are in pixels, without it. To copy it: "
        "pip install 'fcnseg[geo]'"
    )
