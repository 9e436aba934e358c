import dataclasses
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fcnseg.cli.flags import config_command
from fcnseg.config import CONFIGS, BenchConfig, CheckConfig, InferConfig, TrainConfig, VizConfig
from fcnseg.config.options import Options, read_toml
from fcnseg.errors import OptionError

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"

schema_of = runpy.run_path(str(SCHEMAS / "train.py"))["schema_of"]


def test_defaults_survive_a_toml_round_trip(tmp_path: Path) -> None:
    config = TrainConfig.make({"data": "some folder", "crop": [64, 96], "lr": 1e-5})
    file = tmp_path / "config.toml"
    file.write_text(config.as_toml(), encoding="utf-8")
    assert TrainConfig.load(file) == config


@given(st.text(min_size=1), st.floats(1e-9, 10), st.lists(st.text(), max_size=3))
def test_any_text_and_number_survives_toml(name: str, alpha: float, classes: list[str]) -> None:
    import tomllib

    config = VizConfig.make({"source": name, "alpha": min(alpha, 1.0), "classes": classes})
    assert VizConfig.make(tomllib.loads(config.as_toml())) == config


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("epochs = 7\nbatch = 2\n")
    config = TrainConfig.load(file, epochs=3)
    assert (config.epochs, config.batch) == (3, 2)
    assert InferConfig(source="a.png", tile=512).tile == "512"  # tile = 512


@pytest.mark.parametrize(
    ("values", "says", "hint"),
    [
        ({"epoch": 3}, "Unknown option 'epoch' for train", "did you mean --epochs?"),
        ({"zzz": 3}, "Unknown option 'zzz'", "fcnseg train --help"),
        ({"image_size": 512}, "Unknown option 'image_size'", "--crop or --short-side?"),
        ({"smooth": 0.5}, "Unknown option 'smooth'", "--smooth is an option of: infer"),
        ({"tta": True}, "Unknown option 'tta'", "--tta is an option of: "),
        ({"train": {"epochs": 3}}, "Unknown option 'train'", "options stand in no table"),
        ({"epochs": -1}, "--epochs: expected a whole number at least 0; found -1", ""),
        ({"epochs": 1.5}, "--epochs: expected a whole number", ""),
        ({"epochs": True}, "--epochs: expected a whole number", ""),
        ({"epochs": 10**400}, "--epochs: expected a whole number", ""),
        ({"lr": 0}, "--lr: expected a number above 0; found 0", ""),
        ({"lr": float("nan")}, "--lr: expected a number above 0; found nan", ""),
        ({"lr": float("inf")}, "--lr: expected a number above 0; found inf", ""),
        ({"lr": "much"}, "--lr: expected a number above 0; found 'much'", ""),
        ({"dropout": 1}, "--dropout: expected a number at least 0 and below 1; found 1", ""),
        ({"batch": "many"}, "--batch: expected a whole number at least 1 or auto", ""),
        ({"batch": 0}, "--batch: expected a whole number at least 1 or auto; found 0", ""),
        ({"decoder": "fcn9s"}, "--decoder: expected fcn32s, fcn16s", "did you mean 'fcn"),
        ({"crop": [1, 2, 3]}, "--crop: expected 2 numbers", ""),
        ({"crop": [64, 0]}, "--crop: expected a whole number at least 1", ""),
        ({"crop": "64"}, "--crop: expected 2 numbers", ""),
        ({"resume": 1}, "--resume: expected true or false", ""),
        ({"data": ""}, "DATA: expected a path", ""),
        ({"finetune": 3}, "--finetune: expected a text", ""),
    ],
)
def test_wrong_options_say_what_was_expected(
    values: dict[str, object], says: str, hint: str
) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        TrainConfig.make(values)
    assert hint in caught.value.hint
    assert caught.value.exit_status == 2


def test_an_unknown_panel_is_told_which_ones_show_skips() -> None:
    with pytest.raises(OptionError, match="found 'pool4'") as told:
        VizConfig(source=("a.png",), show_what="pool4,pool3")
    assert "'skips' draws what each skip" in told.value.hint


