"""Inference: from any source to any output, whole, in order, whatever happens on the way."""

import json
import os
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fcnseg.classes import ClassMap
from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.errors import CheckpointError, Interrupted, MediaError, OptionError
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io.images import encode_image, read_image, write_image
from fcnseg.io.labels import read_raw_labels
from fcnseg.io.sources.base import Frame, Source
from fcnseg.io.sources.video import open_video
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import Message, Progress
from tests.inference.test_sinks import FakeWindow
from tests.test_live import FakeCamera

SIZE = (48, 64)


class FakeSegmenter:
    """Labels are the red channel's quarters; can be slow, and can fail at a frame."""

    classes = ClassMap.of(["a", "b", "c", "d"])
    num_parallel = 1

    def __init__(self, seconds=0.0, fail_at=None, error=None):
        self.seconds, self.fail_at = seconds, fail_at
        self.error = error or RuntimeError("network")
        self.batches = []

    def predict(self, images, *, confidence=False, probabilities=False):
        time.sleep(self.seconds * len(images))
        self.batches.append(len(images))
        if self.fail_at is not None and sum(self.batches) > self.fail_at:
            raise self.error
        return [self.answer(image, confidence, probabilities) for image in images]

    def answer(self, image, confidence, probabilities):
        labels = image[:, :, 0] // 64
        sure = np.where(np.arange(image.shape[1]) < 10, 0.3, 0.9).astype(np.float32)
        return PredictedArrays(
            labels,
            np.broadcast_to(sure, labels.shape) if confidence else None,
            np.full((4, *labels.shape), 0.25, np.float32) if probabilities else None,
        )


