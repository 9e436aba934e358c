"""The topics of the FCN paper, each with numbers and a figure computed from trained networks.

A chapter is a function from a Lab to a Section; CHAPTERS lists them in order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.commands.demo.lab import (
    ALPHA,
    WIDTH,
    Lab,
    Rgb,
    Section,
    mosaic,
    on_canvas,
    slide_window,
    squares,
)
from fcnseg.io.draw import heatmap
from fcnseg.io.sources.base import Frame
from fcnseg.models.backbones import shift_between
from fcnseg.models.fcn import LearnedUpsample, crop, pad_to_multiple, size_of
from fcnseg.viz import Panel
from fcnseg.viz.drawing import grey, heat_scale
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.layout import page
from fcnseg.viz.network.autoencoder import maps_of, row_of_maps, strongest
from fcnseg.viz.skips import skip_pages

MOST_HEATMAPS = 10


@torch.no_grad()
def autoencoder(lab: Lab) -> Section:
    """Encoder, code and decoder of FCN-8s."""
    found = lab.hourglass("fcn8s")
    decoder = lab.networks["fcn8s"].module.decoder
    stages = len(lab.networks["fcn8s"].module.backbone.channels)
    return Section(
        "An encoder and a decoder",
        "section 4.1, figure 1",
        f"The encoder halves the image {stages} times; what is left, the code, has a vector "
        f"for every {decoder.strides[0]} x {decoder.strides[0]} pixels. The decoder scores the "
        "classes there and grows the scores back. An autoencoder would be trained to return the "
        "image; this network is trained to return a class for each pixel. Maps are drawn at their "
        "true proportions, of each the channel that varies most.",
        {
            "numbers in the image": float(lab.image.size),
            "numbers in the code": float(found.code.numel()),
        },
        row_of_maps(found.columns, found.links),
    )


@torch.no_grad()
def encoder(lab: Lab) -> Section:
    """The feature maps of each stage, and their sizes."""
    module, size = lab.networks["fcn8s"].module, lab.image.shape[:2]
    taps = module.backbone(pad_to_multiple(lab.inputs("fcn8s"), module.backbone.stride))
    panels = [Panel(lab.image, f"input: 3 x {size[0]} x {size[1]}")]
    numbers = {}
    for stride, maps in sorted(taps.items()):
        height, width = size_of(maps)
        title = f"stride {stride}: {maps.shape[1]} maps, {height} x {width}"
        panels.append(Panel(mosaic(strongest(maps_of(maps), 4), (size[0], size[1])), title))
        numbers[f"maps at stride {stride}"] = float(maps.shape[1])
    return Section(
        "The downsampling encoder",
        "section 3",
        "Convolution and pooling look at a small window wherever it is, so each layer's output is "
        "a map; each stage halves it and has more channels. From where to what: stride 2 still "
        "shows edges, stride 32 shows what is where, element by element. Four channels of each.",
        numbers,
        page(panels, columns=3, width=WIDTH, scale=heat_scale("low", "high", "of each map alone")),
    )


def convolution(lab: Lab) -> Section:
    """The fully connected layer as a 1x1 convolution."""
    whole = np.vstack([np.hstack([lab.image, lab.more[0]]), np.hstack(lab.more[1:3])])
    found = slide_window(lab.networks["classifier"].module, lab.inputs("classifier", whole))
    size = (whole.shape[0], whole.shape[1])
    both = [each.softmax(dim=0)[lab.main] for each in (found.slid, found.dense)]
    count = found.slid[0].numel()
    panels = [Panel(whole, "input: four images")]
    for values, how in zip(
        both, (f"{count} windows, one by one", "1x1 convolution, one pass"), strict=True
    ):
        cells = _as_pixels(values, found.stride, size)
        panels.append(Panel(heatmap(grey(whole), cells, alpha=ALPHA), how))
    text = (
        "A fully connected layer on a feature vector is a 1x1 convolution at one place; on a map "
        f"it is the classifier at every place. Left, the classifier looked at {count} windows of "
        f"{found.window} x {found.window} pixels, one by one; right, one pass over the image."
    )
    numbers = {
        "windows": float(count),
        "largest difference of a score": found.difference,
        "largest score": float(found.dense.abs().max()),
        "windows that a pixel is in, on average": found.overlap,
    }
    scale = heat_scale("0", "1", f"probability of {lab.name}", image=whole, alpha=ALPHA)
    image = page(panels, columns=3, width=WIDTH, scale=scale)
    place = "section 3.1, figure 2"
    return Section("A 1x1 convolution for the fully connected layer", place, text, numbers, image)


def heatmaps(lab: Lab) -> Section:
    """A probability map for each class."""
    prediction = lab.networks["fcn8s"].model(lab.image, probabilities=True)
    largest = np.argsort(-prediction.probabilities.mean(axis=(1, 2)), kind="stable")
    chosen = sorted(largest[:MOST_HEATMAPS].tolist())
    panels = [Panel(lab.image, "input"), Panel(lab.painted(prediction.labels), "prediction")]
    for index in chosen:
        values, name = prediction.probabilities[index], lab.classes.names[index]
        heat = heatmap(grey(lab.image), values, alpha=ALPHA)
        panels.append(Panel(heat, name, f"mean {values.mean():.2f}", lab.color(index)))
    total = prediction.probabilities.sum(axis=0)
    return Section(
        "A heatmap for each class",
        "section 3.1, figure 2",
        "The network gives a score for each class at each pixel. Softmax makes them probabilities, "
        "which sum to 1; the prediction is the largest.",
        {"largest deviation of the sum from 1": float(np.abs(total - 1).max())},
        page(
            panels,
            columns=3,
            width=WIDTH,
            scale=heat_scale("0", "1", "probability", image=lab.image, alpha=ALPHA),
            key=lab.key(prediction.labels),
        ),
    )


@torch.no_grad()
def upsampling(lab: Lab) -> Section:
    """Bilinear interpolation and the transposed convolution trained from it."""
    module = lab.networks["learned"].module
    size = (lab.image.shape[0], lab.image.shape[1])
    layer = module.decoder.upsamples[str(module.decoder.strides[-1])]
    assert isinstance(layer, LearnedUpsample)
    scores, logits = module.scores_and_logits(lab.inputs("learned"))
    shift = shift_between(module.decoder.offsets, layer.factor, 1)
    bilinear = LearnedUpsample(len(lab.classes), layer.factor, shift)
    height, width = size_of(scores)
    before = bilinear(scores, (height * layer.factor, width * layer.factor))
    before = crop(before, *size)
    cells, straight, learned = (maps_of(each)[lab.main] for each in (scores, before, logits))
    low, high = float(learned.min()), float(learned.max())
    maps = (_as_pixels(cells, layer.factor, size), straight.numpy(), learned.numpy())
    titles = (f"scores at stride {layer.factor}", "upsampled bilinearly", "by learned kernels")
    ends, meaning = (f"{low:.1f}", f"{high:.1f}"), f"score of {lab.name}"
    scale = heat_scale(*ends, meaning, image=lab.image, alpha=ALPHA)
    drawn = [
        Panel(lab.heat(each, low, high), title, scale=scale)
        for each, title in zip(maps, titles, strict=True)
    ]
    start, kernel = (each.weight[lab.main, lab.main].float() for each in (bilinear, layer))
    spread = f"{float((kernel - start).min()):.3f} to {float((kernel - start).max()):+.3f}"
    drawn += [
        Panel(squares(start, size), "bilinear kernel"),
        Panel(squares(kernel, size), "learned kernel"),
        Panel(squares(kernel - start, size), "learned minus bilinear", spread),
    ]
    side = kernel.shape[-1]
    return Section(
        "Bilinear and learned upsampling",
        "section 3.3",
        f"Scores grow by a transposed convolution (deconvolution) with kernels of {side} x {side}. "
        "They start as bilinear interpolation and are trained like all other weights "
        "(upsample=learned), or stay bilinear (upsample=fixed).",
        {
            "largest change of a kernel's weight": float((kernel - start).abs().max()),
            "mIoU, bilinear": lab.networks["fcn8s"].miou,
            "mIoU, learned": lab.networks["learned"].miou,
        },
        page(
            drawn,
            columns=3,
            width=WIDTH,
            scale=heat_scale("low", "high", "of each kernel alone"),
        ),
    )


def sums(lab: Lab) -> Section:
    """Each skip's contribution to the scores, fuse=score."""
    model = lab.networks["fcn8s"].model
    skips = model.skip_scores(lab.image)
    total = np.sum(list(skips.values()), axis=0)
    numbers = {
        "largest difference of the sum from the logits": float(
            np.abs(total - model.logits(lab.image)).max()
        )
    }
    for stride in sorted(skips, reverse=True):
        alone = np.abs(skips[stride] - skips[stride].mean(axis=0)).mean()
        numbers[f"mean absolute score, stride {stride}"] = float(alone)
    return Section(
        "Skip connections by sum",
        "section 4.2, figure 3",
        "FCN-8s adds scores of stride 32, 16 and 8 (pool5, pool4 and pool3 of VGG). All is linear "
        "from there on, so its logits are exactly the sum of three terms. Partial sums of one "
        "FCN-8s are no FCN-32s: that one was trained to be right alone (below).",
        numbers,
        _skip_page(lab, "fcn8s"),
    )


