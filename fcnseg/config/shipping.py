"""The options of `fcnseg export`, `fcnseg bench` and `fcnseg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from fcnseg.config.choices import Device, Engine, Flag, Format, RunPrecisionOption, ShortSide
from fcnseg.config.options import STRICT, Options


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportConfig(Options):
    """Write a model in another format and prove that it gives the same answers."""

    verb: ClassVar[str] = "export"
    model: Annotated[
        str | None,
        Field(description="Checkpoint or run folder; without it, the newest run's best."),
        Flag(argument=True, metavar="MODEL"),
    ] = None
    format: Annotated[
        Format, Field(description="The format; onnx and openvino files run in fcnseg itself, too.")
    ] = "onnx"
    out: Annotated[
        Path | None,
        Field(description="The file; without it, beside the model."),
        Flag(("--out", "-o")),
    ] = None
    precision: Annotated[
        Literal["f32", "int8"],
        Field(
            description="Arithmetic of the file; int8 is smaller and often faster (onnx only; "
            "needs --data)."
        ),
    ] = "f32"
    data: Annotated[
        Path | None,
        Field(
            description="The dataset folder whose training images int8 is fitted to; what it "
            "costs is measured on the validation images."
        ),
        Flag(metavar="FOLDER"),
    ] = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchConfig(Options):
    """How fast a model is here."""

    verb: ClassVar[str] = "bench"
    model: Annotated[
        str | None,
        Field(description="Checkpoint, exported file or run folder; else the newest run's best."),
        Flag(argument=True, metavar="MODEL"),
    ] = None
    source: Annotated[
        Path | None,
        Field(description="A video to time it on; without it, one is drawn."),
        Flag(argument=True, metavar="SOURCE"),
    ] = None
    size: Annotated[
        tuple[int, int],
        Field(description="Height and width of the drawn video."),
        Flag(metavar="H W"),
    ] = (360, 480)
    frames: Annotated[int, Field(ge=3, description="Frames to time, after warm-up.")] = 60
    short_side: ShortSide = None
    batch: Annotated[int, Field(ge=1, description="Frames a step.")] = 1
    device: Device = "auto"
    precision: RunPrecisionOption = "auto"
    engine: Engine = "auto"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DemoConfig(Options):
    """The whole way in a few minutes, on data it draws itself."""

    verb: ClassVar[str] = "demo"
    out: Annotated[Path, Field(description="The folder for everything."), Flag(("--out", "-o"))] = (
        Path("fcnseg-demo")
    )
    epochs: Annotated[int, Field(ge=1, description="Times through the drawn images.")] = 10
    seed: Annotated[int, Field(ge=0, description="Everything random follows from it.")] = 0
    device: Device = "auto"
