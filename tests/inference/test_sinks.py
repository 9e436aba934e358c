"""Sinks and the plan of what goes where."""

import io
import json
import os
import sys
import threading
from concurrent.futures import Future
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fcnseg import io as opencv
from fcnseg.classes import ClassMap
from fcnseg.config import InferConfig
from fcnseg.errors import MediaError, OptionError, quoted
from fcnseg.files import as_path
from fcnseg.inference.outputs import Renderer, WindowSink
from fcnseg.inference.outputs.manifest import Manifest, next_free, remove_unused
from fcnseg.inference.outputs.sinks import (
    AnnotationSink,
    FileSink,
    FolderSink,
    VideoSink,
)
from fcnseg.inference.parts import choose_target
from fcnseg.inference.prediction import (
    PredictedArrays,
    ProportionsSink,
    class_proportions,
)
from fcnseg.io.annotations.polygons import run_lengths
from fcnseg.io.annotations.tools import Coco
from fcnseg.io.draw import colorize, overlay
from fcnseg.io.images import read_image
from fcnseg.io.labels import read_raw_labels
from fcnseg.io.sources.base import Frame
from fcnseg.io.sources.video import open_video

CLASSES = ClassMap.of(["road", "sky", "Straße"])
RENDERER = Renderer(CLASSES, alpha=0.4)
RNG = np.random.default_rng(0)
SIZE = (24, 32)


def frame(number: int = 0, name: str | None = None, size=SIZE) -> Frame:
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    return Frame(image, number, number / 10, name or f"f{number}")


def prediction(size=SIZE) -> PredictedArrays:
    labels = RNG.integers(0, 3, size, dtype=np.uint8)
    chances = RNG.random((3, *size), dtype=np.float32)
    return PredictedArrays(labels, chances.max(0), chances / chances.sum(0))


# One file, a folder of files


def test_a_folder_has_a_sub_folder_for_each_kind(tmp_path):
    items = [(frame(n, f"süb/{n}"), prediction()) for n in range(5)]
    sink = FolderSink(tmp_path, ["overlay", "labels", "color", "probabilities"], RENDERER)
    for item in items:
        sink.write(*item)
    assert sink.close() == [tmp_path / k for k in ("overlay", "labels", "color", "probabilities")]
    for one, answer in items:
        drawn = overlay(one.image, answer.labels, CLASSES, alpha=0.4)
        assert np.array_equal(read_image(tmp_path / "overlay" / f"{one.name}.png"), drawn)
        raw = read_raw_labels(tmp_path / "labels" / f"{one.name}.png")
        assert raw.mode == "P"
        assert np.array_equal(raw.values, answer.labels)
        colors = read_image(tmp_path / "color" / f"{one.name}.png")
        assert np.array_equal(colors, colorize(answer.labels, CLASSES))
        with np.load(tmp_path / "probabilities" / f"{one.name}.npz") as data:
            assert np.abs(data["probabilities"] - answer.probabilities).max() < 1e-3


def test_what_is_done_is_told_after_all_files_of_a_frame_are_there(tmp_path):
    seen = []

    def done(one: Frame) -> None:
        kinds = [(tmp_path / k / f"{one.name}.png").exists() for k in ("overlay", "labels")]
        seen.append((one.name, kinds))

    sink = FolderSink(tmp_path, ["overlay", "labels"], RENDERER, done=done)
    for number in range(10):
        sink.write(frame(number), prediction())
    sink.close()
    assert sorted(seen) == sorted((f"f{n}", [True, True]) for n in range(10))


def test_an_error_of_a_folder_is_raised_at_the_end_at_the_latest(tmp_path):
    (tmp_path / "labels").touch()
    sink = FolderSink(tmp_path, ["labels"], RENDERER)

    def fill():
        for number in range(50):
            sink.write(frame(number), prediction())

    with pytest.raises(MediaError, match="Can't write"):
        fill()
    with pytest.raises(MediaError):
        sink.close()
    sink.close(complete=False)
    assert not [t for t in threading.enumerate() if t.name.startswith("fcnseg-files")]


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "overlay"), ("a.jpg", "color"), ("a.png", "labels")]
)
def test_one_file(tmp_path, name, kind):
    sink, answer = FileSink(tmp_path / name, kind, RENDERER), prediction()
    sink.write(frame(), answer)
    assert sink.close() == [tmp_path / name]
    if kind == "labels":
        assert np.array_equal(read_raw_labels(tmp_path / name).values, answer.labels)
    else:
        assert read_image(tmp_path / name).shape == (*SIZE, 3)


