from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnseg.config import CONFIGS, InferConfig, TrainConfig, VizConfig, read_toml
from fcnseg.errors import OptionError


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


@pytest.mark.parametrize(
    ("values", "says", "hint"),
    [
        ({"epoch": 3}, "Unknown option 'epoch' for train", "did you mean 'epochs'?"),
        ({"zzz": 3}, "Unknown option 'zzz'", "known: "),
        ({"epochs": -1}, "epochs: input should be greater", ""),
        ({"decoder": "fcn9s"}, "decoder: input should be 'fcn32s'", ""),
        ({"crop": [1, 2, 3]}, "crop", ""),
    ],
)
def test_wrong_options_say_what_was_expected(
    values: dict[str, object], says: str, hint: str
) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        TrainConfig.make(values)
    assert hint in caught.value.hint
    assert caught.value.exit_status == 2


def test_a_missing_source_is_said() -> None:
    with pytest.raises(OptionError, match="source: a value is needed"):
        InferConfig.make({})


def test_bad_toml_files(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Can't read"):
        read_toml(tmp_path / "none.toml")
    file = tmp_path / "bad.toml"
    file.write_text("epochs = = 3")
    with pytest.raises(OptionError, match="not a TOML file"):
        read_toml(file)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.verb)
def test_every_option_has_a_help_text(config: type) -> None:
    from fcnseg.cli.options import config_command

    command = config_command(config, lambda *args, **kwargs: None)
    for parameter in command.__signature__.parameters.values():  # type: ignore[attr-defined]
        info = parameter.annotation.__metadata__[0]
        assert info.help
        assert info.help[0].isupper() or info.help.startswith("auto")
