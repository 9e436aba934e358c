"""The path - is standard output where text or a video can go there, and refused elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fcnseg.cli.app import app
from fcnseg.config import CONFIGS
from fcnseg.config.options import Options, options_of, spelled
from fcnseg.errors import OptionError

PATHS = [
    (config, name)
    for config in CONFIGS
    for name, kind in config.__annotations__.items()
    if name in options_of(config) and "Path" in str(kind)
]


@pytest.mark.parametrize(("config", "name"), PATHS)
def test_every_path_of_every_command(config: type[Options], name: str) -> None:
    needed = {n: "d" for n, one in options_of(config).items() if one.argument}
    if options_of(config)[name].stdout:
        assert getattr(config.make({**needed, name: "-"}), name) == Path("-")
        return
    called = name.upper() if options_of(config)[name].argument else spelled(name)
    with pytest.raises(OptionError, match=f"^{called}: expected a path .* found '-'"):
        config.make({**needed, name: "-"})


@pytest.mark.parametrize("option", ["csv", "markdown"])
def test_a_table_of_scores(
    option: str, random_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone there, the same as in a file; what is for people goes to standard error."""
    monkeypatch.chdir(tmp_path)
    arguments = ["eval", str(data), "-m", str(random_model), "--device", "cpu", f"--{option}"]
    piped = CliRunner().invoke(app, [*arguments, "-"])
    assert piped.exit_code == 0
    assert "mIoU is the mean" in piped.stderr
    assert not Path("-").exists()
    assert CliRunner().invoke(app, [*arguments, "file"]).exit_code == 0
    assert piped.stdout_bytes == Path("file").read_bytes()


def test_two_outputs_of_one_command(random_model: Path, data: Path) -> None:
    for other in (["--json"], ["--latex", "-"]):
        arguments = ["eval", str(data), "-m", str(random_model), "--csv", "-", *other]
        found = CliRunner().invoke(app, arguments)
        assert found.exit_code == 2
        assert not found.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_the_help_on_a_full_disk(arguments: list[str], unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "fcnseg", *arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, check=False, env=environment
        )
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device.\n")
