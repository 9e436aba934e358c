"""How many pages or frames an image file has."""

from __future__ import annotations

import io

from PIL import Image

from fcnseg.io.content import is_tiff
from fcnseg.io.content.tiff import page_offsets


def count_pages(data: bytes) -> int:
    """Images in a TIFF, GIF, PNG or WebP, thumbnails not counted; 1 for all else."""
    if data[:4] == b"\x89PNG" and b"acTL" not in data[:4096]:
        return 1
    if is_tiff(data):
        return max(1, len(page_offsets(data)))
    if data[:4] not in (b"GIF8", b"RIFF", b"\x89PNG"):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - what is broken is told by who decodes it
        return 1
