"""What `check` found as one HTML page: the reading, classes, findings, images with labels."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.check import CheckResult
from fcnseg.errors import shown, to_bytes
from fcnseg.io.images import encode_image, write_bytes
from fcnseg.report.gallery import legend


@dataclass(frozen=True, eq=False)
class View:
    """A pair on the page: uint8 (H, W, 3) RGB each, and what stands below."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def write_page(path: Path, title: str, result: CheckResult, views: Sequence[View]) -> None:
    """Write what `check` found as a page that needs no other file; MediaError when that fails."""
    from fcnseg.report.page import render  # as slow to import as all of `check --help`

    found = result.as_dict()
    splits = [name for name in ("train", "val", "test") if name in found["parts"]]
    content = {
        "title": shown(title),
        "summary": shown(result.summary),
        "splits": splits,
        "classes": [
            {
                **look,
                "share": one["share"],
                "images": [one["images"].get(split, 0) for split in splits],
            }
            for look, one in zip(
                legend(result.description.classes), found["frequencies"], strict=True
            )
        ],
        "findings": [
            {
                **one,
                "message": shown(one["message"]),
                "repair": shown(one["repair"]),
                "files": [shown(name) for name in one["files"]],
            }
            for one in found["findings"]
        ],
        "views": [
            {"name": shown(view.name), "image": _as_url(view.image), "labels": _as_url(view.labels)}
            for view in views
        ],
        "count": result.count,
        "time": result.training_time,
    }
    write_bytes(path, to_bytes(render("check.html.j2", content, {"views": {}, "order": []})))


def _as_url(image: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_image(image)).decode()
