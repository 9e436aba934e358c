"""Whether anything that an image file may hold ends as another error than fcnseg's own.

    python benchmarks/fuzz_images.py [--formats png,tif] [--seeds 0:2000]

Small images of every format are written, damaged at random (bytes, numbers, cuts, pieces left out
or repeated) and read as `infer`, `train` and `--page` read them. Number n of a format is the same
file in every run: `--formats F --seeds n:n+1` repeats a failure, and a range of seeds resumes a
stopped run. Each format is read in processes of its own, so that a crash is counted and its
number named.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from fcnseg.errors import FcnsegError
from fcnseg.io.bands.files import decode_bands, page_of
from fcnseg.io.content.pages import count_pages
from fcnseg.io.images import decode_image, encode_image

MEMORY = 8 << 30  # bytes that one process may take
HEAD = 400  # bytes at the beginning, where most of a file's structure stands
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
    """Raw and plain, grey and colours, 8 and 12 bits, PAM and PFM."""
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


def damaged(data: bytes, seed: str) -> bytes:
    """The data with one to eight injuries, the same for the same seed."""
    chance, made = random.Random(seed), bytearray(data)
    for _ in range(chance.randint(1, 8)):
        reach = min(HEAD, len(made)) if chance.random() < 0.7 else len(made)
        at = chance.randrange(max(1, reach))
        kind = chance.choice(["byte", "byte", "bit", "number", "out", "again", "zeros"])
        if kind == "byte":
            made[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == "bit":
            made[at : at + 1] = bytes([(made[at] if made else 0) ^ 1 << chance.randrange(8)])
        elif kind == "number":
            number = chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 60000])
            made[at : at + 4] = struct.pack(chance.choice("<>") + "I", number)
        elif kind == "out":
            del made[at : at + chance.randint(1, 64)]
        elif kind == "again":
            made[at:at] = made[at : at + chance.randint(1, 64)]
        else:
            made[at : at + 16] = bytes(16)
    return bytes(made[: chance.randrange(len(made) + 1)] if chance.random() < 0.2 else made)


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


def worker(form: str, first: int, last: int) -> None:
    """Read numbers first..last-1 of a format; a line of JSON for each, before and after."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    originals = FORMATS[form]()
    for number in range(first, last):
        data = damaged(originals[number % len(originals)], f"{form} {number}")
        print(json.dumps({"begun": number}), flush=True)
        began = time.perf_counter()
        try:
            came = read_in_every_way(data)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            came = f"{type(error).__name__}: {error}"
        seconds = round(time.perf_counter() - began, 2)
        print(json.dumps({"number": number, "came": came, "seconds": seconds}), flush=True)


def fuzz(form: str, first: int, last: int) -> dict[str, Any]:
    """One format's row: how many were read and refused, what escaped, which number took longest."""
    row: dict[str, Any] = {
        "format": form,
        "read": 0,
        "refused": 0,
        "escaped": {},
        "slowest": (0.0, first),
    }
    while first < last:
        command = [sys.executable, __file__, "--worker", form, "--seeds", f"{first}:{last}"]
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert child.stdout is not None
        begun = first - 1
        for line in child.stdout:
            if not line.startswith("{"):  # what a decoder prints
                continue
            said = json.loads(line)
            begun = said.get("begun", begun)
            if "number" in said:
                first = said["number"] + 1
                row["slowest"] = max(row["slowest"], (said["seconds"], said["number"]))
                if said["came"] in row:
                    row[said["came"]] += 1
                else:
                    row["escaped"][said["number"]] = said["came"]
        if child.wait() and begun < first:
            raise SystemExit(f"{form} can't be tried: see {' '.join(command)}")
        if child.returncode:
            row["escaped"][begun] = f"the process ended with {child.returncode}"
            first = begun + 1
    return row


def main() -> None:
    """Damage, read, count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--formats", default=",".join(FORMATS), help="comma between them")
    parser.add_argument("--seeds", default="0:2000", help="first:last, the last one not included")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    first, last = map(int, chosen.seeds.split(":"))
    if chosen.worker:
        worker(chosen.worker, first, last)
        return
    print("| format | images | read | refused | another error | slowest, s (number) |")
    print("|---|---|---|---|---|---|")
    escaped = {}
    for form in chosen.formats.split(","):
        row = fuzz(form, first, last)
        seconds, number = row["slowest"]
        print(
            f"| {form} | {last - first} | {row['read']} | {row['refused']} | {len(row['escaped'])} "
            f"| {seconds} ({number}) |",
            flush=True,
        )
        escaped.update({f"{form} {number}": came for number, came in row["escaped"].items()})
    for name, came in escaped.items():
        print(f"{name}: {came}")
    sys.exit(bool(escaped))


if __name__ == "__main__":
    main()
