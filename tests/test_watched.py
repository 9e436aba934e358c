"""A watched folder: what is there, what comes, what changes."""

import json
import os
import threading
import time

import numpy as np
import pytest

from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.errors import MediaError, OptionError
from fcnseg.io.images import encode_image, write_image
from fcnseg.io.labels import read_raw_labels
from fcnseg.io.sources import open_source
from fcnseg.io.sources.base import Selection
from fcnseg.io.sources.files import WatchedFolder
from tests.inference.test_pipeline import FakeSegmenter


def plain(value):
    return np.full((16, 16, 3), value, np.uint8)


class Watcher:
    """The frames of a watched folder as they come: (name, value)."""

    def __init__(self, folder, **options):
        self.notes = []
        options = {"pause": 0.02, "callback": self.notes.append} | options
        skip = options.pop("skip", None)
        self.source = WatchedFolder(folder, Selection(every=options.pop("every", 1)), **options)
        if skip is not None:
            self.source.skip(skip)
        self.found = []
        self.thread = threading.Thread(target=self.run)

    def run(self):
        for frame in self.source:
            self.found.append((frame.name, int(frame.image[0, 0, 0])))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.source.close()
        self.thread.join()

    def expect(self, *frames):
        end = time.monotonic() + 10
        while len(self.found) < len(frames) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)  # and nothing more
        assert sorted(self.found) == sorted(frames)
        self.found.clear()


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "in" / "a.png", plain(10))
    return tmp_path / "in"


def test_what_is_there_and_what_comes(folder):
    (folder / "v.mp4").write_bytes(b"a video")
    with Watcher(folder) as watcher:
        watcher.expect(("a", 10))
        write_image(folder / "b.png", plain(20))
        write_image(folder / "sub" / "c.png", plain(30))
        watcher.expect(("b", 20), ("sub/c", 30))
    assert [note.text for note in watcher.notes if "v.mp4" in note.text] == [
        "Skipped v.mp4: only images are taken here; give a video by itself"
    ]


def test_what_changes_is_done_again(folder, tmp_path):
    with Watcher(folder) as watcher:
        watcher.expect(("a", 10))
        write_image(tmp_path / "new.png", plain(11))
        (tmp_path / "new.png").replace(folder / "a.png")
        watcher.expect(("a", 11))
        (folder / "a.png").write_bytes(encode_image(plain(12), ".png"))
        watcher.expect(("a", 12))
        times = (folder / "a.png").stat()
        data = encode_image(plain(13), ".png")
        assert len(data) == times.st_size
        (folder / "a.png").write_bytes(data)
        os.utime(folder / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))
        watcher.expect(("a", 13))


def test_what_is_only_touched_is_not(folder):
    with Watcher(folder) as watcher:
        watcher.expect(("a", 10))
        (folder / "a.png").touch()
        (folder / "a.png").chmod(0o600)
        watcher.expect()


def test_what_is_removed_is_forgotten_and_may_come_back(folder):
    with Watcher(folder) as watcher:
        watcher.expect(("a", 10))
        (folder / "a.png").unlink()
        watcher.expect()
        write_image(folder / "a.png", plain(14))
        watcher.expect(("a", 14))
    assert watcher.source.failures == []


def test_what_is_still_written_is_waited_for(folder):
    noise = np.random.default_rng(0).integers(0, 99, (64, 64, 3), np.uint8)
    data = encode_image(noise, ".png")
    with Watcher(folder, pause=0.4) as watcher:
        with (folder / "b.png").open("wb") as file:
            for start in range(0, len(data), len(data) // 40):
                file.write(data[start : start + len(data) // 40])
                file.flush()
                time.sleep(0.03)
        watcher.expect(("a", 10), ("b", int(noise[0, 0, 0])))
    assert watcher.notes == []


def test_a_broken_image_is_told_and_tried_again_when_it_changes(folder):
    data = encode_image(plain(20), ".png")
    (folder / "b.png").write_bytes(data[:40])
    with Watcher(folder) as watcher:
        watcher.expect(("a", 10))
        end = time.monotonic() + 10
        while not watcher.notes and time.monotonic() < end:
            time.sleep(0.01)
        assert [note.level for note in watcher.notes] == ["warning"]
        assert [name for name, _ in watcher.source.failures] == [str(folder / "b.png")]
        (folder / "b.png").write_bytes(data)
        watcher.expect(("b", 20))
        assert watcher.source.failures == []


def test_every_and_skip_hold_for_what_changes_too(folder):
    for name in "bcd":
        write_image(folder / f"{name}.png", plain(20))
    skipped = lambda name, path: name == "c" and path.read_bytes() == data  # noqa: E731
    data = (folder / "c.png").read_bytes()
    with Watcher(folder, every=2, skip=skipped) as watcher:
        watcher.expect(("a", 10))
        assert watcher.source.skipped == 1
        write_image(folder / "b.png", plain(30))
        write_image(folder / "c.png", plain(40))
        watcher.expect(("c", 40))


def test_watching_ends_when_closed(tmp_path):
    source = open_source(tmp_path, watch=True)
    threading.Timer(0.1, source.close).start()
    assert list(source) == []
    with pytest.raises(MediaError, match="not a folder"):
        open_source(tmp_path / "gone", watch=True)


@pytest.mark.parametrize("spec", ["-", "http://127.0.0.1:9/x"])
def test_only_a_folder_is_watched(spec):
    with pytest.raises(OptionError, match="--watch needs a folder"):
        open_source(spec, watch=True)


def test_with_skip_done_what_has_changed_is_done_again(folder, tmp_path):
    """Also where it changes back to what an earlier run has done."""
    out, path = tmp_path / "out", folder / "a.png"
    options = {"source": str(folder), "out": out, "save": ("labels",), "watch": True, "limit": 1}
    infer(InferConfig.make(options), segmenter=FakeSegmenter())
    first = path.read_bytes(), path.stat().st_mtime_ns

    def change_back():
        while read_raw_labels(out / "labels" / "a.png").values[0, 0] != 3:
            time.sleep(0.02)
        path.write_bytes(first[0])
        os.utime(path, ns=(first[1], first[1]))

    write_image(path, plain(200))
    threading.Thread(target=change_back, daemon=True).start()
    options |= {"skip_done": True, "limit": 2}
    result = infer(InferConfig.make(options), segmenter=FakeSegmenter())
    assert result.frames_out == 2
    assert read_raw_labels(out / "labels" / "a.png").values[0, 0] == 0


def test_in_one_file_of_all_a_changed_image_replaces_what_it_was(folder, tmp_path):
    out = tmp_path / "out"
    options = {"source": str(folder), "out": out, "save": ("coco", "labels"), "watch": True}

    def change():
        while not (out / "labels" / "a.png").exists():
            time.sleep(0.02)
        write_image(folder / "a.png", plain(200))

    threading.Thread(target=change, daemon=True).start()
    infer(InferConfig.make({**options, "limit": 2}), segmenter=FakeSegmenter())
    data = json.loads((out / "coco.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in data["images"]] == ["a.png"]
    assert [(each["image_id"], each["category_id"]) for each in data["annotations"]] == [(1, 4)]
