"""Every option of every verb, declared once.

The command line's flags, the TOML file (`--config`, and the config.toml of every run)
and the Python API are all made from these classes. A value is checked when a config is
made; `make` and `load` raise OptionError: which option, what was found, what was expected.
Precedence: default < TOML < flag.

This module knows nothing of terminals (fcnseg.cli makes the flags) and does not import
torch, so that `--help` stays fast.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fcnseg.errors import OptionError

Decoder = Literal["fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s"]
Fuse = Literal["score", "feature", "concat"]
Precision = Literal["auto", "f32", "bf16", "f16"]
EngineName = Literal["auto", "torch", "onnxruntime", "openvino", "opencv"]
Format = Literal["onnx", "openvino", "torchscript", "torch-export"]
Output = Literal["overlay", "labels", "color", "probabilities", "geojson", "labelme", "coco"]
Split = Literal["train", "val", "test", "all"]

STRICT = ConfigDict(extra="forbid")


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
Engine = Annotated[
    EngineName, Field(description="What runs the network; auto takes what fits the model file.")
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


class _Options:
    """What every config can do."""

    verb: ClassVar[str]

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """A config from plain values; OptionError for an unknown name or a wrong value."""
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise OptionError(
                    f"Unknown option {name!r} for {cls.verb}.",
                    hint=f"did you mean {close[0]!r}?"
                    if close
                    else f"known: {', '.join(sorted(known))}",
                )
        try:
            config = cls(**values)
        except pydantic.ValidationError as error:
            raise OptionError(_sentence(error)) from None
        object.__setattr__(config, "_given", frozenset(values))
        return config

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> Self:
        """A config from a TOML file, with some of its values overridden."""
        return cls.make({**read_toml(path), **overrides})

    def given(self) -> frozenset[str]:
        """The options someone chose: what `make` was given, else what is not the default."""
        told: frozenset[str] | None = self.__dict__.get("_given")
        if told is not None:
            return told
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return frozenset(f.name for f in fields if getattr(self, f.name) != f.default)

    def as_dict(self) -> dict[str, Any]:
        """Plain values (paths as text), None left out: what a TOML file can hold."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {name: _plain(value) for name, value in values.items() if value is not None}

    def as_toml(self, reasons: Mapping[str, str] | None = None) -> str:
        """The config as a TOML document that `load` reads back to the same config.

        reasons: why an option has its value, by name; written above it.
        """
        lines = [f"# fcnseg {self.verb}: every option, as resolved"]
        for name, value in self.as_dict().items():
            if reasons and name in reasons:
                lines.append(f"# {reasons[name]}")
            lines.append(f"{name} = {toml_value(value)}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckConfig(_Options):
    """Look at a dataset folder: say what it is and what is wrong with it."""

    verb: ClassVar[str] = "check"
    data: Annotated[
        Path,
        Field(description="The dataset: a folder, a list of pairs (CSV) or a dataset.toml."),
        Flag(argument=True, metavar="DATA"),
    ]
    contact: Annotated[
        Path,
        Field(description="Where to write a sheet of pictures with their labels over them."),
        Flag(metavar="FILE"),
    ] = Path("runs/check/contact.png")
    write: Annotated[
        Path | None,
        Field(description="Write what was found as a dataset.toml, to correct and to train on."),
        Flag(metavar="FILE"),
    ] = None
    fix: Annotated[
        Path | None,
        Field(description="Write a clean copy of the dataset into this new folder."),
        Flag(metavar="OUT"),
    ] = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig(_Options):
    """Train on a dataset folder; write a run folder."""

    verb: ClassVar[str] = "train"
    data: Annotated[
        Path | None,
        Field(description="The dataset folder (with --resume: the run folder, or nothing)."),
        Flag(argument=True, metavar="DATA"),
    ] = None
    out: Annotated[
        Path | None,
        Field(description="The run folder; without it, the next free runs/trainN."),
        Flag(("--out", "-o")),
    ] = None
    resume: Annotated[
        bool, Field(description="Go on with an interrupted run (--out's, or the newest).")
    ] = False

    backbone: Annotated[str, Field(description="The pretrained trunk."), Flag(panel="Network")] = (
        "efficientnet_lite0"
    )
    decoder: Annotated[
        Decoder, Field(description="How far down the ladder to go."), Flag(panel="Network")
    ] = "fcn8s"
    fuse: Annotated[
        Fuse,
        Field(description="What is summed at a rung: score is the paper's."),
        Flag(panel="Network"),
    ] = "feature"
    width: Annotated[
        int,
        Field(ge=8, description="Channels of a rung (fuse feature, concat)."),
        Flag(panel="Network"),
    ] = 128
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="Dropout before the scores."), Flag(panel="Network")
    ] = 0.1
    upsample: Annotated[
        Literal["fixed", "learned"],
        Field(description="Bilinear upsampling: fixed, or learned from it."),
        Flag(panel="Network"),
    ] = "fixed"
    skips: Annotated[
        Literal["zero", "scaled"],
        Field(
            description="How the skips' scores start (fuse score): at zero, or small on features "
            "scaled by 0.01 and 0.0001, as in the at-once original."
        ),
        Flag(panel="Network"),
    ] = "zero"
    output_stride: Annotated[
        int,
        Field(
            ge=8,
            le=32,
            description="How coarse the trunk may get: 32, or 16 or 8 by dilation, where it can.",
        ),
        Flag(panel="Network"),
    ] = 32
    backbone_weights: Annotated[
        str,
        Field(description="Where the trunk starts: auto (ImageNet), none, or a file."),
        Flag(panel="Network"),
    ] = "auto"

    finetune: Annotated[
        str | None,
        Field(
            description="Start from this checkpoint or run folder; of another class list, or "
            "another decoder, what fits is kept."
        ),
        Flag(panel="Network"),
    ] = None
    freeze: Annotated[
        int,
        Field(ge=0, description="Stages of the trunk that do not learn, from the picture on."),
        Flag(panel="Network"),
    ] = 0
    freeze_norm: Annotated[
        bool,
        Field(description="Batch norms keep the statistics they start with (tiny batches)."),
        Flag(panel="Network"),
    ] = False

    epochs: Annotated[
        int,
        Field(
            ge=0,
            description="Times through the training images; 0: by their number, so that it is "
            "about 2000 steps.",
        ),
    ] = 0
    batch: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        Field(description="Images a step; auto: by what is there, as many as fit on a GPU."),
        Flag(metavar="N|auto"),
    ] = 8
    sanity: Annotated[
        bool,
        Field(description="First see in ten seconds whether it can learn, and at which rates."),
    ] = False
    accumulate: Annotated[
        int,
        Field(ge=1, description="Parts a step is computed in: less memory, the same step."),
    ] = 1
    pictures: Annotated[
        int,
        Field(
            ge=0, description="Draw four validation images every N epochs, the worst at the end."
        ),
    ] = 0
    tensorboard: Annotated[
        bool, Field(description="Write the epochs for TensorBoard, too (extra: log).")
    ] = False
    patience: Annotated[
        int,
        Field(ge=0, description="Stop after this many epochs without a better mIoU; 0: never."),
    ] = 0
    save_every: Annotated[
        float,
        Field(ge=0, description="Seconds between saved states, from which --resume goes on."),
    ] = 120.0
    loss: Annotated[
        str,
        Field(
            description="One of ce, ohem, focal, dice, lovasz, or a sum: ce+0.5*dice, "
            "ce+lovasz@0.5 (joins at half time)."
        ),
        Flag(panel="Recipe"),
    ] = "ce"
    label_smoothing: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of the wanted probability given to all classes (ce)."),
        Flag(panel="Recipe"),
    ] = 0.0
    aux: Annotated[
        float,
        Field(ge=0, description="Factor of the losses at the coarser rungs; 0: none."),
        Flag(panel="Recipe"),
    ] = 0.0
    optimizer: Annotated[
        Literal["adamw", "sgd"], Field(description="Who moves the weights."), Flag(panel="Recipe")
    ] = "adamw"
    clip: Annotated[
        float,
        Field(ge=0, description="Longer gradients are cut to this norm; 0: never."),
        Flag(panel="Recipe"),
    ] = 5.0
    lr: Annotated[float, Field(gt=0, description="Peak learning rate."), Flag(panel="Recipe")] = (
        1e-3
    )
    backbone_lr: Annotated[
        float,
        Field(ge=0, description="The trunk's learning rate, as a share of --lr."),
        Flag(panel="Recipe"),
    ] = 0.3
    weight_decay: Annotated[
        float, Field(ge=0, description="Weight decay, of convolutions only."), Flag(panel="Recipe")
    ] = 0.01
    schedule: Annotated[
        Literal["poly", "cosine"],
        Field(description="How the learning rate falls after warm-up."),
        Flag(panel="Recipe"),
    ] = "poly"
    warmup: Annotated[
        float,
        Field(ge=0, le=1, description="Share of all steps in which the rate rises."),
        Flag(panel="Recipe"),
    ] = 0.03
    class_weights: Annotated[
        Literal["none", "sqrt", "inverse"],
        Field(description="Weigh classes by their rarity in the training labels."),
        Flag(panel="Recipe"),
    ] = "sqrt"
    ema: Annotated[
        float,
        Field(ge=0, lt=1, description="Decay of the averaged weights; 0 keeps none."),
        Flag(panel="Recipe"),
    ] = 0.99
    crop: Annotated[
        tuple[int, int] | None,
        Field(description="Height and width of training crops; chosen from the images without it."),
        Flag(panel="Recipe", metavar="H W"),
    ] = None
    scale: Annotated[
        tuple[float, float],
        Field(description="Random scale range of training images."),
        Flag(panel="Recipe", metavar="MIN MAX"),
    ] = (0.75, 2.0)
    flip: Annotated[
        float, Field(ge=0, le=1, description="Chance of a horizontal flip."), Flag(panel="Recipe")
    ] = 0.5
    color: Annotated[
        float,
        Field(ge=0, le=1, description="Strength of random brightness, contrast, saturation, hue."),
        Flag(panel="Recipe"),
    ] = 0.3

    calibrate: Annotated[
        bool,
        Field(description="At the end, make the best model as sure as it is right."),
        Flag(panel="Recipe"),
    ] = True
    rare_crops: Annotated[
        float,
        Field(ge=0, le=1, description="Share of crops chosen to contain a rare class."),
        Flag(panel="Recipe"),
    ] = 0.0

    device: Device = "auto"
    precision: PrecisionOption = "auto"
    workers: Workers = -1
    seed: Annotated[int, Field(ge=0, description="Everything random follows from it.")] = 0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvalConfig(_Options):
    """Score a model on a dataset folder, per class."""

    verb: ClassVar[str] = "eval"
    data: Annotated[
        Path, Field(description="The dataset folder."), Flag(argument=True, metavar="DATA")
    ]
    model: Model = None
    split: Annotated[
        Split | None,
        Field(description="Which part; without it test if there is one, else val, else all."),
    ] = None
    tta: Annotated[
        bool,
        Field(description="Look at each image in four sizes and mirrored; slower, a bit better."),
    ] = False
    batch: Annotated[int, Field(ge=1, description="Images at a time.")] = 4
    device: Device = "auto"
    precision: PrecisionOption = "auto"
    engine: Engine = "auto"
    workers: Workers = -1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InferConfig(_Options):
    """Segment an image, a folder, a video or a camera."""

    verb: ClassVar[str] = "infer"
    source: Source
    model: Model = None
    out: Annotated[
        Path | None,
        Field(description="A file (one image, a video) or a folder; without it, runs/inferN."),
        Flag(("--out", "-o")),
    ] = None
    save: Annotated[
        tuple[Output, ...],
        Field(
            description="What to write, repeatable: overlay, labels (class indices), color, "
            "probabilities (.npz), polygons (geojson, labelme) or run lengths (coco). "
            "Default: overlay for videos, overlay and labels for images."
        ),
    ] = ()
    shares: Annotated[
        Path | None,
        Field(description="A JSON line a frame with each class's share of it; - is stdout."),
        Flag(metavar="FILE"),
    ] = None
    show: Annotated[bool, Field(description="Show a window; q ends.")] = False
    alpha: Alpha = 0.5
    conf: Annotated[
        float, Field(ge=0, lt=1, description="Pixels less certain than this become unknown (255).")
    ] = 0.0
    classes: Annotated[
        tuple[str, ...],
        Field(description="Draw only these classes, repeatable: names or numbers."),
        Flag(("--class",)),
    ] = ()
    every: Annotated[int, Field(ge=1, description="Take every N-th frame.")] = 1
    limit: Annotated[int, Field(ge=0, description="Stop after this many frames; 0: all.")] = 0
    start: Annotated[float, Field(ge=0, description="Seconds of a video to pass over.")] = 0.0
    end: Annotated[float | None, Field(gt=0, description="Second of a video to stop at.")] = None
    watch: Annotated[bool, Field(description="Stay with a folder; segment what comes.")] = False
    skip_done: Annotated[
        bool, Field(description="Pass over frames that an earlier run into --out has done.")
    ] = False
    batch: Annotated[int, Field(ge=1, description="Frames a step (files only).")] = 1
    smooth: Annotated[
        float,
        Field(
            ge=0, lt=1, description="Steadier labels of a video: the weight of the past; 0: off."
        ),
    ] = 0.0
    tile: Annotated[
        str,
        Field(description="Large pictures in tiles: auto, off, or a tile's side in pixels."),
    ] = "auto"
    device: Device = "auto"
    precision: PrecisionOption = "auto"
    engine: Engine = "auto"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VizConfig(_Options):
    """Heatmaps over the picture: where the network sees each class, and how sure it is."""

    verb: ClassVar[str] = "viz"
    source: Source
    model: Model = None
    out: Annotated[
        Path | None,
        Field(description="The folder for the pictures; without it, runs/vizN."),
        Flag(("--out", "-o")),
    ] = None
    classes: Annotated[
        tuple[str, ...],
        Field(description="Classes to draw, repeatable: names or numbers; without it, all."),
        Flag(("--class",)),
    ] = ()
    alpha: Alpha = 0.6
    rungs: Annotated[
        bool,
        Field(description="Also draw what each rung of the ladder says (networks of fuse score)."),
    ] = False
    classify: Annotated[
        bool,
        Field(
            description="Draw what an ImageNet classifier sees, without any training; "
            "--model names the backbone (efficientnet_lite0, vgg16, ...)."
        ),
    ] = False
    limit: Annotated[int, Field(ge=0, description="Stop after this many frames; 0: all.")] = 0
    device: Device = "auto"
    precision: PrecisionOption = "auto"
    engine: Engine = "auto"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportConfig(_Options):
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchConfig(_Options):
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
    batch: Annotated[int, Field(ge=1, description="Frames a step.")] = 1
    device: Device = "auto"
    precision: PrecisionOption = "auto"
    engine: Engine = "auto"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DemoConfig(_Options):
    """The whole way in a few minutes, on data it draws itself."""

    verb: ClassVar[str] = "demo"
    out: Annotated[Path, Field(description="The folder for everything."), Flag(("--out", "-o"))] = (
        Path("fcnseg-demo")
    )
    epochs: Annotated[int, Field(ge=1, description="Times through the drawn images.")] = 10
    seed: Annotated[int, Field(ge=0, description="Everything random follows from it.")] = 0
    device: Device = "auto"


CONFIGS = (
    CheckConfig,
    TrainConfig,
    EvalConfig,
    InferConfig,
    VizConfig,
    ExportConfig,
    BenchConfig,
    DemoConfig,
)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's values; OptionError when it is missing or malformed."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise OptionError(f"Can't read {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not a TOML file: {error}.") from None


def _sentence(error: pydantic.ValidationError) -> str:
    """The first thing wrong, in the words of the option."""
    first = error.errors()[0]
    where = str(first["loc"][0]).replace("_", "-") if first["loc"] else "options"
    what = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "missing":
        return f"{where}: a value is needed."
    return f"{where}: {what}; found {first['input']!r}."


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def toml_value(value: Any) -> str:
    """A plain value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


def _toml_string(text: str) -> str:
    r"""A TOML basic string: \ and " escaped, what is not printable escaped by number."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
