"""Export, load and check the parity of every format with every kind of network.

    python benchmarks/export_matrix.py [--formats onnx openvino] [--backbones resnet18]

Networks with random weights are exported with the parity check of `fcnseg export`: each file is run
and compared with its checkpoint at three sizes and two batch sizes; for formats with a fixed size,
a file is written for each. Results are stored in runs/export_matrix/results.json, from which an
interrupted run resumes; the page with all of them, docs/export_matrix.md, is updated after each.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from onnx import ModelProto
from torch import nn

from fcnseg.classes import ClassMap
from fcnseg.engines.base import Size
from fcnseg.errors import FcnsegError
from fcnseg.exporting import FORMATS, convert, onnx_file
from fcnseg.exporting.graph import GraphOptions
from fcnseg.exporting.onnx_file import network_model
from fcnseg.exporting.parity import Trial
from fcnseg.files import atomic_write
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec

BACKBONES = ("efficientnet_lite0", "resnet18", "mobilenet_v3_large", "vgg16_bn")

DECODERS: dict[str, dict[str, Any]] = {
    "fcn8s score": {"decoder": "fcn8s", "fuse": "score"},
    "fcn8s feature": {"decoder": "fcn8s", "fuse": "feature"},
    "fcn2s concat": {"decoder": "fcn2s", "fuse": "concat"},
    "fcn8s feature, subpixel": {"decoder": "fcn8s", "fuse": "feature", "upsample": "subpixel"},
    "symmetric, learned": {"decoder": "fcn2s", "fuse": "concat", "upsample": "learned"},
}

STATIC = ("litert", "executorch")
"""Formats whose files take images of one size, one at a time."""

SIZES = ((33, 47), (64, 96), (97, 131))
"""Heights and widths: odd, multiples of the stride, neither; batches of one and three images."""

CLASSES = 5


def random_checkpoint(backbone: str, decoder: str) -> Checkpoint:
    """A network with random weights, including those that are initialised to zero."""
    torch.manual_seed(0)
    spec = ModelSpec(backbone=backbone, num_classes=CLASSES, width=16, **DECODERS[decoder])
    network = build(spec)
    for module in network.decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    classes = ClassMap.numbered(CLASSES)
    return Checkpoint(spec, network.backbone.preprocess, classes, network.state_dict())


def measure(
    backbone: str,
    decoder: str,
    kind: str,
    *,
    short_side: int | None = None,
    sizes: Sequence[Size] = SIZES,
) -> Any:
    """The result of the parity check of one file, as plain data; "failed": the reason of a refusal.

    short_side: the file resizes images to it. sizes: at which it is compared; for a static format,
    the fixed size.
    """
    size = sizes[0] if kind in STATIC else None
    checkpoint = random_checkpoint(backbone, decoder)
    checkpoint = replace(checkpoint, preprocess=checkpoint.preprocess.at(short_side))
    options = GraphOptions(include=("argmax",), size=size)
    trial = Trial(sizes=sizes, size=size)
    begin = time.perf_counter()
    traced = partial(_network_model, f"{backbone} / {decoder} / {short_side}")
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(onnx_file, "network_model", traced),
    ):
        path = Path(folder) / f"model{FORMATS[kind].suffix}"
        try:
            parity = convert(checkpoint, path, kind, options=options, trial=trial)
        except FcnsegError as error:
            return {"failed": str(error)}
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    seconds = round(time.perf_counter() - begin, 1)
    return {**parity.as_dict(), "bytes": size, "seconds": seconds}


def merged(results: Sequence[Any]) -> Any:
    """Merge the results of files of several sizes: the worst of each figure."""
    refused = [one for one in results if "failed" in one]
    if refused:
        return refused[0]
    pixels = sum(one["pixels"] for one in results)
    equal = sum(one["label_agreement"] * one["pixels"] for one in results)
    furthest = max(results, key=lambda one: one["max_abs_diff"] / one["largest_logit"])
    return {
        **furthest,
        "label_agreement": equal / pixels,
        "pixels": pixels,
        "sizes": sorted(size for one in results for size in one["sizes"]),
        "seconds": round(sum(one["seconds"] for one in results), 1),
    }


_traced: dict[str, bytes] = {}
"""Cache of the last traced graph, which the formats onnx and openvino share."""


def _network_model(name: str, checkpoint: Checkpoint, options: GraphOptions) -> Any:
    if name not in _traced:
        _traced.clear()
        _traced[name] = network_model(checkpoint, options).SerializeToString()
    return ModelProto.FromString(_traced[name])


def page(results: Mapping[str, Any], machine: str) -> str:
    """The table, in Markdown. results: by "BACKBONE / DECODER / FORMAT"."""
    kinds = [kind for kind in FORMATS if any(key.endswith(f"/ {kind}") for key in results)]
    lines = [f"| network | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"]
    wanted = [f"{backbone} / {decoder}" for backbone in BACKBONES for decoder in DECODERS]
    named = dict.fromkeys(key.rpartition(" / ")[0] for key in results)
    for name in [*(one for one in wanted if one in named), *(set(named) - set(wanted))]:
        cells = (_cell(results.get(f"{name} / {kind}")) for kind in kinds)
        lines.append(f"| {name.replace(' / ', ', ')} | {' | '.join(cells)} |")
    held = sum("failed" not in one for one in results.values())
    sizes = ", ".join(f"{height} x {width}" for height, width in SIZES)
    return "\n".join(
        [
            "# Formats and networks",
            "",
            "Written by `python benchmarks/export_matrix.py`: networks with random weights, "
            f"exported with\n`--include argmax`, run again and compared with the checkpoint at "
            f"{sizes} pixels, one and three images\nat once. A cell has the equal labels and the "
            "largest difference of a logit, of the largest logit.\n"
            f"Files for {', '.join(STATIC)} take one size and one image at a time: there was one "
            "for each\nsize, or for the sizes that a cell names. An empty cell was not measured.",
            "",
            f"{held} of {len(results)} hold parity. {machine}.",
            "",
            *lines,
            "",
        ]
    )


def _cell(found: Any) -> str:
    if found is None:
        return ""
    if "failed" in found:
        return f"refused: {found['failed'].partition(chr(10))[0][:100]}"
    difference = found["max_abs_diff"] / found["largest_logit"]
    sizes = [] if len(found["sizes"]) == len(SIZES) else found["sizes"]
    where = "".join(f", {height} x {width}" for height, width in sizes)
    return f"{100 * found['label_agreement']:.3f} %, {difference:.1e}{where}"


def _machine(words: str) -> str:
    packages = {"PyTorch": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
    packages |= {
        "litert-torch": "litert-torch",
        "LiteRT": "ai-edge-litert",
        "ExecuTorch": "executorch",
    }
    versions = [
        f"{name} {version(package)}"
        for name, package in packages.items()
        if find_spec(package.replace("-", "_")) is not None
    ]
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}, {words or f'{platform.machine()} {platform.system()}'}; {', '.join(versions)}"


def missing(found: Any, kind: str, sizes: Sequence[Size]) -> list[Sequence[Size]]:
    """The sizes for which files of a format have not been written and compared yet."""
    if kind not in STATIC:
        return [] if found else [SIZES]
    done = [tuple(size) for size in found.get("sizes", [])] if found else []
    refused = found is not None and "failed" in found
    return [] if refused else [[size] for size in sizes if size not in done]


def main() -> None:
    """Measure missing results, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=list(DECODERS))
    parser.add_argument("--static-sizes", nargs="+", type=int, default=range(len(SIZES)),
                        help="of static formats: which of the sizes, 0 to 2")  # fmt: skip
    parser.add_argument("--page", type=Path, default=Path("docs/export_matrix.md"))
    parser.add_argument("--machine", default="", help="words for the page: on what it ran")
    parser.add_argument("--results", type=Path, default=Path("runs/export_matrix/results.json"))
    chosen = parser.parse_args()
    static_sizes = [SIZES[at] for at in chosen.static_sizes]
    results: dict[str, Any] = {}
    if chosen.results.is_file():
        results = json.loads(chosen.results.read_text(encoding="utf-8"))
    for backbone in chosen.backbones:
        for decoder in chosen.decoders:
            for kind in chosen.formats:
                name = f"{backbone} / {decoder} / {kind}"
                for sizes in missing(results.get(name), kind, static_sizes):
                    found = measure(backbone, decoder, kind, sizes=sizes)
                    before = [results[name]] if name in results else []
                    results[name] = merged([*before, found])
                    print(name, _cell(results[name]), f"{results[name].get('seconds', 0)} s")
                    sys.stdout.flush()
                    _write(chosen.results, json.dumps(results, indent=1))
                    _write(chosen.page, page(results, _machine(chosen.machine)))


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    main()
