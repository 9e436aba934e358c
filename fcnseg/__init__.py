"""Semantic segmentation with Fully Convolutional Networks.

Every command is a function of the same options:

    from fcnseg import load, train

    run = train("my_folder", epochs=40)
    for prediction in load(run.best).stream("clip.mp4"):
        print(prediction.index, prediction.labels.shape)

Names are imported when they are first used, so that `import fcnseg` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcnseg.classes import ClassMap
    from fcnseg.commands.analysis.compare import compare
    from fcnseg.commands.analysis.review import review
    from fcnseg.commands.bench import bench
    from fcnseg.commands.check import check
    from fcnseg.commands.demo import demo
    from fcnseg.commands.eval import evaluate
    from fcnseg.commands.export import export
    from fcnseg.commands.infer import infer
    from fcnseg.commands.train import train
    from fcnseg.commands.viz import view
    from fcnseg.config import (
        BenchConfig,
        CheckConfig,
        CompareConfig,
        DemoConfig,
        EvalConfig,
        ExportConfig,
        InferConfig,
        ReviewConfig,
        TrainConfig,
        VizConfig,
    )
    from fcnseg.datasets.dataset import SegmentationDataset
    from fcnseg.errors import FcnsegError
    from fcnseg.inference.loading import load
    from fcnseg.inference.prediction import Prediction
    from fcnseg.inference.segmenter import Segmenter
    from fcnseg.io.sources.base import Frame
    from fcnseg.models.checkpoint import Checkpoint
    from fcnseg.models.fcn import FCN
    from fcnseg.models.networks import create_model
    from fcnseg.models.spec import ModelSpec

__version__ = "0.1.0"

_MODULES = {
    "BenchConfig": "fcnseg.config",
    "CheckConfig": "fcnseg.config",
    "Checkpoint": "fcnseg.models.checkpoint",
    "ClassMap": "fcnseg.classes",
    "CompareConfig": "fcnseg.config",
    "DemoConfig": "fcnseg.config",
    "EvalConfig": "fcnseg.config",
    "ExportConfig": "fcnseg.config",
    "FCN": "fcnseg.models.fcn",
    "FcnsegError": "fcnseg.errors",
    "Frame": "fcnseg.io.sources.base",
    "InferConfig": "fcnseg.config",
    "ModelSpec": "fcnseg.models.spec",
    "Prediction": "fcnseg.inference.prediction",
    "ReviewConfig": "fcnseg.config",
    "SegmentationDataset": "fcnseg.datasets.dataset",
    "Segmenter": "fcnseg.inference.segmenter",
    "TrainConfig": "fcnseg.config",
    "VizConfig": "fcnseg.config",
    "bench": "fcnseg.commands.bench",
    "check": "fcnseg.commands.check",
    "compare": "fcnseg.commands.analysis.compare",
    "create_model": "fcnseg.models.networks",
    "demo": "fcnseg.commands.demo",
    "evaluate": "fcnseg.commands.eval",
    "export": "fcnseg.commands.export",
    "infer": "fcnseg.commands.infer",
    "load": "fcnseg.inference.loading",
    "review": "fcnseg.commands.analysis.review",
    "train": "fcnseg.commands.train",
    "view": "fcnseg.commands.viz",
}

__all__ = [
    "FCN",
    "BenchConfig",
    "CheckConfig",
    "Checkpoint",
    "ClassMap",
    "CompareConfig",
    "DemoConfig",
    "EvalConfig",
    "ExportConfig",
    "FcnsegError",
    "Frame",
    "InferConfig",
    "ModelSpec",
    "Prediction",
    "ReviewConfig",
    "SegmentationDataset",
    "Segmenter",
    "TrainConfig",
    "VizConfig",
    "bench",
    "check",
    "compare",
    "create_model",
    "demo",
    "evaluate",
    "export",
    "infer",
    "load",
    "review",
    "train",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fcnseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
