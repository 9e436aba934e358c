"""Averages over time: steadier, not blurred, and nothing carried over where nothing should be."""

import functools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from fcnseg.cli.tables import show_infer
from fcnseg.commands.demo.scenes import CLASSES, draw, make_scene
from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.engines.averaging import SmoothedEngine
from fcnseg.engines.base import Engine
from fcnseg.errors import OptionError
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.tiling import FramePredictor
from fcnseg.io.images import write_image
from fcnseg.io.labels import read_raw_labels
from fcnseg.io.video_writer import VideoWriter
from fcnseg.metrics import Confusion, Report
from fcnseg.models.spec import Preprocess
from tests.test_live import FakeCamera

AS_IS = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SIZE = (180, 240)


class Unsure(Engine):
    """Knows the labels of the frames to come, and says them with noise: another each frame."""

    name, device, precision = "torch", "cpu", "f32"

    def __init__(self, truth, noise=2.0):
        self.truth, self.noise, self.number = truth, noise, 0

    def forward(self, images):
        return torch.stack([self.one() for _ in images])

    def one(self):
        truth = self.truth[self.number % len(self.truth)]
        generator = torch.Generator().manual_seed(self.number)
        self.number += 1
        noise = self.noise * torch.randn((len(CLASSES), *truth.shape), generator=generator)
        return 3 * torch.eye(len(CLASSES))[torch.from_numpy(truth).long()].permute(2, 0, 1) + noise


@functools.cache
def scene_of(seed):
    scene = make_scene(seed, SIZE)
    return [draw(scene, index / 12.5) for index in range(12)]


def moving(seed=77, count=12):
    """Images and labels of a drawn scene in which everything moves and turns."""
    frames = scene_of(seed)[:count]
    return np.stack([image for image, _ in frames]), [labels for _, labels in frames]


def labels_of(engine, images, batch=1):
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    return np.concatenate([engine.labels(part)[0] for part in parts])


def miou(truth, labels):
    counts = Confusion(len(CLASSES))
    for one, found in zip(truth, labels, strict=True):
        counts.add(one, found)
    return Report.of(counts.matrix, CLASSES, images=len(labels)).miou


# The average


def test_a_still_image_gets_the_running_average():
    image = moving(count=1)[0]
    engine, raw = SmoothedEngine(Unsure([np.zeros(SIZE, np.uint8)]), 0.75), []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        raw.append(2 * torch.randn((len(CLASSES), *SIZE), generator=generator))
        raw[-1][0] += 3
        expected = raw[0]
        for one in raw[1:]:
            expected = 0.25 * one + 0.75 * expected
        found = engine.forward(image)[0]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", [77, 78, 83])
def test_labels_are_steadier_and_moving_things_are_not_blurred(seed):
    images, truth = moving(seed)
    engine = SmoothedEngine(Unsure(truth), 0.6)
    smoothed, raw = labels_of(engine, images), labels_of(Unsure(truth), images)
    flicker = engine.flicker()
    assert flicker.smoothed < flicker.raw / 3
    assert miou(truth, smoothed) > miou(truth, raw) + 0.1
    # Where the network is sure, a memory could only blur: nothing but edges may differ.
    sharp = labels_of(SmoothedEngine(Unsure(truth, noise=0), 0.6), images)
    assert miou(truth, sharp) > 0.965


def test_without_motion_compensation_it_would_smear():
    """What the test above would see if the past stayed where it was."""
    images, truth = moving()
    still = np.broadcast_to(images[:1], images.shape)
    blurred = labels_of(SmoothedEngine(Unsure(truth, noise=0), 0.6), still)
    assert miou(truth, blurred) < 0.92


@pytest.mark.parametrize("smooth", [0.3, 0.9])
def test_after_a_cut_nothing_is_left_of_what_was(smooth):
    (first, before), (second, after) = moving(77, 4), moving(78, 4)
    images, truth = np.concatenate([first, second]), before + after
    smoothed = SmoothedEngine(Unsure(truth), smooth).forward(images)
    raw = Unsure(truth).forward(images)
    same = [torch.equal(one, other) for one, other in zip(smoothed, raw, strict=True)]
    assert same == [True, False, False, False, True, False, False, False]


