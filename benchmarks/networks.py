"""Count parameters and multiply-adds of every network: docs/networks.md.

    python benchmarks/networks.py

Parameters in millions and multiply-adds in billions for one 360x480 image and 21 classes,
for every backbone and decoder. Counted are convolutions (including transposed ones) and linear
layers, by a run on device "meta"; bilinear upsampling, norms and activations are not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.models.networks import BACKBONES, build_empty
from fcnseg.models.spec import ModelSpec

SIZE = (360, 480)
CLASSES = 21
WIDTH = ModelSpec.width
DECODERS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s")
OUT = Path(__file__).parents[1] / "docs" / "networks.md"

HEAD = f"""# Networks: parameters and multiply-adds

Written by `python benchmarks/networks.py`: parameters in millions / multiply-adds in
billions, for an image of {SIZE[0]}x{SIZE[1]} and {CLASSES} classes. Counted are convolutions and
linear layers; bilinear upsampling, norms and activations are not. *encoder* is the backbone alone;
the other columns are complete networks. A dash: the backbone has no features that fine.

The defaults of `fcnseg train` are `--fuse {ModelSpec.fuse} --decoder {ModelSpec.decoder}
--width {ModelSpec.width} --upsample auto`, as in the first table. auto is {ModelSpec.upsample},
as counted here, except for two classes of which one has less than 5 % of the pixels: subpixel.
"""


def main() -> None:
    """Write the tables."""
    parts = [HEAD]
    for fuse in ("feature", "concat", "score"):
        note = "" if fuse == "score" else f", width {WIDTH}"
        parts.append(f"\n## fuse {fuse}{note}\n\n| backbone | encoder | {' | '.join(DECODERS)} |\n")
        parts.append("|---" * (2 + len(DECODERS)) + "|\n")
        parts.extend(row(name, fuse) + "\n" for name in BACKBONES)
    OUT.write_text("".join(parts), encoding="utf-8")


def row(backbone: str, fuse: str) -> str:
    """One line of a table."""
    figures = []
    for decoder in DECODERS:
        spec = ModelSpec(
            backbone=backbone, num_classes=CLASSES, decoder=decoder, fuse=fuse, width=WIDTH
        )
        try:
            network = build_empty(spec).eval()
        except OptionError:
            figures.append("-")
            continue
        if not figures:
            figures.append(cost(network, network.backbone))
        figures.append(cost(network, network))
    return f"| `{backbone}` | {' | '.join(figures)} |"


def cost(network: nn.Module, part: nn.Module) -> str:
    """Millions of parameters / billions of multiply-adds of a part, in a run of the network."""
    count = sum(parameter.numel() for parameter in part.parameters())
    return f"{count / 1e6:.2f} / {multiply_adds(network, part) / 1e9:.2f}"


def multiply_adds(network: nn.Module, part: nn.Module) -> int:
    """Of the convolutions and linear layers in `part`, for one image through `network`."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if isinstance(layer, nn.Linear):
            total += output.numel() * weight.shape[1]
        elif hasattr(layer, "factor"):  # transposed: every input is multiplied by every tap
            total += inputs[0].numel() * weight[0].numel()
        else:
            total += output.numel() * weight[0].numel()

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [
        layer.register_forward_hook(add)
        for layer in part.modules()
        if isinstance(layer, kinds) or type(layer).__name__ == "LearnedUpsample"
    ]
    with torch.no_grad():
        network.to("meta")(torch.zeros(1, 3, *SIZE, device="meta"))
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
