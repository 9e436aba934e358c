"""Model files, training states and option files, used as the commands use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fcnseg.classes import ClassMap
from fcnseg.commands.demo import write_dataset
from fcnseg.commands.export import export
from fcnseg.commands.infer import infer
from fcnseg.commands.train import train
from fcnseg.config import EngineName, ExportConfig, InferConfig, TrainConfig
from fcnseg.inference.loading import load
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.models.weights import read_state
from fcnseg.training.run_folder import RunFolder
from fcnseg.training.run_folder.resume import options_like
from fcnseg.training.run_folder.state import load_state
from tests.faults.images import RGB, by_pillow
from tests.faults.kinds import Kind

SMALL = np.ascontiguousarray(RGB[:32, :40])

RUN = {
    "backbone": "tiny", "backbone_weights": "none", "width": 8, "workers": 0, "device": "cpu",
    "precision": "f32", "report": False, "crop": (32, 32), "batch": 2, "epochs": 1,
}  # fmt: skip


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint of a random tiny network of three classes."""
    torch.manual_seed(0)
    spec = ModelSpec(backbone="tiny", num_classes=3, width=8, decoder="fcn4s", fuse="score")
    network = build(spec)
    classes = ClassMap.of(["background", "leaf", "stone"])
    checkpoint = Checkpoint(spec, network.backbone.preprocess, classes, network.state_dict())
    return checkpoint.save(folder / "model.safetensors")


def _run_model(folder: Path, engine: EngineName, *, suffix: str) -> None:
    path = next(folder.glob(f"*{suffix}"), folder / "gone")
    load(path, engine=engine, device="cpu").predict([SMALL])


def _exported(folder: Path, format: str) -> None:
    path = write_checkpoint(folder)
    suffix = {"onnx": ".onnx", "openvino": ".xml"}[format]
    export(ExportConfig(model=str(path), format=format, out=folder / f"model{suffix}"))


def _published(folder: Path) -> None:
    path = write_checkpoint(folder)
    torch.save({"state_dict": dict(Checkpoint.load(path).weights)}, folder / "weights.pth")
    path.unlink()


def _read_state(folder: Path) -> None:
    read_state(next(folder.glob("weights*"), folder / "gone"))


def write_run(folder: Path) -> None:
    """A run of one epoch, and the data it was trained on."""
    write_dataset(folder / "data", train=2, val=1)
    train(TrainConfig.make({"data": folder / "data", "out": folder / "run", **RUN}))


def _read_run(folder: Path) -> None:
    run = RunFolder(folder / "run")
    TrainConfig.load(run.config)
    options_like(run.folder, {})
    run.epochs_done()


def _load_state(folder: Path) -> None:
    load_state(folder / "run" / "state.pt")


def _resume(folder: Path) -> None:
    files = {path: path.read_bytes() for path in (folder / "run").iterdir() if path.is_file()}
    try:
        train(TrainConfig.make({"data": folder / "run", "resume": True}))
    finally:
        for path, data in files.items():
            path.write_bytes(data)


def _write_outputs(folder: Path) -> None:
    model = write_checkpoint(folder)
    (folder / "in").mkdir()
    for number in range(2):
        (folder / "in" / f"{number}.png").write_bytes(by_pillow("PNG", RGB))
    _infer(folder)
    assert model.exists()


def _infer(folder: Path) -> None:
    """Again, as --skip-done does it."""
    model, source = str(folder / "model.safetensors"), (str(folder / "in"),)
    out = folder / "out"
    infer(InferConfig(source=source, model=model, out=out, skip_done=out.is_dir(), engine="torch"))


def kinds() -> Mapping[str, Kind]:
    """Those whose packages are here."""
    found: dict[str, Kind] = {
        "checkpoint": _model_kind(write_checkpoint, "torch", ".safetensors"),
        "weights of torch": Kind(_published, _read_state, (".pth",), text=False),
        "state.pt": Kind(write_run, _load_state, ("state.pt",), text=False, rename=False),
        "resumed run": Kind(write_run, _resume, (".pt", ".toml", ".csv"), text=False, rename=False),
        "config.toml": Kind(write_run, _read_run, (".toml", ".csv"), rename=False),
        "manifest.jsonl": Kind(_write_outputs, _infer, (".jsonl",), rename=False),
    }
    if find_spec("onnxscript"):
        write = partial(_exported, format="onnx")
        found["ONNX in OpenCV"] = _model_kind(write, "opencv", ".onnx")
        if find_spec("onnxruntime"):
            found["ONNX in ONNX Runtime"] = _model_kind(write, "onnxruntime", ".onnx")
    if find_spec("openvino"):
        write = partial(_exported, format="openvino")
        found["OpenVINO"] = _model_kind(write, "openvino", ".xml", ".bin")
    return found


def _model_kind(write: Callable[[Path], object], engine: EngineName, *suffixes: str) -> Kind:
    def alone(folder: Path) -> None:
        write(folder)
        for path in folder.iterdir():
            if path.suffix not in suffixes:
                path.unlink()

    use = partial(_run_model, engine=engine, suffix=suffixes[0])
    return Kind(alone, use, suffixes, text=False, rename=False)