def concatenation(lab: Lab) -> Section:
    """The change of the prediction without each skip, fuse=concat."""
    model = lab.networks["concat"].model
    labels = model(lab.image).labels
    numbers = {"mIoU": lab.networks["concat"].miou}
    for stride, logits in sorted(model.logits_without_skips(lab.image).items(), reverse=True):
        changed = (logits.argmax(axis=0) != labels).mean()
        numbers[f"pixels that change without stride {stride}"] = float(changed)
    return Section(
        "Skip connections by concatenation",
        "section 4.2; U-Net (Ronneberger et al. 2015)",
        "Features instead of scores can be stacked and mixed by a convolution. Then no part of the "
        "logits belongs to one skip; what it is for is seen from the prediction without it.",
        numbers,
        _skip_page(lab, "concat"),
    )


def three_networks(lab: Lab) -> Section:
    """FCN-32s, FCN-16s and FCN-8s, each trained from the one before."""
    names = ("fcn32s", "fcn16s", "fcn8s")
    found = {name: lab.networks[name].model(lab.image).labels for name in names}
    panels = [Panel(lab.image, "input")]
    for name in names:
        title, miou = f"FCN-{name.removeprefix('fcn')}", lab.networks[name].miou
        panels.append(Panel(lab.painted(found[name]), title, f"mIoU {100 * miou:.1f}"))
    panels.append(Panel(lab.painted(lab.labels), "labels"))
    return Section(
        "FCN-32s, FCN-16s, FCN-8s",
        "section 4.2, figure 4, table 2",
        "Three networks. FCN-16s starts from the trained FCN-32s, with a score layer of zeros on "
        "stride 16, so that it begins where the other ended; FCN-8s starts from FCN-16s.",
        {f"mIoU, {name}": lab.networks[name].miou for name in names},
        page(panels, columns=5, width=WIDTH, key=lab.key(lab.labels, *found.values())),
    )