def test_side_shows_the_image_and_its_overlay(tmp_path):
    one, answer = frame(), prediction()
    sink = FolderSink(tmp_path, ["side"], RENDERER)
    sink.write(one, answer)
    sink.close()
    found = read_image(tmp_path / "side/f0.png")
    assert np.array_equal(found[:, :32], one.image)
    assert np.array_equal(found[:, 32:], overlay(one.image, answer.labels, CLASSES, alpha=0.4))


@pytest.mark.parametrize("kind", ["overlay", "side", "color"])
def test_a_legend_stands_beside_and_changes_nothing_else(kind):
    classes = ClassMap.of(["background", "road", "sky"])
    one, answer = frame(size=(60, 80)), prediction((60, 80))
    plain = Renderer(classes).draw(kind, one, answer)
    found = Renderer(classes, legend=True).draw(kind, one, answer)
    assert np.array_equal(found[:, : plain.shape[1]], plain)
    beside = found[:, plain.shape[1] :]
    shown = [(beside == color).all(2).any() for color in classes.colors]
    assert shown[1:] == [True, True]
    assert shown[0] >= (kind == "color")
    only = Renderer(classes, legend=True, only=[2]).draw(kind, one, answer)[:, plain.shape[1] :]
    assert [(only == color).all(2).any() for color in classes.colors[1:]] == [False, True]


# Videos


def test_a_video_is_named_and_its_encoding_said(tmp_path):
    notes = []
    sink = VideoSink(
        tmp_path / "a.mp4",
        "overlay",
        RENDERER,
        fps=Fraction(10),
        is_mute=True,
        callback=notes.append,
    )
    for number in range(5, 12):  # a part of a video: times do not start at 0
        sink.write(frame(number), prediction())
    assert sink.close() == [tmp_path / "a.mp4"]
    with open_video(tmp_path / "a.mp4") as reader:
        assert reader.fps == 10
        assert [round(time, 3) for _, time in reader] == [n / 10 for n in range(7)]
    assert "H.264" in notes[0].text
    assert "the sound is left out" in notes[1].text  # that of a pipe or a server


def test_images_without_times_follow_one_another(tmp_path):
    sink = VideoSink(tmp_path / "a.mp4", "color", RENDERER, fps=None, timed=False)
    for _ in range(3):
        sink.write(Frame(np.zeros((*SIZE, 3), np.uint8)), prediction())
    sink.close()
    with open_video(tmp_path / "a.mp4") as reader:
        assert (reader.fps, len(list(reader))) == (10, 3)


def test_a_video_without_frames_is_none(tmp_path):
    assert VideoSink(tmp_path / "a.mp4", "color", RENDERER, fps=None).close() == []


# Numbers


def test_shares():
    labels = np.array([[0, 0, 1, 255]], np.uint8)
    found = class_proportions(PredictedArrays(labels), CLASSES)
    assert found == {"road": 0.5, "sky": 0.25, "Straße": 0.0, "unknown": 0.25}
    assert "unknown" not in class_proportions(PredictedArrays(labels % 255), CLASSES)


def test_shares_are_a_json_line_a_frame(tmp_path, monkeypatch):
    for path in (tmp_path / "new" / "a.jsonl", Path("-")):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        sink = ProportionsSink(path, CLASSES)
        for number in range(3):
            sink.write(frame(number), prediction())
        written = sink.close()
        text = out.getvalue() if str(path) == "-" else path.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        assert written == ([] if str(path) == "-" else [path])
        assert [line["index"] for line in lines] == [0, 1, 2]
        assert lines[2]["time"] == 0.2
        assert abs(sum(lines[0]["shares"].values()) - 1) < 1e-5


def test_coco(tmp_path):
    coco = pytest.importorskip("faster_coco_eval").mask
    answers = [prediction(), prediction()]
    for answer in answers:
        answer.labels[answer.labels == 1] = 255
    sink = AnnotationSink(tmp_path / "coco.json", Coco(CLASSES))
    for number, answer in enumerate(answers):
        sink.write(frame(number), answer)
    assert not (tmp_path / "coco.json").exists()
    assert sink.close() == [tmp_path / "coco.json"]
    data = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert [category["name"] for category in data["categories"]] == list(CLASSES.names)
    assert [image["id"] for image in data["images"]] == [1, 2]
    assert {a["category_id"] for a in data["annotations"]} == {1, 3}
    for annotation in data["annotations"]:
        labels = answers[annotation["image_id"] - 1].labels
        mask = labels == annotation["category_id"] - 1
        assert np.array_equal(coco.decode(annotation["segmentation"]), mask)
        assert annotation["area"] == mask.sum() == sum(run_lengths(mask)[1::2])
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()


