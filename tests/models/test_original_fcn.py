"""The original network, against a plain re-computation in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fcnseg.models.fcn import FCN
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.models.zoo import BGR, FC, GROUPS, OriginalDecoder, OriginalVGG, recognise

SLIM = 16
CLASSES = 3
CONVS = {
    f"conv{group}_{index}": width // SLIM
    for group, widths in enumerate(GROUPS, start=1)
    for index, width in enumerate(widths, start=1)
}
SCORES = {"score_fr": FC // SLIM, "score_pool4": 512 // SLIM, "score_pool3": 256 // SLIM}
LAYERS = {
    "32s": ("score_fr", {"upscore": 64}),
    "16s": ("score_fr score_pool4", {"upscore2": 4, "upscore16": 32}),
    "8s": ("score_fr score_pool4 score_pool3", {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}),
}


def make_state(kind: str) -> dict[str, Tensor]:
    """Random weights under the port's keys, of such a size that signal arrives."""
    random = torch.Generator().manual_seed(0)
    state = {}

    def layer(name: str, out: int, channels: int, kernel: int) -> None:
        scale = (2 / channels / kernel**2) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(
            out, channels, kernel, kernel, generator=random
        )
        state[f"{name}.bias"] = torch.randn(out, generator=random) * 0.1

    channels = 3
    for name, out in CONVS.items():
        layer(name, out, channels, 3)
        channels = out
    layer("fc6", FC // SLIM, channels, 7)
    layer("fc7", FC // SLIM, FC // SLIM, 1)
    scores, upsamples = LAYERS[kind]
    for name in scores.split():
        layer(name, CLASSES, SCORES[name], 1)
    for name, kernel in upsamples.items():  # dense: the channels mix
        state[f"{name}.weight"] = torch.randn(CLASSES, CLASSES, kernel, kernel, generator=random)
    return state


def reference(state: dict[str, Tensor], images: Tensor, *, once: bool) -> Tensor:
    """pytorch-fcn's forward, written out. images: float64 BGR, mean subtracted."""
    w = {key: value.double() for key, value in state.items()}

    def conv(name: str, x: Tensor, padding: int = 0) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    def up(name: str, x: Tensor, stride: int) -> Tensor:
        return F.conv_transpose2d(x, w[f"{name}.weight"], stride=stride)

    h, pools = images, {}
    for name in CONVS:
        h = F.relu(conv(name, h, padding=100 if name == "conv1_1" else 1))
        if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
            h = F.max_pool2d(h, 2, 2, ceil_mode=True)
            pools[int(name[4])] = h
    h = F.relu(conv("fc7", F.relu(conv("fc6", h))))
    h = conv("score_fr", h)
    height, width = images.shape[2:]
    if "upscore.weight" in w:
        return up("upscore", h, 32)[:, :, 19 : 19 + height, 19 : 19 + width]
    h = up("upscore2", h, 2)
    s4 = conv("score_pool4", pools[4] * (0.01 if once else 1))
    h = h + s4[:, :, 5 : 5 + h.shape[2], 5 : 5 + h.shape[3]]
    if "upscore16.weight" in w:
        return up("upscore16", h, 16)[:, :, 27 : 27 + height, 27 : 27 + width]
    h = up("upscore_pool4", h, 2)
    s3 = conv("score_pool3", pools[3] * (0.0001 if once else 1))
    h = h + s3[:, :, 9 : 9 + h.shape[2], 9 : 9 + h.shape[3]]
    return up("upscore8", h, 8)[:, :, 31 : 31 + height, 31 : 31 + width]


def load(state: dict[str, Tensor], name: str) -> FCN:
    """As a file of that name would be loaded, but slim."""
    found = recognise(state, name)
    assert found is not None
    spec, preprocess, weights = found
    assert preprocess == BGR
    with torch.device("meta"):
        network = build(spec)
    network.backbone = OriginalVGG(SLIM)
    network.decoder = OriginalDecoder(spec.backbone, CLASSES, SLIM)  # type: ignore[assignment]
    network.load_state_dict(weights)
    return network.eval()


@pytest.mark.parametrize("size", [(33, 47), (64, 40), (1, 130)], ids=str)
@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce"])
@torch.no_grad()
def test_equals_the_recomputation(name: str, size: tuple[int, int]) -> None:
    state = make_state(name[3:].removesuffix("-atonce"))
    network = load(state, f"{name}_from_caffe.pth")
    pictures = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    bgr = pictures.flip(3).permute(0, 3, 1, 2).double()
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434], dtype=torch.float64)
    expected = reference(state, bgr - mean.view(1, 3, 1, 1), once="atonce" in name)
    images = BGR.normalise(pictures)
    found = network(images)
    assert found.shape == (1, CLASSES, *size)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    skips = network.skip_scores(images)
    assert tuple(skips) == (32, 16, 8)[: {"fcn32s": 1, "fcn16s": 2}.get(name, 3)]
    assert (sum(skips.values()) - found).abs().max() < 1e-5 * found.abs().max()


@torch.no_grad()
def test_at_once_is_told_by_the_name() -> None:
    state = make_state("8s")
    images = torch.randn(1, 3, 33, 47) * 50
    staged, once = load(state, "fcn8s.pth"), load(state, "fcn8s-atonce.pth")
    assert (staged(images) - once(images)).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["fcn32s", "fcn16s", "fcn8s", "fcn8s_atonce"])
def test_full_size(kind: str) -> None:
    """134 million weights in VGG with fc6 and fc7, as in the paper."""
    spec = ModelSpec(backbone=f"pytorch_{kind}", num_classes=21, decoder="published")
    with torch.device("meta"):
        network = build(spec)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["backbone.fc6.weight"] == (4096, 512, 7, 7)
    assert shapes["decoder.score_fr.weight"] == (21, 4096, 1, 1)
    assert sum(p.numel() for p in network.backbone.parameters()) == 134_260_544
    state = {name.partition(".")[2]: torch.empty(1) for name in shapes}
    keys = set(make_state(kind[3:].removesuffix("_atonce")))
    assert state.keys() == keys