@torch.no_grad()
def symmetric(lab: Lab) -> Section:
    """A skip at every stage, fcn2s with concat."""
    found = lab.hourglass("symmetric")
    return Section(
        "The symmetric network: a skip at every stage",
        "section 4.2, extended; U-Net",
        "The same decoder with --decoder fcn2s and --fuse concat: it doubles the maps step by "
        "step and, at each stage, takes in what the encoder had there.",
        {
            "mIoU": lab.networks["symmetric"].miou,
            "skips": float(len(found.links)),
        },
        row_of_maps(found.columns, found.links),
    )


def any_size(lab: Lab) -> Section:
    """One network on images of sizes that it was not trained on."""
    model = lab.networks["fcn8s"].model
    height, width = lab.image.shape[:2]
    part = lab.image[height // 8 : height // 8 + 2 * height // 3 + 1, : width // 2 + 3]
    wide = np.hstack([lab.image, lab.more[0]])
    images = (part, lab.image, wide)
    canvas = (max(i.shape[0] for i in images), max(i.shape[1] for i in images))
    panels, labels = [], [model(image).labels for image in images]
    for image, found in zip(images, labels, strict=True):
        title = f"{image.shape[0]} x {image.shape[1]} in, {found.shape[0]} x {found.shape[1]} out"
        panels.append(Panel(on_canvas(lab.painted(found, image), canvas), title))
    inside = labels[1][height // 8 : height // 8 + len(part), : part.shape[1]]
    return Section(
        "Any input size",
        "section 3",
        "No layer knows the size of its input: an image is padded to a multiple of the coarsest "
        "stride and the logits are cropped. A part of the image gets nearly the labels that it "
        "has in the complete one, apart from what it can't see any more.",
        {"pixels of the part with the same label": float((inside == labels[0]).mean())},
        page(panels, columns=3, width=WIDTH, key=lab.key(*labels)),
    )


def _as_pixels(values: Tensor, stride: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (h, w) as cells of stride x stride pixels, cropped to an image's (height, width)."""
    rows, columns = (np.arange(length) // stride for length in size)
    cells: NDArray[np.float32] = values.numpy()[rows][:, columns]
    return cells


def _skip_page(lab: Lab, name: str) -> Rgb:
    """Each skip's effect on the main class's score, as by viz --rungs --class."""
    model = lab.networks[name].model
    figures = HeatmapFigures(model, (lab.main,), ALPHA, skips=True, width=WIDTH)
    *_, (_, image) = skip_pages(figures, Frame(lab.image), model(lab.image).labels)
    return image


CHAPTERS: tuple[Callable[[Lab], Section], ...] = (
    autoencoder,
    encoder,
    convolution,
    heatmaps,
    upsampling,
    sums,
    concatenation,
    three_networks,
    symmetric,
    any_size,
)
