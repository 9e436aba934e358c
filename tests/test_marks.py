"""What fcnseg has written is no input: folders of earlier outputs are skipped, and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fcnseg.datasets.pairing import list_folder
from fcnseg.errors import OptionError
from fcnseg.io.images import write_image
from fcnseg.io.sources.base import Selection
from fcnseg.io.sources.files import WatchedFolder
from fcnseg.io.sources.listing import in_folder
from fcnseg.overwriting import inputs_in, mark, refuse_folder_of_others, skipped_outputs
from fcnseg.progress import Event, Message
from tests.cli.test_cli import call

GREY = np.full((64, 64, 3), 90, np.uint8)
LINE = json.dumps({"name": "a", "job": "0", "stamp": [1, 2]})


def listed(folder: Path) -> tuple[set[str], str]:
    """What is found in a folder of images, and what is said."""
    heard: list[Event] = []
    found = {name for name, _ in in_folder(folder, callback=heard.append)}
    return found, " ".join(event.text for event in heard if isinstance(event, Message))


@pytest.mark.parametrize("text", ['{"fcnseg": "outputs", "files": []}\n', f"\n{LINE}\n"])
def test_a_folder_with_a_manifest_is_skipped(tmp_path: Path, text: str) -> None:
    write_image(tmp_path / "x.png", GREY)
    for place in ("old", "deep/er/old"):
        write_image(tmp_path / place / "overlay" / "x.png", GREY)
        (tmp_path / place / "manifest.jsonl").write_text(text, encoding="utf-8")
    found, said = listed(tmp_path)
    assert found == {"x"}
    assert said == f"Skipped 2 folders of earlier outputs in {tmp_path}: deep/er/old, old."
    assert listed(tmp_path / "old") == ({"overlay/x"}, "")  # who names it means it


@pytest.mark.parametrize(
    "text", ["", "no json\n", '{"audio_filepath": "a.wav"}\n', "[1, 2]\n", '"fcnseg"\n', "\x00\n"]
)
def test_another_program_s_manifest_means_nothing(tmp_path: Path, text: str) -> None:
    write_image(tmp_path / "set" / "x.png", GREY)
    write_image(tmp_path / "set" / "sub" / "x.png", GREY)
    path = tmp_path / "set" / "manifest.jsonl"
    path.write_text(text, encoding="utf-8")
    assert listed(tmp_path) == ({"set/x", "set/sub/x"}, "")
    with pytest.raises(OptionError, match="was not written by fcnseg"):
        mark(path.parent)
    assert path.read_text(encoding="utf-8") == text


def test_someone_s_images_beside_outputs_count(tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "mine.png", GREY)
    write_image(tmp_path / "photos" / "sheet.png", GREY)
    write_image(tmp_path / "photos" / "overlay" / "x.png", GREY)
    mark(tmp_path / "photos", ["sheet.png"])
    assert listed(tmp_path)[0] == {"photos/mine"}
    assert list_folder(tmp_path).files == ("photos/mine.png",)


def test_a_mark_is_set_once(tmp_path: Path) -> None:
    mark(tmp_path / "out")
    path = tmp_path / "out" / "manifest.jsonl"
    before = path.read_bytes()
    mark(tmp_path / "out")
    refuse_folder_of_others(tmp_path / "out")
    assert path.read_bytes() == before


def test_another_file_is_noted_in_the_mark(tmp_path: Path) -> None:
    mark(tmp_path, ["sheet.png"])
    with (tmp_path / "manifest.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"name": "x"}\n')
    mark(tmp_path, ["other.png"])
    mark(tmp_path, ["sheet.png"])
    lines = (tmp_path / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"fcnseg": "outputs", "files": ["other.png", "sheet.png"]}', '{"name": "x"}']


def test_a_training_is_known_by_its_config(tmp_path: Path, tiny_run: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "data" / "run")
    write_image(tmp_path / "data" / "run" / "pictures" / "worst1.png", GREY)
    write_image(tmp_path / "data" / "x.png", GREY)
    assert listed(tmp_path / "data")[0] == {"x"}
    assert list_folder(tmp_path / "data").images == ("x.png",)
    (tmp_path / "data" / "run" / "config.toml").write_text("title = 'mine'\n", encoding="utf-8")
    assert inputs_in(tmp_path / "data" / "run", ["config.toml", "a.png"]) is None


def test_many_are_counted(tmp_path: Path) -> None:
    assert not skipped_outputs([], tmp_path)
    said = skipped_outputs([tmp_path / str(number) for number in range(5)], tmp_path)
    assert said == f"Skipped 5 folders of earlier outputs in {tmp_path}: 0, 1, 2 and 2 more"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn_folder: Path) -> Path:
    """A dataset folder that is the working folder, too."""
    for path in drawn_folder.rglob("000[0-3].png"):
        place = tmp_path / "data" / path.relative_to(drawn_folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    shutil.copyfile(drawn_folder / "classes.txt", tmp_path / "data" / "classes.txt")
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path / "data"


MODEL = ["--engine", "torch", "--device", "cpu"]
TRAIN = "--backbone tiny --backbone-weights none --width 16 --epochs 1 --device cpu --workers 0"


def test_every_command_skips_what_every_command_wrote(
    data: Path, random_model: Path, drawn_clip: Path
) -> None:
    """All of them write into the dataset folder, and none takes that for data."""
    model = ["-m", random_model, *MODEL]
    call("infer", "images", *model)
    call("infer", "images/val", "-o", "images/mine", *model)
    call("infer", drawn_clip, "-o", "images/clip", *model)
    call("viz", "images/val/0000.png", "-o", "labels/drawn", *model)
    call("viz", drawn_clip, "--limit", "2", *model)
    call("train", ".", *TRAIN.split())
    call("check", ".")
    outputs = {"runs/infer1", "images/mine", "images/clip", "labels/drawn", "runs/viz1"}
    outputs |= {"runs/train1", "runs/check"}
    again = call("check", ".", "--json")
    found = json.loads(again.stdout)
    assert found["pairs"] == 8
    assert not [one for one in found["findings"] if "runs" in str(one) or "mine" in str(one)]
    assert f"Skipped {len(outputs)} folders of earlier outputs" in again.stderr
    for words in (["infer", "."], ["viz", ".", "--limit", "0", "--class", "disk"]):
        result = call(*words, "-o", "../all", *model)
        assert "Skipped" in result.stderr
        shutil.rmtree("../all")
    frames = json.loads(call("infer", ".", "-o", "../all", "--json", *model).stdout)
    assert frames["frames_out"] == 8  # the images, not their label files
    report = json.loads(call("eval", ".", *model, "--json").stdout)
    assert report["images"] == 4


def test_infer_leaves_another_program_s_manifest_alone(data: Path, random_model: Path) -> None:
    for words in (["infer", "images/val"], ["viz", "images/val/0000.png"]):
        (data / "out").mkdir(exist_ok=True)
        (data / "out" / "manifest.jsonl").write_text('{"audio": 1}\n', encoding="utf-8")
        result = call(*words, "-o", "out", "-m", random_model, *MODEL, status=2)
        assert "was not written by fcnseg" in result.stderr
        assert [path.name for path in (data / "out").iterdir()] == ["manifest.jsonl"]


def test_labels_that_someone_drew_are_not_written_over(data: Path, random_model: Path) -> None:
    """The output folder is a dataset with a folder of the same name: labels/NAME.png."""
    shutil.copytree(data / "images" / "val", data.parent / "photos" / "val")
    before = (data / "labels" / "val" / "0000.png").read_bytes()
    words = ["infer", "../photos", "-o", ".", "--save", "labels", "-m", random_model, *MODEL]
    result = call(*words, status=2)
    assert "labels already exists and was not written by fcnseg" in result.stderr
    assert (data / "labels" / "val" / "0000.png").read_bytes() == before
    words[3] = "../out"
    for _ in range(2):  # its own outputs are made again
        call(*words)


@pytest.mark.parametrize("name", ["config.toml", "results.csv", "last.safetensors", "state.pt"])
def test_train_writes_over_nothing_in_its_folder(data: Path, name: str) -> None:
    (data.parent / "exp").mkdir()
    (data.parent / "exp" / name).write_text("mine\n", encoding="utf-8")
    result = call("train", ".", "--out", "../exp", *TRAIN.split(), status=2)
    assert f"already contains a run ({name})" in result.stderr
    assert (data.parent / "exp" / name).read_text(encoding="utf-8") == "mine\n"


def test_a_watched_folder_says_it_once(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", GREY)
    write_image(tmp_path / "old" / "overlay" / "x.png", GREY)
    mark(tmp_path / "old")
    heard: list[Event] = []
    selection = Selection(limit=2)
    source = WatchedFolder(tmp_path, selection, pause=0.01, callback=heard.append)
    names = []
    for frame in source:
        names.append(frame.name)
        write_image(tmp_path / "y.png", GREY)
    assert names == ["x", "y"]
    assert [event.text for event in heard if isinstance(event, Message)] == [
        f"Skipped 1 folder of earlier outputs in {tmp_path}: old."
    ]
