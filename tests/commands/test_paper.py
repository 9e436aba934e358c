"""`demo --paper` and its example: what each section says is so."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import fcnseg
from fcnseg.cli.app import app
from fcnseg.commands.demo import paper
from fcnseg.commands.demo.chapters import CHAPTERS
from fcnseg.commands.demo.lab import slide_window, unpadded, window_of
from fcnseg.commands.demo.paper import STEPS, PaperResult
from fcnseg.commands.demo.scenes import write_dataset
from fcnseg.errors import OptionError
from fcnseg.viz.network.autoencoder import Column, Link, row_of_maps

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "the_fcn_seen.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[PaperResult, str]:
    """The example on six images, and what it printed."""
    folder = tmp_path_factory.mktemp("paper")
    write_dataset(folder / "data", train=2, val=4)
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "SHORT_SIDE", 64)
        patch.setattr("builtins.print", lambda *words: printed.append(" ".join(map(str, words))))
        options = ["--data", str(folder / "data"), "--epochs", "1"]
        patch.setattr(sys, "argv", [str(EXAMPLE), str(folder / "out"), *options])
        result = runpy.run_path(str(EXAMPLE))["result"]
    return result, "\n".join(printed)


def test_every_section_has_its_image_and_stands_on_the_page(found) -> None:
    result, printed = found
    assert len(result.sections) == len(result.images) == len(CHAPTERS) == 10
    page = result.index.read_text(encoding="utf-8")
    for section, path in zip(result.sections, result.images, strict=True):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), section.image)
        assert section.title in page
        assert section.title in printed
    assert page.count("data:image/jpeg") == 10
    assert "http" not in page.replace("http-equiv", "")


def test_the_numbers_are_those_of_the_networks(found) -> None:
    numbers = {}
    for section in found[0].sections:
        numbers |= section.numbers
    assert numbers["windows"] == 4 * 5  # of 32 pixels each, of four images of 64 x 80
    assert 0 <= numbers["largest difference of a score"] < 1e-4 * numbers["largest score"]
    assert numbers["largest difference of the sum from the logits"] < 1e-4
    assert numbers["largest deviation of the sum from 1"] < 1e-5
    assert numbers["skips"] == 4
    assert {f"mIoU, {name}" for name in ("fcn32s", "fcn16s", "fcn8s")} <= set(numbers)


def test_each_network_starts_from_the_one_before(found) -> None:
    runs = found[0].index.parent / "runs"
    for name, step in STEPS.items():
        written = (runs / name / "config.toml").read_text(encoding="utf-8")
        start = f'finetune = "{(runs / str(step.start)).as_posix()}"'
        assert (start in written) == (step.start is not None)


def test_on_the_command_line(found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnseg.commands.demo.paper.reproduce_paper", lambda *_: found[0])
    arguments = ["demo", "--paper", "-o", str(tmp_path / "new")]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.stderr
    assert "10. Any input size" in shown.stdout
    plain = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [Path(one["image"]).is_file() for one in plain["sections"]] == [True] * 10


@pytest.mark.parametrize("options", [{"data": Path("photos")}, {"backbone": "vgg16"}])
def test_options_of_the_paper_alone(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is for --paper"):
        fcnseg.demo(fcnseg.DemoConfig.make({"out": tmp_path / "new", **options}))


def test_an_unknown_backbone_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No backbone 'vgg61'"):
        fcnseg.demo(fcnseg.DemoConfig(paper=True, out=tmp_path / "new", backbone="vgg61"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("backbone", "decoder"), [("tiny", "fcn2s"), ("alexnet", "fcn4s")])
def test_the_symmetric_network_uses_every_stage_there_is(backbone: str, decoder: str) -> None:
    steps = paper.steps_of(backbone)
    assert steps["symmetric"].options["decoder"] == decoder
    assert ("classifier" in steps) == (backbone != "tiny")


@pytest.mark.parametrize("pooled", [False, True])
@torch.no_grad()
def test_each_cell_is_the_classification_of_its_window(pooled: bool) -> None:
    """The windows cut out one by one, and the layer written as a sum."""
    torch.manual_seed(0)
    network = fcnseg.create_model("fcn32s", backbone="tiny", num_classes=3, fuse="score").eval()
    if pooled:  # which makes the size of the window odd
        network.backbone.stages["2"].insert(0, torch.nn.MaxPool2d(2, 1))  # type: ignore[operator]
    before = str(network)
    scores = network.decoder.entry[-1]  # type: ignore[index]
    torch.nn.init.normal_(scores.bias)
    encoder = unpadded(network.backbone.stages)
    window = window_of(encoder)
    assert encoder(torch.zeros(1, 3, window, window)).shape[-2:] == (1, 1)
    image = torch.rand(1, 3, 70, 100)
    found = slide_window(network, image)
    assert found.slid.shape == found.dense.shape == (3, 3, 4)
    margin = (window - 32) // 2
    framed = torch.zeros(3, 96 + window - 32, 128 + window - 32)
    framed[:, margin : margin + 70, margin : margin + 100] = image[0]
    for row, column in ((0, 0), (1, 2), (2, 3)):
        part = framed[None, :, 32 * row :, 32 * column :][..., :window, :window]
        expected = scores.weight.flatten(1) @ encoder(part).flatten() + scores.bias
        torch.testing.assert_close(found.dense[:, row, column], expected)
        torch.testing.assert_close(found.slid[:, row, column], expected)
    assert found.difference < 1e-4
    assert str(network) == before  # its padding, too


@pytest.mark.parametrize(
    ("backbone", "fuse", "found"),
    [
        ("tiny", "feature", "this network has fuse=feature"),
        ("efficientnet_lite0", "score", "the backbone efficientnet_lite0 has SameConv2d, ReLU6"),
    ],
)
def test_other_networks_are_not_slid(backbone: str, fuse: str, found: str) -> None:
    network = fcnseg.create_model("fcn32s", backbone=backbone, num_classes=3, fuse=fuse)
    with pytest.raises(OptionError, match=found) as caught:
        slide_window(network, torch.rand(1, 3, 32, 32))
    assert "tiny, vgg11" in caught.value.hint


def test_links_and_lines_have_room() -> None:
    columns = [
        Column(np.full((40, 50, 3), 200, np.uint8), (f"stop {i}", "3 x 40")) for i in range(4)
    ]
    plain, linked = row_of_maps(columns), row_of_maps(columns, [Link(0, 3, "+"), Link(1, 2, "+")])
    assert linked.shape[0] > plain.shape[0]
    assert linked.shape[1] == plain.shape[1]
    for image in (plain, linked):
        assert (image[:, -4:] == image[0, 0]).all()
        assert (image[-4:] == image[0, 0]).all()
