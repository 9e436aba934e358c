"""A zip file with an ONNX file and all that another program needs to use it."""

from __future__ import annotations

import zipfile
from importlib.resources import files
from pathlib import Path

from fcnseg.export import REPORT_SUFFIX
from fcnseg.io.images import cannot_write
from fcnseg.models.checkpoint import Checkpoint

TEXTS = {
    "contract.md": "contract.md",
    "segment.py": "segment.py.in",
    "segment.cpp": "segment.cpp",
    "Dockerfile": "Dockerfile",
}
"""Names in the zip file -> in fcnseg/export/bundled."""


def write_bundle(path: Path, model: Path, header: Checkpoint) -> None:
    """Write a zip file with `model`, the report beside it, its classes and TEXTS. MediaError."""
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.write(model, "model.onnx")
            bundle.write(model.with_suffix(REPORT_SUFFIX), "parity.json")
            bundle.writestr("model.json", header.header_json())
            for name, source in TEXTS.items():
                text = files("fcnseg.export").joinpath("bundled", source).read_text("utf-8")
                bundle.writestr(name, text)
    except OSError as error:
        raise cannot_write(path, error) from None
