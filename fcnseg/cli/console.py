"""Progress and messages on standard error; errors as messages and exit statuses."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from fcnseg.cli import (
    duration,
    epoch_line,
    escape_unencodable,
    half_blocks,
    line,
    plain_console,
    print_message,
    runnable,
)
from fcnseg.config import CONFIGS
from fcnseg.config.options import Options, flags_of, options_of, spelled, suggest_option
from fcnseg.errors import (
    FailedElsewhere,
    FcnsegError,
    Interrupted,
    is_out_of_memory,
    printable,
)
from fcnseg.progress import (
    EpochEnd,
    Event,
    Message,
    Preview,
    Progress,
    as_interrupts,
    keep_freed_memory,
)

LOGGER = logging.getLogger("fcnseg")

LOG_EVERY = 15.0
"""Seconds between progress lines where there is no terminal."""


class Screen:
    """A progress callback that prints to stderr; use it as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console(stderr=True)
        forced = os.environ.get("FORCE_COLOR") and not self.console.file.isatty()
        self._live = self.console.is_terminal and not forced  # colors but no bar in a CI log
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._logged = time.monotonic()

    def __enter__(self) -> Self:
        self._handler = _MessageHandler(self)
        self._logger_before = LOGGER.level, LOGGER.propagate
        LOGGER.addHandler(self._handler)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        LOGGER.removeHandler(self._handler)
        LOGGER.level, LOGGER.propagate = self._logger_before
        with suppress(OSError):
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Print one event; a closed terminal is ignored, so that the work continues."""
        with suppress(OSError):
            match event:
                case Message(text, level):
                    mark = ("warning: ", "yellow") if level == "warning" else ""
                    print_message(self._bar.console, line(mark, runnable(text)))
                case EpochEnd():
                    self._bar.console.print(epoch_line(event), soft_wrap=True)
                case Progress():
                    self._draw(event)
                case Preview():
                    self._show(event)

    def _draw(self, event: Progress) -> None:
        values = printable("  ".join(_value(*pair) for pair in event.values.items()))
        if not self._live:
            self._log(event, values)
            return
        if event.task != self._name or self._task is None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(printable(event.task), total=event.total, values=values)
            self._name = event.task
        self._bar.update(self._task, completed=event.done, total=event.total, values=values)

    def _show(self, event: Preview) -> None:
        """Print an image that fits the terminal, in color where supported."""
        console = self._bar.console
        height, width = event.image.shape[:2]
        columns = min(console.width - 1, round(2 * (console.height - 3) * width / height))
        colors = console.color_system is not None and not console.options.ascii_only
        console.print(line((event.name, "bold")))
        blocks = half_blocks(event.image, max(1, columns), colors=colors, key=event.key)
        console.print(blocks, soft_wrap=True)

    def _log(self, event: Progress, values: str) -> None:
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            of = f"/{event.total}" if event.total is not None else ""
            self.console.print(f"{event.task}  {event.done}{of} {event.unit}  {values}")


class _MessageHandler(logging.Handler):
    """Prints the library's log records as messages of the screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        self._screen(Message(record.getMessage(), "warning" if warns else "info"))


def _value(name: str, value: float | int | str) -> str:
    if name == "left":
        return f"{duration(float(value))} left"
    if isinstance(value, float):
        text = f"{value:.3g}" if name == "lr" else f"{value:.1f}" if value >= 10 else f"{value:.3f}"
        return f"{text} {name}" if "/s" in name else f"{name} {text}"
    return f"{name} {value}"


DEBUG = "FCNSEG_DEBUG"
"""The environment variable that --debug sets: print tracebacks."""


DEPENDENCIES = ("torch", "torchvision", "safetensors", "jinja2", "av")
"""Required packages that running an exported file does not need."""


@contextmanager
def guard(config: type[Options] | None = None) -> Iterator[None]:
    """Run a command; convert errors to one message on stderr and exit status 1, 2, 3 or 130.

    SIGTERM and SIGHUP are handled like Ctrl-C. config: the command's options.
    """
    try:
        with as_interrupts():
            yield
    except FailedElsewhere as error:
        raise typer.Exit(error.exit_status) from None
    except FcnsegError as error:
        _debug_trace()
        severity = "" if isinstance(error, Interrupted) else "error"
        hint = with_owners(error.hint, config) if config and error.hint else error.hint
        print_error(error.message, hint, details=error.details, severity=severity)
        raise typer.Exit(error.exit_status) from None
    except KeyboardInterrupt:
        print_error("Interrupted.", severity="")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader of stdout has closed it (`| head`): exit silently.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except OSError as error:
        _debug_trace()
        place = f"{error.filename}: " if error.filename else ""
        print_error(f"{place}{error.strerror or error}.")
        raise typer.Exit(1) from None
    except Exception as error:  # noqa: BLE001 - anything else is a bug, reported as one
        _debug_trace()
        print_error(*_unexpected(error))
        raise typer.Exit(1) from None


