from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from fcnseg.commands.viz import view
from fcnseg.config import VizConfig
from fcnseg.errors import Interrupted, MediaError, OptionError
from fcnseg.inference.loading import load
from fcnseg.io.draw import heatmap
from fcnseg.io.images import read_image, write_image
from fcnseg.io.sources.video import open_video
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import Progress
from fcnseg.viz.drawing import entropy, grey, signed_map
from fcnseg.viz.heatmaps import HeatmapFigures

SIZE = (240, 320)


@pytest.fixture
def still(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "in" / "a picture.png"
    write_image(path, rng.integers(0, 256, (*SIZE, 3), np.uint8))
    return path


def look(source: Path, model: Path, out: Path, **options):
    return view(VizConfig(source=str(source), model=str(model), out=out, device="cpu", **options))


def test_every_class_gets_a_page_and_all_one(still, random_model, tmp_path):
    result = look(still, random_model, tmp_path / "out")
    names = ["overview", "00-background", "01-disk", "02-box", "03-star", "uncertainty"]
    folder = tmp_path / "out" / "a picture"
    assert [path.relative_to(folder).stem for path in result.outputs] == names
    assert result.frames == 1
    assert not result.failed
    assert all(read_image(path).shape[0] > SIZE[0] for path in result.outputs)
    told = result.as_dict()
    assert told["outputs"] == [str(path) for path in result.outputs]
    assert told["frames"] == 1
    assert told["failed"] == []


def test_a_heatmap_shows_the_probability_beside_the_input(still, random_model, tmp_path):
    look(still, random_model, tmp_path / "out", classes=("box",), alpha=0.7)
    drawn = read_image(tmp_path / "out" / "a picture" / "02-box.png")
    image = read_image(still)
    shares = load(random_model).predict([image], probabilities=True)[0].probabilities
    expected = heatmap(grey(image), shares[2], alpha=0.7)
    top = next(y for y in range(drawn.shape[0]) if (drawn[y, 8:328] == image[0]).all())
    np.testing.assert_array_equal(drawn[top : top + 240, 8:328], image)
    np.testing.assert_array_equal(drawn[top : top + 240, 336:656], expected)


def test_classes_are_chosen_by_name_or_number(still, random_model, tmp_path):
    result = look(still, random_model, tmp_path / "out", classes=("star", "1", "3"))
    assert [path.stem for path in result.outputs][1:3] == ["03-star", "01-disk"]
    assert len(result.outputs) == 4
    with pytest.raises(OptionError, match="No class 'sheep'"):
        look(still, random_model, tmp_path / "out", classes=("sheep",))


def test_pages_show_the_chosen_classes_alone(still, random_model, tmp_path):
    model = load(random_model)
    found = np.unique(model.predict([read_image(still)])[0].labels)
    assert len(found) > 1, "the model gives several classes, of which one is chosen"
    chosen, other = found[:2].tolist()
    look(still, random_model, tmp_path / "out", classes=(str(chosen),), rungs=True, alpha=1.0)
    for page in (tmp_path / "out" / "a picture").glob("*.png"):
        drawn = read_image(page).reshape(-1, 3)
        assert not (drawn == model.classes.colors[other]).all(1).any(), page.name


def test_rungs_are_drawn(still, random_model, tmp_path):
    result = look(still, random_model, tmp_path / "out", classes=("disk",), rungs=True)
    assert [path.stem for path in result.outputs][3:] == ["skips", "skips-01-disk"]
    answers, added = (read_image(path) for path in result.outputs[3:])
    assert answers.shape[1] > 5 * 300  # input, 32s, 16s, 8s, 4s
    assert added.shape[0] > 2 * answers.shape[0] * 0.9
    image = read_image(still)
    rungs = load(random_model).skip_scores(image)
    shares = [skip[1] - skip.mean(axis=0) for skip in rungs.values()]  # of the class "disk"
    shares.append(np.sum(shares, axis=0))
    limit = np.quantile(np.abs(shares[-1]), 0.995)
    drawn = [signed_map(image, share / limit) for share in shares]
    top = next(y for y in range(added.shape[0]) if (added[y, 8:328] == drawn[0][0]).all())
    for index, picture in enumerate(drawn):
        left = 8 + index * 328
        np.testing.assert_array_equal(added[top : top + 240, left : left + 320], picture)


def test_rungs_of_an_exported_file_are_refused(still, exported_model, tmp_path):
    with pytest.raises(OptionError, match="which an exported file does not show"):
        look(still, exported_model, tmp_path / "out", rungs=True)


def test_a_folder_is_drawn_image_by_image(still, random_model, tmp_path):
    (still.parent / "sub").mkdir()
    write_image(still.parent / "sub" / "b.png", read_image(still)[:100])
    (still.parent / "broken.png").write_bytes(b"no picture")
    result = look(still.parent, random_model, tmp_path / "out", classes=("1",))
    folders = {path.parent.relative_to(tmp_path / "out") for path in result.outputs}
    assert folders == {Path("a picture"), Path("sub", "b")}
    assert result.frames == 2
    assert [Path(name).stem for name, why in result.failed if why] == ["broken"]
    assert Path(result.as_dict()["failed"][0]["name"]).stem == "broken"


@pytest.mark.parametrize(
    ("classes", "name"),
    [(("disk",), "01-disk.mp4"), ((), "overview.mp4"), (("1", "2"), "overview.mp4")],
)
def test_a_video_gives_a_video(drawn_clip, random_model, tmp_path, classes, name):
    heard = []
    config = VizConfig(
        source=str(drawn_clip), model=str(random_model), out=tmp_path, classes=classes, limit=3
    )
    result = view(config, heard.append)
    assert result.outputs == (tmp_path / name,)
    with open_video(tmp_path / name) as reader:
        assert reader.fps == Fraction(25, 2)
        frames = list(reader)
    assert len(frames) == result.frames == 3
    assert [event.done for event in heard if isinstance(event, Progress)] == [1, 2, 3]


def test_rungs_of_a_video(drawn_clip, random_model, tmp_path):
    result = look(drawn_clip, random_model, tmp_path, classes=("disk",), rungs=True, limit=2)
    assert [path.name for path in result.outputs] == [
        "01-disk.mp4",
        "skips.mp4",
        "skips-01-disk.mp4",
    ]
    assert all(path.is_file() for path in result.outputs)


def test_ctrl_c_leaves_a_video_that_plays(drawn_clip, random_model, tmp_path, monkeypatch):
    real, count = VideoWriter.write, iter(range(99))

    def write(self, image, time=None):
        if next(count) == 2:
            raise KeyboardInterrupt
        real(self, image, time)

    monkeypatch.setattr(VideoWriter, "write", write)
    with pytest.raises(Interrupted, match="2 frames"):
        look(drawn_clip, random_model, tmp_path, classes=("disk",))
    with open_video(tmp_path / "01-disk.mp4") as reader:
        assert len(list(reader)) == 2


def test_ctrl_c_leaves_the_images(still, random_model, tmp_path, monkeypatch):
    def pages(self, frame) -> Iterator[tuple[str, np.ndarray]]:
        yield "first.png", frame.image
        raise KeyboardInterrupt

    monkeypatch.setattr(HeatmapFigures, "images", pages)
    with pytest.raises(Interrupted, match="0 frames"):
        look(still, random_model, tmp_path / "out")
    assert (tmp_path / "out" / "a picture" / "first.png").is_file()


def test_without_out_the_next_free_folder_is_taken(still, random_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "viz3").mkdir(parents=True)
    config = VizConfig(source=str(still), model=str(random_model), classes=("1",))
    assert view(config).out == Path("runs", "viz4")


def test_no_source(random_model, tmp_path):
    with pytest.raises(MediaError):
        look(tmp_path / "nothing.png", random_model, tmp_path)


def test_entropy_is_relative_to_the_most_there_can_be():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(5), (6, 7)).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_allclose(entropy(shares), scipy_entropy(shares, base=5, axis=0), atol=1e-5)
    sure = np.zeros((3, 1, 1), np.float32)
    sure[1] = 1
    assert entropy(sure) == pytest.approx(0, abs=1e-6)
    assert entropy(np.full((3, 1, 1), 1 / 3, np.float32)) == pytest.approx(1, abs=1e-6)
    assert entropy(np.ones((1, 2, 2), np.float32)).max() == 0
