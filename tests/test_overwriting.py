"""No command writes over what it reads: each option that writes is tried with each input."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from fcnseg.classes import ClassMap
from fcnseg.datasets.describe import describe
from fcnseg.errors import OptionError, cannot_write, user_path
from fcnseg.files import temporary_beside
from fcnseg.inference.outputs import Renderer
from fcnseg.inference.outputs.sinks import SequenceSink
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io.images import write_bytes, write_image
from fcnseg.io.sources.base import Frame
from fcnseg.overwriting import is_below, refuse_file, refuse_overwriting, refuse_unwritable
from tests.cli.test_cli import call

SAME = "by another name"


def refused(output: Path, given: Path) -> str:
    with pytest.raises(OptionError) as caught:
        refuse_overwriting([("--out", output)], [("the source", given)])
    assert str(output) in caught.value.message
    assert "the source" in caught.value.message
    assert "e.g. --out" in caught.value.hint
    return caught.value.message


def test_the_same_file_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "photos" / "ä.png"
    path.parent.mkdir()
    path.touch()
    assert "is the source: it would" in refused(path, path)
    (tmp_path / "link.png").symlink_to(path)
    (tmp_path / "hard.png").hardlink_to(path)
    (tmp_path / "folder").symlink_to(path.parent)
    for other in ("photos/ä.png", "photos/../photos/./ä.png", "link.png", "folder/ä.png"):
        assert SAME in refused(Path(other), path)
        assert SAME in refused(path, Path(other))
    assert SAME in refused(Path("hard.png"), path)
    for twin in ("photos/Ä.PNG", "PHOTOS/ä.png", "photos/a\u0308.png"):
        assert "only in case" in refused(Path(twin), path)
    assert "only in case" in refused(Path("Photos"), path.parent)


@pytest.mark.parametrize("folder", [".", "photos", "photos/..", "link", "PHOTOS", "photos/deep"])
def test_a_folder_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "photos" / "deep" / "a.png"
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "link").symlink_to("photos")
    assert "is a folder that holds" in refused(Path(folder), path)
    refuse_overwriting([("--out", Path(folder))], [], kept=[("the model", path)])


def test_a_link_among_the_inputs_leads_to_one(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").touch()
    (tmp_path / "a.png").symlink_to(tmp_path / "store" / "a.png")
    refused(tmp_path / "store", tmp_path / "a.png")
    refused(tmp_path / "store" / "a.png", tmp_path / "a.png")


@pytest.mark.parametrize("name", ["b.png", "a.png.mp4", "a", "photos2", "photos/b.png", "new/a"])
def test_anything_else_may_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    (tmp_path / "photos" / "b.png").touch()
    inputs = [("the source", tmp_path / "photos" / "a.png"), ("the model", tmp_path / "gone")]
    refuse_overwriting([("--out", tmp_path / name)], inputs)


def test_one_output_for_two_options(tmp_path: Path) -> None:
    outputs = [("--out", tmp_path / "a.json"), ("--shares", tmp_path / "A.json")]
    with pytest.raises(OptionError, match="--out and --shares would both be written"):
        refuse_overwriting(outputs, [])
    refuse_overwriting([outputs[0], outputs[0]], [])


def test_is_below(tmp_path: Path) -> None:
    assert is_below(tmp_path, tmp_path)
    assert is_below(tmp_path / "a" / "b", tmp_path / "a")
    assert not is_below(tmp_path / "ab", tmp_path / "a")


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drawn_folder: Path,
    drawn_clip: Path,
    random_model: Path,
) -> Path:
    """A working folder: a.png, photos/, list.txt, clip.mp4, model.safetensors, data/, and links."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "photos/a.png", "photos/b.png"):
        write_image(tmp_path / name, np.full((64, 64, 3), 90, np.uint8))
    (tmp_path / "list.txt").write_text("photos/a.png\n", encoding="utf-8")
    shutil.copyfile(drawn_clip, tmp_path / "clip.mp4")
    shutil.copyfile(drawn_clip, tmp_path / "photos" / "c.mp4")
    shutil.copyfile(random_model, tmp_path / "model.safetensors")
    for split in ("train", "val"):
        for role in ("images", "labels"):
            (tmp_path / "data" / role / split).mkdir(parents=True)
            for path in sorted((drawn_folder / role / split).iterdir())[:3]:
                shutil.copyfile(path, tmp_path / "data" / role / split / path.name)
    shutil.copyfile(drawn_folder / "classes.txt", tmp_path / "data" / "classes.txt")
    for name in ("label_notes.csv", "README.md", "images/val/notes.txt", "mine.html", "logo.png"):
        (tmp_path / "data" / name).write_text("a\n", encoding="utf-8")
    pairs = (f"data/{role}/val/0000.png" for role in ("images", "labels"))
    (tmp_path / "pairs.csv").write_text(",".join(pairs) + "\n", encoding="utf-8")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "a.png")
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    (tmp_path / "same").symlink_to("photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlay").symlink_to(tmp_path / "photos")
    (tmp_path / "out" / "labels").symlink_to(tmp_path / "photos")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


