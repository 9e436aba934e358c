"""PGM, PPM, PAM and NumPy's own files, to the values that they state."""

from __future__ import annotations

import io
import re

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError
from fcnseg.io.content import as_bgr

_MOST_BANDS = 16


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
    try:
        values = np.array(words[:count], dtype=np.uint16)
    except (ValueError, OverflowError):  # not all of them are numbers
        return None
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
