"""Grad-CAM against finite differences, integrated gradients against what they must sum to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fcnseg.config import VizConfig
from fcnseg.errors import OptionError
from fcnseg.inference.loading import load
from fcnseg.io.sources.base import Frame
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.fcn import FCN, LearnedUpsample, bilinear_kernel
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.viz import View, network_input, plain_network
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.network import attribution, kernels
from fcnseg.viz.network.attribution import grad_cam, integrated_gradients
from fcnseg.viz.show import SHOWN


@pytest.fixture(scope="module")
def network() -> FCN:
    torch.manual_seed(0)
    made = build(ModelSpec(backbone="tiny", num_classes=3, width=8, decoder="fcn8s", fuse="concat"))
    for module in made.decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.3)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # without, the way to the image would be straight
            nn.init.normal_(module.bias, std=0.5)
    return made.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn((1, 3, 64, 96), generator=torch.Generator().manual_seed(0)).double()


MASK = np.zeros((60, 90), np.bool_)
MASK[10:30, 20:50] = True


def score(logits: torch.Tensor) -> float:
    return float(logits[0, 1, :60, :90][torch.from_numpy(MASK)].mean())


def test_grad_cam_against_finite_differences(network: FCN, image: torch.Tensor) -> None:
    """The weight of a channel: what the score changes by when its map is raised everywhere."""
    cams = grad_cam(network, image, 1, MASK)
    assert list(cams) == [2, 4, 8, 16, 32][-len(cams) :]
    taps = network.backbone(image)
    deepest = taps[32]
    weights = []
    for channel in range(deepest.shape[1]):
        ends = []
        for change in (1e-5, -1e-5):
            moved = deepest.clone()
            moved[:, channel] += change
            ends.append(score(network.decoder({**taps, 32: moved}, (64, 96))))
        weights.append((ends[0] - ends[1]) / 2e-5 / deepest[0, 0].numel())
    expected = (torch.tensor(weights).double().view(1, -1, 1, 1) * deepest).sum(1)[0].relu()
    np.testing.assert_allclose(cams[32], expected.numpy(), rtol=1e-3, atol=1e-8)
    assert cams[32].max() > 0


def test_grad_cam_counts_the_way_through_deeper_stages(network: FCN, image: torch.Tensor) -> None:
    """Stages finer than the decoder uses have a map, too: their deeper ones depend on them."""
    assert set(grad_cam(network, image, 1, MASK)) == {2, 4, 8, 16, 32}


def test_integrated_gradients_are_complete(network: FCN, image: torch.Tensor) -> None:
    found = integrated_gradients(network, image, 1, MASK)
    assert found.score == pytest.approx(score(network(image)))
    assert found.baseline == pytest.approx(score(network(torch.zeros_like(image))))
    difference = found.score - found.baseline
    assert abs(found.gap) <= 0.05 * abs(difference)
    assert found.values.shape == (64, 96)


def test_integrated_gradients_are_those_of_captum(
    network: FCN, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is a reference, not a dependency")
    monkeypatch.setattr(attribution, "MAX_STEPS", 24)
    found = integrated_gradients(network, image, 1, MASK, steps=24)
    reference = attr.IntegratedGradients(lambda images: differentiable_score(network(images)))
    theirs = reference.attribute(image, n_steps=24, method="riemann_middle")
    np.testing.assert_allclose(found.values, theirs.sum(1)[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_grad_cam_is_that_of_captum(network: FCN, image: torch.Tensor, stride: int) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is a reference, not a dependency")
    stages = Stages(network)
    cam = attr.LayerGradCam(
        lambda images: differentiable_score(stages(images)), stages.at[str(stride)]
    )
    theirs = cam.attribute(image.clone().requires_grad_(), relu_attributions=True)[0, 0]
    found = grad_cam(network, image, 1, MASK)[stride]
    np.testing.assert_allclose(found, theirs.detach(), rtol=1e-5, atol=1e-9)


class Stages(nn.Module):
    """A network whose stages' maps pass through layers, which captum can listen to."""

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.network = network
        self.at = nn.ModuleDict(
            {str(stride): nn.Identity() for stride in network.backbone.channels}
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        taps = self.network.backbone(images)
        seen = {stride: self.at[str(stride)](tap) for stride, tap in taps.items()}
        return self.network.decoder(seen, images.shape[2:])


def differentiable_score(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 1, :60, :90][:, torch.from_numpy(MASK)].mean(1)


def test_steps_are_added_until_they_are_complete(
    network: FCN, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times as many steps from a few are the same as all of them at once."""
    monkeypatch.setattr(attribution, "TOLERANCE", 0.0)
    monkeypatch.setattr(attribution, "MAX_STEPS", 18)
    refined = integrated_gradients(network, image, 1, MASK, steps=2)
    monkeypatch.setattr(attribution, "MAX_STEPS", 0)
    at_once = integrated_gradients(network, image, 1, MASK, steps=18)
    np.testing.assert_allclose(refined.values, at_once.values, rtol=1e-5, atol=1e-9)
    few = integrated_gradients(network, image, 1, MASK, steps=2)
    assert abs(at_once.gap) < abs(few.gap)


def test_places_that_pass_together_are_those_that_pass_alone(
    network: FCN, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "MAX_STEPS", 0)
    heard: list[tuple[int, int]] = []
    together = integrated_gradients(
        network, image, 1, MASK, steps=11, progress=lambda *one: heard.append(one)
    )
    assert heard == [(8, 11), (11, 11)]
    monkeypatch.setattr(attribution, "BATCH_PIXELS", 1)
    alone = integrated_gradients(network, image, 1, MASK, steps=11)
    np.testing.assert_allclose(together.values, alone.values, rtol=1e-5, atol=1e-9)


def test_what_has_gradients_is_the_network_as_it_was_trained(random_model: Path) -> None:
    view = view_of(random_model)
    network = plain_network(view, "integrated")
    image, _ = network_input(view, network)
    with torch.no_grad():
        expected = Checkpoint.load(random_model).build().eval()(image)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-4)


def test_of_a_linear_network_they_are_its_weights_times_the_image() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 3, padding=1).double()

        def backbone(self, image: torch.Tensor) -> dict[int, torch.Tensor]:
            return {1: image}

        def decoder(self, taps: dict[int, torch.Tensor], _: tuple[int, int]) -> torch.Tensor:
            return self.layer(taps[1])

    torch.manual_seed(0)
    network, image = Linear().requires_grad_(False), torch.randn((1, 3, 6, 7)).double()
    mask = np.zeros((6, 7), np.bool_)
    mask[2, 3] = True
    found = integrated_gradients(network, image, 1, mask, steps=1)  # type: ignore[arg-type]
    expected = np.zeros((6, 7))
    expected[1:4, 2:5] = (network.layer.weight[1] * image[0, :, 1:4, 2:5]).sum(0)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert abs(found.gap) < 1e-5


def view_of(path: Path, *, at: tuple[int, int] | None = None, **options: object) -> View:
    segmenter = load(path, device="cpu", engine="torch", precision="f32")
    config = VizConfig.make({"source": ["a.png"], **options})
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    return View(HeatmapFigures.of(segmenter, config), Frame(pixels), at)


@pytest.mark.parametrize("name", ["gradcam", "integrated"])
def test_a_pixel_is_explained(random_model: Path, name: str) -> None:
    view = view_of(random_model, at=(70, 20))
    found = view.predicted.labels[20, 70]
    section = SHOWN[name](view)
    assert view.subjects == (found,)
    assert all(panel.title.startswith(view.name(int(found))) for panel in section.panels)
    assert all("the pixel 70, 20" in panel.note for panel in section.panels)


def test_a_pixel_beside_the_image_is_refused(random_model: Path) -> None:
    with pytest.raises(OptionError, match="no such pixel; it is 90 x 50") as caught:
        view_of(random_model, at=(90, 20))
    assert "0 to 89" in caught.value.hint


def test_the_strongest_channels(random_model: Path) -> None:
    view = view_of(random_model)
    section = SHOWN["channels"](view)
    network = plain_network(view, "channels")
    image, _ = network_input(view, network)
    maps = network.backbone(image)[4][0].abs().mean(dim=(1, 2)).detach()
    expected = maps.argsort(descending=True)[:5].tolist()
    row = [panel.title for panel in section.panels[5:10]]
    assert row == [f"stride 4 (like pool2): channel {channel}" for channel in expected]


def test_kernels_beside_the_bilinear_ones(random_model: Path) -> None:
    plain = kernels(view_of(random_model))
    assert [panel.title for panel in plain.panels] == [
        f"stride {one}: bilinear" for one in ("32 to 16", "16 to 8", "8 to 4", "4 to 1")
    ]
    assert "not learned" in plain.heading


def test_learned_kernels(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(random_model, classes=("disk",))
    spec = ModelSpec(
        backbone="tiny", num_classes=4, decoder="fcn16s", fuse="score", upsample="learned"
    )
    network = build(spec)
    first = network.decoder.upsamples["32"]
    assert isinstance(first, LearnedUpsample)
    with torch.no_grad():
        first.weight[1, 1, 0, 0] += 0.25
    monkeypatch.setattr("fcnseg.viz.network.plain_network", lambda *_: network)
    bilinear, learned, difference, *_ = kernels(view).panels
    line, _ = bilinear_kernel(2, 0.5)
    assert bilinear.note.startswith(f"{len(line)} x {len(line)}")
    assert "disk" in learned.note
    assert difference.note == "at most 0.25"
    assert (bilinear.image[:40, :40] != learned.image[:40, :40]).any()
    np.testing.assert_array_equal(bilinear.image[-40:], learned.image[-40:])