MODEL = "-m model.safetensors --engine torch --device cpu "
TRAIN = "--backbone tiny --backbone-weights none --epochs 1 --device cpu "
CASES = [
    f"infer a.png -o a.png {MODEL}",
    f"infer a.png -o ./photos/../a.png {MODEL}",
    f"infer a.png -o A.PNG {MODEL}",
    f"infer a.png -o hard.png {MODEL}",
    f"infer a.png -o . {MODEL}",
    f"infer a.png --shares a.png {MODEL}",
    f"infer a.png -o b.json --save labelme --shares b.json {MODEL}",
    f"infer a.png -o b.png --shares model.safetensors {MODEL}",
    f"infer clip.mp4 -o clip.mp4 {MODEL}",
    f"infer clip.mp4 -o link.mp4 {MODEL}",
    f"infer link.mp4 -o clip.mp4 {MODEL}",
    f"infer clip.mp4 -o Clip.mp4 {MODEL}",
    f"infer clip.mp4 -o . {MODEL}",
    f"infer clip.mp4 -o out2 --shares clip.mp4 {MODEL}",
    f"infer photos -o photos {MODEL}",
    f"infer photos -o same {MODEL}",
    f"infer same -o photos {MODEL}",
    f"infer photos -o PHOTOS {MODEL}",
    f"infer photos -o . {MODEL}",
    f"infer photos -o out {MODEL}",
    f"infer photos -o new --shares photos/b.png {MODEL}",
    f"infer photos -o new --shares new/labels/b.png {MODEL}",
    f"infer photos -o new --shares new/manifest.jsonl {MODEL}",
    f"infer a.png -o new --shares new/manifest.jsonl {MODEL}",
    f"infer photos -o photos/c.mp4 {MODEL}",
    f"infer photos --watch -o photos {MODEL}",
    f"infer photos/*.png -o photos {MODEL}",
    f"infer list.txt -o photos {MODEL}",
    f"infer list.txt -o new --shares list.txt {MODEL}",
    f"infer list.txt -o new --shares photos/a.png {MODEL}",
    f"viz a.png -o . {MODEL}",
    f"viz photos/a.png -o photos {MODEL}",
    f"viz photos -o photos {MODEL}",
    f"viz photos -o same {MODEL}",
    f"viz clip.mp4 -o . {MODEL}",
    f"viz list.txt -o photos {MODEL}",
    f"eval data --csv data/labels/val/0000.png {MODEL}",
    f"compare data --csv data/images/val/0000.png -m model.safetensors {MODEL}",
    f"eval data --csv data/classes.txt {MODEL}",
    f"eval data --csv data/label_notes.csv {MODEL}",
    f"eval data --markdown data/README.md {MODEL}",
    f"eval data --csv data/images/val/notes.txt {MODEL}",
    "check data --html data/mine.html",
    f"eval data --html data/mine.html {MODEL}",
    f"eval data --html a.txt {MODEL}",
    f"compare data --html a.csv -m model.safetensors {MODEL}",
    f"eval data --csv data/mine.html {MODEL}",
    "check data --html a.txt",
    "check data --contact a.xyz",
    "check data --contact data/logo.png",
    "check data --contact data/sheet.png",
    "check data --fix clean --write clean/dataset.toml",
    "check data --write dataset.txt",
    f"eval data --latex model.safetensors {MODEL}",
    f"eval pairs.csv --confusion pairs.csv {MODEL}",
    "export model.safetensors --format torchscript -o model.safetensors",
    "export model.safetensors --data data -o data",
    "check data --write data/classes.txt",
    "check data --write data/images/val/0000.png",
    "check data --contact data/images/val/0000.png",
    "check data --contact data/labels/val/0000.png",
    "check data --contact data",
    "check data --fix data",
    "check data --fix data/clean",
    "check data --fix .",
    "check data --write a.toml --contact a.toml",
    "check pairs.csv --write pairs.csv",
    "check pairs.csv --contact data/images/val/0000.png",
    f"train data --out data {TRAIN}",
    f"train data --out . {TRAIN}",
    f"train data --out DATA {TRAIN}",
    f"train data --out data/images {TRAIN}",
    f"train pairs.csv --out data {TRAIN}",
    f"train data --unlabeled photos --out photos {TRAIN}",
    f"train data --unlabeled photos --seeds 2 --out photos {TRAIN}",
    "demo -o data",
    "demo -o .",
    "demo -o a.png",
]


