import io

import pytest
from rich.console import Console
from rich.text import Text

from fcnseg.cli import duration, print_message
from fcnseg.cli.console import Screen
from fcnseg.progress import EpochEnd, Message, Progress


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (245, "4:05"), (3750, "1:02:30")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def shown(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, highlight=False)
    with Screen(console) as screen:
        screen(Message("hello [video]"))
        screen(Message("careful", "warning"))
        for done in range(3):
            values = {"loss": 0.5123, "images/s": 12.34, "left": 61.0}
            screen(Progress("epoch 1/2", done, 3, "images", values))
        screen(Progress("validation", 1, None, "images"))
        row = {"loss": 0.5, "miou": 0.25, "pixel_accuracy": 0.75, "seconds": 3.0}
        screen(EpochEnd(1, 2, row, {"a": 0.25, "b": None}, best=True))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "terminal", "lines"),
    [
        ("not one of all these words is broken", True, ["not one of all these", "words is broken"]),
        ("not one of all these words is broken", False, ["not one of all these words is broken"]),
        ("look at `fcnseg viz --help` first", True, ["look at `fcnseg viz --help` first"]),
    ],
)
def test_a_message_breaks_between_words_and_a_command_stays_whole(
    text: str, terminal: bool, lines: list[str]
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=22, highlight=False)
    print_message(console, Text(text))
    assert isinstance(console.file, io.StringIO)
    assert [each.rstrip() for each in console.file.getvalue().splitlines()] == lines


def test_a_log_gets_whole_lines() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines == [
        "hello [video]",
        "warning: careful",
        "epoch 1/2  loss 0.5000  mIoU 25.00 %  accuracy 75.00 %  3 s  best",
    ]


def test_colors_that_are_forced_into_a_log_bring_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[2K" not in shown(terminal=True)


def test_a_terminal_gets_a_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = shown(terminal=True)
    assert "loss 0.512" in text
    assert "12.3 images/s" in text
    assert "1:01 left" in text
