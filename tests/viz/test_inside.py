"""Receptive fields against arithmetic over the layers, brute force and finite differences."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fcnseg.inference.loading import load
from fcnseg.io.sources.base import Frame
from fcnseg.models.backbones import Features
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.viz import View, network
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.network import effective_fields, pyramid, side_of, theoretical_fields
from fcnseg.viz.network.autoencoder import hourglass


def backbone_of(name: str) -> Features:
    torch.manual_seed(0)
    spec = ModelSpec(backbone=name, num_classes=2, decoder="fcn8s", fuse="score")
    return build(spec).backbone.eval()


def by_arithmetic(backbone: Features) -> dict[int, tuple[int, int]]:
    """For layers in a row: the field grows by (kernel - 1) steps of what came before."""
    found, field, step = {}, 1, 1
    for stride, stage in backbone.stages.items():
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                kernel, jump = (
                    each if isinstance(each, int) else each[0]
                    for each in (layer.kernel_size, layer.stride)
                )
                field += (kernel - 1) * step
                step *= jump
        found[int(stride)] = (field, field)
    return found


def test_layers_in_a_row() -> None:
    backbone = backbone_of("tiny")
    assert theoretical_fields(backbone) == by_arithmetic(backbone)


class LikeVgg(Features):
    """VGG16's layers with few channels: two or three 3x3 before each of five 2x2 pools."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = {2**k: 4 for k in range(1, 6)}
        self.offsets, self.stride, self.stages = {}, 32, nn.ModuleDict()
        bands = 3
        for stride, count in zip(self.channels, (2, 2, 3, 3, 3), strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(bands, 4, 3, padding=1), nn.ReLU()]
                bands = 4
            self.stages[str(stride)] = nn.Sequential(*layers, nn.MaxPool2d(2))

    def forward(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
        taps = {}
        for stride, stage in self.stages.items():
            images = taps[int(stride)] = stage(images)
        return taps


def test_vgg16_has_the_fields_of_the_literature() -> None:
    found = theoretical_fields(LikeVgg())
    assert found == by_arithmetic(LikeVgg())
    assert {stride: field[0] for stride, field in found.items() if field} == {
        2: 6, 4: 16, 8: 44, 16: 100, 32: 212,
    }  # fmt: skip


class LikeResnet(Features):
    """ResNet18's layers with few channels: 7x7/2, pool 3/2, two blocks of two 3x3 a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.offsets, self.stride = {2**k: 4 for k in range(1, 6)}, {}, 32
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.first = nn.ModuleList(nn.Conv2d(4, 4, 3, 1 + (k in (2, 4, 6)), 1) for k in range(8))
        self.second = nn.ModuleList(nn.Conv2d(4, 4, 3, 1, 1) for _ in range(8))

    def forward(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
        taps = {2: self.stem(images)}
        x = self.pool(taps[2])
        for k, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            beside = x[..., ::2, ::2] if k in (2, 4, 6) else x
            x = (beside + second(first(x).relu())).relu()
            taps[4 * 2 ** (k // 2)] = x
        return taps


def test_a_residual_network() -> None:
    """By hand: 7, + 2 * 2 = 11; a block adds 2 + 2 steps of 4, 8, 16, 32 (first ones: halved)."""
    sides = {2: 7, 4: 43, 8: 99, 16: 211, 32: 435}
    expected = {stride: (side, side) for stride, side in sides.items()}
    assert theoretical_fields(LikeResnet()) == expected


def test_by_brute_force() -> None:
    """Every column is changed; those that change an element of the stage are its field."""
    backbone = backbone_of("tiny").double()
    rng = torch.Generator().manual_seed(0)
    images = torch.rand((1, 3, 32, 128), generator=rng, dtype=torch.float64)
    expected = theoretical_fields(backbone)
    seen: dict[int, set[int]] = {stride: set() for stride in (2, 4, 8)}
    with torch.no_grad():
        before = backbone(images)
        for column in range(128):
            changed = images.clone()
            changed[..., column] += 5 * torch.rand((3, 32), generator=rng, dtype=torch.float64)
            after = backbone(changed)
            for stride, columns in seen.items():
                at = 64 // stride
                if not torch.equal(before[stride][..., at], after[stride][..., at]):
                    columns.add(column)
    for stride, columns in seen.items():
        assert max(columns) - min(columns) + 1 == expected[stride][1]


def test_a_pooling_over_everything_sees_everything() -> None:
    class Squeezed(Features):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.offsets, self.stride = {2: 4}, {2: 0.5}, 2
            self.layer = nn.Conv2d(3, 4, 2, 2)

        def forward(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
            maps = self.layer(images)
            return {2: maps * maps.mean(dim=(2, 3), keepdim=True)}

    assert theoretical_fields(Squeezed()) == {2: None}


def test_kernels_that_are_wider_than_tall() -> None:
    class Flat(Features):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.offsets, self.stride = {2: 4}, {2: 0.5}, 2
            self.layer = nn.Conv2d(3, 4, (2, 8), 2, (0, 3))

        def forward(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
            return {2: self.layer(images)}

    assert theoretical_fields(Flat()) == {2: (2, 8)}


def test_the_weights_stay_as_they_are() -> None:
    backbone = backbone_of("tiny")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    theoretical_fields.cache_clear()
    theoretical_fields(backbone)
    after = backbone.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not any(module._forward_hooks for module in backbone.modules())


def test_the_effective_field_is_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against finite differences, of one element."""
    monkeypatch.setattr(network, "GRID", 1)
    backbone = backbone_of("tiny").double()
    image = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).double()
    found = effective_fields(backbone, image)[4]
    assert found.gradient.sum() == pytest.approx(1)
    middle = found.gradient.shape[0] // 2
    centre = round(backbone.offsets[4] + 4 * 8)  # of the only element, 8 of 16
    sizes = {}
    with torch.no_grad():
        for row, column in ((centre, centre), (centre - 2, centre + 3), (centre + 20, centre)):
            size = 0.0
            for channel in range(3):
                ends = []
                for change in (1e-6, -1e-6):
                    moved = image.clone()
                    moved[0, channel, row, column] += change
                    ends.append(float(backbone(moved)[4][0, :, 8, 8].sum()))
                size += abs(ends[0] - ends[1]) / 2e-6
            sizes[row, column] = size
    found_at = {
        place: found.gradient[middle + place[0] - centre, middle + place[1] - centre]
        for place in sizes
    }
    assert sizes[centre + 20, centre] == found_at[centre + 20, centre] == 0
    ratio = sizes[centre, centre] / sizes[centre - 2, centre + 3]
    assert found_at[centre, centre] / found_at[centre - 2, centre + 3] == pytest.approx(ratio, 1e-3)
    for stride, field in effective_fields(backbone, image).items():
        assert field.side <= theoretical_fields(backbone)[stride][0] + 1, stride