@pytest.mark.parametrize("words", CASES)
def test_commands_refuse(place: Path, words: str) -> None:
    before = contents(place)
    result = call(*words.split(), status=2)
    assert "hint: " in result.stderr
    assert contents(place) == before


def test_infer_beside_its_input_is_done(place: Path) -> None:
    call(*f"infer a.png -o b.png --shares shares.jsonl {MODEL}".split())
    call(*f"infer a.png -o b.png --shares shares.jsonl {MODEL}".split())  # ours to replace
    call(*f"infer photos -o photos/inside {MODEL}".split())
    assert (place / "photos" / "inside" / "labels" / "a.png").is_file()


def test_an_export_is_written_again(place: Path, exported_model: Path) -> None:
    """The file that lies beside the model, of an earlier export, is no input of this one."""
    shutil.copyfile(exported_model, place / "model.onnx")
    before = (place / "model.onnx").stat().st_mtime_ns
    call("export", "model.safetensors", "--size", "48", "64")
    assert (place / "model.onnx").stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("export model.safetensors -o own.onnx", "own.onnx"),
        ("export model.safetensors", "model.onnx"),
        ("export model.safetensors --bundle -o own.zip", "own.zip"),
        (f"viz a.png -o own {MODEL}", "own/a/overview.png"),
        (f"viz clip.mp4 -o own {MODEL}", "own/overview.mp4"),
        (f"review photos --unlabeled -o own {MODEL}", "own/review.csv"),
    ],
)
def test_files_of_that_name_are_kept(place: Path, words: str, file: str) -> None:
    (place / file).parent.mkdir(parents=True, exist_ok=True)
    (place / file).write_bytes(b"mine")
    before = contents(place)
    assert f"{file} already exists and was not" in call(*words.split(), status=2).stderr
    assert contents(place) == before


def test_openvino_takes_no_foreign_weights(place: Path) -> None:
    """Its format is a pair of files; the other one may be somebody else's."""
    (place / "net.bin").write_bytes(b"weights of something else")
    result = call("export", "model.safetensors", "--format", "openvino", "-o", "net.xml", status=2)
    assert "net.bin belongs to something else" in result.stderr
    assert (place / "net.bin").read_bytes() == b"weights of something else"


def test_a_corrected_description_is_not_written_over(place: Path) -> None:
    for _ in range(2):  # the same again is no loss
        call("check", "data", "--write", "mine.toml", "--contact", "sheet.png")
    path = place / "mine.toml"
    corrected = path.read_text(encoding="utf-8").replace('"disk"', '"plate"')
    path.write_text(corrected, encoding="utf-8")
    result = call("check", "data", "--write", "mine.toml", "--contact", "sheet.png", status=2)
    assert "already exists with other content" in result.stderr
    assert path.read_text(encoding="utf-8") == corrected


def test_a_run_does_not_take_the_place_of_what_it_starts_from(place: Path) -> None:
    (place / "run").mkdir()
    (place / "model.safetensors").rename(place / "run" / "last.safetensors")
    words = "train data --out run --finetune run/last.safetensors --epochs 1 --device cpu"
    result = call(*words.split(), status=2)
    assert "contains a run (last.safetensors)" in result.stderr
    assert sorted(os.listdir(place / "run")) == ["last.safetensors"]  # noqa: PTH208


@pytest.mark.parametrize(
    "words",
    [
        "train data --out exp --config exp/config.toml",
        "infer a.png --out exp/config.toml --config exp/config.toml",
        "infer a.png --shares exp/Config.toml --config exp/config.toml",
        "check data --write exp/config.toml --config exp/config.toml",
        "viz a.png --config exp/out.toml",
    ],
)
def test_the_config_file_is_kept(place: Path, words: str) -> None:
    (place / "exp").mkdir()
    (place / "exp" / "config.toml").write_text("# my notes\n", encoding="utf-8")
    (place / "exp" / "out.toml").write_text('out = "exp/out.toml"\n', encoding="utf-8")
    before = contents(place)
    assert "--config" in call(*words.split(), status=2).stderr
    assert contents(place) == before