def test_frames_of_another_size_begin_anew():
    engine = Unsure([np.zeros(SIZE, np.uint8)] * 2 + [np.zeros((360, 480), np.uint8)] * 2)
    smoothed, small = SmoothedEngine(engine, 0.5), moving(count=1)[0]
    large = small.repeat(2, axis=1).repeat(2, axis=2)  # as small as the other, for the flow
    generator = torch.Generator().manual_seed(2)
    for image in (small, small):
        smoothed.forward(image)
    found = smoothed.forward(large)[0]
    noise = 2 * torch.randn((len(CLASSES), 360, 480), generator=generator)
    noise[0] += 3
    assert torch.equal(found, noise)


@pytest.mark.parametrize("batch", [2, 5, 8])
def test_batches_change_nothing(batch):
    images, truth = moving()
    alone, together = (SmoothedEngine(Unsure(truth), 0.7) for _ in range(2))
    assert np.array_equal(labels_of(alone, images), labels_of(together, images, batch))
    assert alone.flicker() == together.flicker()


def test_an_engine_may_use_its_memory_again():
    class Reused(Unsure):
        memory = torch.empty((1, len(CLASSES), *SIZE))

        def forward(self, images):
            return self.memory.copy_(super().forward(images))

    images, truth = moving(count=5)
    one = labels_of(SmoothedEngine(Reused(truth), 0.7), images)
    assert np.array_equal(one, labels_of(SmoothedEngine(Unsure(truth), 0.7), images))


def test_confidence_is_that_of_the_average():
    images, truth = moving(count=3)
    sure = SmoothedEngine(Unsure(truth), 0.7).labels(images, confidence=True)[1]
    chances = SmoothedEngine(Unsure(truth), 0.7).probabilities(images)[1]
    assert np.allclose(sure, chances.max(axis=1), atol=1e-5)
    assert not np.allclose(sure, Unsure(truth).labels(images, confidence=True)[1], atol=0.1)


def test_flicker_of_one_frame_is_unknown_and_of_sure_labels_small():
    images, truth = moving(count=6)
    engine = SmoothedEngine(Unsure(truth, noise=0), 0.5)
    engine.labels(images[:1])
    assert engine.flicker() is None
    engine.labels(images[1:])
    assert engine.flicker().raw < 0.03


@pytest.mark.parametrize("smooth", [-0.1, 1.0, float("nan")])
def test_a_weight_that_cannot_be(smooth):
    with pytest.raises(OptionError, match="less than 1"):
        SmoothedEngine(Unsure([]), smooth)


# infer and stream


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("moving") / "clip.mp4"
    with VideoWriter(path, Fraction(25, 2), SIZE) as writer:
        for image in moving()[0]:
            writer.write(image)
    return path


def segmenter() -> Segmenter:
    return Segmenter(Unsure(moving()[1]), CLASSES, AS_IS)


def run(source, out, **options):
    options = {"source": str(source), "out": out, "save": ("labels",), **options}
    predictor = options.pop("segmenter", None) or segmenter()
    connect = options.pop("connect", None)
    return infer(InferConfig.make(options), segmenter=predictor, connect=connect)


def written(folder: Path):
    return [read_raw_labels(path).values for path in sorted((folder / "labels").glob("*.png"))]


def test_infer_writes_the_smoothed_labels_and_tells_both_figures(tmp_path, clip, capsys):
    truth = moving()[1]
    raw, smoothed = run(clip, tmp_path / "raw"), run(clip, tmp_path / "smoothed", smooth=0.7)
    assert (raw.flicker, raw.flicker_raw) == (None, None)
    assert smoothed.flicker < smoothed.flicker_raw / 3
    assert miou(truth, written(tmp_path / "smoothed")) > miou(truth, written(tmp_path / "raw"))
    data = json.loads(json.dumps(smoothed.as_dict()))
    assert (data["flicker"], data["flicker_raw"]) == (smoothed.flicker, smoothed.flicker_raw)
    show_infer(smoothed)
    told = capsys.readouterr().err
    assert f"flicker {100 * smoothed.flicker:.2f} % of pixels" in told
    assert f"{100 * smoothed.flicker_raw:.2f} % before" in told
    show_infer(raw)
    assert "flicker" not in capsys.readouterr().err