def test_the_side_of_a_square_that_holds_a_part() -> None:
    values = np.random.default_rng(0).random((11, 11))
    for part in (0.1, 0.5, 0.95, 1.0):
        side = next(
            side
            for side in range(1, 12, 2)
            if values[5 - side // 2 : 6 + side // 2, 5 - side // 2 : 6 + side // 2].sum()
            >= part * values.sum() - 1e-9
        )
        assert side_of(values, part) == side


def test_the_pyramid_says_each_stages_shape(random_model: Path) -> None:
    segmenter = load(random_model, device="cpu", engine="torch", precision="f32")
    from fcnseg.config import VizConfig

    figures = HeatmapFigures.of(segmenter, VizConfig.make({"source": ["a.png"]}))
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    section = pyramid(View(figures, Frame(image)))
    assert [panel.title for panel in section.panels] == 2 * [
        f"stride {2**k} (like pool{k})" for k in range(1, 6)
    ]
    assert section.panels[0].note == "16 channels of 48 x 32"
    assert section.panels[4].note == "64 channels of 3 x 2"
    assert section.panels[6].note.startswith("theoretical: 18 x 18 px, effective: ")
    note = section.panels[9].note
    assert note.startswith("theoretical: 214 x 214 px (beyond the image), effective: ")
    assert all(panel.image.shape == (50, 90, 3) for panel in section.panels)


@pytest.mark.parametrize(
    ("decoder", "fuse", "label", "strides"),
    [
        ("fcn32s", "score", "+", []),
        ("fcn8s", "feature", "+", [16, 8]),
        ("fcn2s", "concat", "concatenated", [16, 8, 4, 2]),
    ],
)
def test_the_autoencoder_has_every_map_and_skip(decoder, fuse, label, strides) -> None:
    spec = ModelSpec(backbone="tiny", num_classes=3, decoder=decoder, fuse=fuse, width=8)
    image = np.zeros((40, 70, 3), np.uint8)
    found = hourglass(build(spec).eval(), torch.zeros(1, 3, 40, 70), image, image)
    names = [column.lines[0] for column in found.columns]
    assert names[:6] == ["image", *(f"stride {2**k}" for k in range(1, 6))]
    assert names[6:] == ["decoder, 32", *(f"decoder, {s}" for s in strides), "logits"]
    ends = [(names[link.start], names[link.end], link.label) for link in found.links]
    assert ends == [(f"stride {s}", f"decoder, {s}", label) for s in strides]
    assert found.columns[-1].lines[1] == "3 x 40 x 70"
    for column in found.columns[1:-1]:  # of the padded image, 64 x 96
        stride = int(column.lines[0].split()[-1])
        assert column.image.shape == (64 // stride, 96 // stride, 3)
        assert column.lines[-1].endswith(f" x {64 // stride} x {96 // stride}")
    assert [column.lines[1] for column in found.columns[1:6]] == [
        f"like pool{k}" for k in range(1, 6)
    ]