def test_every_option_that_writes_is_known() -> None:
    """Options of paths are read or written; the list of those that are written is complete."""
    from fcnseg.cli.flags import OUTPUTS
    from fcnseg.config import CONFIGS

    read = {
        "source",
        "data",
        "model",
        "finetune",
        "like",
        "backbone_weights",
        "web_runtime",
        "labels",
        "unlabeled",
    }
    paths = {
        name
        for config in CONFIGS
        for name, hint in get_type_hints(config).items()
        if hint is Path or Path in get_args(hint)
    }
    assert paths - read == set(OUTPUTS)


def test_a_place_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="is a file, not a folder"):
        refuse_unwritable([("--csv", tmp_path / "file" / "deep" / "a.csv")])
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path)  # root may do anything
    for what, path in (("--csv", "a.csv"), ("--csv", "new/a.csv"), ("--out", "")):
        with pytest.raises(OptionError, match="may not be written to"):
            refuse_unwritable([(what, tmp_path / path)])
    refuse_unwritable([("--shares", Path("-")), ("--csv", Path(os.devnull))])


@pytest.mark.parametrize(
    "option", ["--csv", "--confusion", "--latex", "--markdown", "--html", "--shares"]
)
def test_a_table_or_page_replaces_only_one_of_its_kind(option: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for own in (b"", b"image,height,width,ignored,\n", b'<meta name="generator" content="fcnseg">'):
        path.write_bytes(own)
        refuse_unwritable([(option, path)])
    path.write_text("somebody's notes")
    with pytest.raises(OptionError, match="was not written by fcnseg"):
        refuse_unwritable([(option, path)])


@pytest.mark.parametrize(
    "words",
    [
        f"infer a.png -o file/b.png {MODEL}",
        f"infer a.png -o new --shares file/s.jsonl {MODEL}",
        f"viz a.png -o list.txt {MODEL}",
        f"eval data --csv file/a.csv {MODEL}",
        f"compare data --html file/a.html -m model.safetensors {MODEL}",
        f"review data -o list.txt {MODEL}",
        f"review photos --unlabeled -o file/x {MODEL}",
        "export model.safetensors -o file/m.onnx",
        "check data --contact file/a.png",
        "check data --fix file/clean",
        f"train data --out file/run {TRAIN}",
        f"train data --out file {TRAIN}",
        "demo -o file/demo",
    ],
)
def test_commands_refuse_such_a_place_first(place: Path, words: str) -> None:
    """Before anything is read, scored or drawn: nothing is lost."""
    (place / "file").touch()
    before = contents(place)
    assert "is a file" in call(*words.split(), status=2).stderr
    assert contents(place) == before


@pytest.mark.parametrize("what", ["--csv", "--html", "--contact", "--latex"])
def test_a_folder_is_no_file(tmp_path: Path, what: str) -> None:
    for folder in (tmp_path, user_path(f"{tmp_path}/new/")):
        with pytest.raises(OptionError, match=r"expected a file; .* is a folder"):
            refuse_unwritable([(what, folder)])
    refuse_unwritable([(what, tmp_path / "new")])


def test_a_name_as_files_have_them_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="named like a file"):
        refuse_file("--out", tmp_path / "x.png")
    (tmp_path / "x.png").mkdir()
    refuse_file("--out", tmp_path / "x.png")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", ["demo", f"viz photos/a.png {MODEL}", f"infer photos {MODEL}"])
def test_a_device_is_not_called_a_file(place: Path, words: str) -> None:
    said = call(*words.split(), "--out", "/dev/full", status=2).stderr
    assert "/dev/full is a device or a pipe" in said
    assert "/dev/full_out" not in said


def test_a_check_needs_no_place_for_a_sheet_that_was_not_asked_for(place: Path) -> None:
    (place / "runs").write_bytes(b"")
    assert "Can't write runs/check/contact.png" in call("check", "data").stderr


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("mine/coco.json", f"infer photos/a.png -o mine --save coco {MODEL}"),
        ("mine/annotations.xml", f"infer photos -o mine --save cvat {MODEL}"),
        ("mine/c_coco.json", f"infer photos -o mine --save coco {MODEL}"),
        ("mine/clip_overlay.mp4", f"infer clip.mp4 -o mine {MODEL}"),
        ("mine/report.html", f"train data --out mine {TRAIN}"),
        ("mine/dataset.toml", f"train data --out mine {TRAIN}"),
    ],
)
def test_what_somebody_called_like_an_output_stays(place: Path, file: str, words: str) -> None:
    (place / "mine").mkdir()
    (place / file).write_text("mine", encoding="utf-8")
    assert "already" in call(*words.split(), status=2).stderr
    assert (place / file).read_text(encoding="utf-8") == "mine"


