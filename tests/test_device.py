import pytest
import torch

from fcnseg import device as module
from fcnseg.device import (
    AUTO_PRECISION,
    autocast,
    precision_name,
    resolve_device,
    resolve_precision,
)
from fcnseg.errors import OptionError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_best(monkeypatch, cuda: bool, mps: bool, wanted: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto").type == wanted


@pytest.mark.parametrize("name", ["gpu", "0", "cuda:", "cpu:", "cpu:01", "cuda:-1", "", "xpu"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="known: auto, cpu"):
        resolve_device(name)


def test_cuda_that_is_not_here(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(OptionError, match="without CUDA") as caught:
        resolve_device("cuda")
    assert "--device cpu" in caught.value.hint
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(OptionError, match="no NVIDIA GPU"):
        resolve_device("cuda:0")


def test_cuda_numbers_are_counted(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(OptionError, match="known: cuda:0, cuda:1"):
        resolve_device("cuda:2")


def test_mps_that_is_not_here(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(OptionError, match="MPS"):
        resolve_device("mps")


@pytest.mark.parametrize(("hardware", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_on_a_cpu_needs_hardware(monkeypatch, hardware: bool, wanted: torch.dtype) -> None:
    monkeypatch.delenv(AUTO_PRECISION, raising=False)
    monkeypatch.setattr(module, "cpu_multiplies_bf16", lambda: hardware)
    assert resolve_precision("auto", CPU) == wanted


@pytest.mark.parametrize(
    ("capability", "wanted"), [((8, 0), torch.bfloat16), ((7, 5), torch.float16)]
)
def test_auto_on_cuda(monkeypatch, capability, wanted) -> None:
    monkeypatch.delenv(AUTO_PRECISION, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == wanted


@pytest.mark.parametrize("hardware", [True, False])
def test_the_environment_says_what_auto_is(monkeypatch, hardware: bool) -> None:
    monkeypatch.setattr(module, "cpu_multiplies_bf16", lambda: hardware)
    for name, wanted in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        monkeypatch.setenv(AUTO_PRECISION, name)
        assert resolve_precision("auto", CPU) == wanted
        assert resolve_precision("f32", CPU) == torch.float32, "what is asked for comes first"
    monkeypatch.setenv(AUTO_PRECISION, "f8")
    with pytest.raises(OptionError, match="f8"):
        resolve_precision("auto", CPU)


def test_precisions_by_name(monkeypatch) -> None:
    monkeypatch.delenv(AUTO_PRECISION, raising=False)
    assert resolve_precision("auto", torch.device("mps")) == torch.float32
    for name in ("f32", "bf16"):
        assert precision_name(resolve_precision(name, CPU)) == name
    with pytest.raises(OptionError, match="for GPUs"):
        resolve_precision("f16", CPU)
    with pytest.raises(OptionError, match="known: auto, f32, bf16, f16"):
        resolve_precision("int8", CPU)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_autocast_computes_in_the_precision(precision: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == precision