def picture(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, name in enumerate(["a.png", "a.jpg", "sub/b.png", "sub/ü c.bmp"]):
        write_image(tmp_path / "in" / name, picture(number))
    return tmp_path / "in"


@pytest.fixture
def clip(tmp_path) -> Path:
    with VideoWriter(tmp_path / "clip.mp4", Fraction(25, 2), SIZE) as writer:
        for number in range(30):
            writer.write(picture(number))
    return tmp_path / "clip.mp4"


def run(source, out=None, *, segmenter=None, callback=lambda event: None, connect=None, **options):
    values = {"source": str(source), **({} if out is None else {"out": out}), **options}
    segmenter = segmenter or FakeSegmenter()
    return infer(InferConfig.make(values), callback, segmenter=segmenter, connect=connect)


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# Images


def test_one_image_to_one_file(tmp_path, folder):
    result = run(folder / "a.png", tmp_path / "out.png")
    assert (result.frames_in, result.frames_out, result.failed) == (1, 1, ())
    assert result.outputs == (tmp_path / "out.png",)
    assert read_image(tmp_path / "out.png").shape == (*SIZE, 3)
    run(folder / "a.png", tmp_path / "labels.png", save=("labels",))
    raw = read_raw_labels(tmp_path / "labels.png")
    assert np.array_equal(raw.values, picture(0)[:, :, 0] // 64)


def test_a_folder_loses_and_overwrites_nothing(tmp_path, folder):
    result = run(folder, tmp_path / "out")
    names = ["a_png", "a_jpg", "sub/b", "sub/ü c"]
    pictures = {f"{kind}/{name}.png" for kind in ("overlay", "labels") for name in names}
    assert files(tmp_path / "out") == {*pictures, "manifest.jsonl"}
    assert (result.frames_in, result.frames_out) == (4, 4)
    raw = read_raw_labels(tmp_path / "out" / "labels" / "sub" / "b.png")
    assert np.array_equal(raw.values, picture(2)[:, :, 0] // 64)


def test_without_out_a_fresh_run_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(folder / "a.png").outputs[0] == Path("runs/infer1/overlay")
    assert run(folder / "a.png").outputs[0] == Path("runs/infer2/overlay")


def test_unreadable_images_are_told_and_the_rest_is_done(tmp_path, folder):
    (folder / "bad.png").write_text("hello")
    result = run(folder, tmp_path / "out")
    assert (result.frames_in, result.frames_out) == (5, 4)
    [(name, why)] = result.failed
    assert name.endswith("bad.png")
    assert "not an image" in why
    data = json.loads(json.dumps(result.as_dict()))
    assert data["failed"] == [{"name": name, "why": why}]
    assert set(data) >= {"frames_in", "frames_out", "failed", "outputs", "fps", "seconds"}


def test_a_folder_of_which_nothing_can_be_read_is_an_error(tmp_path):
    (tmp_path / "bad.png").write_text("hello")
    with pytest.raises(MediaError, match=r"None of 1 file could be read: \S*bad\.png is not"):
        run(tmp_path, tmp_path / "out")


def test_every_kind_of_output(tmp_path, folder):
    kinds = ("overlay", "labels", "color", "probabilities", "geojson", "labelme", "coco")
    result = run(folder / "sub", tmp_path / "out", save=kinds)
    assert [path.name for path in result.outputs] == [*kinds[:-1], "coco.json"]
    assert {name.split("/")[0] for name in files(tmp_path / "out")} == {
        *kinds[:-1], "coco.json", "manifest.jsonl",
    }  # fmt: skip


def test_a_folder_as_a_video(tmp_path, folder):
    run(folder, tmp_path / "out.mp4")
    with open_video(tmp_path / "out.mp4") as reader:
        assert (reader.fps, len(list(reader))) == (10, 4)


def test_uncertain_pixels_become_unknown(tmp_path, folder):
    run(folder / "a.png", tmp_path / "out.png", save=("labels",), conf=0.5)
    labels = read_raw_labels(tmp_path / "out.png").values
    assert np.all(labels[:, :10] == 255)
    assert np.array_equal(labels[:, 10:], picture(0)[:, 10:, 0] // 64)


def test_only_some_classes_are_drawn(tmp_path, folder):
    run(folder / "a.png", tmp_path / "out.png", classes=("b", "3"), alpha=1.0)
    labels, image = picture(0)[:, :, 0] // 64, read_image(tmp_path / "out.png")
    other = np.isin(labels, [0, 2])
    assert np.array_equal(image[other], picture(0)[other])
    assert np.all(image[labels == 1] == FakeSegmenter.classes.colors[1])
    with pytest.raises(OptionError, match="No class 'tree'"):
        run(folder / "a.png", tmp_path / "out.png", classes=("tree",))


CHOSEN = {"b", "d"}


def _class_numbers(path: Path) -> set[int]:
    return set(np.unique(read_raw_labels(path).values).tolist())


def _colors(path: Path) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(read_image(path).reshape(-1, 3), axis=0).tolist()))


def _color_of(*numbers: int) -> set[tuple[int, ...]]:
    return {tuple(FakeSegmenter.classes.palette()[number].tolist()) for number in numbers}


@pytest.mark.parametrize(
    ("kind", "file", "read", "expected"),
    [
        ("labels", "labels/a.png", _class_numbers, {1, 3, 255}),
        ("color", "color/a.png", _colors, _color_of(1, 3, 255)),
        (
            "geojson", "geojson/a.geojson",
            lambda p: {f["properties"]["class"] for f in json.loads(p.read_text())["features"]},
            CHOSEN,
        ),
        (
            "labelme", "labelme/a.json",
            lambda p: {shape["label"] for shape in json.loads(p.read_text())["shapes"]}, CHOSEN,
        ),
        (
            "coco", "coco.json",
            lambda p: {a["category_id"] for a in json.loads(p.read_text())["annotations"]}, {2, 4},
        ),
        (
            "probabilities", "probabilities/a.npz",
            lambda p: (np.load(p)["classes"].tolist(), np.load(p)["probabilities"].shape),
            (["b", "d"], (2, *SIZE)),
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("conf", [0.0, 0.5])
def test_classes_hold_for_every_output(tmp_path, folder, kind, file, read, expected, conf):
    write_image(tmp_path / "a.png", picture(0))
    options = {"save": (kind,), "classes": ("b", "3"), "conf": conf}
    if conf and kind == "probabilities":  # they have no threshold
        with pytest.raises(OptionError, match="--conf has no effect here"):
            run(tmp_path / "a.png", tmp_path / "out", **options)
        return
    run(tmp_path / "a.png", tmp_path / "out", **options)
    assert read(tmp_path / "out" / file) == expected


@pytest.mark.parametrize("skip_done", [False, True])
def test_classes_hold_for_shares_too(tmp_path, folder, skip_done):
    out = {"out": tmp_path / "out", "skip_done": True} if skip_done else {}
    run(folder, shares=tmp_path / "s.jsonl", classes=("b",), **out)
    for line in map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines()):
        assert set(line["shares"]) == {"a", "b", "c", "d", "unknown"}
        assert line["shares"]["a"] == line["shares"]["c"] == line["shares"]["d"] == 0
        assert 0 < line["shares"]["b"] < 1


# Videos


def test_every_frame_of_a_video_in_order_at_its_rate(tmp_path, clip):
    events = []
    result = run(clip, tmp_path / "out.mp4", callback=events.append)
    assert (result.frames_in, result.frames_out) == (30, 30)
    with open_video(clip) as before, open_video(tmp_path / "out.mp4") as after:
        assert after.fps == Fraction(25, 2)
        pairs = list(zip(before, after, strict=True))
    for (image, time_in), (drawn, time_out) in pairs:
        colors = FakeSegmenter.classes.colors[image[:, :, 0] // 64]
        assert np.abs(image * 0.5 + colors * 0.5 - drawn).mean() < 25
        assert abs(time_in - time_out) < 1e-6
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == list(range(1, 31))
    assert progress[0].total == 30
    assert any(isinstance(event, Message) and "H.264" in event.text for event in events)


def test_without_pyav_every_frame_is_there_too_and_what_is_missing_is_said(
    tmp_path, clip, monkeypatch
):
    using = ("sources.video", "sources.stdin", "video_writer")
    for module in (*(f"io.{name}" for name in using), "inference.outputs.sinks"):
        monkeypatch.setattr(f"fcnseg.{module}.has_pyav", lambda: False, raising=False)
    events = []
    result = run(clip, tmp_path / "out.mp4", callback=events.append)
    assert result.frames_out == 30
    with open_video(tmp_path / "out.mp4") as reader:
        assert (reader.fps, len(list(reader))) == (Fraction(25, 2), 30)
    [note] = [event for event in events if isinstance(event, Message)]
    assert "mp4v" in note.text
    assert "without sound" in note.text
    assert "pip install av" in note.text


@pytest.mark.parametrize("batch", [1, 4, 7, 50])
def test_labels_of_a_video_are_the_same_for_any_batch(tmp_path, clip, batch):
    segmenter = FakeSegmenter()
    result = run(clip, tmp_path / "out", save=("labels",), batch=batch, segmenter=segmenter)
    assert max(segmenter.batches) == min(batch, 30)
    assert result.frames_out == 30
    with open_video(clip) as reader:
        for number, (image, _) in enumerate(reader):
            raw = read_raw_labels(tmp_path / "out" / "labels" / f"clip_{number:06d}.png")
            assert np.array_equal(raw.values, image[:, :, 0] // 64)


def test_a_part_of_a_video(tmp_path, clip):
    result = run(clip, tmp_path / "out.mp4", every=2, start=0.4, end=2.0)
    assert result.frames_out == 10
    with open_video(tmp_path / "out.mp4") as reader:
        assert reader.fps == Fraction(25, 4)
        assert [round(time, 4) for _, time in reader] == [round(n * 0.16, 4) for n in range(10)]


def test_a_video_into_a_folder(tmp_path, clip):
    result = run(clip, tmp_path / "out", save=("overlay", "labels"), limit=3)
    assert files(tmp_path / "out") == {
        "clip_overlay.mp4", "manifest.jsonl", *(f"labels/clip_{n:06d}.png" for n in range(3)),
    }  # fmt: skip
    assert result.outputs == (tmp_path / "out" / "labels", tmp_path / "out" / "clip_overlay.mp4")


def test_a_cut_video_is_done_as_far_as_it_goes_and_told(tmp_path, clip):
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    result = run(clip, tmp_path / "out.mp4")
    assert 0 < result.frames_out < 30
    assert "missing" in result.failed[0][1]
    with open_video(tmp_path / "out.mp4") as reader:
        assert len(list(reader)) == result.frames_out


def test_shares_go_to_a_file(tmp_path, clip):
    result = run(clip, shares=tmp_path / "shares.jsonl", limit=5)
    assert result.outputs == (tmp_path / "shares.jsonl",)
    lines = (tmp_path / "shares.jsonl").read_text().splitlines()
    assert len(lines) == 5
    assert abs(sum(json.loads(lines[0])["shares"].values()) - 1) < 1e-5


# What goes wrong


@pytest.mark.parametrize("error", [RuntimeError("network"), KeyboardInterrupt()])
def test_what_was_done_is_kept_when_it_ends_early(tmp_path, clip, error):
    expected = Interrupted if isinstance(error, KeyboardInterrupt) else RuntimeError
    segmenter = FakeSegmenter(fail_at=12, error=error)
    with pytest.raises(expected) as caught:
        run(clip, tmp_path / "out.mp4", segmenter=segmenter)
    with open_video(tmp_path / "out.mp4") as reader:
        assert len(list(reader)) == 12
    if expected is Interrupted:
        assert "12 of about 30 frames" in caught.value.message
        assert "out.mp4" in caught.value.message
    assert not [t for t in threading.enumerate() if t.name.startswith("fcnseg")]


def test_a_complete_output_is_not_replaced_by_half_a_one(tmp_path, clip):
    run(clip, tmp_path / "out.mp4")
    before = (tmp_path / "out.mp4").read_bytes()
    segmenter = FakeSegmenter(fail_at=5, error=KeyboardInterrupt())
    with pytest.raises(Interrupted, match=r"out\.partial\.mp4"):
        run(clip, tmp_path / "out.mp4", segmenter=segmenter)
    assert (tmp_path / "out.mp4").read_bytes() == before


def test_a_full_disk_is_one_message(tmp_path, clip, monkeypatch):
    def full(self, image, time=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoWriter, "write", full)
    with pytest.raises(MediaError, match="No space left on device"):
        run(clip, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_an_interrupted_folder_resumes_with_skip_done(tmp_path, folder):
    out = tmp_path / "out"
    with pytest.raises(Interrupted) as caught:
        run(folder, out, segmenter=FakeSegmenter(fail_at=2, error=KeyboardInterrupt()))
    assert "--skip-done" in caught.value.hint
    segmenter = FakeSegmenter()
    result = run(folder, out, segmenter=segmenter, skip_done=True)
    assert (result.skipped, result.frames_out, sum(segmenter.batches)) == (2, 2, 2)
    assert len(files(out)) == 9
    assert run(folder, out, skip_done=True).skipped == 4
    assert run(folder, out, skip_done=True, alpha=0.7).skipped == 0
    assert run(folder, out, skip_done=True, alpha=0.7, short_side=32).skipped == 0


@pytest.mark.parametrize("kinds", [("labels",), ("overlay", "labels", "coco")])
def test_an_interrupted_video_resumes_with_skip_done(tmp_path, clip, kinds):
    """All is there in the end, what is one file of all frames too, and nothing else."""
    for out in ("once", "twice"):
        (tmp_path / out).mkdir()
    options = {"save": kinds, "skip_done": True, "batch": 4}
    run(clip, tmp_path / "once", save=kinds, shares=tmp_path / "once" / "shares.jsonl")
    options["shares"] = tmp_path / "twice" / "shares.jsonl"
    broken = FakeSegmenter(fail_at=12, error=KeyboardInterrupt())
    with pytest.raises(Interrupted) as caught:
        run(clip, tmp_path / "twice", segmenter=broken, **options)
    assert "--skip-done resumes" in caught.value.hint
    result = run(clip, tmp_path / "twice", **options)
    assert (result.skipped, result.frames_in, result.frames_out) == (12, 18, 18)
    assert files(tmp_path / "twice") == files(tmp_path / "once")
    for name in files(tmp_path / "once") - {"manifest.jsonl"}:
        once, twice = tmp_path / "once" / name, tmp_path / "twice" / name
        assert once.read_bytes() == twice.read_bytes(), name
    assert set(result.outputs) == {
        *(tmp_path / "twice" / kind for kind in kinds if kind == "labels"),
        *(tmp_path / "twice" / f"clip_{kind}.mp4" for kind in kinds if kind == "overlay"),
        *(tmp_path / "twice" / f"{kind}.json" for kind in kinds if kind == "coco"),
        tmp_path / "twice" / "shares.jsonl",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip_done": True}, "needs --out"),
        ({"skip_done": True, "out": "o", "source": "-"}, "piped in"),
        ({"skip_done": True, "out": "o", "source": "0"}, "this is a camera"),
        ({"out": "o.png"}, "more than one file"),
        ({"start": 3.0, "end": 1.0}, "after the start"),
        ({"show": True}, "no display"),
    ],
)
def test_options_that_cannot_be(tmp_path, clip, options, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcnseg.io.has_display", lambda: False)
    with pytest.raises(OptionError, match=message):
        run(**{"source": clip, "connect": lambda address: FakeCamera(), **options})
    assert files(tmp_path) == {"clip.mp4"}


def test_a_missing_model_is_said_before_anything_is_opened(tmp_path, clip):
    config = InferConfig(source=str(clip), model=str(tmp_path / "none"), out=tmp_path / "o.mp4")
    with pytest.raises(CheckpointError):
        infer(config)


# Live


def test_a_camera_into_a_video_at_its_true_times(tmp_path):
    result = run(
        "0",
        tmp_path / "out.mp4",
        limit=10,
        segmenter=FakeSegmenter(seconds=0.03),
        connect=lambda address: FakeCamera(period=0.01),
    )
    assert result.frames_out == 10
    assert result.dropped > 5
    with open_video(tmp_path / "out.mp4") as reader:
        times = [time for _, time in reader]
    assert times[-1] > 0.25


def test_latency_stays_under_two_steps_and_is_shown(tmp_path):
    events = []
    result = run(
        "0",
        tmp_path / "out",
        save=("labels",),
        limit=20,
        segmenter=FakeSegmenter(seconds=0.05),
        callback=events.append,
        connect=lambda address: FakeCamera(period=0.004),
    )
    ages = [event.values["ms late"] for event in events if isinstance(event, Progress)]
    assert np.median(ages) < 2 * 1000 * result.seconds / 20
    assert result.dropped > 50


def test_a_stream_whose_size_changes_continues(tmp_path):
    cameras = [FakeCamera(frames=4, period=0.1), FakeCamera(size=(40, 60), period=0.1)]
    result = run("0", tmp_path / "out.mp4", limit=6, connect=lambda address: cameras.pop(0))
    assert result.frames_out == 6
    with open_video(tmp_path / "out.mp4") as reader:
        assert {image.shape for image, _ in reader} == {(24, 32, 3)}


def test_ctrl_c_finishes_a_camera_recording(tmp_path):
    segmenter = FakeSegmenter(fail_at=6, error=KeyboardInterrupt())
    with pytest.raises(Interrupted, match="Stopped after 6 frames"):
        run(
            "0",
            tmp_path / "out.mp4",
            segmenter=segmenter,
            connect=lambda address: FakeCamera(period=0.01),
        )
    with open_video(tmp_path / "out.mp4") as reader:
        assert len(list(reader)) == 6


class Paced(Source):
    """Frames that each come when those before are answered: by a camera's program, by hand.

    At `ask_to_stop` it sends itself Ctrl-C, and waits until it is stopped.
    """

    kind = "folder"

    def __init__(self, frames, answered, ask_to_stop=None):
        super().__init__()
        self.frames, self.answered, self.ask_to_stop = frames, answered, ask_to_stop

    def __iter__(self):
        for number in range(self.frames):
            if number == self.ask_to_stop:
                os.kill(os.getpid(), signal.SIGINT)
            while not (self._over or self.ask_to_stop or self.answered() == number):
                time.sleep(0.005)
            yield Frame(picture(number), number, 0.0, f"{number}")
            while number == self.ask_to_stop and not self._over:
                time.sleep(0.005)
            if self._over:
                return


@pytest.mark.parametrize(("batch", "num_parallel"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_a_prediction_is_written_before_the_next_frame_comes(
    tmp_path, monkeypatch, batch, num_parallel
):
    labels = tmp_path / "out" / "labels"
    source = Paced(5, lambda: len(list(labels.glob("*.png"))))
    monkeypatch.setattr("fcnseg.inference.job.open_source", lambda *_, **__: source)
    segmenter = FakeSegmenter()
    segmenter.num_parallel = num_parallel
    result = run("-", tmp_path / "out", segmenter=segmenter, save=("labels",), batch=batch)
    assert result.frames_out == 5


@pytest.mark.skipif(os.name != "posix", reason="a process sends itself a signal")
@pytest.mark.parametrize(("batch", "num_parallel"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_ctrl_c_ends_when_what_was_read_is_written(tmp_path, monkeypatch, batch, num_parallel):
    source = Paced(9, lambda: None, ask_to_stop=4)
    monkeypatch.setattr("fcnseg.inference.job.open_source", lambda *_, **__: source)
    segmenter = FakeSegmenter(seconds=0.02)
    segmenter.num_parallel = num_parallel
    with pytest.raises(Interrupted, match="Stopped after 5"):
        run("-", tmp_path / "out", segmenter=segmenter, save=("labels",), batch=batch)
    assert files(tmp_path / "out" / "labels") == {f"{number}.png" for number in range(5)}


def test_q_ends_with_a_playable_file(tmp_path, monkeypatch, clip):
    """Pressed while the window waits for a frame's time, too."""
    fake = FakeWindow(monkeypatch, keys=[-1] * 7 + [ord("q")])
    result = run(clip, tmp_path / "out.mp4", show=True)
    assert 0 < len(fake.shown) <= result.frames_in == result.frames_out < 12
    with open_video(tmp_path / "out.mp4") as reader:
        assert len(list(reader)) == result.frames_out


def test_ctrl_c_ends_a_window_that_stays(tmp_path, monkeypatch, folder):
    """One image: its outputs are complete by then."""
    fake, image, out = FakeWindow(monkeypatch), next(iter(sorted(folder.iterdir()))), tmp_path / "o"

    def wait(milliseconds):
        if milliseconds == 50:  # the user's turn
            signal.raise_signal(signal.SIGINT)
        return -1

    monkeypatch.setattr("fcnseg.io.cv2.waitKey", wait)
    with pytest.raises(Interrupted, match="of about 1 frame; what was done is in"):
        run(image, out, show=True, save=("labels",))
    assert fake.destroyed
    assert len(files(out / "labels")) == 1


def test_show_alone_writes_no_files(tmp_path, monkeypatch, clip):
    FakeWindow(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert run(clip, show=True, limit=2).outputs == ()
    assert files(tmp_path) == {"clip.mp4"}


def test_stages_overlap(tmp_path, clip, monkeypatch):
    """While a frame is in the network the next is decoded; while it is written, the next is
    in the network. One stage after the other would wait here for ever."""
    from fcnseg.io.sources.video import VideoFile

    decoded, predicted = threading.Semaphore(0), threading.Semaphore(0)
    first = iter([True])
    frames, write, waited = VideoFile.__iter__, VideoWriter.write, []

    def counted_frames(self):
        for frame in frames(self):
            if not next(first, False):  # the first one is decoded before anything can overlap
                decoded.release()
            yield frame

    def patient_write(self, image, time=None):
        if self.frames < 28:
            waited.append(predicted.acquire(timeout=20))
        write(self, image, time)

    class Patient(FakeSegmenter):
        def predict(self, images, **wanted):
            if self.batches:
                predicted.release()
            if len(self.batches) < 29:
                waited.append(decoded.acquire(timeout=20))
            return super().predict(images, **wanted)

    monkeypatch.setattr(VideoFile, "__iter__", counted_frames)
    monkeypatch.setattr(VideoWriter, "write", patient_write)
    segmenter = Patient()
    result = run(clip, tmp_path / "out.mp4", segmenter=segmenter)
    assert result.frames_out == 30
    assert len(waited) == 57
    assert all(waited)


def test_memory_does_not_grow_with_the_source(tmp_path, monkeypatch):
    """A slow sink holds the source back: never more than a few frames are on the way."""
    from fcnseg.io.sources.files import ImageFiles

    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(encode_image(picture(number)))
    ahead, frames = [], ImageFiles.__iter__
    segmenter = FakeSegmenter(seconds=0.002)

    def counted(self):
        for frame in frames(self):
            ahead.append(frame.index - sum(segmenter.batches))
            yield frame

    monkeypatch.setattr(ImageFiles, "__iter__", counted)
    run(tmp_path, tmp_path / "out", segmenter=segmenter)
    assert max(ahead) <= 8
