"""`infer --skip-done`: what could not be read before is skipped until it changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.errors import OptionError
from fcnseg.inference import job
from fcnseg.inference.pipeline import InferResult
from fcnseg.io.sources import files as recorded
from fcnseg.progress import Event, Message
from tests.test_odd_names import picture

BROKEN = b"\x89PNG\r\n\x1a\nno more"


def run(folder: Path, model: Path, **options: Any) -> tuple[InferResult, list[str]]:
    """A run of folder/in into folder/out, and what it said."""
    heard: list[Event] = []
    config = {"source": [str(folder / "in")], "model": str(model), "out": folder / "out", **options}
    result = infer(InferConfig.make(config), heard.append)
    return result, [event.text for event in heard if isinstance(event, Message)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images and a broken one."""
    picture(tmp_path / "in" / "a.png", 0)
    picture(tmp_path / "in" / "b.png", 1)
    (tmp_path / "in" / "x [red].png").write_bytes(BROKEN)
    return tmp_path


def test_what_failed_is_skipped(
    folder: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run(folder, random_model, save=["labels"])
    assert (first.frames_out, len(first.failed)) == (2, 1)
    looked: list[str] = []
    read = recorded.read_bytes
    monkeypatch.setattr(recorded, "read_bytes", lambda path: looked.append(path.name) or read(path))
    again, said = run(folder, random_model, save=["labels"], skip_done=True)
    assert (again.frames_out, again.failed, looked) == (0, (), [])
    assert "2 images are done already" in said
    assert "Skipped x [red].png: could not be read before, and not changed since" in said


def test_an_output_that_a_crash_left_empty_is_made_again(folder: Path, random_model: Path) -> None:
    run(folder, random_model, save=["labels"])
    made = folder / "out" / "labels" / "a.png"
    made.write_bytes(b"")
    assert run(folder, random_model, save=["labels"], skip_done=True)[0].frames_out == 1
    assert made.stat().st_size


def test_outputs_that_were_edited_are_not_written_over(folder: Path, random_model: Path) -> None:
    """Polygons that were corrected in labelme are somebody's work."""
    run(folder, random_model, save=["labelme"])
    assert run(folder, random_model, save=["labelme"])[0].frames_out == 2
    made = folder / "out" / "labelme" / "a.json"
    made.write_text("corrected")
    later = made.stat().st_mtime + 3600
    os.utime(made, (later, later))
    with pytest.raises(OptionError, match=r"a\.json was changed after fcnseg wrote it"):
        run(folder, random_model, save=["labelme"])
    run(folder, random_model, save=["labelme"], skip_done=True)
    run(folder, random_model, save=["labels"])
    assert made.read_text() == "corrected"


def test_a_source_is_listed_once(
    folder: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which images it has says what kind it is; then those that are done are skipped."""
    (folder / "list.txt").write_text("in/a.png\nin/b.png\n")
    options: dict[str, Any] = {"source": [str(folder / "list.txt")], "save": ["labels"]}
    run(folder, random_model, **options)
    (folder / "out" / "labels" / "b.png").unlink()
    opened: list[object] = []
    open_source = job.open_source
    monkeypatch.setattr(
        job, "open_source", lambda spec, **how: opened.append(spec) or open_source(spec, **how)
    )
    again, said = run(folder, random_model, **options, skip_done=True)
    assert (again.frames_out, again.skipped, len(opened)) == (1, 1, 1)
    assert "1 image is done already" in said


def test_what_failed_is_skipped_for_one_file_of_all(folder: Path, random_model: Path) -> None:
    first, _ = run(folder, random_model, save=["coco"], skip_done=True)
    assert (first.frames_out, len(first.failed)) == (2, 1)
    whole = (folder / "out" / "coco.json").read_bytes()
    again, said = run(folder, random_model, save=["coco"], skip_done=True)
    assert again.failed == ()
    assert any("could not be read before" in text for text in said)
    assert (folder / "out" / "coco.json").read_bytes() == whole


def test_what_changes_is_tried_again(folder: Path, random_model: Path) -> None:
    run(folder, random_model, save=["labels"])
    broken = folder / "in" / "x [red].png"
    broken.write_bytes(BROKEN + b"!")
    result, _ = run(folder, random_model, save=["labels"], skip_done=True)
    assert len(result.failed) == 1
    picture(broken)
    result, _ = run(folder, random_model, save=["labels"], skip_done=True)
    assert (result.frames_out, result.failed) == (1, ())
    result, said = run(folder, random_model, save=["labels"], skip_done=True)
    assert "3 images are done already" in said


def test_what_could_not_be_reached_is_tried_again(folder: Path, random_model: Path) -> None:
    (folder / "in" / "x [red].png").unlink()
    (folder / "in" / "gone.png").symlink_to(folder / "later.png")
    first, _ = run(folder, random_model, save=["labels"])
    assert len(first.failed) == 1
    picture(folder / "later.png")
    again, _ = run(folder, random_model, save=["labels"], skip_done=True)
    assert (again.frames_out, again.failed) == (1, ())


def test_a_video_that_failed_is_skipped(folder: Path, random_model: Path, drawn_clip: Path) -> None:
    shutil.copy(drawn_clip, folder / "in" / "clip.mp4")
    (folder / "in" / "cut.mp4").write_bytes(drawn_clip.read_bytes()[:200])
    first, _ = run(folder, random_model, save=["labels"])
    assert (first.frames_out, len(first.failed)) == (14, 2)
    again, said = run(folder, random_model, save=["labels"], skip_done=True)
    assert (again.frames_out, again.failed) == (0, ())
    assert sum("could not be read before" in text for text in said) == 2


@pytest.mark.parametrize("save", [[], ["overlay", "labels"], ["coco", "color"]])
def test_a_video_that_is_done_is_not_done_again(
    folder: Path, random_model: Path, drawn_clip: Path, save: list[str]
) -> None:
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(drawn_clip, folder / "in" / name)
    run(folder, random_model, save=save)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.mp4")}
    again, said = run(folder, random_model, save=save, skip_done=True)
    images_again = 2 if "coco" in save else 0  # one file of all images is made anew
    assert (again.frames_out, again.skipped) == (images_again, 27 - images_again)
    assert "2 videos are done already" in said
    with (folder / "in" / "two.mp4").open("ab") as file:
        file.write(b"\0" * 8)
    _, said = run(folder, random_model, save=save, skip_done=True)
    assert "1 video is done already" in said
    after = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.mp4")}
    assert {path.name for path in after if after[path] != before[path]} == {
        path.name for path in before if path.name.startswith("two")
    }
    assert not (folder / "out" / ".parts").exists()