def test_no_weight_is_not_asking(tmp_path, clip):
    results = [run(clip, tmp_path / "a"), run(clip, tmp_path / "b", smooth=0.0)]
    pairs = zip(written(tmp_path / "a"), written(tmp_path / "b"), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    assert results[1].flicker is None


def test_a_model_file_is_averaged_and_asked_frame_after_frame(
    tmp_path, drawn_clip, random_model, monkeypatch
):
    asked = []

    def load(path, **options):
        from fcnseg.inference.loading import load

        asked.append(options["parallel"])
        return load(path, **options)

    monkeypatch.setattr("fcnseg.inference.job.load", load)
    options = {"source": str(drawn_clip), "model": str(random_model), "save": ("labels",)}
    results = [
        infer(InferConfig.make({**options, "out": tmp_path / str(batch), "batch": batch, **how}))
        for batch, how in [(1, {"smooth": 0.8}), (8, {"smooth": 0.8}), (2, {})]
    ]
    assert asked == [False, False, True]
    assert results[0].flicker == results[1].flicker < results[0].flicker_raw
    one, eight, raw = (written(tmp_path / name) for name in ("1", "8", "2"))
    assert all(np.array_equal(a, b) for a, b in zip(one, eight, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, raw, strict=True))


def test_stream_takes_it_too(clip):
    smoothed = SmoothedEngine(Unsure(moving()[1]), 0.7)
    expected = [p.labels for p in replace(segmenter(), engine=smoothed).stream(clip)]
    for batch in (1, 8):
        found = [p.labels for p in segmenter().stream(clip, smooth=0.7, batch=batch)]
        assert np.array_equal(found, expected)
    raw = [p.labels for p in segmenter().stream(clip)]
    assert np.array_equal(raw, [p.labels for p in segmenter().stream(clip, smooth=0.0)])
    assert not np.array_equal(raw, expected)


def test_a_camera_is_averaged(tmp_path):
    result = run(
        "0",
        tmp_path / "out",
        smooth=0.5,
        limit=6,
        segmenter=Segmenter(Unsure([np.zeros((48, 64), np.uint8)]), CLASSES, AS_IS),
        connect=lambda address: FakeCamera(size=(48, 64)),
    )
    assert result.frames_out == 6
    assert result.flicker < result.flicker_raw


def test_images_are_refused_for_they_do_not_follow_each_other(tmp_path):
    image = moving(count=1)[0][0]
    write_image(tmp_path / "in" / "a.png", image)
    for source, found in [(tmp_path / "in", "images"), (tmp_path / "in" / "a.png", "one image")]:
        with pytest.raises(OptionError, match=f"video.*found {found}"):
            run(source, tmp_path / "out", smooth=0.5)
        with pytest.raises(OptionError, match=f"found {found}"):
            list(segmenter().stream(source, smooth=0.5))
    assert not (tmp_path / "out").exists()


def test_what_does_not_go_with_it(tmp_path, clip):
    with pytest.raises(OptionError, match="--skip-done"):
        run(clip, tmp_path / "out", smooth=0.5, skip_done=True)
    with pytest.raises(OptionError, match="smooth"):
        run(clip, tmp_path / "out", smooth=1.0)
    with pytest.raises(OptionError, match="Segmenter"):
        run(clip, tmp_path / "out", smooth=0.5, segmenter=FramePredictor(segmenter(), "off"))
    assert not (tmp_path / "out").exists()


def test_frames_that_need_tiles_are_refused():
    smoothed = replace(segmenter(), engine=SmoothedEngine(Unsure([np.zeros((400, 8))]), 0.5))
    image = np.zeros((400, 8, 3), np.uint8)
    assert FramePredictor(smoothed, "400").predict([image])
    with pytest.raises(OptionError, match="not tiled"):
        FramePredictor(smoothed, "384").predict([image])
