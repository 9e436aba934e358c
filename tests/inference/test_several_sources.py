"""A folder of images and videos, and several arguments: everything is done, under its own name."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fcnseg.commands.infer import infer
from fcnseg.commands.viz import view
from fcnseg.config import InferConfig, VizConfig
from fcnseg.datasets.pairing.by_content import without_labels
from fcnseg.errors import MediaError, OptionError
from fcnseg.io.images import write_image
from fcnseg.io.sources.listing import collect
from fcnseg.io.sources.video import open_video
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import Message
from tests.inference.test_pipeline import SIZE, FakeSegmenter, files, picture, run


def write_clip(path: Path, frames: int = 5, first: int = 0) -> Path:
    with VideoWriter(path, Fraction(10), SIZE) as writer:
        for number in range(first, first + frames):
            writer.write(picture(number))
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write_image(folder / "a.png", picture(1))
    write_image(folder / "sub" / "b.png", picture(2))
    for number, name in enumerate(["v.mp4", "v.avi", "sub/v.mp4"]):
        (folder / name).parent.mkdir(exist_ok=True)
        write_clip(folder / name, 4 + number)
    (folder / "notes.txt").write_text("hello")
    return folder


def run_all(*sources: object, out: Path, **options: object):
    return run_config(InferConfig(source=tuple(map(str, sources)), out=out, **options))


def run_config(config: InferConfig, callback=lambda event: None):
    return infer(config, callback, segmenter=FakeSegmenter())


def test_images_and_videos_of_a_folder_are_all_done(tmp_path: Path, mixed: Path) -> None:
    notes: list[str] = []
    result = run_config(
        InferConfig(source=str(mixed), out=tmp_path / "out"),
        lambda event: notes.append(event.text) if isinstance(event, Message) else None,
    )
    assert (result.frames_in, result.frames_out, result.failed) == (17, 17, ())
    videos = {"v_avi_overlay.mp4", "v_mp4_overlay.mp4", "sub/v_overlay.mp4"}
    images = {f"{kind}/{name}.png" for kind in ("overlay", "labels") for name in ("a", "sub/b")}
    assert files(tmp_path / "out") == {*videos, *images, "manifest.jsonl"}
    for name, frames in [("v_mp4", 4), ("v_avi", 5), ("sub/v", 6)]:
        with open_video(tmp_path / "out" / f"{name}_overlay.mp4") as reader:
            assert sum(1 for _ in iter(reader.grab, None)) == frames
    assert any("notes.txt" in note for note in notes)


def test_frames_of_videos_have_names_of_their_own(tmp_path: Path, mixed: Path) -> None:
    write_image(mixed / "v_mp4_000001.png", picture(9))
    result = run_all(mixed, out=tmp_path / "out", save=("labels", "coco"))
    assert result.frames_out == 18
    labels = [name for name in files(tmp_path / "out") if name.startswith("labels/")]
    assert len(labels) == 18
    coco = sorted((tmp_path / "out").rglob("*coco.json"))
    assert len(coco) == 4
    counts = [len(json.loads(path.read_text())["images"]) for path in coco]
    assert sorted(counts) == [3, 4, 5, 6]


def test_several_arguments_are_one_job(tmp_path: Path, mixed: Path) -> None:
    other = tmp_path / "other" / "a.png"
    write_image(other, picture(4))
    shares = tmp_path / "shares.jsonl"
    result = run_all(
        mixed / "a.png", other, mixed / "v.mp4", mixed / "a.png", mixed / "sub",
        mixed / "notes.txt",
        out=tmp_path / "out", save=("labels",), shares=shares,
    )  # fmt: skip
    assert result.frames_out == 1 + 1 + 4 + 1 + 6
    names = {json.loads(line)["name"] for line in shares.read_text().splitlines()}
    assert len(names) == 13
    assert {"in/a", "other/a", "in/sub/b"} <= names


def test_what_cannot_be_read_is_named_and_the_rest_done(tmp_path: Path, mixed: Path) -> None:
    (mixed / "broken.mp4").write_bytes(b"no video" * 50)
    (mixed / "broken.png").write_bytes(b"no image")
    result = run_all(mixed, out=tmp_path / "out")
    assert sorted(Path(name).name for name, _ in result.failed) == ["broken.mp4", "broken.png"]
    assert result.frames_out == 17
    for path in mixed.rglob("*"):
        if path.is_file() and not path.name.startswith("broken"):
            path.unlink()
    with pytest.raises(MediaError, match="None of 2 files could be read"):
        run_all(mixed, out=tmp_path / "again")


@pytest.mark.parametrize("save", [(), ("labels",), ("overlay", "coco")])
def test_a_job_that_was_interrupted_is_resumed(tmp_path: Path, mixed: Path, save) -> None:
    at_once, resumed = tmp_path / "once", tmp_path / "resumed"
    run_all(mixed, out=at_once, save=save)
    run_all(mixed, out=resumed, save=save, skip_done=True, limit=1)
    result = run_all(mixed, out=resumed, save=save, skip_done=True)
    assert result.failed == ()
    done = files(at_once) - {"manifest.jsonl"}
    assert files(resumed) - {"manifest.jsonl"} == done
    for name in (name for name in done if name.endswith(".png")):
        assert (at_once / name).read_bytes() == (resumed / name).read_bytes()


def test_one_file_is_too_little_for_several_sources(tmp_path: Path, mixed: Path) -> None:
    for out in ("o.mp4", "o.png"):
        with pytest.raises(OptionError, match="more than one file"):
            run_all(mixed, out=tmp_path / out)


def test_an_option_after_two_dashes_is_no_file(tmp_path: Path, mixed: Path) -> None:
    with pytest.raises(MediaError, match=r"no file -m\.") as caught:
        run_all(mixed / "a.png", "-m", "nuclei", out=tmp_path / "out")
    assert "options stand before it" in caught.value.hint


@pytest.mark.parametrize("odd", ["-", "rtsp://example.invalid/1"])
def test_streams_are_taken_alone(tmp_path: Path, mixed: Path, odd: str) -> None:
    with pytest.raises(OptionError, match="one of several sources"):
        run_all(mixed, odd, out=tmp_path / "out")


def test_a_missing_argument_is_an_error_before_anything_is_written(
    tmp_path: Path, mixed: Path
) -> None:
    with pytest.raises(MediaError, match=r"no file or folder .*none\.png"):
        run_all(mixed / "a.png", mixed / "none.png", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_videos_of_a_folder_keep_their_names(tmp_path: Path) -> None:
    for name in ("b 2.mp4", "b 10.mp4", "A.MP4"):
        (tmp_path / name).write_bytes(b"")
    found = collect([str(tmp_path)])
    assert [name for name, _ in found.videos] == ["A", "b_2", "b_10"]
    assert found.images == ()
    assert found.count == 3


def test_labels_of_a_dataset_are_no_images(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    discs = np.zeros((32, 32), np.uint8)
    discs[8:20, 8:20] = 1
    kinds = {"images": image, "masks": discs, "instances": discs}
    for path in [f"{kind}/{number}.png" for kind in kinds for number in range(3)]:
        write_image(tmp_path / path, kinds[path.partition("/")[0]])
    np.save(tmp_path / "images" / "0.npy", image)
    notes: list[str] = []
    found = run_config(
        InferConfig(source=str(tmp_path), out=tmp_path / "out"),
        lambda event: notes.append(event.text) if isinstance(event, Message) else None,
    )
    assert found.frames_out == 3
    assert "Skipped 6 label images" in " ".join(notes)
    assert "0.npy: arrays are read from folders without images" in " ".join(notes)
    assert len(collect([str(tmp_path / "masks")], without_labels).images) == 3, "named, they are"
    (tmp_path / "instances").rename(tmp_path / "views")
    for number in range(3):
        write_image(tmp_path / "masks" / f"{number}.png", image)
    assert len(collect([str(tmp_path)], without_labels).images) == 9, "photographs of masks"


def test_a_glob_may_match_videos(tmp_path: Path, mixed: Path) -> None:
    found = collect([f"{mixed}/*"])
    assert [name for name, _ in found.images] == ["a"]
    assert sorted(path.name for _, path in found.videos) == ["v.avi", "v.mp4"]
    with pytest.raises(MediaError, match="matches no images or videos"):
        collect([f"{mixed}/*.nothing"])


def test_one_folder_of_images_is_as_before(tmp_path: Path, mixed: Path) -> None:
    for path in [*mixed.rglob("*.mp4"), *mixed.rglob("*.avi")]:
        path.unlink()
    assert run(mixed, tmp_path / "film.mp4").outputs == (tmp_path / "film.mp4",)


def test_viz_takes_them_too(tmp_path: Path, mixed: Path, random_model: Path) -> None:
    shutil.copy(mixed / "a.png", tmp_path / "c.png")
    (mixed / "broken.mp4").write_bytes(b"no video" * 50)
    config = VizConfig(
        source=(str(mixed), str(tmp_path / "c.png")),
        model=str(random_model),
        out=tmp_path / "out",
        device="cpu",
        classes=("star",),
    )
    result = view(config)
    assert result.frames == 3 + 4 + 5 + 6
    assert [Path(name).name for name, _ in result.failed] == ["broken.mp4"]
    made = files(tmp_path / "out")
    assert len({name for name in made if name.endswith(".mp4")}) >= 3
    pages = {name for name in made if "/" in name}
    assert {Path(name).parts[0] for name in pages} == {"in", "c"}