def test_a_missing_source_is_said() -> None:
    with pytest.raises(OptionError, match="SOURCE is missing; expected: images, videos"):
        InferConfig.make({})


def test_bad_toml_files(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Can't read"):
        read_toml(tmp_path / "none.toml")
    file = tmp_path / "bad.toml"
    file.write_text("epochs = = 3")
    with pytest.raises(OptionError, match="not a TOML file"):
        read_toml(file)


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("epochs = 3\n\nlr = 'fast'\n", "c.toml, line 3: lr: expected a number above 0", ""),
        ("epochs = 3\nlrr = 0.1\n", "c.toml, line 2: Unknown option 'lrr'", "mean --lr?"),
        ("\n[train]\nlr = 0.1\n", "c.toml, line 2: Unknown option 'train'", r"line \[train]"),
        ('"l\\u0072" = "fast"\n', "c.toml: lr: expected a number", ""),
    ],
)
def test_a_wrong_line_of_a_file_of_options_is_named(
    text: str, says: str, hint: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8")
    app = typer.Typer()
    app.command()(config_command(TrainConfig, lambda *_, **__: None))
    done = CliRunner().invoke(app, ["photos", "--config", str(file)], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert says in done.stderr
    assert re.search(hint, done.stderr)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.command)
def test_every_option_has_a_help_text(config: type) -> None:
    command = config_command(config, lambda *args, **kwargs: None)
    for parameter in command.__signature__.parameters.values():  # type: ignore[attr-defined]
        info = parameter.annotation.__metadata__[0]
        if getattr(info, "hidden", False):
            continue
        assert info.help
        assert info.help[0].isupper() or info.help.startswith(("auto", "ce"))


@pytest.mark.parametrize(
    ("config", "values", "says"),
    [
        (TrainConfig, {"lr": -1}, "--lr: expected a number above 0; found -1"),
        (
            BenchConfig,
            {"size": ("0", "5")},
            "--size: expected a whole number at least 1; found '0'",
        ),
        (InferConfig, {}, "SOURCE is missing; expected: images, videos"),
        (CheckConfig, {"data": "folder", "contact": 3}, "--contact: expected a path; found 3"),
    ],
)
def test_a_config_made_directly_raises_our_own_error(config: type, values, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        config(**values)
    assert isinstance(caught.value, OptionError)


def test_values_become_what_the_option_is() -> None:
    config = TrainConfig(data="photos", crop=[64, 96], batch="16", lr=1, epochs=2.0)
    assert config.data == Path("photos")
    assert config.crop == (64, 96)
    assert (config.batch, config.epochs) == (16, 2)
    assert isinstance(config.lr, float)
    assert InferConfig(source=Path("a.png"), classes="star").classes == ("star",)


def test_polygons_are_saved_as_geojson() -> None:
    assert InferConfig(source="a.png", save=("polygons", "labels")).save == ("geojson", "labels")


def test_equal_configs_are_the_same_whatever_was_said() -> None:
    said = TrainConfig.make({"data": "photos", "lr": 2e-3, "dropout": 0.1})
    silent = TrainConfig(data=Path("photos"), dropout=0.1)
    assert said == silent
    assert vars(said) == vars(silent), "nothing hidden"
    assert dataclasses.replace(said, epochs=0) == said
    assert said.chosen() == {"data": Path("photos"), "dropout": 0.1}


def test_fallbacks_fill_what_is_open() -> None:
    config = TrainConfig(decoder="fcn16s").with_fallbacks()
    assert (config.decoder, config.fuse, config.width) == ("fcn16s", "feature", 64)
    assert config.crop is None, "this is for the data to say"


HELP = """
import sys
from fcnseg.cli.app import app
from fcnseg.cli.console import run
for command in sys.argv[1:]:
    assert run(app, [command, "--help"]) == 0, command
    print("\\0", end="", flush=True)
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each command's --help prints at 80 columns, which a process reads when it starts."""
    environment = {**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"}
    names = [config.command for config in CONFIGS]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *names],
        capture_output=True, text=True, check=True, env=environment, encoding="utf-8",
    )  # fmt: skip
    return dict(zip(names, done.stdout.split("\0")[:-1], strict=True))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.command)
