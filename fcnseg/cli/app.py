"""The commands: each parses its options, calls one verb and prints the result.

Verbs are imported when their command runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from fcnseg import __version__, config
from fcnseg.cli import tables
from fcnseg.cli.console import DEBUG, Screen, guard
from fcnseg.cli.flags import AsJson, Help, config_command
from fcnseg.errors import SomeFailed

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
    del version, help_wanted  # their callbacks have answered
    if debug:
        os.environ[DEBUG] = "1"


Verb = Callable[..., Any]


def _done(result: Any) -> int:  # noqa: ARG001 - the others look at the result
    return 0


def _command(
    name: str,
    options: type[Any],
    verb: Callable[[], Verb],
    show: Callable[[Any], None],
    *,
    status: Callable[[Any], int] = _done,
    hidden: bool = False,
    by_options: bool = False,
) -> None:
    """Register a command: `verb()` imports and returns the function that does the work.

    status: the exit status its result deserves. by_options: whether the verb takes the options
    that were given one by one, and so knows which these are.
    """

    def run(values: Mapping[str, Any], *, as_json: bool) -> None:
        config = options.make(values)  # before anything slow is imported
        with Screen() as screen:
            result = (
                verb()(callback=screen, **values) if by_options else verb()(config, callback=screen)
            )
        if os.environ.get("RANK", "0") != "0":  # torchrun's first process prints for all
            raise typer.Exit
        if as_json:
            typer.echo(json.dumps(result.as_dict()))
        else:
            show(result)
        raise typer.Exit(status(result))

    app.command(name, hidden=hidden)(config_command(options, run))


def _some_failed(result: Any) -> int:
    """3 when some of the inputs failed and the rest is done."""
    return SomeFailed.exit_status if result.failed else 0


def _unusable(result: Any) -> int:
    """1 when a dataset folder can't be trained on as it is."""
    return 1 if any(finding.severity == "error" for finding in result.findings) else 0


def _check() -> Verb:
    from fcnseg.commands.check import check

    return check


def _train() -> Verb:
    from fcnseg.commands.train import train

    return train


def _eval() -> Verb:
    from fcnseg.commands.eval import evaluate

    return evaluate


def _compare() -> Verb:
    from fcnseg.commands.compare import compare

    return compare


def _infer() -> Verb:
    from fcnseg.commands.infer import infer

    return infer


def _viz() -> Verb:
    from fcnseg.commands.viz import view

    return view


def _export() -> Verb:
    from fcnseg.commands.export import export

    return export


def _bench() -> Verb:
    from fcnseg.commands.bench import bench

    return bench


def _demo() -> Verb:
    from fcnseg.commands.demo import demo

    return demo


_command("check", config.CheckConfig, _check, tables.show_check, status=_unusable)
_command("train", config.TrainConfig, _train, tables.show_train, by_options=True)
_command("eval", config.EvalConfig, _eval, tables.show_eval)
_command("compare", config.CompareConfig, _compare, tables.show_compare)
_command("infer", config.InferConfig, _infer, tables.show_infer, status=_some_failed)
_command("viz", config.VizConfig, _viz, tables.show_viz, status=_some_failed)
_command("visualize", config.VizConfig, _viz, tables.show_viz, status=_some_failed, hidden=True)
_command("export", config.ExportConfig, _export, tables.show_export)
_command("bench", config.BenchConfig, _bench, tables.show_bench)
_command("demo", config.DemoConfig, _demo, tables.show_demo)


@app.command()
def doctor(as_json: AsJson = False, help_wanted: Help = False) -> None:
    """Report what is installed and how to install the rest: device, codecs, engines."""
    del help_wanted
    from fcnseg.commands.doctor import diagnose

    with guard():
        found = diagnose()
        if as_json:
            typer.echo(json.dumps([row.as_dict() for row in found]))
        else:
            tables.show_doctor(found)