def test_coco_of_a_frame_that_comes_again(tmp_path):
    """The file is what it would be without the first time, but for the order."""
    first, again, other = prediction(), prediction(), prediction()
    again.labels[:] = 2
    names = ("coco.json", "plain.json")
    sink, plain = (AnnotationSink(tmp_path / name, Coco(CLASSES)) for name in names)
    for number, answer in [(0, first), (1, other), (0, first), (0, again)]:
        sink.write(frame(number), answer)
    for number, answer in [(0, again), (1, other)]:
        plain.write(frame(number), answer)
    (found, expected) = (json.loads(each.close()[0].read_text()) for each in (sink, plain))
    assert found["images"] == expected["images"]
    assert len({each["id"] for each in found["annotations"]}) == 4

    def without_ids(data):
        pairs = ((each["image_id"], each["category_id"], each) for each in data["annotations"])
        return sorted((i, c, {**each, "id": 0}["segmentation"]["counts"]) for i, c, each in pairs)

    assert without_ids(found) == without_ids(expected)


# What goes where


@pytest.mark.parametrize(
    ("kind", "out", "save", "expected"),
    [
        ("image", "a.png", (), ("file", ("overlay",))),
        ("image", "a.png", ("labels",), ("file", ("labels",))),
        ("image", "a.JPG", ("color",), ("file", ("color",))),
        ("image", "a.npz", (), ("file", ("probabilities",))),
        ("image", "a.geojson", (), ("file", ("geojson",))),
        ("image", "out", (), ("folder", ("overlay", "labels"))),
        ("folder", "out.v2", (), ("folder", ("overlay", "labels"))),
        ("folder", "out", ("color", "color"), ("folder", ("color",))),
        ("folder", "a.mp4", (), ("video", ("overlay",))),
        ("video", "a.mkv", ("color",), ("video", ("color",))),
        ("video", "out", (), ("folder", ("overlay",))),
        ("camera", "out", ("labels", "overlay"), ("folder", ("labels", "overlay"))),
    ],
)
def test_plan(tmp_path, kind, out, save, expected):
    found = choose_target(kind, tmp_path / out, save)
    assert (found.shape, found.save) == expected


@pytest.mark.parametrize(
    ("kind", "out", "save", "message"),
    [
        ("image", "a.mp4", (), "One image does not make a video"),
        ("folder", "a.png", (), "Several images give more than one file"),
        ("video", "a.jpg", (), "frames of a video give more than one file"),
        ("video", "a.mp4", ("labels",), "can't be kept in a video"),
        ("video", "a.mp4", ("overlay", "color"), "can't show overlay and color"),
        ("video", "a.flv", (), "can't be written as .flv"),
        ("video", "a.gif", (), "No .gif files are written; known: .avi"),
        ("image", "a.heic", (), "No .heic files are written; known: .bmp"),
        ("image", "a.jpg", ("labels",), "'labels' can't be written as .jpg"),
        ("image", "a.png", ("overlay", "labels"), "can't hold overlay and labels"),
        ("image", "a.png", ("coco",), "'coco' can't be written as .png"),
        ("folder", "taken", (), "is a file"),
    ],
)
def test_plans_that_cannot_be(tmp_path, kind, out, save, message):
    (tmp_path / "taken").touch()
    with pytest.raises(OptionError, match=message):
        choose_target(kind, tmp_path / out, save)


@pytest.mark.parametrize("name", ["out.xyz", "out.html", "a b.pdf", "model.safetensors"])
def test_a_name_as_files_have_them_is_no_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"files are written; known: .*\.png.*, a folder") as told:
        choose_target("image", Path(name), ())
    assert f"a folder: -o {quoted(name)}/" in told.value.hint
    out = InferConfig(source=("a.png",), out=f"{name}/").mapped(as_path, "out").out
    assert choose_target("image", out, ()).shape == "folder"


@pytest.mark.parametrize("name", ["run.v2", "results.2024-11-28", "x.d", "seg.final", "exp.lr01"])
def test_a_dot_in_the_name_of_a_folder(tmp_path, name):
    assert choose_target("image", tmp_path / name, ()).shape == "folder"


def test_an_existing_folder_is_a_folder_whatever_its_name(tmp_path):
    (tmp_path / "x.mp4").mkdir()
    assert choose_target("video", tmp_path / "x.mp4", ()).shape == "folder"


