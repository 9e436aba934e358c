"""The options of `fcnseg train` and `fcnseg eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from fcnseg.config.choices import (
    Decoder,
    Device,
    Engine,
    Flag,
    Fuse,
    Model,
    PrecisionOption,
    RunPrecisionOption,
    ShortSide,
    Split,
    Workers,
)
from fcnseg.config.options import STRICT, Options


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig(Options):
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
    ] = "fcn4s"
    fuse: Annotated[
        Fuse,
        Field(description="What is summed at a rung: score is the paper's."),
        Flag(panel="Network"),
    ] = "feature"
    width: Annotated[
        int,
        Field(ge=8, description="Channels of a rung (fuse feature, concat)."),
        Flag(panel="Network"),
    ] = 64
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="Dropout before the scores."), Flag(panel="Network")
    ] = 0.1
    upsample: Annotated[
        Literal["auto", "fixed", "learned", "subpixel"],
        Field(
            description="Bilinear upsampling: fixed, learned from it, or subpixel: fixed, with "
            "each pixel's own share added at the end; auto: subpixel where there are two classes "
            "and one is below 5 %, else fixed (as with --fuse score)."
        ),
        Flag(panel="Network"),
    ] = "auto"
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
    compile: Annotated[
        bool,
        Field(
            description="Let torch.compile rewrite the trunk before the first step, which takes a "
            "minute or so; worth a try on a GPU."
        ),
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
    ] = "ce+dice"
    label_smoothing: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of the wanted probability given to all classes (ce)."),
        Flag(panel="Recipe"),
    ] = 0.0
    aux: Annotated[
        float,
        Field(ge=0, description="Factor of the losses at the coarser rungs; 0: none."),
        Flag(panel="Recipe"),
    ] = 0.4
    optimizer: Annotated[
        Literal["adamw", "sgd"], Field(description="Who moves the weights."), Flag(panel="Recipe")
    ] = "adamw"
    clip: Annotated[
        float,
        Field(ge=0, description="Longer gradients are cut to this norm; 0: never."),
        Flag(panel="Recipe"),
    ] = 5.0
    lr: Annotated[float, Field(gt=0, description="Peak learning rate."), Flag(panel="Recipe")] = (
        2e-3
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
        Literal["auto", "none", "sqrt", "inverse"],
        Field(
            description="Weigh classes by their rarity in the training labels (ce, ohem, focal); "
            "auto: sqrt where there are two and one is below 5 %, else none."
        ),
        Flag(panel="Recipe"),
    ] = "auto"
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
    short_side: Annotated[
        int | None,
        Field(
            ge=0,
            description="Short side, in pixels, at which the network sees pictures, here and "
            "later; --crop and --scale are of that size. 0: their own.",
        ),
        Flag(panel="Recipe", metavar="N"),
    ] = None
    flip: Annotated[
        float, Field(ge=0, le=1, description="Chance of a horizontal flip."), Flag(panel="Recipe")
    ] = 0.5
    rotate: Annotated[
        float,
        Field(ge=0, le=180, description="Degrees that training crops are turned at most."),
        Flag(panel="Recipe"),
    ] = 0.0
    mix: Annotated[
        Literal["none", "cutmix", "classmix"],
        Field(
            description="Lay a part of another training image over one: a rectangle (cutmix), or "
            "half of its classes (classmix)."
        ),
        Flag(panel="Recipe"),
    ] = "none"
    mix_share: Annotated[
        float,
        Field(ge=0, le=1, description="Share of training images that --mix is done to."),
        Flag(panel="Recipe"),
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
class EvalConfig(Options):
    """Score a model on a dataset folder, per class."""

    verb: ClassVar[str] = "eval"
    data: Annotated[
        Path, Field(description="The dataset folder."), Flag(argument=True, metavar="DATA")
    ]
    model: Model = None
    short_side: ShortSide = None
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
    precision: RunPrecisionOption = "auto"
    engine: Engine = "auto"
    workers: Workers = -1
