"""Names that are not UTF-8, as long as can be, or read like markup or a terminal's commands."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fcnseg
from fcnseg.classes import ClassMap
from fcnseg.cli import line, plain_console, tables
from fcnseg.cli.app import app
from fcnseg.cli.console import Screen
from fcnseg.cli.console import run as command_line
from fcnseg.commands.export import export
from fcnseg.commands.infer import infer
from fcnseg.config import ExportConfig, InferConfig, TrainConfig
from fcnseg.config.texts import toml_value
from fcnseg.errors import from_bytes, printable, to_bytes
from fcnseg.files import shortened
from fcnseg.io.images import encode_image
from fcnseg.io.sources.video import open_video
from fcnseg.models.checkpoint import Checkpoint, find_models
from fcnseg.progress import Message, Progress
from tests.conftest import skip_without

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
"""A machine whose locale knows no other characters."""

COMMANDS = "a\x1b[31mb\nc\r\x07\x9b2J\u202e[/x]"
"""Escape sequences, a line's end, a bell, text turned around, closing markup."""

SHOWN = r"a\x1b[31mb\nc\r\x07\x9b2J\u202e[/x]"


def picture(path: Path, seed: int = 0) -> Path:
    """Write a small PNG; skip the test where the file system refuses its name."""
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(image, ".png"))
    except OSError as error:
        pytest.skip(f"this file system refuses the name: {error}")
    return path


def run(folder: Path, *arguments: str | Path) -> tuple[int, bytes, bytes]:
    """A command line in this process: exit status, what it wrote on stdout and on stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        status = command_line(app, [os.fspath(argument) for argument in arguments])
    written = []
    for stream in (out, err):
        stream.seek(0)
        written.append(stream.buffer.read())
    return whole(status, *written)


THEN = "then"

ALONE = f"""
import sys
from itertools import groupby
from fcnseg.cli.app import app
from fcnseg.cli.console import run
for between, words in groupby(sys.argv[1:], "{THEN}".__eq__):
    if not between and (status := run(app, [*words])):
        sys.exit(status)
"""


def run_alone(folder: Path, *arguments: str | Path, **environment: str) -> tuple[int, bytes, bytes]:
    """The same in a process of its own, which knows another environment; THEN parts commands."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
    )
    return whole(done.returncode, done.stdout, done.stderr)


def whole(status: int, out: bytes, err: bytes) -> tuple[int, bytes, bytes]:
    """What a command line gave, if no bug is seen in it."""
    assert b"Traceback" not in err, err
    assert b"A bug in fcnseg" not in err, err
    return status, out, err


def is_harmless(output: bytes) -> bool:
    """Whether a terminal obeys nothing in it."""
    text = output.decode()  # an error where a byte is not UTF-8
    return all(c == "\n" or c == printable(c) for c in text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (COMMANDS, SHOWN),
        (os.fsdecode(b"b\xe9.png"), r"b\xe9.png"),
        ("\ud800", r"\ud800"),
        (
            "häßlich 木 \U0001f469\u200d\U0001f692 [red]",
            "häßlich 木 \U0001f469\u200d\U0001f692 [red]",
        ),
    ],
)
def test_a_name_is_shown_and_not_obeyed(name: str, text: str) -> None:
    assert printable(name) == text
    file = io.StringIO()
    out = plain_console(file=file, width=200)
    out.print(name)
    out.print(line(("error: ", "bold red"), name))
    assert file.getvalue() == f"{text}\nerror: {text}\n"


