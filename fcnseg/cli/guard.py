"""The one place where errors become a sentence and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from fcnseg.cli.terminal import console, line, never_fail
from fcnseg.config import CONFIGS
from fcnseg.errors import FailedElsewhere, FcnsegError
from fcnseg.options import suggest_option
from fcnseg.runtime.allocator import keep_freed_memory
from fcnseg.signals import as_interrupts

DEBUG = "FCNSEG_DEBUG"
"""The environment variable behind --debug: tracebacks are shown."""


@contextmanager
def guard() -> Iterator[None]:
    """Run a verb; leave with 0, or 1, 2, 3, 130 after one clear message on stderr.

    SIGTERM and SIGHUP do what Ctrl-C does.
    """
    try:
        with as_interrupts():
            yield
    except FailedElsewhere as error:
        raise typer.Exit(error.exit_status) from None
    except FcnsegError as error:
        _debug_trace()
        complain(error.message, error.hint)
        raise typer.Exit(error.exit_status) from None
    except KeyboardInterrupt:
        complain("Interrupted.", "")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader of stdout went away (`| head`): nothing to say, and nobody to say it to.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except OSError as error:
        _debug_trace()
        complain(f"{error.filename}: {error.strerror}." if error.filename else f"{error}.", "")
        raise typer.Exit(1) from None
    except Exception as error:  # noqa: BLE001 - the last catch: a bug of ours, told as one
        _debug_trace()
        complain(
            f"A bug in fcnseg: {type(error).__name__}: {error}",
            "the same command with --debug before the subcommand shows where; please report it",
        )
        raise typer.Exit(1) from None


def run(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status.

    What Typer finds wrong with the arguments is told as our own errors are, with a hint.
    """
    _settle_process()
    never_fail()
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except Exception as error:
        show, status = getattr(error, "format_message", None), getattr(error, "exit_code", None)
        if show is None or status is None:
            raise  # no usage error
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
        else:
            complain(_usage_message(error), _usage_hint(error))
        return int(status)


def _settle_process() -> None:
    """What suits a process that is ours alone; the library itself leaves a process as it is."""
    # Torch's threads wait for each other by spinning. Where anything else wants a core (decoding,
    # another program), a step then takes several times as long: 2.6 s instead of 0.5 s was
    # measured on two busy cores. It is read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def _usage_message(error: Any) -> str:
    if hasattr(error, "possibilities"):  # without Typer's own guesses
        return f"No such option: {error.option_name}"
    return str(error.format_message())


def _usage_hint(error: Any) -> str:
    context = error.ctx
    command, path = (context.command.name, context.command_path) if context else ("", "fcnseg")
    config = next((config for config in CONFIGS if config.command == command), None)
    if config and hasattr(error, "possibilities"):
        return suggest_option(error.option_name, config)
    return f"see `{path} --help`"


def complain(message: str, hint: str) -> None:
    """One message on stderr, the hint on a line of its own; none where nobody can see it."""
    out = console(stderr=True)
    with suppress(OSError):  # the terminal is closed
        out.print(line(("error: ", "bold red"), message), soft_wrap=True)
        if hint:
            out.print(line(("hint: ", "cyan"), hint), soft_wrap=True)


def _debug_trace() -> None:
    if os.environ.get(DEBUG):
        for text in traceback.format_exc().splitlines():
            console(stderr=True).print(text, soft_wrap=True)
