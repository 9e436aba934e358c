"""Every option of every command, declared once, one line each.

Command-line flags (fcnseg.cli.flags), TOML files (`--config`, and the config.toml of every run)
and the Python API are generated from these classes; fcnseg.config.options implements this.
Precedence: default < TOML < flag. None means not given: the value comes from the data, the
checkpoint or the run.

This module does not import torch, so that `--help` stays fast.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import fcnseg.config.texts as texts
from fcnseg.config.options import (
    Decoder,
    EngineName,
    Fuse,
    Options,
    RunPrecision,
    Split,
    Upsampling,
    option,
)
from fcnseg.config.viz import VizConfig as VizConfig

Precision = Literal["auto", "f32", "bf16", "f16"]
Format = Literal["onnx", "openvino", "torchscript", "torch-export", "litert", "executorch", "web"]
Include = Literal["argmax", "argmax-only", "skips"]
Output = Literal[
    "overlay", "side", "labels", "color", "probabilities", "geojson", "labelme", "yolo", "coco", "cvat", "labelstudio",
]  # fmt: skip
Container = Literal["yuv4mpegpipe", "rawvideo"]
Palette = Literal["default", "pascal", "cityscapes", "tab"]

network = functools.partial(option, group="Network")
recipe = functools.partial(option, group="Loss and optimizer")
augmentation = functools.partial(option, group="Augmentation")
reporting = functools.partial(option, group="Checkpoints, scores and images")
compute = functools.partial(option, group="Hardware")

# fmt: off


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Options):
    """Options of `fcnseg check`.

        result = fcnseg.check(fcnseg.CheckConfig(data=Path("photos")))
    """

    command, summary = "check", "Report what a dataset folder contains and what is wrong with it."
    data: Path = option(..., "Dataset: a folder, a list of pairs (CSV) or a dataset.toml", argument=True)
    contact: Path = option(Path("runs/check/contact.png"), "Contact sheet: images with their labels drawn over them", metavar="FILE")
    html: Path | None = option(None, "Write the report as one HTML page, images and labels side by side", metavar="FILE")
    write: Path | None = option(None, "Write what was detected as a dataset.toml, to edit and train on", metavar="FILE")
    fix: Path | None = option(None, "Write a clean copy of the dataset to this new folder", metavar="OUT")
    fill_boxes: bool = option(False, texts.FILL_BOXES)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Options):
    """Options of `fcnseg train`.

    Values are checked on construction; OptionError, a ValueError, says what was expected.

        config = fcnseg.TrainConfig(data="photos", epochs=40)
        result = fcnseg.train(config)
    """

    command, summary = "train", "Train a network on a dataset folder; write a run folder."
    data: Path | None = option(None, "Dataset folder (with --resume: the run folder, or nothing)", argument=True)
    # The most common options come first.
    out: Path | None = option(None, "Run folder (default: the next free runs/trainN)", flags=texts.OUT)
    epochs: int = option(0, "Number of epochs; 0 = automatic (about 2000 steps)", ge=0)
    batch: int | Literal["auto"] = option(8, "Batch size; auto = as large as fits in GPU memory", ge=1, metavar="N|auto")
    lr: float = option(2e-3, "Peak learning rate", gt=0)
    crop: tuple[int, int] | None = option(None, "Height and width of training crops (default: from the image sizes)", ge=1, metavar="H W")
    backbone: str | None = option(None, "Pretrained backbone: efficientnet_lite0, resnet50, vgg16 ... (docs/networks.md lists all)", fallback="efficientnet_lite0")
    decoder: Decoder | None = option(None, "Finest skip connection that is used, fcn32s = none", fallback="fcn4s")
    finetune: str | None = option(None, "Start from a checkpoint or run folder; its network is kept unless options say otherwise", metavar="MODEL")
    resume: bool = option(False, "Resume an interrupted run (that of --out, or the newest)")
    device: str = option("auto", texts.DEVICE)

    fuse: Fuse | None = network(None, "Fusion at the skip connections: score sums scores (as in the paper), feature sums features, concat concatenates features", fallback="feature")
    width: int | None = network(None, "Channels of a skip (fuse feature, concat)", fallback=64, ge=8)
    dropout: float | None = network(None, "Dropout before the scores", fallback=0.1, ge=0, lt=1)
    upsample: Upsampling | Literal["auto"] | None = network(None, "Final upsampling: fixed (bilinear), learned (transposed convolution) or subpixel (bilinear plus a sub-pixel convolution); auto = subpixel for two classes of which one is below 5 %, else fixed", fallback="auto")
    skips: Literal["zero", "scaled"] | None = network(None, "Initial skip scores (fuse score): zero; or scaled = small, on features scaled by 0.01 and 0.0001, as in the paper's all-at-once training", fallback="zero")
    output_stride: int | None = network(None, "Output stride of the backbone: 32, or 16 or 8 by dilation", fallback=32, ge=8, le=32)
    backbone_weights: str = network("auto", "Initial backbone weights: auto (ImageNet), none, or a file")
    freeze: int | None = network(None, "Number of backbone stages to freeze, from the input (default: 0; 2 where --minutes are few)", ge=0)
    freeze_norm: bool = network(False, "Freeze the statistics of batch norms (for tiny batches)")

    fill_boxes: bool = option(False, texts.FILL_BOXES, group="Dataset")
    bands: str | None = option(None, "Bands of the images that the network takes, from 1 on as in GDAL (default: all; 8-bit RGB as it is)", metavar="N,N,...", group="Dataset")
    show_bands: str | None = option(None, texts.SHOW_BANDS, metavar="R,G,B", group="Dataset")

    loss: str = recipe("ce+dice", "ce, ohem, focal, dice, lovasz or a sum: ce+0.5*dice; ce+lovasz@0.5 adds lovasz at half time")
    class_weights: Literal["auto", "none", "sqrt", "inverse"] = recipe("auto", "Class weights by rarity (ce, ohem, focal): none, sqrt or inverse; auto = sqrt for two classes of which one is below 5 %, else none")
    label_smoothing: float = recipe(0.0, "Label-smoothing factor (ce)", ge=0, lt=1)
    aux: float = recipe(0.4, "Weight of the auxiliary losses at the coarser skips; 0 = none", ge=0)
    optimizer: Literal["adamw", "sgd"] = recipe("adamw", "Optimizer")
    backbone_lr: float = recipe(0.3, "Learning rate of the backbone, as a fraction of --lr", ge=0)
    weight_decay: float = recipe(0.01, "Weight decay, of convolutions only", ge=0)
    schedule: Literal["poly", "cosine"] = recipe("poly", "Learning rate schedule after warm-up")
    warmup: float = recipe(0.03, "Length of the learning rate warm-up, as a fraction of all steps", ge=0, le=1)
    minutes: float | None = recipe(None, "Train for X minutes instead of --epochs: the schedule follows the clock, validation and saving included", gt=0)
    clip: float = recipe(5.0, "Maximum gradient norm; 0 = no clipping", ge=0)
    accumulate: int = recipe(1, "Gradient accumulation steps: less memory, the same result", ge=1)
    ema: float = recipe(0.99, "Decay of the weights' moving average; 0 = no averaging", ge=0, lt=1)
    calibrate: bool = recipe(True, "Calibrate the best model's probabilities (temperature scaling)")
    adjust: bool = recipe(False, "Shift the best model's class logits where that raises the mIoU of validation images that had no part in the choice")

    scale: tuple[float, float] = augmentation((0.75, 2.0), "Range of random scaling", gt=0, metavar="MIN MAX")
    short_side: int | None = augmentation(None, "Resize the short side to N pixels, in training and later; 0 = no resizing. --crop and --scale refer to that size (default: 720 to 2160 for larger images whose labels allow it, if --crop is not given)", ge=0, metavar="N")
    flip: float = augmentation(0.5, "Probability of a horizontal flip", ge=0, le=1)
    rotate: float = augmentation(0.0, "Maximum rotation of training crops, in degrees", ge=0, le=180)
    color: float = augmentation(0.3, "Strength of random brightness, contrast, saturation and hue", ge=0, le=1)
    mix: Literal["none", "cutmix", "classmix"] = augmentation("none", "Mix two training images: none, a rectangle (cutmix) or half of the classes (classmix)")
    mix_share: float = augmentation(0.5, "Probability of --mix for a training image", ge=0, le=1)
    rare_crops: float = augmentation(0.0, "Fraction of crops chosen to contain a rare class", ge=0, le=1)

    unlabeled: Path | None = option(None, "Folder of images without labels to learn from as well: the averaged weights' confident predictions are the labels of strongly augmented crops", metavar="FOLDER", group="Unlabeled images")
    unlabeled_weight: float = option(1.0, "Weight of the loss on unlabeled images", gt=0, group="Unlabeled images")
    confident: float = option(0.95, "Probability from which a prediction on an unlabeled image counts", gt=0, lt=1, group="Unlabeled images")

    patience: int = reporting(0, "Stop after N epochs without a better mIoU; 0 = never", ge=0)
    save_every: float = reporting(120.0, "Seconds between saved states, from which --resume continues", ge=0)
    pictures: int = reporting(0, "Write four validation images with predictions every N epochs, and the worst at the end; 0 = none", ge=0, hidden=("--sample-images",))
    report: bool = reporting(True, "Write report.html at the end: the scores of the best checkpoint, curves and images (extra: report)")
    palette: Palette = reporting("default", f"{texts.PALETTE}; colors of the dataset's own class list are kept")
    tensorboard: bool = reporting(False, "Log to TensorBoard as well (extra: log)")
    sanity: bool = reporting(False, "Run a 10-second sanity check first: can it overfit two images, at which learning rates?")

    precision: Precision = compute("auto", texts.PRECISION)
    workers: int = compute(-1, texts.WORKERS, ge=-1)
    compile: bool = compute(False, "Compile the backbone with torch.compile, which takes about a minute")
    seed: int = option(0, texts.SEED, ge=0, le=10**18, group="Seeds and folds")
    seeds: int | None = option(None, "Train N times, with seeds from --seed on: runs RUN/seed0, ..., mean and spread of their scores; RUN is a model, their average", ge=2, group="Seeds and folds")
    folds: int | None = option(None, "Cross-validation: divide the images of train and val into N folds (classes in proportion, videos and similar images together); run RUN/foldI trains without fold I and is scored on it", ge=2, group="Seeds and folds")
    fold: int | None = option(None, "Train only this one of the --folds, counted from 0", ge=0, group="Seeds and folds")
    like: Path | None = option(None, "Train with the dataset, options and seed of that run; options given on the command line take precedence", metavar="RUN", group="Seeds and folds")


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Options):
    """Options of `fcnseg eval`.

        report = fcnseg.evaluate(fcnseg.EvalConfig(data=Path("photos"), model=("nuclei",)))
    """

    command, summary = "eval", "Score a model on a dataset folder, per class."
    data: Path = option(..., "Dataset folder", argument=True)
    model: tuple[str, ...] | None = option(None, texts.MODELS, flags=texts.MODEL_FLAGS, metavar="MODEL")
    short_side: int | None = option(None, texts.SHORT_SIDE, ge=0, metavar="N")
    split: Split | None = option(None, "Split to score: train, val, test or all (default: test if there is one, else val, else all; all of a folder without splits, unless the model was trained on it)")
    fill_boxes: bool = option(False, texts.FILL_BOXES)
    tta: bool = option(False, texts.TTA)
    html: Path | None = option(None, texts.HTML, metavar="FILE")
    csv: Path | None = option(None, "Write a table of all images: mIoU, boundary F1, IoU of each class; - is stdout", metavar="FILE", stdout=True)
    confusion: Path | None = option(None, "Write the confusion matrix as CSV, in pixels: a row for each true class; - is stdout", metavar="FILE", stdout=True)
    latex: Path | None = option(None, "Write the scores of each class as a LaTeX table; - is stdout", metavar="FILE", stdout=True)
    markdown: Path | None = option(None, "Write the scores of each class as a Markdown table; - is stdout", metavar="FILE", stdout=True)
    tolerance: int = option(2, texts.TOLERANCE, ge=0, le=100)
    batch: int = option(4, "Batch size", ge=1)
    device: str = option("auto", texts.DEVICE)
    precision: RunPrecision = option("auto", texts.INT8)
    engine: EngineName = option("auto", texts.ENGINE)
    workers: int = option(-1, texts.WORKERS, ge=-1)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Options):
    """Options of `fcnseg compare`.

        fcnseg.compare(fcnseg.CompareConfig(data=Path("photos"), model=("run1", "run2")))
    """

    command, summary = "compare", "Compare models on a dataset folder: per class, per image, and how sure the difference is."
    data: Path = option(..., "Dataset folder", argument=True)
    model: tuple[str, ...] = option((), "Checkpoint, exported file, run folder or pretrained model (nuclei); give at least two, the first is what the others are compared with", flags=texts.MODEL_FLAGS, metavar="MODEL")
    short_side: int | None = option(None, texts.SHORT_SIDE, ge=0, metavar="N")
    split: Split | None = option(None, "Split to score: train, val, test or all (default: one that no model was trained on, where that is known)")
    tta: bool = option(False, texts.TTA)
    html: Path | None = option(None, texts.HTML, metavar="FILE")
    csv: Path | None = option(None, "Write a table of all images: the mIoU of each model; - is stdout", metavar="FILE", stdout=True)
    tolerance: int = option(2, texts.TOLERANCE, ge=0, le=100)
    batch: int = option(4, "Batch size", ge=1)
    device: str = option("auto", texts.DEVICE)
    precision: RunPrecision = option("auto", texts.INT8)
    engine: EngineName = option("auto", texts.ENGINE)
    workers: int = option(-1, texts.WORKERS, ge=-1)
    fill_boxes: bool = option(False, texts.FILL_BOXES)


@dataclass(frozen=True, kw_only=True)
class ReviewConfig(Options):
    """Options of `fcnseg review`.

        fcnseg.review(fcnseg.ReviewConfig(data=Path("photos"), model="runs/train1"))
    """

    command, summary = "review", "Rank labels by how probably they are wrong; without labels, images by which to label next."
    data: Path = option(..., "Dataset folder; with --unlabeled: a folder of images, or a video", argument=True)
    model: str | None = option(None, texts.MODEL, flags=texts.MODEL_FLAGS, metavar="MODEL", once=texts.EACH_MODEL)
    out: Path | None = option(None, "Output folder (default: runs/reviewN)", flags=texts.OUT)
    unlabeled: bool = option(False, "Rank images by which are most worth labeling: those that the model is unsure of, and unlike each other", hidden=("--unlabelled",))
    split: Split = option("all", "Split to review: train, val, test or all")
    limit: int = option(100, "Maximum number of regions or images in the report", ge=1, metavar="N")
    save: tuple[Literal["labelme"], ...] = option((), "Also write the predictions as polygons to correct: labelme")
    tolerance: int = option(3, "Pixels that an outline may be off without being listed", ge=0, le=100)
    short_side: int | None = option(None, texts.SHORT_SIDE, ge=0, metavar="N")
    device: str = option("auto", texts.DEVICE)
    precision: RunPrecision = option("auto", texts.INT8)
    engine: EngineName = option("auto", texts.ENGINE)
    fill_boxes: bool = option(False, texts.FILL_BOXES)


@dataclass(frozen=True, kw_only=True)
class InferConfig(Options):
    """Options of `fcnseg infer`.

        done = fcnseg.infer(fcnseg.InferConfig(source=("clip.mp4",), model=("nuclei",)))
    """

    command, summary = "infer", "Segment an image, a folder, a video or a camera."
    source: tuple[str, ...] = option(..., texts.SOURCE, argument=True, metavar="SOURCE...")
    model: tuple[str, ...] | None = option(None, texts.MODELS, flags=texts.MODEL_FLAGS, metavar="MODEL")
    out: Path | None = option(None, "Output file (one image, a video, NAME_%04d.png), folder, or - for a video on stdout (default: runs/inferN)", flags=texts.OUT, stdout=True)
    format: Container | None = option(None, "Container for --out -: yuv4mpegpipe (y4m) or rawvideo (rgb24; labels: gray)", synonyms={"y4m": "yuv4mpegpipe", "raw": "rawvideo"}, fallback="yuv4mpegpipe")
    save: tuple[Output, ...] = option((), "Outputs to write, repeatable or comma-separated: overlay, side (image and overlay side by side), labels (class indices), color, probabilities (.npz), polygons (geojson, labelme, yolo, cvat, labelstudio) or run lengths (coco) (default: overlay for videos, overlay and labels for images)", synonyms={"polygons": "geojson"}, listed=True)
    show: bool = option(False, "Show a window; q quits")
    classes: tuple[str, ...] = option((), texts.CLASSES, flags=("--class",))
    tta: bool = option(False, texts.TTA)
    conf: float = option(0.0, "Confidence threshold; pixels below it become unknown (255)", ge=0, lt=1)
    device: str = option("auto", texts.DEVICE)
    short_side: int | None = option(None, texts.SHORT_SIDE, ge=0, metavar="N")
    shares: Path | None = option(None, "One JSON line per frame with per-class pixel fractions; - is stdout", hidden=("--proportions",), metavar="FILE", stdout=True)
    alpha: float = option(0.5, texts.ALPHA, ge=0, le=1)
    show_bands: str | None = option(None, texts.SHOW_BANDS, metavar="R,G,B")
    palette: Palette | None = option(None, f"{texts.PALETTE} (default: the model's own)")
    legend: bool = option(False, "Draw a legend beside overlays and colors; a window always has one")
    simplify: float = option(1.0, "Tolerance of polygons in pixels: no point is moved further; 0 = exact, along the edges of pixels", ge=0, metavar="PIXELS")
    every: int = option(1, "Take every N-th frame", ge=1)
    limit: int = option(0, texts.LIMIT, ge=0)
    page: str | None = option(None, texts.PAGE, metavar="N|all")
    start: float = option(0.0, "Skip the first X seconds of a video", ge=0, metavar="X")
    end: float | None = option(None, "Stop at this second of a video", gt=0, metavar="X")
    fps: float | None = option(None, "Frames per second of images or of a raw stream that states none", gt=0, le=480)
    video_size: str | None = option(None, "Frame size of raw video, as FFmpeg's -video_size", metavar="WxH")
    pix_fmt: str | None = option(None, "Pixel format of raw video, as FFmpeg names it: rgb24, yuv420p ...", metavar="NAME")
    watch: bool = option(False, "Watch a folder and segment new images")
    skip_done: bool = option(False, "Skip frames that an earlier run has written to --out")
    ray: str | None = option(None, "Divide the frames among the workers of a Ray cluster: its address (auto, HOST:6379, ray://HOST:10001), or local: the cores of this machine", metavar="ADDRESS|local")
    batch: int = option(1, "Batch size (files only)", ge=1)
    smooth: float = option(0.0, "Temporal smoothing factor for videos; 0 = off", ge=0, lt=1)
    tile: str = option("auto", "Segment large images in tiles: auto, off, or the tile size in pixels", metavar="N|auto|off")
    precision: RunPrecision = option("auto", texts.INT8)
    engine: EngineName = option("auto", texts.ENGINE)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Options):
    """Options of `fcnseg export`.

        exported = fcnseg.export(fcnseg.ExportConfig(model="nuclei", format="openvino"))
    """

    command, summary = "export", "Export a model to another format and verify that outputs match the checkpoint."
    model: str | None = option(None, "Checkpoint or run folder (default: the newest run's best)", argument=True, hidden=texts.MODEL_FLAGS)
    format: Format = option("onnx", "File format: onnx, openvino, torchscript, torch-export, litert (TFLite) or executorch, the last two for phones, with --size; all but torchscript and torch-export also run in fcnseg; web: a folder with a page that segments images and the camera in a browser")
    out: Path | None = option(None, "Output file, for web a folder (default: beside the model)", flags=texts.OUT)
    precision: Literal["f32", "f16", "int8"] = option("f32", "Numeric precision: f32; f16, half the size; or int8, a quarter of the size and often faster (onnx only; needs --data)")
    size: tuple[int, int] | None = option(None, "Fixed input height and width, with batch size 1 (default: any size)", ge=1, metavar="H W")
    layout: Literal["nhwc", "nchw"] = option("nhwc", "Order of the input's axes: nhwc (batch, height, width, channels, as images lie in memory) or nchw")
    short_side: int | None = option(None, texts.SHORT_SIDE, ge=0, metavar="N")
    include: tuple[Include, ...] = option((), "Outputs besides the logits, repeatable: argmax (labels), argmax-only (labels instead of the logits), skips (each skip's contribution, --fuse score only)")
    bundle: bool = option(False, "Write a zip file: the ONNX file with labels, its contract, examples in Python, C++ and Docker, and the comparison")
    web_runtime: Path | None = option(None, "For web: the unpacked npm package onnxruntime-web (default: node_modules/onnxruntime-web)", metavar="FOLDER")
    images: str | None = option(None, "Images to compare the file with the checkpoint on: file, folder or video (default: synthetic ones)", metavar="SOURCE")
    data: Path | None = option(None, "Dataset folder: outputs and mIoU are compared on its validation images; its training images calibrate int8", metavar="FOLDER")


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Options):
    """Options of `fcnseg bench`.

        timed = fcnseg.bench(fcnseg.BenchConfig(model="nuclei", size=(360, 480)))
    """

    command, summary = "bench", "Benchmark a model on this machine."
    model: str | None = option(None, texts.MODEL, argument=True, hidden=texts.MODEL_FLAGS)
    source: Path | None = option(None, "Video to time (default: a synthetic one)", argument=True)
    size: tuple[int, int] = option((360, 480), "Height and width of the synthetic video", ge=1, metavar="H W")
    frames: int = option(60, "Number of frames to time, after warm-up", ge=3)
    short_side: int | None = option(None, texts.SHORT_SIDE, ge=0, metavar="N")
    batch: int = option(1, "Batch size", ge=1)
    device: str = option("auto", texts.DEVICE)
    precision: RunPrecision = option("auto", texts.INT8)
    engine: EngineName = option("auto", texts.ENGINE)


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Options):
    """Options of `fcnseg serve`."""

    command, summary = "serve", "Serve models over HTTP, with a page to try them."
    model: tuple[str, ...] = option((), f"{texts.MODEL}; NAME=MODEL names it; repeatable", argument=True, hidden=texts.MODEL_FLAGS, metavar="MODEL...")
    host: str = option("127.0.0.1", "Address to listen on; others than this machine's own need --token or --public", metavar="ADDRESS")
    port: int = option(8000, "Port; 0 = a free one", ge=0, le=65535)
    token: str | None = option(None, "Accept only requests with this token in their header Authorization: Bearer (default: the variable FCNSEG_TOKEN)", metavar="TOKEN")
    public: bool = option(False, "Accept requests without a token from anyone who can reach the address")
    queue: int = option(256, "Requests of a model that may wait; more are refused with status 429", ge=1)
    batch: int = option(1, "Maximum batch size", ge=1)
    max_mb: float = option(32.0, "Largest request, in MB", gt=0)
    max_megapixels: float = option(16.0, "Largest image, in megapixels", gt=0)
    timeout: float = option(30.0, "Seconds for sending a request, and for its response", gt=0)
    device: str = option("auto", texts.DEVICE)
    precision: RunPrecision = option("auto", texts.INT8)
    engine: EngineName = option("auto", texts.ENGINE)


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Options):
    """Options of `fcnseg demo`.

        shown = fcnseg.demo(fcnseg.DemoConfig(out=Path("demo"), epochs=2))
    """

    command, summary = "demo", "Run the full pipeline on synthetic data, in a few minutes."
    out: Path | None = option(None, "Folder for all outputs (default: the next free fcnseg-demo, fcnseg-demo2, ...)", flags=texts.OUT)
    paper: bool = option(False, "Reproduce the figures of the FCN paper instead: six trainings, an image for each topic, index.html")
    data: Path | None = option(None, "For --paper: dataset folder (default: a synthetic one)", metavar="FOLDER")
    backbone: str = option("tiny", "For --paper: backbone, tiny or a pretrained one")
    epochs: int = option(10, "Number of epochs; with --paper of the first training, the others take half", ge=1)
    seed: int = option(0, texts.SEED, ge=0, le=10**18)
    device: str = option("auto", texts.DEVICE)


CONFIGS: tuple[type[Options], ...] = (
    CheckConfig, TrainConfig, EvalConfig, CompareConfig, ReviewConfig, InferConfig, VizConfig,
    ExportConfig, BenchConfig, ServeConfig, DemoConfig,
)
# fmt: on