def test_tables_show_names_in_columns_headings_and_cells() -> None:
    file = io.StringIO()
    table = tables.Table(box=None)
    table.add_column(COMMANDS)
    table.add_row(COMMANDS)
    plain_console(file=file, width=200).print(table)
    assert [text.strip() for text in file.getvalue().splitlines()] == [SHOWN, SHOWN]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_names(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnseg.cli.console.LOG_EVERY", 0)
    file = io.StringIO()
    with Screen(plain_console(file=file, force_terminal=terminal, width=200)) as screen:
        screen(Message(COMMANDS))
        screen(Progress(COMMANDS, 1, 2, "images", {COMMANDS: 1, "file": COMMANDS}))
    assert file.getvalue().count(SHOWN) >= 4
    assert "\x9b" not in file.getvalue()


def test_a_missing_file_of_any_name_is_one_clear_error(tmp_path: Path, random_model: Path) -> None:
    for command in ("infer", "viz"):
        status, _, said = run(tmp_path, command, f"{COMMANDS}.png", "-m", random_model)
        assert status == 1
        assert SHOWN.encode() in said
        assert is_harmless(said)


@pytest.mark.parametrize("name", ["~.png", "~nobody.png"])
def test_a_tilde_in_a_name_is_no_home_folder(
    name: str, tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source in (name, f"./{name}", str(tmp_path / name)):
        assert (
            infer(InferConfig(source=source, model=random_model, out=tmp_path / "o")).frames_out
            == 1
        )
    assert fcnseg.load(random_model)(name).labels.shape == (64, 64)


def test_the_home_folder_is_meant_in_every_path(
    tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out=~/x` and a TOML file: no shell has replaced the tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert (
        InferConfig(source="a.png", out="~/o").out
        == InferConfig(source="a.png", out=Path("~/o")).out
    )
    assert InferConfig(source="a.png", out="~/o").out == tmp_path / "o"
    assert TrainConfig(data=Path("~")).data == tmp_path
    assert InferConfig(source="a.png", out="~o.png").out == Path("~o.png")
    shutil.copy(random_model, tmp_path / "m.safetensors")
    assert find_models(["~/m.safetensors"]) == [tmp_path / "m.safetensors"]


def test_a_file_that_begins_like_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "-x.png")
    monkeypatch.chdir(tmp_path)
    assert command_line(app, ["infer", "-x.png"]) == 2
    assert "a file of that name is ./-x.png" in capsys.readouterr().err
    command_line(app, ["infer", "./-x.png", "-m=./-m.pt", "-o=o"])  # as --model=... is written
    assert "No model './-m.pt'" in capsys.readouterr().err


def test_names_that_look_like_markup_are_done(tmp_path: Path, random_model: Path) -> None:
    picture(tmp_path / f"q {COMMANDS.replace('/', '')}.png")
    out = "q[%]".replace("%", "/red")
    for command, more in (("infer", ("--save", "labels")), ("viz", ())):
        status, said, told = run(
            tmp_path, command, ".", "-m", random_model, "-o", command + out, *more
        )
        assert status == 0
        assert b"q[/red]" in said + told
        assert is_harmless(said + told)


def test_a_table_in_an_ascii_locale(tmp_path: Path, drawn_folder: Path) -> None:
    status, said, told = run_alone(tmp_path, "check", drawn_folder, **ASCII)
    assert status == 0, told
    assert b"####" in said
    assert b"\\u" not in said
    assert (
        json.loads(run_alone(tmp_path, "check", drawn_folder, "--json", **ASCII)[1])["pairs"] == 30
    )


NAMES = ["plain", os.fsdecode(b"b\xe9"), "n\nl\x1b[31m\u202e [red]", "l" * 251]
"""Of images, without .png: UTF-8, not UTF-8, a terminal's commands, as long as can be."""

SAVED = ("overlay", "labels", "color", "probabilities", "geojson", "labelme", "coco")


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    """A folder of images with those names."""
    for number, name in enumerate(NAMES):
        picture(tmp_path / "in" / f"{name}.png", number)
    return tmp_path


@pytest.fixture
def odd_data(tmp_path: Path) -> Path:
    """A dataset folder whose images and labels have those names."""
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(NAMES[:count]):
            picture(tmp_path / "data" / "images" / split / f"{name}.png", number)
            labels = np.zeros((64, 64), np.uint8)
            labels[16:48, 8 + number : 40] = 1
            place = tmp_path / "data" / "labels" / split / f"{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encode_image(labels, ".png"))
    return tmp_path / "data"


@pytest.fixture
def odd_classes(random_model: Path, tmp_path: Path) -> Path:
    """A checkpoint whose classes have such names."""
    known = Checkpoint.load(random_model)
    names = [COMMANDS, os.fsdecode(b"\xe9x"), "\ud800[/red]", "c" * 300]
    return replace(known, classes=ClassMap.of(names)).save(tmp_path / "odd.safetensors")


def test_images_of_any_name_are_done_in_every_form(odd_folder: Path, odd_classes: Path) -> None:
    source, out = [str(odd_folder / "in")], odd_folder / "out"
    config = {"source": source, "model": str(odd_classes), "save": SAVED, "out": out}
    assert infer(InferConfig.make({**config, "shares": odd_folder / "s"})).frames_out == 4
    files = {kind: sorted((odd_folder / "out" / kind).iterdir()) for kind in SAVED[:-1]}
    assert {kind: len(found) for kind, found in files.items()} == dict.fromkeys(SAVED[:-1], 4)
    assert sorted(NAMES) == sorted(path.stem for path in files["labels"])
    lines = [json.loads(text) for text in (odd_folder / "s").read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == sorted(NAMES)
    coco = json.loads((odd_folder / "out" / "coco.json").read_text())
    assert sorted(one["file_name"] for one in coco["images"]) == sorted(f"{n}.png" for n in NAMES)
    for path in files["labelme"]:
        image = path.parent / json.loads(path.read_text())["imagePath"]  # as labelme finds it
        assert image.is_file()
        assert image.stem in NAMES


def test_what_is_done_is_known_by_any_name(odd_folder: Path, random_model: Path) -> None:
    config = {"source": [str(odd_folder / "in")], "model": str(random_model), "save": SAVED[:-1]}
    done = infer(InferConfig.make({**config, "out": odd_folder / "out"}))
    again = infer(InferConfig.make({**config, "out": odd_folder / "out", "skip_done": True}))
    assert (done.frames_out, again.frames_out, again.skipped) == (4, 0, 4)


def test_heatmaps_of_any_name(odd_folder: Path, odd_classes: Path) -> None:
    status, said, told = run(odd_folder, "viz", "in", "-m", odd_classes, "-o", "out")
    assert status == 0, told
    assert is_harmless(said + told)
    folders = [path.name for path in (odd_folder / "out").iterdir() if path.is_dir()]
    assert sorted(folders) == sorted(NAMES)


def test_a_dataset_of_any_names(odd_data: Path) -> None:
    folder = odd_data.parent
    for more in ((), ("--contact", "sheet.png"), ("--write", "d.toml")):
        status, said, told = run(folder, "check", "data", "--json", *more)
        assert status == 0, told
        assert json.loads(said)["pairs"] == 6
    status, said, told = run(folder, "check", "d.toml")
    assert status == 0, told
    assert is_harmless(said + told)


def test_training_on_any_names(odd_data: Path, random_model: Path) -> None:
    folder = odd_data.parent
    named = folder / os.fsdecode(b"data \xe9[red]")
    odd_data.rename(named)
    tiny = ("--epochs", "1", "--backbone", "tiny", "--backbone-weights", "none", "--workers", "0")
    out = os.fsdecode(b"run \xe9")
    status, said, told = run(folder, "train", named, *tiny, "--width", "16", "-o", out)
    assert status == 0, told
    assert is_harmless(said + told)
    assert TrainConfig.load(folder / out / "config.toml").data == named
    for model in (folder / out, random_model):
        status, said, told = run(folder, "eval", named, "-m", model, "--json")
        assert is_harmless(said + told)
        assert status == 0 or model == random_model, told


def test_names_in_text_files_keep_their_bytes() -> None:
    text = os.fsdecode(b"b\xe9 \xff") + "木"
    assert from_bytes(to_bytes(text)) == text
    assert to_bytes("\ud800") == "\ufffd".encode()
    assert tomllib.loads(f"name = {toml_value(text)}")["name"] == text


@pytest.mark.parametrize("suffix", [".png", ".geojson"])
def test_long_names_are_shortened_and_differ(suffix: str) -> None:
    assert shortened("short", suffix) == f"short{suffix}"
    whole = "l" * (255 - len(suffix))
    assert shortened(whole, suffix) == whole + suffix
    for letters in ("l", "木", os.fsdecode(b"\xe9")):
        cut = {shortened(f"folder/{letters * 260}{end}", suffix) for end in "ab"}
        assert len(cut) == 2
        assert all(200 < len(os.fsencode(name.removeprefix("folder/"))) <= 255 for name in cut)


def test_a_name_that_is_too_long_is_said_to_be(tmp_path: Path, random_model: Path) -> None:
    picture(tmp_path / "a.png")
    long = "n" * 300
    for arguments in (
        (f"{long}.png", "-o", "out"),
        ("a.png", "-o", long),
        ("a.png", "-o", f"{long}.png"),
    ):
        status, _, told = run(tmp_path, "infer", *arguments, "-m", random_model)
        assert status == 1
        assert b"name too long" in told.lower()


@pytest.mark.parametrize("name", NAMES)
def test_videos_of_any_name(
    tmp_path: Path, random_model: Path, drawn_clip: Path, name: str
) -> None:
    folder = tmp_path / os.fsdecode(b"d\xe9")
    folder.mkdir()
    clip = Path(shutil.copy(drawn_clip, folder / f"{name}.mp4"))
    config = {"source": [str(clip)], "model": str(random_model), "limit": 3}
    save = ("overlay", "color", "labels", "coco")
    result = infer(InferConfig.make({**config, "out": folder / "out", "save": save}))
    assert (result.frames_out, result.failed) == (3, ())
    videos = list((folder / "out").glob("*.mp4"))
    assert len(videos) == 2
    infer(InferConfig.make({**config, "out": clip.with_name("l" * 240 + os.fsdecode(b"\xe9.mp4"))}))
    assert len(list(folder.glob("*.mp4"))) == 2
    for video in [*videos, *folder.glob("*.mp4")]:
        with open_video(video) as reader:
            assert len(list(reader)) == (12 if video == clip else 3)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_videos_whose_names_differ_in_one_byte_do_not_meet(
    tmp_path: Path, random_model: Path, drawn_clip: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in (b"v\xe9.mp4", b"v\xe8.mp4", b"v_.mp4"):
        shutil.copy(drawn_clip, tmp_path / "in" / os.fsdecode(name))
    out = tmp_path / "out"
    config = {"source": [str(tmp_path / "in")], "model": str(random_model), "out": out}
    assert infer(InferConfig.make({**config, "limit": 2, "save": ["color", "labels"]})).failed == ()
    assert len(list(out.glob("*.mp4"))) == 3
    assert len(list((out / "labels").iterdir())) == 6
    assert run(tmp_path, "viz", "in", "-m", random_model, "-o", "v", "--limit", "2")[0] == 0
    assert len(list((tmp_path / "v").rglob("*.mp4"))) == 3


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "opencv", "openvino"])
def test_models_of_any_name_are_exported_and_run(
    tmp_path: Path, odd_classes: Path, engine: str
) -> None:
    pytest.importorskip("onnxscript")
    skip_without(engine)
    model = tmp_path / os.fsdecode(b"m \xe9[red].onnx")
    if engine == "torch":
        model = odd_classes.rename(model.with_suffix(".safetensors"))
    else:
        kind = "openvino" if engine == "openvino" else "onnx"
        model = model.with_suffix(".xml") if engine == "openvino" else model
        export(ExportConfig(model=str(odd_classes), out=model, format=kind, size=(64, 64)))
    picture(tmp_path / "a.png")
    more = ("-o", "out", "--engine", engine)
    use = run_alone if engine == "torch" else run
    status, said, told = use(tmp_path, "infer", "a.png", "-m", model, *more)
    assert status == 0, told
    assert is_harmless(said + told)


@pytest.mark.parametrize("kind", ["torchscript", "torch-export"])
def test_programs_of_any_name_are_exported(tmp_path: Path, odd_classes: Path, kind: str) -> None:
    suffix = {"torchscript": ".torchscript", "torch-export": ".pt2"}[kind]
    path = tmp_path / os.fsdecode(b"d\xe9") / f"m{suffix}"
    assert export(ExportConfig(model=str(odd_classes), out=path, format=kind)).path.stat().st_size


def test_names_beyond_the_locale(tmp_path: Path, random_model: Path, drawn_clip: Path) -> None:
    picture(tmp_path / "ö 木" / "é.png")
    shutil.copy(drawn_clip, tmp_path / "ö 木" / "ü.mp4")
    model = shutil.copy(random_model, tmp_path / "ñ.safetensors")
    (tmp_path / "list.txt").write_text("ö 木/é.png\n", encoding="utf-8")
    status, said, told = run_alone(
        tmp_path,
        *("infer", "list.txt", "-m", model, "-o", "listed", THEN),
        *("infer", "ö 木", "-m", model, "-o", "ö", "--limit", "2", THEN),
        *("infer", "ö 木/é.png", "-m", model, "-o", "ö.png", "--json", THEN),
        *("viz", "ö 木/é.png", "-m", model, "-o", "v"),
        **ASCII,
    )
    assert status == 0, told
    assert (said + told).isascii()
    assert (tmp_path / "ö" / "labels" / "é.png").is_file()
    assert (tmp_path / "ö.png").is_file()
