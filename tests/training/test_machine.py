from dataclasses import replace
from itertools import accumulate, cycle

import pytest
import torch

from fcnseg.config import TrainConfig
from fcnseg.device import AUTO_PRECISION
from fcnseg.distributed import Distributed
from fcnseg.errors import TrainingError
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.progress import Message
from fcnseg.training import machine
from fcnseg.training.machine import (
    choose_batch,
    choose_precision,
    fitting_batch,
    options_for_minutes,
    seconds_per_image,
)

GB = 10**9


@pytest.mark.parametrize(
    ("fixed", "image", "free", "batch"),
    [
        (0, GB, 8 * GB, 4),  # 80 % of 8 GB are six images
        (0, GB, 10 * GB, 8),
        (2 * GB, GB, 8 * GB, 4),
        (0, GB // 100, 80 * GB, 64),  # no more, however much fits
        (0, GB, 2 * GB, 1),
    ],
)
def test_the_batch_that_fits(fixed: int, image: int, free: int, batch: int) -> None:
    asked = []

    def peak(images: int) -> int:
        asked.append(images)
        return fixed + images * image

    assert fitting_batch(peak, free) == batch
    assert asked == [1, 2]


def test_what_does_not_fit_at_all() -> None:
    with pytest.raises(TrainingError, match=r"a step takes 3\.0 GB, 2\.0 GB are free"):
        fitting_batch(lambda images: 3 * images * GB, 2 * GB)


def test_without_a_gpu_the_suggestion_is_taken() -> None:
    network = build(ModelSpec(backbone="tiny", num_classes=2, width=8))
    config = TrainConfig(batch="auto", crop=(64, 64))
    chosen = choose_batch(network, config, images=9, suggested=4, ranks=Distributed.single())
    assert chosen == 4


def test_on_a_gpu_it_is_measured(monkeypatch) -> None:
    monkeypatch.setattr(machine, "gpu_peak", lambda *_: lambda images: images * GB)
    monkeypatch.setattr(machine, "free_gpu_bytes", lambda _: 99 * GB)
    monkeypatch.setattr(machine, "resolve_precision", lambda *_: torch.float32)
    monkeypatch.setattr(machine.NetWithAuxHeads, "to", lambda self, *_, **__: self)
    network = build(ModelSpec(backbone="tiny", num_classes=2, width=8))
    config = TrainConfig(batch="auto", crop=(64, 64))
    ranks = Distributed("cuda", 0, 2)
    chosen = choose_batch(network, config, images=80, suggested=4, ranks=ranks)
    assert chosen == 16, "eight for each of two ranks: an epoch keeps five steps"


@pytest.mark.parametrize(("bf16", "chosen"), [(0.1, "bf16"), (0.28, "f32"), (0.9, "f32")])
def test_bf16_is_taken_where_it_was_measured_to_be_faster(monkeypatch, bf16, chosen) -> None:
    monkeypatch.setattr(machine, "cpu_multiplies_bf16", lambda: True)
    monkeypatch.delenv(AUTO_PRECISION, raising=False)
    network = build(ModelSpec(backbone="tiny", num_classes=2, width=8))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    now = accumulate(cycle([0, 0.3, 0, bf16])).__next__  # before and after each of two steps
    told: list[Message] = []
    config = TrainConfig(crop=(200, 64), batch=1)
    assert choose_precision(network, config, Distributed.single(), told.append, now) == chosen
    assert told[0].text.startswith(f"--precision {chosen}: an image takes ")
    assert told[0].text.endswith(f"{bf16:g} s in bf16 and 0.3 s in f32.")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("lap", "crop", "images"),
    [
        (0.05, (64, 96), 6),  # the whole batch
        (0.3, (64, 96), 3),  # what fits into a second
        (5.0, (64, 96), 1),
        (0.05, (1024, 640), 6),  # half the height, 4/5 of the width: a part of each crop
    ],
)
def test_what_is_measured_is_a_batch_as_far_as_it_fits_into_a_second(lap, crop, images) -> None:
    network = build(ModelSpec(backbone="tiny", num_classes=2, width=8))
    config = TrainConfig(crop=crop, batch=6)
    now = accumulate(cycle([0, lap])).__next__
    [seconds] = seconds_per_image(network, config, Distributed.single(), [torch.float32], now)
    measured = min(512, crop[0]) * min(512, crop[1])
    assert seconds == pytest.approx(lap / images * crop[0] * crop[1] / measured)


@pytest.mark.parametrize("forced", [False, True])
def test_without_a_choice_nothing_is_measured(monkeypatch, forced) -> None:
    monkeypatch.setattr(machine, "cpu_multiplies_bf16", lambda: forced)
    monkeypatch.setenv(AUTO_PRECISION, "f32" if forced else "")
    network = build(ModelSpec(backbone="tiny", num_classes=2, width=8))
    told: list[Message] = []
    ranks = Distributed.single()
    assert choose_precision(network, TrainConfig(crop=(64, 64)), ranks, told.append) == "auto"
    assert not told


@pytest.mark.parametrize(
    ("seconds", "crop"),
    [
        (1.0, (320, 480)),  # a step: all that are wanted fit
        (20.0, (160, 224)),  # a quarter of them: half the sides, of which 480 // 2 is no multiple
        (9000.0, (160, 160)),
    ],
)
def test_in_a_short_time_crops_are_smaller(seconds, crop) -> None:
    network = build(ModelSpec(backbone="tiny", num_classes=2, width=8))
    now = accumulate(cycle([0, seconds])).__next__
    told: list[Message] = []
    config = TrainConfig(crop=(320, 480), batch=1, minutes=200 / 3)
    found = options_for_minutes(network, config, Distributed.single(), told.append, now)
    if crop == (320, 480):
        assert (found, told) == ({}, [])
    else:
        assert found == {"crop": crop, "freeze": 0}, "a backbone without weights has to learn"
        assert f"crops of {crop[0]}x{crop[1]}, usually 320x480" in told[0].text


def test_in_a_short_time_pretrained_stages_are_frozen(monkeypatch) -> None:
    network = build(ModelSpec(backbone="tiny", num_classes=2, width=8))
    monkeypatch.setattr(machine, "seconds_per_image", lambda *_: [9.0])
    told: list[Message] = []
    config = TrainConfig(crop=(320, 480), batch=10, minutes=2.0, finetune="a.safetensors")
    found = options_for_minutes(network, config, Distributed.single(), told.append)
    assert found == {"crop": (160, 160), "freeze": 2}
    assert "usually 320x480 (height x width), and 2 frozen stages, so that" in told[0].text
    given = options_for_minutes(network, replace(config, freeze=0), Distributed.single(), print)
    assert given == {"crop": (160, 160), "freeze": 0}, "what the user says is kept"
