"""The words of the options: what can be chosen, and the options that several verbs share."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

Decoder = Literal["fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s"]
Fuse = Literal["score", "feature", "concat"]
Upsampling = Literal["fixed", "learned", "subpixel"]
Precision = Literal["auto", "f32", "bf16", "f16"]
RunPrecision = Literal["auto", "f32", "bf16", "f16", "int8"]
EngineName = Literal["auto", "torch", "onnxruntime", "openvino", "opencv"]
Format = Literal["onnx", "openvino", "torchscript", "torch-export"]
Output = Literal["overlay", "labels", "color", "probabilities", "geojson", "labelme", "coco"]
Split = Literal["train", "val", "test", "all"]


@dataclasses.dataclass(frozen=True)
class Flag:
    """How an option is spelled on the command line, where its name alone does not say it.

    names: the flags, e.g. ("--out", "-o"); empty: made from the field's name.
    argument: positional instead of a flag.
    metavar: what stands for the value in the help.
    panel: the heading of the help it stands under.
    """

    names: tuple[str, ...] = ()
    argument: bool = False
    metavar: str | None = None
    panel: str | None = None


# Options that several verbs share.
Model = Annotated[
    str | None,
    Field(description="Checkpoint, exported file or run folder; else the newest run's best."),
    Flag(("--model", "-m"), metavar="MODEL"),
]
Device = Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[
    Precision, Field(description="Arithmetic; auto takes the fastest that is safe on the device.")
]
RunPrecisionOption = Annotated[
    RunPrecision,
    Field(
        description="Arithmetic; auto takes the fastest that is safe on the device. int8 needs a "
        "file that `fcnseg export --precision int8` wrote."
    ),
]
Engine = Annotated[
    EngineName, Field(description="What runs the network; auto takes what fits the model file.")
]
ShortSide = Annotated[
    int | None,
    Field(
        ge=0,
        description="Short side, in pixels, at which the network sees pictures; 0: their own. "
        "Without it, what the model was trained for.",
    ),
    Flag(metavar="N"),
]
Workers = Annotated[
    int,
    Field(ge=-1, description="Processes that load data; 0: a thread; -1: what suits the device."),
]
Source = Annotated[
    str,
    Field(
        description="Image, folder, glob, video, camera number or stream address (rtsp://, http://)."
    ),
    Flag(argument=True, metavar="SOURCE"),
]
Alpha = Annotated[float, Field(ge=0, le=1, description="Opacity of the colours over the picture.")]
