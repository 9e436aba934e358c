"""What kind of file some bytes are, and the image formats that OpenCV misreads."""

from __future__ import annotations

import io
import logging
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from fcnseg.errors import MediaError, MissingExtra

_MAGIC = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
    b"\x93NUMPY", b"8BPS", b"DDS ", b"#?RADIANCE", b"PF\n", b"Pf\n", b"P7\n",
)  # fmt: skip

_STILL_BRANDS = (b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1")

_HEIF_BRANDS = _STILL_BRANDS[1:]

_NETPBM_OR_ICON = re.compile(rb"P[1-6][\s#]|\0\0[\1\2]\0[^\0]\0", re.DOTALL)

for _name in ("tifffile", "PIL.TiffImagePlugin"):  # they write to the terminal
    logging.getLogger(_name).addHandler(logging.NullHandler())

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_MOST_BANDS = 16

_NO_IMAGES = {"MPEG", "BUFR", "GRIB", "HDF5"}  # Pillow names them, and can't read them


UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2  # TIFF's ExtraSamples


def is_image(start: bytes) -> bool:
    """Whether a file that begins with these bytes (12 at least) is an image."""
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    still = start[4:8] == b"ftyp" and start[8:12] in _STILL_BRANDS
    return webp or still or start.startswith(_MAGIC) or _NETPBM_OR_ICON.match(start) is not None


def is_known_to_pillow(path: Path) -> bool:
    """Whether a file without a known beginning is an image all the same (PCX, TGA, SGI ...)."""
    try:
        with Image.open(path) as image:
            return image.format not in _NO_IMAGES
    except Exception:  # noqa: BLE001 - Pillow's guesses may fail in any way
        return False


def is_heif(data: bytes) -> bool:
    """Whether the bytes are a HEIC photo, which Pillow and OpenCV can't read."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[8:64]


def is_tiff(data: bytes) -> bool:
    """Whether the bytes are a TIFF or BigTIFF."""
    return data[:4] in _TIFF


def is_npy(data: bytes) -> bool:
    """Whether the bytes are an array saved by NumPy (.npy)."""
    return data[:6] == b"\x93NUMPY"


def count_pages(data: bytes) -> int:
    """Images in a TIFF, GIF, PNG or WebP, thumbnails not counted; 1 for all else."""
    if data[:4] == b"\x89PNG" and b"acTL" not in data[:4096]:
        return 1
    if is_tiff(data):
        return _tiff_pages(data)
    if data[:4] not in (b"GIF8", b"RIFF", b"\x89PNG"):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - what is broken is told by who decodes it
        return 1


def _tiff_pages(data: bytes) -> int:
    """Pages of a TIFF or BigTIFF, smaller versions and masks not counted; 1 for a broken one."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", 20) if big else ("L", "H", 12)
    seen, pages = set(), 0
    try:
        (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
        while at and at not in seen:
            seen.add(at)
            (entries,) = struct.unpack_from(order + count, data, at)
            first = at + struct.calcsize(count)
            tags = range(first, first + entry * min(entries, 4096), entry)
            kinds = [tag for tag in tags if struct.unpack_from(order + "H", data, tag)[0] == 254]
            kind = data[kinds[0] + entry - (8 if big else 4) :][:4] if kinds else b""
            pages += not int.from_bytes(kind, "little" if order == "<" else "big") & 5
            (at,) = struct.unpack_from(order + offset, data, first + entry * entries)
    except struct.error:
        return max(1, pages)
    return pages


def decode_netpbm(data: bytes) -> tuple[NDArray[np.generic], int] | None:
    """PGM, PPM and PAM with their stated maximum: BGR or grey values, and that of white.

    None for other files, and for what is not whole.
    """
    if data[:2] == b"P7":
        return _pam(data)
    if data[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        return None
    gap = rb"(?:\s|#[^\n]*\n)+"
    head = re.match(rb"P[2356]" + (gap + rb"(\d+)") * 3, data)
    if head is None:
        return None
    width, height, maximum = map(int, head.groups())
    channels = 3 if data[:2] in (b"P3", b"P6") else 1
    shape = (height, width, channels)
    if data[:2] in (b"P2", b"P3"):
        return _ascii(data[head.end() :], shape, maximum)
    return _raster(data[head.end() + 1 :], shape, maximum)


def _ascii(
    data: bytes, shape: tuple[int, int, int], maximum: int
) -> tuple[NDArray[np.generic], int] | None:
    words = re.sub(rb"#[^\n]*", b"", data).split()
    count = shape[0] * shape[1] * shape[2]
    if len(words) < count or not 0 < maximum < 65536 or not count:
        return None
    values = np.array(words[:count], dtype=np.uint32).astype(np.uint16)
    return as_bgr(values.reshape(shape)), maximum


def _raster(
    data: bytes, shape: tuple[int, int, int], maximum: int
) -> tuple[NDArray[np.generic], int] | None:
    kind = np.dtype(np.uint8 if maximum < 256 else ">u2")
    count = shape[0] * shape[1] * shape[2]
    if not 0 < maximum < 65536 or not count or len(data) < count * kind.itemsize:
        return None
    values = np.frombuffer(data, kind, count).reshape(shape)
    return as_bgr(values.astype(kind.newbyteorder("="))), maximum


def _pam(data: bytes) -> tuple[NDArray[np.generic], int] | None:
    head, found, raster = data.partition(b"ENDHDR\n")
    numbers = dict(re.findall(rb"(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d+)", head))
    if not found or len(numbers) < 4:
        return None
    sizes = (int(numbers[key]) for key in (b"HEIGHT", b"WIDTH", b"DEPTH"))
    height, width, depth = sizes
    return _raster(raster, (height, width, depth), int(numbers[b"MAXVAL"]))


def as_bgr(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """RGB(A) as OpenCV orders it; grey, with opacity or without, as grey or BGRA."""
    channels = values.shape[2]
    if channels == 2:
        values, channels = values[:, :, [0, 0, 0, 1]], 4
    if channels >= 3:
        return np.ascontiguousarray(values[:, :, [2, 1, 0, *range(3, min(channels, 4))]])
    return np.ascontiguousarray(values[:, :, 0])


def add_png_transparency(data: bytes, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Grey PNG pixels as BGRA where one value is transparent (tRNS), which OpenCV passes by."""
    if data[:4] != b"\x89PNG" or data[25:26] != b"\0" or pixels.ndim != 2:
        return pixels
    at = data.find(b"tRNS", 33, max(data.find(b"IDAT"), 33))
    if at < 0:
        return pixels
    (value,) = struct.unpack(">H", data[at + 4 : at + 6])
    bits = data[24]
    if bits < 8:
        value = value * 255 // ((1 << bits) - 1)
    opaque = 255 if pixels.dtype == np.uint8 else 65535
    alpha = np.where(pixels == value, 0, opaque).astype(pixels.dtype)
    return np.dstack([pixels, pixels, pixels, alpha])


def decode_tiff(
    data: bytes, pixels: NDArray[np.generic] | None, name: str
) -> tuple[NDArray[np.generic] | None, int | None]:
    """A TIFF's first page as OpenCV should have decoded it, and its value of white if stated.

    pixels: what OpenCV did. None leaves it to Pillow. Bands beyond red, green and blue are no
    opacity unless a tag says so. MissingExtra where tifffile is needed.
    """
    tags = tiff_tags(data)
    bands, photometric = int(tags.get(277, 1)), int(tags.get(262, 1))
    deep = max(numbers_of(tags.get(258, 8))) > 8
    extra = numbers_of(tags.get(338, ()))
    planar = tags.get(284, 1) == 2 and bands > 1
    if (planar and deep) or bands > 4 or (pixels is None and deep):
        pixels = as_bgr(read_by_tifffile(data, name, planar=planar)[:, :, : 4 if bands == 4 else 3])
    if pixels is None:
        return None, None
    if photometric == 2 and pixels.ndim == 3 and pixels.shape[2] > 3:
        if not extra or extra[0] == UNSPECIFIED:
            pixels = np.ascontiguousarray(pixels[:, :, :3])
        elif not deep:  # OpenCV multiplies the colours by the opacity
            return None, None
        elif extra[0] == ASSOCIATED:
            pixels = _unmultiplied(pixels)
    stated = tags.get(281)
    stated = stated[0] if isinstance(stated, tuple) and stated else stated
    maximum = int(stated) if isinstance(stated, int) and 255 < stated <= 65535 and deep else None
    if photometric == 0 and pixels.dtype == np.uint16:
        pixels = (maximum or 65535) - pixels
    return pixels, maximum


def decode_npy(data: bytes, name: str) -> NDArray[np.generic]:
    """An array saved by NumPy as (H, W, C); nothing is unpickled.

    (H, W) is one band. Of three axes the last holds the bands where it has at most 16, else the
    first where that has at most 16. MediaError for another content.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - decoders of strangers' bytes raise anything
        raise MediaError(f"{name} is not a whole array: {error}.") from None
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.dtype.kind not in "buif" or min(array.shape) < 1:
        raise MediaError(
            f"{name} holds {array.dtype} {array.shape}; an image is numbers (H, W), (H, W, bands) "
            "or (bands, H, W)."
        )
    if array.shape[2] > _MOST_BANDS:
        if array.shape[0] > _MOST_BANDS:
            raise MediaError(
                f"{name} is {array.shape}: no axis is one of bands, which are at most "
                f"{_MOST_BANDS}, first or last."
            )
        array = np.moveaxis(array, 0, -1)
    array = array.astype(np.uint8) if array.dtype.kind == "b" else array
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _unmultiplied(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """BGRA uint16 without the opacity that its colours were multiplied by."""
    if pixels.dtype != np.uint16:
        return pixels
    colors, alpha = pixels[:, :, :3].astype(np.float32), pixels[:, :, 3:]
    colors = np.clip(colors * (65535 / np.maximum(alpha, 1).astype(np.float32)), 0, 65535)
    return np.dstack([np.round(colors).astype(np.uint16), alpha])


def tiff_tags(data: bytes) -> dict[int, Any]:
    """The tags of a TIFF's first page, by number."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}
    except Exception:  # noqa: BLE001 - Pillow knows fewer layouts; tifffile may know it
        return _tagsread_by_tifffile(data)


def numbers_of(value: Any) -> tuple[int, ...]:
    """A tag's value as a tuple: those of one number come without."""
    return tuple(map(int, value)) if isinstance(value, tuple | list) else (int(value),)


def _tagsread_by_tifffile(data: bytes) -> dict[int, Any]:
    try:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return {tag.code: tag.value for tag in file.pages.first.tags}
    except Exception:  # noqa: BLE001 - absent, or no TIFF either
        return {}


def read_by_tifffile(data: bytes, name: str, *, planar: bool) -> NDArray[np.generic]:
    """(H, W, C) in the file's order."""
    try:
        import tifffile
    except ImportError:
        raise MissingExtra(f"Reading {name}, a TIFF of an unusual layout,", "images") from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            array = np.asarray(file.pages.first.asarray())
    except Exception as error:  # noqa: BLE001 - decoders of strangers' bytes raise anything
        if "imagecodecs" in str(error):
            raise MissingExtra(f"Reading {name}, a compressed TIFF,", "images") from None
        raise MediaError(f"{name} is not a whole image: {error}.") from None
    if array.ndim not in (2, 3):
        raise MediaError(f"{name} is a TIFF of {array.ndim} axes; an image has two, and bands.")
    if array.ndim == 2:
        return array[:, :, None]
    return np.ascontiguousarray(np.moveaxis(array, 0, -1)) if planar else array


def tiff_page(data: bytes, page: int, name: str) -> bytes:
    """One page of a TIFF, from 0 on, as a file of its own; MissingExtra without tifffile."""
    try:
        import tifffile
    except ImportError:
        raise MissingExtra(f"Reading page {page + 1} of {name}", "images") from None
    out = io.BytesIO()
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            one: Any = file.pages[page]
            extra = getattr(one, "extrasamples", ()) or None
            planar = one.planarconfig if one.samplesperpixel > 1 else None
            kind = one.photometric
            tifffile.imwrite(
                out, one.asarray(), photometric=kind, planarconfig=planar, extrasamples=extra
            )
    except Exception as error:  # noqa: BLE001 - decoders of strangers' bytes raise anything
        raise MediaError(f"{name} is not a whole image: {error}.") from None
    return out.getvalue()


def decode_heif(data: bytes, name: str) -> NDArray[np.uint8]:
    """A HEIC photo as uint8 (H, W, 3 or 4) RGB(A), upright; MissingExtra without pillow-heif."""
    try:
        import pillow_heif
    except ImportError:
        raise MissingExtra(f"Reading {name}, a HEIC photo,", "images") from None
    try:
        photo = pillow_heif.open_heif(io.BytesIO(data)).to_pillow()
        return np.asarray(photo.convert("RGBA" if photo.has_transparency_data else "RGB"))
    except Exception as error:  # noqa: BLE001 - decoders of strangers' bytes raise anything
        raise MediaError(f"{name} is not a whole image: {error}.") from None
