"""Small images of every format, and the ways in which `infer`, `train` and `--page` read one."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fcnseg.errors import FcnsegError, MediaError
from fcnseg.io.bands.files import decode_bands, page_of
from fcnseg.io.images import decode_image, encode_image
from fcnseg.io.sources.files import count_pages
from tests.faults.kinds import Kind

Y, X = np.mgrid[:40, :56]
RGB = np.stack([40 + X * 3, 200 - Y * 2, 90 + (X * Y) % 97], -1).astype(np.uint8)
GREY = RGB[:, :, 0]
DEEP = RGB.astype(np.uint16) * 257
RGBA = np.dstack([RGB, 255 - GREY])


def by_pillow(form: str, *images: np.ndarray, **options: Any) -> bytes:
    """A file that Pillow writes; of several images, if they are given."""
    file, (first, *rest) = io.BytesIO(), [Image.fromarray(image) for image in images]
    more = {"save_all": True, "append_images": rest} if rest else {}
    first.save(file, form, **more, **options)
    return file.getvalue()


def tiffs() -> list[bytes]:
    """Depths, layouts, compressions and orders of bytes."""
    import tifffile

    def write(array: np.ndarray, **options: Any) -> bytes:
        file = io.BytesIO()
        tifffile.imwrite(file, array, **options)
        return file.getvalue()

    planes = np.ascontiguousarray(np.moveaxis(DEEP, -1, 0))
    return [
        write(RGB, photometric="rgb"),
        write(DEEP, photometric="rgb", bigtiff=True, byteorder=">"),
        write(RGB, photometric="rgb", compression="lzw", predictor=True, tile=(16, 16)),
        write(planes, photometric="rgb", planarconfig="separate"),
        write((RGB / 255).astype(np.float32), photometric="rgb", compression="deflate"),
        write(RGBA, photometric="rgb", extrasamples=["unassalpha"]),
        write(GREY > 90, photometric="miniswhite"),
        write(np.stack([RGB, RGB[::-1]]), photometric="rgb"),
        write(np.dstack([DEEP, DEEP[:, :, :2]]), photometric="minisblack", planarconfig="contig"),
        by_pillow("TIFF", RGB, compression="jpeg"),
    ]


def netpbm() -> list[bytes]:
    """Raw and plain, grey and colors, 8 and 12 bits, PAM and PFM."""
    twelve = (GREY.astype(np.uint16) * 16).astype(">u2")
    return [
        by_pillow("PPM", RGB),
        b"P5 56 40 4095\n" + twelve.tobytes(),
        b"P3 56 40 255\n" + " ".join(map(str, RGB.ravel())).encode(),
        b"P7\nWIDTH 56\nHEIGHT 40\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
        + RGBA.tobytes(),
        b"PF\n56 40\n-1.0\n" + (RGB / 255).astype("<f4").tobytes(),
    ]


def arrays() -> list[bytes]:
    """NumPy's own files."""
    files = []
    for array in (RGB, DEEP[:, :, 0], (RGB / 255).astype(np.float32)):
        file = io.BytesIO()
        np.save(file, array)
        files.append(file.getvalue())
    return files


def heifs() -> list[bytes]:
    """HEIC photos."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    return [by_pillow("HEIF", RGB), by_pillow("HEIF", RGBA)]


FORMATS: dict[str, Callable[[], list[bytes]]] = {
    "png": lambda: [
        by_pillow("PNG", RGB),
        by_pillow("PNG", DEEP[:, :, 0]),
        by_pillow("PNG", RGBA),
        by_pillow("PNG", GREY, transparency=90),
        by_pillow("PNG", RGB, RGB[::-1]),
    ],
    "jpg": lambda: [
        by_pillow("JPEG", RGB, exif=_turned()),
        by_pillow("JPEG", GREY),
        by_pillow("JPEG", RGB, progressive=True),
    ],
    "tif": tiffs,
    "gif": lambda: [by_pillow("GIF", RGB), by_pillow("GIF", RGB, RGB[::-1])],
    "bmp": lambda: [by_pillow("BMP", RGB), by_pillow("BMP", GREY)],
    "webp": lambda: [
        by_pillow("WEBP", RGB),
        by_pillow("WEBP", RGBA, lossless=True),
        by_pillow("WEBP", RGB, RGB[::-1]),
    ],
    "avif": lambda: [by_pillow("AVIF", RGB), by_pillow("AVIF", RGBA)],
    "heic": heifs,
    "jp2": lambda: [by_pillow("JPEG2000", RGB), by_pillow("JPEG2000", DEEP[:, :, 0])],
    "pnm": netpbm,
    "npy": arrays,
    "ico": lambda: [by_pillow("ICO", RGBA, sizes=[(32, 32)])],
    "tga": lambda: [by_pillow("TGA", RGB), by_pillow("TGA", RGBA, compression="tga_rle")],
    "hdr": lambda: [encode_image(RGB, ".hdr")],
    "dds": lambda: [by_pillow("DDS", RGB), by_pillow("DDS", RGBA, pixel_format="DXT5")],
    "pcx": lambda: [by_pillow("PCX", RGB)],
    "sgi": lambda: [by_pillow("SGI", RGB)],
}


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def read_in_every_way(data: bytes) -> str:
    """What came of it: "read" or "refused"; another error than fcnseg's own escapes."""
    refused = 0
    ways: list[Callable[[], Any]] = [
        lambda: decode_image(data, name="it"),
        lambda: decode_bands(data, "it"),
        lambda: page_of(data, 0, "it") if count_pages(data) > 1 else None,
    ]
    for read in ways:
        try:
            read()
        except FcnsegError:
            refused += 1
    return "refused" if refused else "read"


def _write(folder: Path, form: str) -> None:
    for number, data in enumerate(FORMATS[form]()):
        (folder / f"{number}.{form}").write_bytes(data)


def _use(folder: Path, form: str) -> None:
    """Read the one that is damaged: the newest."""
    path = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    if read_in_every_way(path.read_bytes()) == "refused":
        raise MediaError(f"{form}: refused")


_NEEDED = {"tif": "imagecodecs", "heic": "pillow_heif"}

KINDS = {
    f"{form} image": Kind(
        partial(_write, form=form), partial(_use, form=form), (f".{form}",), text=False
    )
    for form in FORMATS
    if form not in _NEEDED or find_spec(_NEEDED[form])
}
