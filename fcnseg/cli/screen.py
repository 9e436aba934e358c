"""Events drawn on the terminal: one live bar, lines above it.

On a terminal the bar is redrawn in place; in a log (stderr is a file or a pipe) a line
is printed now and then, so that the log stays readable.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fcnseg.cli.terminal import console as open_console
from fcnseg.cli.terminal import line
from fcnseg.events import EpochDone, Event, Note, Progress
from fcnseg.text import shown

LOGGER = logging.getLogger("fcnseg")

LOG_EVERY = 15.0
"""Seconds between progress lines where there is no terminal."""


class Screen:
    """A listener that draws on stderr; use it as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or open_console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._logged = time.monotonic()

    def __enter__(self) -> Self:
        self._handler = _NoteHandler(self)
        self._logger_before = LOGGER.level, LOGGER.propagate
        LOGGER.addHandler(self._handler)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        LOGGER.removeHandler(self._handler)
        LOGGER.level, LOGGER.propagate = self._logger_before
        with suppress(OSError):
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Draw one event; a terminal that was closed does not end the work."""
        with suppress(OSError):
            match event:
                case Note(text, level):
                    mark = ("warning: ", "yellow") if level == "warning" else ""
                    self._bar.console.print(line(mark, text), soft_wrap=True)
                case EpochDone():
                    self._bar.console.print(_epoch_line(event), soft_wrap=True)
                case Progress():
                    self._draw(event)

    def _draw(self, event: Progress) -> None:
        values = _values(event.values)
        if not self.console.is_terminal:
            self._log(event, values)
            return
        if event.task != self._name or self._task is None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(shown(event.task), total=event.total, values=values)
            self._name = event.task
        self._bar.update(self._task, completed=event.done, total=event.total, values=values)

    def _log(self, event: Progress, values: str) -> None:
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            of = f"/{event.total}" if event.total is not None else ""
            self.console.print(f"{event.task}  {event.done}{of} {event.unit}  {values}")


class _NoteHandler(logging.Handler):
    """Shows what the library logs as the screen's own lines."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        level: Literal["info", "warning"] = (
            "warning" if record.levelno >= logging.WARNING else "info"
        )
        self._screen(Note(record.getMessage(), level))


def duration(seconds: float) -> str:
    """Seconds as people read them: 9 s, 4:05, 1:02:30."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _values(values: Mapping[str, float | int | str]) -> str:
    return shown("  ".join(_value(name, value) for name, value in values.items()))


def _value(name: str, value: float | int | str) -> str:
    if name == "left":
        return f"{duration(float(value))} left"
    if isinstance(value, float):
        text = f"{value:.3g}" if name == "lr" else f"{value:.1f}" if value >= 10 else f"{value:.3f}"
        return f"{text} {name}" if "/s" in name else f"{name} {text}"
    return f"{name} {value}"


def _epoch_line(event: EpochDone) -> Text:
    values = event.values
    width = len(str(event.epochs))
    text = f"epoch {event.epoch:{width}}/{event.epochs}  loss {values['loss']:.4f}"
    if "miou" in values:
        text += f"  mIoU {values['miou']:.4f}"
    if "pixel_accuracy" in values:
        text += f"  accuracy {values['pixel_accuracy']:.4f}"
    if "seconds" in values:
        text += f"  {duration(float(values['seconds']))}"
    return line(text, ("  best", "green") if event.best else "")
