import errno
import importlib
import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from fcnseg.commands import doctor
from tests.test_docs import ROOT


def test_rows_say_what_is_there() -> None:
    rows = {row.part: row for row in doctor.diagnose()}
    assert rows["torch"].ok
    assert "cores" in rows["processor"].found
    assert rows["OpenCV"].found.startswith("opencv-python ")


@pytest.mark.parametrize("second", doctor.WHEELS[1:])
def test_two_opencv_wheels_are_noticed(second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = ("opencv-python", second)
    monkeypatch.setattr(doctor, "_version", lambda name: "5.0" if name in there else None)
    row = doctor._opencv()
    assert not row.ok
    assert f"pip uninstall -y opencv-python {second}," in row.advice


def fail_to_import(monkeypatch: pytest.MonkeyPatch, module: str, error: Exception) -> None:
    """Importing `module` raises `error`, for the doctor."""
    real = importlib.import_module

    def fake(name: str) -> ModuleType:
        if name == module:
            raise error
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", fake)


def test_a_missing_system_library_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """libGL is missing: cv2 can't be imported, and everything else is reported all the same."""
    for name in list(sys.modules):
        if name.startswith(("fcnseg.io", "fcnseg.models")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cv2", None)
    rows = {row.part: row for row in doctor.diagnose()}
    assert not rows["OpenCV"].ok
    assert "apt-get install libgl1" in rows["OpenCV"].advice
    assert not {"video out", "display"} & set(rows)
    assert rows["torch"].ok
    assert rows["torchvision"].ok


def test_a_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("operator torchvision::nms does not exist\nmore")
    fail_to_import(monkeypatch, "fcnseg.models.backbones.torchvision", error)
    row = doctor._torchvision()
    assert not row.ok
    assert row.found.endswith("operator torchvision::nms does not exist")
    assert "torch torchvision" in row.advice


@pytest.mark.parametrize(
    ("reason", "found", "advice"),
    [
        (
            "The NVIDIA driver on your system is too old (found 11040).",
            "too old",
            "update the driv",
        ),
        ("Found no NVIDIA driver on your system.", "none that torch can use", "on the processor"),
    ],
)
def test_no_gpu(reason: str, found: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr("torch.cuda.init", fail)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    row = doctor._no_gpu()
    assert not row.ok
    assert found in row.found
    assert advice in row.advice


def test_a_driver_beside_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr(doctor.Path, "is_dir", lambda path: str(path) == "/proc/driver/nvidia")
    assert "built without CUDA" in doctor._no_gpu().found


def test_no_codec_and_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnseg.io.video_writer.writable_codecs", dict)
    monkeypatch.setattr("fcnseg.io.has_display", lambda: False)
    codec, display = doctor._video()
    assert not codec.ok
    assert "pip install 'av>=14'" in codec.advice
    assert not display.ok
    assert "-o writes files" in display.advice


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor._disk(tmp_path).advice in ("", doctor.ROOM)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 << 20))
    row = doctor._disk(tmp_path)
    assert (row.ok, row.found, row.advice) == (False, "0.0 GiB free", doctor.ROOM)

    def full() -> dict[str, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fcnseg.io.video_writer.writable_codecs", full)
    assert next(doctor._video()).found == "can't be tried: No space left on device"


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
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    unlisted = {"dev", "docs", "coco", "video"}  # for developers, and what is installed anyway
    assert set(doctor.EXTRAS) == set(declared["optional-dependencies"]) - unlisted
