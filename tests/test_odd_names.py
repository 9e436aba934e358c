"""Names that are not UTF-8, as long as can be, or read like markup or a terminal's commands."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fcnseg.cli import tables
from fcnseg.cli.screen import Screen
from fcnseg.cli.terminal import console, line, shown
from fcnseg.events import Note, Progress
from fcnseg.media.images import encode_image

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


def run(folder: Path, *arguments: str | Path, **environment: str) -> tuple[int, bytes, bytes]:
    """A command line of its own process: exit status, what it wrote on stdout and on stderr."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "fcnseg", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
    )
    assert b"Traceback" not in done.stderr, done.stderr
    assert b"A bug in fcnseg" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def is_harmless(output: bytes) -> bool:
    """Whether a terminal obeys nothing in it."""
    text = output.decode()  # an error where a byte is not UTF-8
    return all(c == "\n" or c == shown(c) for c in text)


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
    assert shown(name) == text
    file = io.StringIO()
    out = console(file=file, width=200)
    out.print(name)
    out.print(line(("error: ", "bold red"), name))
    assert file.getvalue() == f"{text}\nerror: {text}\n"


def test_tables_show_names_in_columns_headings_and_cells() -> None:
    file = io.StringIO()
    table = tables.Table(box=None)
    table.add_column(COMMANDS)
    table.add_row(COMMANDS)
    console(file=file, width=200).print(table)
    assert [text.strip() for text in file.getvalue().splitlines()] == [SHOWN, SHOWN]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_names(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnseg.cli.screen.LOG_EVERY", 0)
    file = io.StringIO()
    with Screen(console(file=file, force_terminal=terminal, width=200)) as screen:
        screen(Note(COMMANDS))
        screen(Progress(COMMANDS, 1, 2, "images", {COMMANDS: 1, "file": COMMANDS}))
    assert file.getvalue().count(SHOWN) >= 4
    assert "\x9b" not in file.getvalue()


def test_a_missing_file_of_any_name_is_one_clear_error(tmp_path: Path, random_model: Path) -> None:
    for verb in ("infer", "viz"):
        status, _, said = run(tmp_path, verb, f"{COMMANDS}.png", "-m", random_model)
        assert status == 1
        assert SHOWN.encode() in said
        assert is_harmless(said)


def test_names_that_look_like_markup_are_done(tmp_path: Path, random_model: Path) -> None:
    picture(tmp_path / f"q {COMMANDS.replace('/', '')}.png")
    out = "q[%]".replace("%", "/red")
    for verb, more in (("infer", ("--save", "labels")), ("viz", ())):
        status, said, told = run(tmp_path, verb, ".", "-m", random_model, "-o", verb + out, *more)
        assert status == 0
        assert b"q[/red]" in said + told
        assert is_harmless(said + told)


def test_a_table_in_an_ascii_locale(tmp_path: Path, drawn_folder: Path) -> None:
    status, said, told = run(tmp_path, "check", drawn_folder, **ASCII)
    assert status == 0, told
    assert b"####" in said
    assert b"\\u" not in said
    assert json.loads(run(tmp_path, "check", drawn_folder, "--json", **ASCII)[1])["pairs"] == 30