def test_next_free(tmp_path):
    first = next_free(tmp_path / "runs", "infer")  # taken at once
    assert (first.name, next_free(tmp_path / "runs", "infer").name) == ("infer1", "infer2")
    manifest = Manifest(first, ["labels"], {}, resume=False)
    manifest.begin()
    (first / "labels").mkdir()
    manifest.finish(tmp_path, [], 1)
    remove_unused(first)
    assert first.exists()
    (first / "manifest.jsonl").unlink()
    manifest.begin()
    remove_unused(first)
    assert not first.exists()
    for name in ("infer2", "infer10", "inferno", "train30"):
        (tmp_path / name).mkdir()
    assert next_free(tmp_path, "infer").name == "infer11"


# What is done


def test_manifest(tmp_path):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    (out / "labels").mkdir(parents=True)
    for name in "abc":
        (inputs / f"{name}.png").write_text(name)
        (out / "labels" / f"{name}.png").write_text("labels")

    def make(job="x", resume=True):
        return Manifest(out, ["labels"], {"model": job}, resume=resume)

    def frame_of(name):
        return Frame(np.zeros((1, 1, 3), np.uint8), name=name, path=inputs / f"{name}.png")

    first = make(resume=False)
    for name in "abc":
        first.add(frame_of(name))
    (inputs / "b.png").write_text("changed")
    (out / "labels" / "c.png").unlink()
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"name": "cut by a cra')
    again = make()
    assert [again.has(name, inputs / f"{name}.png") for name in "abcd"] == [
        True,
        False,
        False,
        False,
    ]
    again.add(frame_of("b"))  # after the line that was cut
    assert make().has("b", inputs / "b.png")
    assert not make(job="another").has("a", inputs / "a.png")
    assert not make(resume=False).has("a", inputs / "a.png")


def test_the_manifests_of_several_processes_become_one(tmp_path):
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    clip.write_text("a video")
    out.mkdir()

    def make(rank=0):
        return Manifest(out, [], {}, resume=True, rank=rank)

    for rank, name in enumerate(["a", "b", "c"]):
        make(rank).add(Frame(np.zeros((1, 1, 3), np.uint8), name=name), clip)
        make(rank).add(Frame(np.zeros((1, 1, 3), np.uint8), name="of a camera"))
    assert len(list(out.iterdir())) == 3
    for _ in range(2):
        assert [make().has(name, clip) for name in "abcd"] == [True, True, True, False]
        make().join()
        assert [path.name for path in out.iterdir()] == ["manifest.jsonl"]
    assert len((out / "manifest.jsonl").read_text().split("\n{")) == 3


def test_what_another_job_has_written_over_is_not_done(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"image")

    def make(kinds, job):
        return Manifest(tmp_path, kinds, {"alpha": job}, resume=True)

    def write(kinds, job):
        for kind in kinds:
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / "a.png").write_text(f"{kind} {job}")
        make(kinds, job).add(Frame(np.zeros((1, 1, 3), np.uint8), name="a", path=image))

    write(["overlay"], 1)
    write(["labels"], 2)
    assert make(["overlay"], 1).has("a", image)
    write(["labels", "overlay"], 3)
    assert not make(["overlay"], 1).has("a", image)
    write(["overlay"], 1)
    assert make(["overlay"], 1).has("a", image)
    clip = tmp_path / "out.mp4"
    clip.write_bytes(b"clip")
    for job, done in ((1, 9), (2, 0)):
        make(["overlay"], job).finish(image, [clip], 9)
        assert make(["overlay"], 1).finished(image) == done


def test_a_joined_manifest_keeps_what_another_run_adds_meanwhile(tmp_path, monkeypatch):
    image = tmp_path / "a.png"
    image.write_bytes(b"image")

    def add(name, rank):
        manifest = Manifest(tmp_path, [], {}, resume=False, rank=rank)
        manifest.add(Frame(np.zeros((1, 1, 3), np.uint8), name=name, path=image))

    add("of rank 0", 0)
    add("of rank 1", 1)
    read, path = Path.read_bytes, tmp_path / "manifest-1.jsonl"

    def meanwhile(self):
        found = read(self)
        if self == path and not (tmp_path / "marker").exists():
            (tmp_path / "marker").touch()
            add("of another run", 0)
        return found

    monkeypatch.setattr(Path, "read_bytes", meanwhile)
    Manifest(tmp_path, [], {}, resume=False).join()
    again = Manifest(tmp_path, [], {}, resume=True)
    assert all(again.has(name, image) for name in ("of rank 0", "of rank 1", "of another run"))


