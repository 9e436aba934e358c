"""An ONNX file with all that another program needs: a zip file, or a folder with a web page.

The page segments images and the camera in a browser. What it needs besides the ONNX file is
onnxruntime-web, which is not a part of fcnseg: it is copied from its npm package where that is.
"""

from __future__ import annotations

import shutil
import zipfile
from importlib.resources import files
from pathlib import Path

from fcnseg.errors import OptionError, cannot_write
from fcnseg.exporting import REPORT_SUFFIX
from fcnseg.models.checkpoint import Checkpoint

TEXTS = {
    "contract.md": "contract.md",
    "segment.py": "segment.py.in",
    "segment.cpp": "segment.cpp",
    "Dockerfile": "Dockerfile",
}
"""Names in the zip file -> in fcnseg/exporting/bundled."""

RUNTIME = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""The files of onnxruntime-web that the page loads: WebGPU, and WebAssembly where there is none."""

PAGE = ("index.html", "page.js")

INSTALLED = Path("node_modules") / "onnxruntime-web"
"""Where npm puts the package."""

MODEL = "model.onnx"


def write_bundle(path: Path, model: Path, header: Checkpoint) -> None:
    """Write a zip file with `model`, the report beside it, its classes and TEXTS. MediaError."""
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.write(model, "model.onnx")
            bundle.write(model.with_suffix(REPORT_SUFFIX), "parity.json")
            bundle.writestr("model.json", header.header_json())
            for name, source in TEXTS.items():
                text = files("fcnseg.exporting").joinpath("bundled", source).read_text("utf-8")
                bundle.writestr(name, text)
    except OSError as error:
        raise cannot_write(path, error) from None


def is_bundle(path: Path) -> bool:
    """Whether a file is a zip file of `write_bundle`."""
    try:
        with zipfile.ZipFile(path) as bundle:
            return {"model.onnx", "model.json", *TEXTS} <= {*bundle.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False


def runtime_folder(given: Path | None) -> Path | None:
    """The folder of onnxruntime-web's files; OptionError where a given one does not have them."""
    package = given or INSTALLED
    for folder in (package / "dist", package / "package" / "dist", package):
        if all((folder / name).is_file() for name in RUNTIME):
            return folder
    if given is None:
        return None
    raise OptionError(
        f"--web-runtime {given} is not the npm package onnxruntime-web: {', '.join(RUNTIME)} are "
        "not there, nor in its dist.",
        hint="npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz; --web-runtime package",
    )


def write_page(folder: Path, header: Checkpoint, runtime: Path | None) -> list[Path]:
    """Write all but the ONNX file into a folder; returns what was written. MediaError."""
    written = []
    try:
        for name in PAGE:
            text = files("fcnseg.exporting").joinpath("page", name).read_text(encoding="utf-8")
            written.append(_write(folder / name, text))
        written.append(_write(folder / "model.json", header.header_json()))
        written.append(_write(folder / "README.txt", _readme(runtime is not None)))
        if runtime is not None:
            (folder / "ort").mkdir(exist_ok=True)
            copies = ((runtime / name, folder / "ort" / name) for name in RUNTIME)
            written += [Path(shutil.copyfile(*copy)) for copy in copies]
    except OSError as error:
        raise cannot_write(folder, error) from None
    return written


def how_to_get_the_runtime(folder: Path) -> str:
    """The commands that complete a folder without onnxruntime-web."""
    names = " ".join(f"package/dist/{name}" for name in RUNTIME)
    return (
        "npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz && "
        f"mkdir -p {folder}/ort && cp {names} {folder}/ort/"
    )


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _readme(complete: bool) -> str:
    serve = "Serve this folder with any static server, e.g. python3 -m http.server, and open it.\n"
    if complete:
        return f"{serve}ort/ holds files of onnxruntime-web (MIT license, Microsoft).\n"
    return f"{serve}It needs files of onnxruntime-web:\n\n    {how_to_get_the_runtime(Path())}\n"
