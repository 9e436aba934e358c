"""The table of backbones, create_model, and what starting a model imports."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fcnseg
from fcnseg import models
from fcnseg.config import TrainConfig
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.models.backbones import BackboneSpec
from fcnseg.models.networks import BACKBONES, build, build_empty, create_model
from fcnseg.models.spec import ModelSpec

ROOT = Path(__file__).parents[2]


@torch.no_grad()
def test_create_model() -> None:
    network = fcnseg.create_model("fcn8s", backbone="tiny", num_classes=3, fuse="score")
    assert isinstance(network, nn.Module)
    assert network.spec == ModelSpec(backbone="tiny", num_classes=3, decoder="fcn8s", fuse="score")
    assert network.eval()(torch.rand(2, 3, 50, 70)).shape == (2, 3, 50, 70)


def test_its_example_runs() -> None:
    found = doctest.DocTestFinder().find(create_model, globs={})
    failed = sum(doctest.DocTestRunner().run(test).failed for test in found)
    assert found[0].examples
    assert failed == 0


@pytest.mark.parametrize(
    ("decoder", "options", "says"),
    [
        ("fcn8s", {"backbone": "resnet19"}, "did you mean 'resnet18'"),
        ("fcn64s", {}, "fcn32s, fcn16s, fcn8s"),
        ("fcn8s", {"num_classes": 0}, "between 1 and 255"),
    ],
)
def test_what_create_model_refuses(decoder: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError) as caught:
        create_model(decoder, **{"backbone": "tiny", **options})  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_create_model_loads_weights(tmp_path: Path) -> None:
    first = create_model("fcn32s", backbone="tiny")
    file = tmp_path / "tiny.pth"
    torch.save(first.backbone.state_dict(), file)
    second = create_model("fcn8s", backbone="tiny", weights=file)
    pairs = zip(first.backbone.parameters(), second.backbone.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    with pytest.raises(CheckpointError, match="No weights file"):
        create_model("fcn8s", backbone="tiny", weights=tmp_path / "none.pth")


@torch.no_grad()
def test_a_new_backbone_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    row = [nn.Conv2d(3, 4, 4, 2, 1), *(nn.Conv2d(4, 4, 2, 2) for _ in range(4))]
    mine = BackboneSpec(
        model=lambda: nn.Sequential(*row), layers=lambda model: list(model), alignment="centre"
    )
    monkeypatch.setitem(BACKBONES, "mine", mine)
    network = create_model("fcn2s", backbone="mine", num_classes=2, fuse="concat", width=4)
    assert network.eval()(torch.rand(1, 3, 45, 33)).shape == (1, 2, 45, 33)


@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "pytorch_fcn8s"])
@pytest.mark.parametrize("upsample", ["fixed", "learned"])
def test_empty_has_the_shapes_and_no_memory(backbone: str, upsample: str) -> None:
    decoder = "published" if backbone == "pytorch_fcn8s" else "fcn8s"
    spec = ModelSpec(backbone=backbone, num_classes=2, decoder=decoder, upsample=upsample)
    before = torch.get_rng_state()
    empty = build_empty(spec).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.is_meta for name, value in empty.items())
    expected = build(spec).state_dict()
    assert {name: value.shape for name, value in empty.items()} == {
        name: value.shape for name, value in expected.items()
    }


def test_no_torchvision_and_no_compiler_at_start(tmp_path: Path) -> None:
    """Each costs more than a second: neither is needed for an EfficientNet-Lite."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    code = (
        "import sys\n"
        "from fcnseg.cli.app import app\n"
        "for command in ('infer', 'viz'):\n"
        "    try: app([command, 'image.png', '-m', 'nuclei', '-o', command])\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "    heavy = {'torchvision', 'torch._dynamo'} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for command in ("infer", "viz"):
        assert list((tmp_path / command).rglob("*.*"))


def test_an_exported_model_needs_neither(tmp_path: Path, exported_model: Path) -> None:
    pytest.importorskip("onnxruntime")
    code = (
        "import sys, fcnseg\n"
        "from fcnseg.inference.loading import load\n"
        "import numpy\n"
        "load(sys.argv[1]).predict([numpy.zeros((64, 80, 3), numpy.uint8)])\n"
        "heavy = {'torchvision', 'torch._dynamo'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported_model)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_room_is_documented() -> None:
    """models/__init__.py lists the files, so that nobody has to search."""
    assert models.__doc__ is not None
    folder = Path(models.__file__).parent
    names = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert [name for name in sorted(names) if name not in models.__doc__] == []
    assert len(list(folder.glob("*.py"))) <= 12
    lines = (folder / "fcn.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
    assert lines[0].startswith('"""START HERE')


def test_the_defaults_are_those_of_the_command_line() -> None:
    options = TrainConfig(data=Path("photos")).with_fallbacks()
    spec = ModelSpec(backbone="tiny", num_classes=2)
    parameters = inspect.signature(create_model).parameters
    for name in ("backbone", "decoder", "fuse", "width", "dropout", "skips", "output_stride"):
        assert parameters[name].default == getattr(options, name), name
        assert name == "backbone" or getattr(spec, name) == getattr(options, name), name
    assert parameters["upsample"].default == spec.upsample == "fixed"  # auto, without a dataset