def test_numbered_outputs_replace_only_earlier_ones(place: Path) -> None:
    (place / "frames").mkdir()
    own = f"infer clip.mp4 -o frames/out_%02d.png {MODEL}"
    call(*own.split())
    written = len(list((place / "frames").glob("out_*.png")))
    call(*own.split())
    (place / "frames" / "photo_01.png").write_text("mine", encoding="utf-8")
    done = call(*f"infer clip.mp4 -o frames/photo_%02d.png {MODEL}".split(), status=2)
    assert "photo_01.png already exists and was not written by fcnseg" in done.stderr
    assert (place / "frames" / "photo_01.png").read_text(encoding="utf-8") == "mine"
    write_image(place / "frames" / "photo_01.png", np.zeros((8, 8, 3), np.uint8))
    (place / "above").mkdir()
    (place / "frames").rename(place / "above" / "frames")
    call(*f"infer above -o seen --save labels {MODEL}".split())
    assert written
    assert len(list((place / "seen" / "labels").rglob("*.png"))) == 1


def test_numbered_outputs_of_a_killed_command_are_replaced(place: Path) -> None:
    (place / "frames").mkdir()
    image = np.zeros((8, 8, 3), np.uint8)
    renderer = Renderer(ClassMap.numbered(2))
    killed = SequenceSink(place / "frames" / "out_%02d.png", "labels", renderer)
    for index in range(2):
        killed.write(Frame(image, index, 0.0, "x"), PredictedArrays(image[:, :, 0]))
    call(*f"infer clip.mp4 -o frames/out_%02d.png {MODEL}".split())
    written = sorted(path.name for path in (place / "frames").glob("out_*.png"))
    heading = (place / "frames" / "manifest.jsonl").read_text(encoding="utf-8")
    assert json.loads(heading)["files"] == written, "no file of somebody's own is listed later"


def test_outputs_of_all_frames_are_written_again(place: Path) -> None:
    for words in (f"infer photos -o out3 --save coco {MODEL}", f"infer clip.mp4 -o out4 {MODEL}"):
        call(*words.split())
        call(*words.split())


def test_a_device_or_a_pipe_is_written_to(tmp_path: Path) -> None:
    """To give it another file's name would put that in place of /dev/stdout."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_bytes(pipe, b"1,2\n")
        assert os.read(reader, 9) == b"1,2\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(OptionError, match="a device or a pipe"), temporary_beside(pipe):
        pass


def test_scores_replace_those_of_an_earlier_run(place: Path) -> None:
    """Though they lie in the dataset's folder, under names of its lists, and are none."""
    (place / "data" / "classes.txt").unlink()
    for words in (
        f"eval data --csv data/scores.txt --confusion data/labels.txt {MODEL}",
        f"eval data --latex data/table.txt --markdown data/table.md {MODEL}",
        f"compare data --csv data/classes.csv -m {place / 'copy.safetensors'} {MODEL}",
    ):
        shutil.copyfile("model.safetensors", "copy.safetensors")
        for _ in range(2):
            call(*words.split())
    assert "true" not in str(describe("data").classes.names)


def test_sheets_and_pages_in_a_dataset_are_no_part_of_it(place: Path) -> None:
    for name in ("a", "b", "a"):
        page = ("--html", f"data/{name}.html")
        call("check", "data", "--contact", f"data/sheets/{name}.png", *page)
    assert not [path for _, path in describe("data").inputs() if path.parent.name == "sheets"]


def test_scores_outlast_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They took hours: the table is printed whatever becomes of the files."""
    monkeypatch.setattr("fcnseg.report.tables.write_bytes", refuse_to_write)
    words = f"eval data --csv a.csv --markdown b.md {MODEL}"
    result = call(*words.split(), status=3)
    assert "mIoU" in result.stdout
    for name in ("a.csv", "b.md"):
        assert f"Can't write {name}: No space left" in result.stderr + result.stdout


def refuse_to_write(path: Path, data: bytes) -> None:
    raise cannot_write(path, OSError(errno.ENOSPC, "No space left on device"))
