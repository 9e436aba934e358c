"""What `check` found as one HTML page: the reading, classes, findings, images with labels."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.check import CheckResult
from fcnseg.errors import percent
from fcnseg.io.images import encode_image, write_bytes


@dataclass(frozen=True, eq=False)
class View:
    """A pair on the page: uint8 (H, W, 3) RGB each, and what stands below."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def write_page(path: Path, title: str, result: CheckResult, views: Sequence[View]) -> None:
    """Write what `check` found as a page that needs no other file; MediaError when that fails."""
    from jinja2 import Environment, PackageLoader  # as slow to import as all of `check --help`

    found = result.as_dict()
    pages = Environment(loader=PackageLoader("fcnseg.report"), autoescape=True)
    text = pages.get_template("check.html.j2").render(
        title=title,
        found=found,
        splits=[name for name in ("train", "val", "test") if name in found["parts"]],
        colors=["#{:02x}{:02x}{:02x}".format(*c) for c in result.description.classes.colors],
        views=[
            {"name": view.name, "image": _as_url(view.image), "labels": _as_url(view.labels)}
            for view in views
        ],
        percent=percent,
        count=result.count,
        time=result.training_time,
    )
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def _as_url(image: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_image(image)).decode()