def test_an_earlier_frames_end_is_not_taken_for_a_later_ones(tmp_path):
    """Of one name: a third one then would not wait for the second."""
    sink, earlier, later = FolderSink(tmp_path, ["labels"], RENDERER), Future(), Future()
    earlier.set_result(None)
    sink._slots.acquire()
    sink._writing["a"] = later
    sink._finished("a", earlier)
    assert sink._writing == {"a": later}
    sink.close()


# Windows


class FakeWindow:
    """Stands for OpenCV's window functions."""

    def __init__(self, monkeypatch, keys=(), visible=1.0):
        self.shown, self.keys, self.destroyed = [], list(keys), False
        monkeypatch.setattr(opencv, "has_display", lambda: True)
        monkeypatch.setattr(opencv.cv2, "imshow", lambda title, image: self.shown.append(image))
        monkeypatch.setattr(opencv.cv2, "waitKey", self.wait)
        monkeypatch.setattr(opencv.cv2, "getWindowProperty", lambda title, what: visible)
        monkeypatch.setattr(opencv.cv2, "destroyAllWindows", self.destroy)

    def wait(self, milliseconds):
        return self.keys.pop(0) if self.keys else -1

    def destroy(self):
        self.destroyed = True


def test_a_window_shows_bgr_until_q(monkeypatch):
    fake = FakeWindow(monkeypatch, keys=[-1, ord("x"), ord("q")])
    sink = WindowSink(Renderer(CLASSES, alpha=0.0))
    red = Frame(np.full((60, 200, 3), (255, 0, 0), np.uint8))
    for _ in range(5):
        sink.write(red, PredictedArrays(np.zeros((60, 200), np.uint8)), age=0.012)
    assert sink.ended
    assert len(fake.shown) == 3
    assert fake.shown[0][-1, 199].tolist() == [0, 0, 255]
    assert fake.shown[0][:30].min() == 0  # the text
    sink.close()
    assert fake.destroyed


def test_a_window_opens_with_what_opencv_says_of_its_toolkit(monkeypatch):
    """The wheel for Linux names its Qt's folders in the environment, which stays as it was."""
    FakeWindow(monkeypatch)
    seen = []
    monkeypatch.setattr(opencv, "_of_windows", {"QT_A_FOLDER": "/qt"})
    monkeypatch.setattr(opencv.cv2, "imshow", lambda *_: seen.append(os.environ.get("QT_A_FOLDER")))
    opencv.Window().show(np.zeros((30, 40, 3), np.uint8), "")
    assert seen == ["/qt"]
    assert "QT_A_FOLDER" not in os.environ


def test_a_closed_window_ends_too(monkeypatch):
    FakeWindow(monkeypatch, visible=0.0)
    sink = WindowSink(RENDERER)
    sink.write(frame(), prediction())
    assert sink.ended


def test_a_single_image_stays_until_a_key(monkeypatch):
    fake = FakeWindow(monkeypatch, keys=[-1, -1, -1, 27])
    sink = WindowSink(RENDERER, hold=True)
    sink.write(frame(), prediction())
    sink.wait()
    assert fake.keys == []


def test_no_display_is_an_option_error_not_the_end_of_the_process(monkeypatch):
    monkeypatch.setattr(opencv, "has_display", lambda: False)
    with pytest.raises(OptionError, match="no display"):
        WindowSink(RENDERER)


def test_has_display_tries_in_a_process_of_its_own(monkeypatch):
    from fcnseg import io as display

    display.has_display.cache_clear()
    monkeypatch.setenv("DISPLAY", ":987")  # nobody is there: OpenCV would abort
    monkeypatch.setattr(sys, "platform", "linux")
    assert not display.has_display()
    display.has_display.cache_clear()


def test_a_window_keeps_a_videos_own_pace(monkeypatch):
    """Frames are shown at their times; a slow network shifts those that follow, it loses none."""
    now, shown = [100.0], []

    class FakeWindow:
        ended = shown = False

        def listen(self, milliseconds):
            now[0] += milliseconds / 1000

        def show(self, image, text):
            shown.append(round(now[0] - 100, 3))

    monkeypatch.setattr("fcnseg.inference.outputs.Window", FakeWindow)
    sink = WindowSink(RENDERER, paced=True, clock=lambda: now[0])
    for number, seconds in enumerate([0.01, 0.01, 0.01, 2.0, 0.01]):
        now[0] += seconds  # what the network takes
        sink.write(Frame(frame().image, number, number * 0.5), prediction())
    assert shown == pytest.approx([0.01, 0.51, 1.01, 3.01, 3.51], abs=0.01)
