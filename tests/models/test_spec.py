from __future__ import annotations

import pytest
import torch

from fcnseg.errors import InputError
from fcnseg.models.backbones.torchvision import import_torchvision
from fcnseg.models.spec import IMAGENET, LITE, Preprocess

STATS = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


def images(*shape: int) -> torch.Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_normalise_is_torchvisions() -> None:
    import_torchvision()
    from torchvision.transforms import v2  # type: ignore[import-untyped]

    pictures = images(2, 5, 7, 3)
    planes = v2.functional.to_dtype(pictures.permute(0, 3, 1, 2), torch.float32, scale=True)
    expected = v2.functional.normalize(planes, list(IMAGENET.mean), list(IMAGENET.std))
    found = IMAGENET.normalise(pictures)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_lite_is_exact() -> None:
    pictures = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(1, 16, 16, 3)
    expected = (pictures.permute(0, 3, 1, 2).float() - 127) / 128
    assert torch.equal(LITE.normalise(pictures), expected)


@pytest.mark.parametrize("preprocess", [IMAGENET, LITE, Preprocess((0, 0, 0), (1, 1, 1), 520)])
def test_round_trip(preprocess: Preprocess) -> None:
    assert Preprocess.from_dict(preprocess.as_dict()) == preprocess


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "mean"),
        ({"mean": [0, 0], "std": [1, 1, 1]}, "3 numbers"),
        ({"mean": [0, 0, "x"], "std": [1, 1, 1]}, "could not convert"),
        ({"mean": [0, 0, 0], "std": [1, 0, 1]}, "above zero"),
        ({"mean": [0, 0, float("nan")], "std": [1, 1, 1]}, "3 numbers"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "short_side": 0}, "short_side"),
        ([1, 2], "Not a preprocessing"),
    ],
)
def test_broken_descriptions(data: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Preprocess.from_dict(data)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((360, 480), None, (360, 480)),
        ((360, 480), 180, (180, 240)),
        ((480, 360), 180, (240, 180)),
        ((10, 1000), 100, (100, 10000)),
        ((1, 4000), 128, (32, 128000)),  # a strip
        ((4000, 1), 16, (64000, 16)),
        ((100, 60000), 512, (100, 60000)),
        ((100, 60000), 50, (50, 30000)),
        ((1000, 1), 1, (1000, 1)),
    ],
)
def test_network_size(
    size: tuple[int, int], short_side: int | None, expected: tuple[int, int]
) -> None:
    assert Preprocess(*STATS, short_side).network_size(size) == expected


def test_at_another_short_side() -> None:
    trained = Preprocess(*STATS, 520)
    assert trained.at(None) == trained
    assert trained.at(0) == Preprocess(*STATS)
    assert trained.at(360) == Preprocess(*STATS, 360)