def _unexpected(error: Exception) -> tuple[str, str]:
    """Message and hint for an error that is not a FcnsegError."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in DEPENDENCIES:
        return (
            f"This needs {package}, which is not installed.",
            f"pip install {package}, or all that fcnseg needs: pip install fcnseg",
        )
    if "can't start new thread" in str(error):
        return (
            "No more threads can be started: a limit of this machine or container is reached.",
            "set OMP_NUM_THREADS=1, or allow more processes or memory (ulimit -u, -v)",
        )
    if is_out_of_memory(error):
        return (
            "Memory ran out: what the options ask for needs more than there is.",
            "smaller images, crops, batches or networks need less",
        )
    if str(error).startswith("DataLoader worker"):  # raised by a signal handler, at any point
        return (
            f"A process that loads data ended: {str(error).rstrip('. ')}.",
            "is there enough memory (and /dev/shm)? Take fewer --workers; 0 = a thread",
        )
    return (
        f"A bug in fcnseg: {type(error).__name__}: {error}",
        "the same command with --debug before the subcommand shows where; please report it",
    )


def with_owners(hint: str, config: type[Any]) -> str:
    """A hint; adds which commands have the options that it names and `config` lacks.

    Code that raises an error is shared by commands, so a hint may name another one's option.
    """
    own, configs = flags_of(config), Options.__subclasses__()
    notes = []
    for flag in dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", hint)):
        owners = [other.command for other in configs if flag in flags_of(other)]
        if flag not in own and owners and not set(owners) & set(re.findall(r"[a-z]+", hint)):
            notes.append(f"{flag} is an option of {', '.join(owners)}")
    return f"{hint} ({'; '.join(notes)})" if notes else hint


def run(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status.

    Typer's usage errors are printed like FcnsegErrors, with a hint.
    """
    _configure_process()
    escape_unencodable()
    try:
        Path.cwd()
    except OSError as error:  # torch's libraries would abort without a message
        print_error(f"The current folder can't be used: {error.strerror}.", "cd to one that exists")
        return 1
    try:
        command = typer.main.get_command(app)
        for parameter in command.params:
            if (parameter.name or "").endswith("_completion"):
                parameter.metavar = ""  # switches; the help would show <bool>
        return int(command(arguments, standalone_mode=False) or 0)
    except OSError as error:  # the help can't be printed
        print_error(f"{error.strerror or error}.")
        return 1
    except Exception as error:
        show, status = getattr(error, "format_message", None), getattr(error, "exit_code", None)
        if show is None or status is None:
            raise  # not a usage error
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
        else:
            option = getattr(error, "option_name", "") if hasattr(error, "possibilities") else ""
            message = f"No such option: {option}" if option else str(show())
            print_error(message, _usage_hint(error, arguments or sys.argv[1:]))
        return int(status)


def _configure_process() -> None:
    """Process-wide settings for the command line; the library itself changes none."""
    # OpenMP threads wait by spinning. If anything else needs a core (decoding, another program),
    # a step takes several times as long: 2.6 s instead of 0.5 s, measured on two busy cores.
    # The variable is read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.warnoptions:  # e.g. about damaged EXIF data, printed with a line of Pillow's code
        warnings.filterwarnings("ignore", module=r"PIL\.")
    keep_freed_memory()


_SYNONYMS = {"predict": "infer", "segment": "infer", "test": "eval", "version": "--version"}


def _usage_hint(error: Any, arguments: Sequence[str]) -> str:
    context = error.ctx
    command = context.command.name if context else next(iter(arguments), "")
    config = next((config for config in CONFIGS if config.command == command), None)
    path = context.command_path if context else f"fcnseg {command}" if config else "fcnseg"
    if config and hasattr(error, "possibilities"):
        option = error.option_name
        files = (name for name in arguments if name.startswith(option) and Path(name).exists())
        file = next(files, None)
        return f"a file of that name is ./{file}" if file else suggest_option(option, config)
    if close := getattr(error, "possibilities", ()):
        return f"did you mean {' or '.join(close)}?"
    text = str(error.format_message())
    if config and " requires 2 arguments" in text:
        both = next(one for name, one in options_of(config).items() if f"'{spelled(name)}'" in text)
        return f"give both, with a space between them: {both.metavar}"
    if config and text.startswith("Got unexpected extra argument"):
        return _extra_hint(error, arguments, config) or f"see `{path} --help`"
    if text.startswith("No such command"):
        word = next(word for word in arguments if not word.startswith("-")).lower()
        known = {config.command: config.command for config in CONFIGS} | _SYNONYMS
        if word in known:
            return f"did you mean `fcnseg {known[word]}`?"
    return f"see `{path} --help`"


def _extra_hint(error: Any, arguments: Sequence[str], config: type[Options]) -> str:
    """What to do with the second word of `--include argmax skips`; "" if it follows no option."""
    word = str(error.format_message()).partition("(s) (")[2].rstrip(")").split(" ")[0]
    before = arguments[: arguments.index(word)] if word in arguments else ()
    flag = next((one for one in reversed(before) if one.startswith("-")), "")
    for one in (one for one in error.ctx.command.params if flag in one.opts and one.multiple):
        if isinstance(vars(config)[one.name], tuple) or one.name == "model":
            return f"for several, repeat the option: {flag} {word}"
    return ""


def print_error(
    message: str, hint: str = "", *, details: Sequence[str] = (), severity: str = "error"
) -> None:
    """Print a message to stderr, with its details and hint on separate lines.

    A closed terminal is ignored. severity: the word before the message, or "".
    """
    out = plain_console(stderr=True)
    first = [(f"{severity}: ", "bold red")] if severity else []
    with suppress(OSError):
        print_message(out, line(*first, runnable(message)))
        for number, detail in enumerate(details, start=1):
            print_message(out, line(f"  {number}. ", detail))
        if hint:
            print_message(out, line(("hint: ", "cyan"), runnable(hint)))


def _debug_trace() -> None:
    if os.environ.get(DEBUG):
        for text in traceback.format_exc().splitlines():
            plain_console(stderr=True).print(text, soft_wrap=True)