def test_the_help_is_readable_at_80_columns(config: type, helps: dict[str, str]) -> None:
    text = helps[config.command]
    assert "<bool>" not in text
    for line in text.splitlines():
        cells = [cell for cell in line.strip("│ ").split("  ") if cell.strip()]
        if line.startswith("│ --") and len(cells) > 1 and "--no-" not in line:
            assert line.index(cells[-1]) < 48, f"less than 32 columns for the text: {line}"


@pytest.mark.parametrize(
    "save", ["labels, overlay,polygons", ("labels,overlay", "polygons"), "labels,overlay,polygons,"]
)
def test_outputs_are_repeated_or_listed_with_commas(save: Any) -> None:
    config = InferConfig.make({"source": "a.png", "save": save})
    assert config.save == ("labels", "overlay", "geojson")


@pytest.mark.parametrize("save", ["labels,overlays", ("labels", "overlays"), "overlays,labels"])
def test_each_listed_output_has_its_own_suggestion(save: Any) -> None:
    with pytest.raises(OptionError, match="found 'overlays'") as caught:
        InferConfig.make({"source": "a.png", "save": save})
    assert caught.value.hint == "did you mean 'overlay'?"


@pytest.mark.parametrize("save", ["", ",", "labels,,overlay"])
def test_an_empty_output_is_refused(save: str) -> None:
    with pytest.raises(OptionError, match="--save"):
        InferConfig.make({"source": "a.png", "save": save})


def test_the_help_of_train_begins_with_ten_options(helps: dict[str, str]) -> None:
    first = helps["train"].split("─ Options ─")[1].split("─ Network ─")[0]
    flags = [line.split()[1] for line in first.splitlines() if line.startswith("│ --")]
    assert len(flags) == 10 + len(["--config", "--json", "--help"])
    assert {"--epochs", "--batch", "--lr", "--backbone", "--resume", "--device"} <= set(flags)


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["train", "--pictures", "2"], "pictures", 2),
        (["train", "--sample-images", "2"], "pictures", 2),
        (["viz", "a.png", "--rungs"], "rungs", True),
        (["viz", "a.png", "--skips-shown"], "rungs", True),
        (["infer", "a.png", "--proportions", "-"], "shares", Path("-")),
        (
            ["infer", "a.png", "--save", "polygons", "--save", "labels"],
            "save",
            ("geojson", "labels"),
        ),
        (["train", "--no-calibrate"], "calibrate", False),
        (["train", "--crop", "64", "96"], "crop", (64, 96)),
        (["train", "--batch", "auto"], "batch", "auto"),
        (["train", "--upsample", "auto"], "upsample", "auto"),
    ],
)
def test_flags_become_values(flags: list[str], name: str, value: object) -> None:
    got: list[object] = []
    app = typer.Typer()
    for config in (TrainConfig, VizConfig, InferConfig):

        def keep(values, *, as_json, config=config) -> None:
            got.append(config.make(values))

        app.command(config.command)(config_command(config, keep))
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 0, result.output
    assert getattr(got[0], name) == value


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.command)
def test_the_schema_takes_what_the_config_takes(config: type[Options]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = schema_of(config)
    jsonschema.Draft202012Validator.check_schema(schema)
    defaults = {name: one["default"] for name, one in schema["properties"].items()
                if "default" in one}  # fmt: skip
    jsonschema.validate(defaults, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"nothing_such": 1}, schema)


@pytest.mark.parametrize(
    "values",
    [{"epochs": -1}, {"lr": "fast"}, {"crop": [1, 2, 3]}, {"flip": 1.5}, {"optimizer": "adam"}],
    ids=str,
)
def test_the_schema_refuses_what_the_config_refuses(values: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(OptionError):
        TrainConfig.make(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema_of(TrainConfig))


def test_the_schema_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SCHEMAS / "train.py"), run_name="__main__")
    expected = (SCHEMAS / "train.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == expected, "run `make docs`"
