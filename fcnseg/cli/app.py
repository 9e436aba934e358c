"""The commands: each parses its options, calls one function and prints the result.

The function is imported when its command runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from fcnseg import __version__, config
from fcnseg.cli import tables
from fcnseg.cli.console import DEBUG, Screen, guard
from fcnseg.cli.flags import AsJson, Command, Help, config_command
from fcnseg.config.options import options_of, spelled
from fcnseg.errors import OptionError, SomeFailed
from fcnseg.files import as_path, is_stdout
from fcnseg.remote import RemotePath

app = typer.Typer(
    name="fcnseg",
    help="Semantic segmentation with Fully Convolutional Networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": []},  # ours: fcnseg.cli.flags.Help
    epilog="Get started: fcnseg demo",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fcnseg {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[
        bool, typer.Option("--debug", metavar="", help="Print the traceback of an error")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Print the version", callback=_version, is_eager=True
        ),
    ] = False,
    help_wanted: Help = False,
) -> None:
    """Semantic segmentation with Fully Convolutional Networks."""
    del version, help_wanted  # their callbacks have run
    if debug:
        os.environ[DEBUG] = "1"


def _done(result: Any) -> int:  # noqa: ARG001 - the other functions use the result
    return 0


def _some_failed(result: Any) -> int:
    """3 when some of the inputs or outputs failed and the rest is done."""
    failed = result.failed or getattr(result, "unusable", ())
    return SomeFailed.exit_status if failed else 0


def _unusable(result: Any) -> int:
    """1 when a dataset folder can't be trained on as it is."""
    return 1 if any(finding.severity == "error" for finding in result.findings) else 0


class _Command(NamedTuple):
    """A command's module in fcnseg.commands, function and options, and how to print the result.

    status: returns the exit status for a result. by_options: whether the function takes the given
    options as keyword arguments, because it depends on which were given.
    """

    module: str
    function: str
    options: type[Any]
    show: Callable[[Any], None]
    status: Callable[[Any], int] = _done
    by_options: bool = False


_VIZ = _Command("viz", "view", config.VizConfig, tables.show_viz, _some_failed)

COMMANDS = {
    "check": _Command("check", "check", config.CheckConfig, tables.show_check, _unusable),
    "train": _Command("train", "train", config.TrainConfig, tables.show_train, by_options=True),
    "eval": _Command("eval", "evaluate", config.EvalConfig, tables.show_eval, _some_failed),
    "compare": _Command(
        "analysis.compare", "compare", config.CompareConfig, tables.show_compare, _some_failed
    ),
    "review": _Command(
        "analysis.review", "review", config.ReviewConfig, tables.show_review, _some_failed
    ),
    "infer": _Command("infer", "infer", config.InferConfig, tables.show_infer, _some_failed),
    "viz": _VIZ,
    "visualize": _VIZ,
    "export": _Command("export", "export", config.ExportConfig, tables.show_export),
    "bench": _Command("bench", "bench", config.BenchConfig, tables.show_bench),
    "serve": _Command("serve", "serve", config.ServeConfig, tables.show_serve),
    "demo": _Command("demo", "demo", config.DemoConfig, tables.show_demo),
}


def _run(command: _Command, values: Mapping[str, Any], *, as_json: bool) -> None:
    """Call a command with its options and print the result."""
    options = command.options.make(values)  # before anything slow is imported
    _refuse_remote(command, options)
    piped = [
        spelled(name, one)
        for name, one in options_of(command.options).items()
        if is_stdout(getattr(options, name))
    ]
    if as_json and piped:
        text = f"--json and {piped[0]} - both write to standard output."
        raise OptionError(text, hint="omit --json")
    with Screen() as screen:
        module = importlib.import_module(f"fcnseg.commands.{command.module}")
        function = getattr(module, command.function)
        if command.by_options:
            result = function(callback=screen, **values)
        else:
            result = function(options, callback=screen)
    if os.environ.get("RANK", "0") != "0":  # under torchrun only the first process prints
        raise typer.Exit
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
    else:  # printed to stderr where an output is piped through stdout
        with contextlib.redirect_stdout(sys.stderr) if piped else contextlib.nullcontext():
            command.show(result)
    raise typer.Exit(command.status(result))


_REMOTE = {
    "infer": ("source", "out", "shares"),
    "viz": ("source", "out"),
    "check": ("data",),
    "eval": ("data",),
    "train": ("data",),
}
"""The options that may be URLs of remote storage."""


def _refuse_remote(command: _Command, options: Any) -> None:
    """OptionError for a URL of remote storage in an option that must be a local path."""
    for name, entry in options_of(type(options)).items():
        value = getattr(options, name)
        given = value if isinstance(value, tuple) else (value,)
        if name in _REMOTE.get(command.module, ()):
            continue
        paths = [as_path(one) for one in given if isinstance(one, str | Path)]
        for path in (path for path in paths if isinstance(path, RemotePath)):
            flag = spelled(name, entry)
            raise OptionError(
                f"{flag} {path} is remote storage; expected a path on this machine.",
                hint="copy it first; datasets and the files of infer and viz may be remote",
            )


for _name, _row in COMMANDS.items():
    run = config_command(_row.options, functools.partial(_run, _row))
    app.command(_name, cls=Command, hidden=_name == "visualize")(run)


@app.command(help="Report what is installed and how to install the rest: device, codecs, engines.")
def doctor(as_json: AsJson = False, help_wanted: Help = False) -> None:
    """Print the rows of `fcnseg.commands.doctor`."""
    del help_wanted
    from fcnseg.commands.doctor import diagnose

    with guard():
        found = diagnose()
        if as_json:
            typer.echo(json.dumps([row.as_dict() for row in found]))
        else:
            tables.show_doctor(found)
