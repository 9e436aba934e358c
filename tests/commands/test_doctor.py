import importlib.util

import pytest

from fcnseg.commands import doctor


def test_rows_say_what_is_there() -> None:
    rows = {row.part: row for row in doctor.diagnose()}
    assert rows["torch"].ok
    assert "cores" in rows["processor"].found
    assert rows["OpenCV"].found.startswith("opencv-python ")


def test_two_opencv_wheels_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: "contrib" not in name)
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "5.0")
    row = doctor._opencv()
    assert not row.ok
    assert "pip uninstall" in row.advice


def test_opencv_prints_nothing_where_pyav_is_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "av" else find_spec(name)
    )
    rows = {row.part: row for row in doctor.diagnose()}
    assert not rows["PyAV"].ok
    assert "pip install" in rows["PyAV"].advice
    assert not any("video" in part for part in rows if part.startswith("extra"))
    assert capfd.readouterr() == ("", "")


def test_missing_extras_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda module: None)
    row = doctor._extra("timm")
    assert not row.ok
    assert row.advice == "pip install 'fcnseg[timm]'"
