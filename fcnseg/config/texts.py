"""Help texts shared by several commands, names of options in other programs, and TOML values."""

from __future__ import annotations

import re
from typing import Any

MODEL = "Checkpoint, exported file, run folder or pretrained model (nuclei) (default: the newest run's best)"
MODELS = f"{MODEL}; repeatable: the probabilities of several are averaged"
SHORT_SIDE = "Resize the short side to N pixels; 0 = no resizing (default: the model's)"
SHOW_BANDS = "Bands that images show as red, green and blue, or one (default: those of these names, else the first three)"
PAGE = "Page or frame of files that have several (TIFF, GIF, WebP, PNG), from 1 on; all = each is a frame (default: the first, with a warning)"
SOURCE = "Images, videos, folders, globs, a sequence (frame_%04d.png), a camera number, a stream address (rtsp://, http://), or - for stdin"
DEVICE = "auto, cpu, cuda, cuda:N or mps"
PRECISION = "Numeric precision: f32, bf16 or f16; auto = the fastest that is safe on the device"
INT8 = f"{PRECISION}; int8 needs a file of `fcnseg export --precision int8`"
ENGINE = "Inference engine: torch, onnxruntime, openvino, opencv, litert or executorch; auto = by the model file"
WORKERS = "Data loading processes; 0 = a thread, -1 = automatic"
SEED = "Random seed"
LIMIT = "Stop after N frames; 0 = no limit"
FILL_BOXES = "Boxes among polygons (YOLO, COCO) are filled as their class (default: ignored)"
CLASSES = "Only this class (name or number), repeatable; others become 255"
ALPHA = "Opacity of the colors over the image"
TTA = "Test-time augmentation: four scales and horizontal flip"
HTML = "Write a report: one page with tables, charts and images (extra: report)"
TOLERANCE = "Pixels that an outline may be off, for boundary F1 and kinds of errors"
OUT = ("--out", "-o")
MODEL_FLAGS = ("--model", "-m")
EACH_MODEL = "run the command once for each model"
PALETTE = "Colors of the classes: default (for color-blind readers, too), pascal, cityscapes or tab (Matplotlib's tab20)"

RELATED = {
    "size": ("crop", "short_side", "size"),
    "learning": ("lr",),
    "gpu": ("device",),
    "iterations": ("epochs",),
    "weights": ("model", "finetune", "backbone_weights"),
    "checkpoint": ("model", "finetune"),
    "encoder": ("backbone",),
    "threshold": ("conf",),
    "output": ("out",),
    "skips_shown": ("rungs",),
}
"""A word contained in an unknown option -> our options."""

SYNONYMS = {
    **dict.fromkeys(("imgsz", "img", "input_shape"), RELATED["size"]),
    **dict.fromkeys(("half", "fp16", "amp"), ("precision",)),
    **dict.fromkeys(("batch_size", "samples_per_gpu"), ("batch",)),
    **dict.fromkeys(("project", "name", "exist_ok", "work_dir", "save_dir"), ("out",)),
    "conf_thres": ("conf",),
    **dict.fromkeys(("input", "source"), ("source", "data")),
    "dataset": ("data",),
    "iters": ("epochs",),
    "pretrained": ("backbone_weights", "model"),
    "view_img": ("show",),
}
"""A complete option of Ultralytics, mmsegmentation and others -> our options."""

_FROM_LABELS = "the number of classes follows from the labels; `fcnseg check DATA` shows them"

ADVICE = {
    "cfg_options": "each option is given by itself, or in a TOML file by --config FILE",
    **dict.fromkeys(("camera", "webcam"), "a camera's number is the SOURCE: fcnseg infer 0"),
    "num_classes": _FROM_LABELS,
    "nc": _FROM_LABELS,
}
"""Options of other programs without a counterpart -> what to do."""


def toml_value(value: Any) -> str:
    """A plain value in TOML syntax."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return _toml_string(value) if isinstance(value, str) else repr(value)


def _toml_string(text: str) -> str:
    r"""A TOML basic string: \ and " escaped, and unprintable characters as \U escapes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    # TOML has no escape for lone surrogates; `to_bytes` encodes them.
    kept = (
        c if c.isprintable() or "\ud800" <= c <= "\udfff" else f"\\U{ord(c):08X}" for c in escaped
    )
    return '"' + "".join(kept) + '"'


def line_of(name: str, text: str) -> str:
    """ ", line N": where a TOML document has a key or table; "" where it is spelled otherwise."""
    key = re.compile(rf"\s*\[?\s*[\"']?{re.escape(name)}\b")
    numbers = (number for number, line in enumerate(text.splitlines(), 1) if key.match(line))
    return next((f", line {number}" for number in numbers), "")
