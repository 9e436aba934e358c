import errno
import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from fcnseg.commands.export import export
from fcnseg.config import ExportConfig
from fcnseg.engines.onnx import import_onnxruntime
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import (
    CheckpointError,
    FcnsegError,
    MediaError,
    MissingExtra,
    OptionError,
    cannot_write,
)
from fcnseg.exporting import graph as graphs
from fcnseg.exporting import onnx_file as onnx_files
from fcnseg.exporting import with_description
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import load
from fcnseg.models.checkpoint import Checkpoint
from tests.conftest import skip_without


def test_the_result_tells_what_was_proven(exported_model: Path):
    result = json.loads(exported_model.with_name("export.json").read_text())
    assert result["format"] == "onnx"
    assert result["path"] == str(exported_model)
    assert result["size_bytes"] == exported_model.stat().st_size
    parity = result["parity"]
    assert parity["label_agreement"] >= 0.999
    assert parity["max_abs_diff"] < 1e-3
    assert [33, 47] in parity["sizes"]
    assert parity["batches"] == [1, 3]
    assert json.loads(exported_model.with_suffix(".parity.json").read_text()) == parity
    assert parity["pixels"] > 300_000


def test_the_onnx_file_is_one_documented_graph(exported_model: Path, random_model: Path):
    model = onnx.load(exported_model)
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits, scores) = model.graph.input, model.graph.output
    assert (image.name, logits.name, scores.name) == ("images", "logits", "scores")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    dims = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert dims == ["batch", "height", "width", 3]
    header = {entry.key: entry.value for entry in model.metadata_props}["fcnseg"]
    assert Checkpoint.from_header(header).classes == Checkpoint.load(random_model).classes
    result = json.loads(exported_model.with_name("export.json").read_text())
    assert result["opset"] == next(o.version for o in model.opset_import if o.domain == "")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("format", "suffix"), [("torchscript", ".torchscript"), ("torch-export", ".pt2")]
)
def test_formats_of_torch(random_model: Path, tmp_path: Path, format, suffix):
    result = export(ExportConfig(model=str(random_model), format=format, out=tmp_path))
    assert result.path == tmp_path / f"random{suffix}"
    assert result.opset is None
    assert set(tmp_path.iterdir()) == {result.path, result.report}
    files = {"fcnseg": ""}
    if format == "torchscript":
        module = torch.jit.load(str(result.path), _extra_files=files)
    else:
        module = torch.export.load(result.path, extra_files=files).module()
    checkpoint = Checkpoint.load(random_model)
    text = files["fcnseg"]
    header = text.decode() if isinstance(text, bytes) else text
    assert Checkpoint.from_header(header).classes == checkpoint.classes
    reference = TorchEngine(checkpoint.build(), checkpoint.preprocess)
    for shape in [(1, 64, 96), (2, 45, 50)]:  # sizes that divide by the stride, and not
        images = sample_images(shape, seed=0)
        with torch.no_grad():
            logits = module(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(logits, reference.logits(images), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("format", ["openvino", "torchscript", "torch-export"])
def test_a_share_for_each_pixel_is_shipped(subpixel_model: Path, tmp_path: Path, format):
    """As ONNX, and of any size: exporting/test_web.py."""
    if format == "openvino":
        skip_without(format)
    options = {"model": str(subpixel_model), "format": format, "out": tmp_path, "size": (45, 50)}
    result = export(ExportConfig.make(options))
    assert result.parity.label_agreement >= 0.999
    assert result.parity.max_abs_diff < 1e-3


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_images_with_channels_first(seen_at_80: Path, tmp_path: Path):
    """As TorchScript; as ONNX, test_a_file_of_one_size."""
    options = {"model": str(seen_at_80), "format": "torchscript", "out": tmp_path}
    result = export(ExportConfig(**options, layout="nchw", include=("argmax",)))
    images = sample_images((1, 48, 64), seed=2)
    turned = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    expected = load(seen_at_80, engine="torch", precision="f32")(images[0]).labels
    labels = torch.jit.load(str(result.path))(torch.from_numpy(turned))[-1].numpy()
    assert (labels[0] == expected).mean() > 0.999


def test_a_page_and_a_bundle_take_images_as_they_lie(random_model: Path, tmp_path: Path):
    for options in ({"format": "web"}, {"bundle": True}):
        with pytest.raises(OptionError, match="--layout nchw can't be combined"):
            export(ExportConfig(model=str(random_model), out=tmp_path, layout="nchw", **options))


def test_a_name_that_hides_what_it_is(random_model: Path, tmp_path: Path):
    with pytest.raises(OptionError, match=r"\*\.onnx") as error:
        export(ExportConfig(model=str(random_model), out=tmp_path / "model.bin"))
    assert "model.onnx" in error.value.hint


def test_an_exported_file_is_not_exported_again(exported_model: Path):
    with pytest.raises(CheckpointError, match="already"):
        export(ExportConfig(model=str(exported_model)))


def test_without_the_extra_it_is_named(random_model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match="'onnx'"):
        export(ExportConfig(model=str(random_model), out=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def complete_file(web_page: Path) -> Path:
    """A page's file: it resizes, and gives labels and each skip's contribution."""
    return web_page / "model.onnx"


@pytest.mark.parametrize("size", [(60, 90), (120, 80), (160, 240), (97, 131)])
def test_a_file_alone_gives_the_labels_of_infer(complete_file: Path, seen_at_80: Path, size):
    """Nothing but ONNX Runtime: the file resizes there and back and takes the best class."""
    images = sample_images((2, *size), seed=5)
    session = import_onnxruntime().InferenceSession(str(complete_file))
    names = [output.name for output in session.get_outputs()]
    assert names == ["logits", "skip_32", "skip_16", "skip_8", "skip_4", "labels"]
    logits, *skips, labels = session.run(None, {"images": images})
    assert (labels.dtype, labels.shape) == (np.uint8, (2, *size))
    np.testing.assert_allclose(sum(skips), logits, atol=1e-3)
    for infer in (load(seen_at_80, engine="torch", precision="f32"), load(complete_file)):
        found = np.stack([one.labels for one in infer.predict(list(images))])
        assert (found == labels).mean() >= 0.999
    np.testing.assert_allclose(load(complete_file).logits(images[0]), logits[0], atol=1e-3)


def test_what_a_file_that_resizes_can_not_do(complete_file: Path):
    with pytest.raises(OptionError, match="resizes images itself, to a short side of 80"):
        load(complete_file, short_side=64)
    assert load(complete_file, short_side=80).preprocess.short_side is None
    with pytest.raises(OptionError, match="Test-time augmentation"):
        load(complete_file, tta=True)


def test_a_file_of_one_size(random_model: Path, tmp_path: Path):
    """It takes that size, image by image, and says so of others; OpenCV gives the same labels.

    Channels come first in it.
    """
    config = {"model": str(random_model), "out": tmp_path / "one.onnx", "size": (48, 64)}
    more = {"include": ("argmax",), "short_side": 40, "layout": "nchw"}
    export(ExportConfig.make({**config, **more}))
    graph = onnx.load(tmp_path / "one.onnx").graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 48, 64]
    images = sample_images((3, 48, 64), seed=2)
    expected = load(random_model, engine="torch", precision="f32", short_side=40)
    wanted = [one.labels for one in expected.predict(list(images))]
    session = import_onnxruntime().InferenceSession(str(tmp_path / "one.onnx"))
    turned = np.ascontiguousarray(images[:1].transpose(0, 3, 1, 2))
    (labels,) = session.run(["labels"], {"images": turned})
    assert (labels[0] == wanted[0]).mean() > 0.999
    for engine in ("onnxruntime", "opencv"):
        model = load(tmp_path / "one.onnx", engine=engine)
        found = [one.labels for one in model.predict(list(images))]
        assert np.mean(np.stack(found) == np.stack(wanted)) >= 0.999
        with pytest.raises(OptionError, match=r"64 x 48 pixels only; found one of 50 x 40"):
            model(sample_images((1, 40, 50), seed=0)[0])


def test_half_precision_is_half_the_size(random_model: Path, exported_model: Path, tmp_path: Path):
    result = export(ExportConfig(model=str(random_model), out=tmp_path, precision="f16"))
    assert result.path == tmp_path / "random.f16.onnx"
    assert result.parity.label_agreement >= 0.995
    assert result.size_bytes < 0.7 * exported_model.stat().st_size
    assert load(result.path).engine.precision == "f16"
    assert load(result.path, precision="f16").engine.precision == "f16"
    with pytest.raises(OptionError, match="computes in f16; f32 was requested"):
        load(result.path, precision="f32")


def test_a_file_says_where_it_comes_from(complete_file: Path, seen_at_80: Path):
    model = load(complete_file)
    about = model.extra["export"]
    assert about["source_sha256"] == hashlib.sha256(seen_at_80.read_bytes()).hexdigest()
    assert (about["include"], about["resizes"], about["ignore"]) == (["argmax", "skips"], True, 255)
    assert model.classes == Checkpoint.load(seen_at_80).classes


class WrongMean(graphs.Graph):
    """An export with an error in it."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        mean = tuple(value + 0.05 for value in self.preprocess.mean)
        self.preprocess = replace(self.preprocess, mean=mean)


class WrongResize(graphs.Preprocessing):
    """An export that takes the nearest pixel."""

    def forward(self, images):
        size = self.preprocess.network_size((images.shape[1], images.shape[2]))
        maps = images.permute(0, 3, 1, 2).float()
        return F.interpolate(maps, size).permute(0, 2, 3, 1).to(torch.uint8)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("format", "part", "wrong"),
    [
        ("torchscript", "Graph", WrongMean),
        ("torchscript", "Preprocessing", WrongResize),
        ("onnx", "Preprocessing", WrongResize),  # which has a graph of its own there
    ],
)
def test_a_broken_export_is_refused(seen_at_80, tmp_path, monkeypatch, format, part, wrong):
    for module in (graphs, onnx_files):
        monkeypatch.setattr(module, part, wrong)
    config = {"model": str(seen_at_80), "out": tmp_path, "format": format, "size": (60, 90)}
    with pytest.raises(CheckpointError, match=r"labels agree on \d+\.\d+ ?% of pixels"):
        export(ExportConfig.make(config))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_parity_on_a_users_images(
    random_model: Path, drawn_folder: Path, exported_model: Path, tmp_path: Path
):
    """TorchScript is quick to write; every format goes through the same gate."""
    config = {"model": str(random_model), "format": "torchscript", "out": tmp_path}
    result = export(ExportConfig.make({**config, "data": drawn_folder, "include": ("argmax",)}))
    assert result.parity.images == 6
    assert len(result.parity.sizes) == 3
    assert result.parity.miou == result.parity.miou_before
    folder = next(drawn_folder.rglob("*.png")).parent
    result = export(ExportConfig.make({**config, "images": str(folder)}))
    assert result.parity.images == 12
    assert result.parity.miou is None
    with pytest.raises(FcnsegError):
        export(ExportConfig.make({**config, "images": str(tmp_path / "none")}))


def test_skips_need_a_sum_of_scores(subpixel_model: Path, tmp_path: Path):
    with pytest.raises(OptionError, match="sum with one term per skip"):
        export(ExportConfig(model=str(subpixel_model), out=tmp_path, include=("skips",)))
    assert list(tmp_path.iterdir()) == []


def test_labels_without_logits(random_model: Path, exported_model: Path, tmp_path: Path):
    """Other programs run all outputs of a file; fcnseg makes logits of the scores."""
    checkpoint = Checkpoint.load(random_model)
    options = graphs.GraphOptions(include=("argmax-only",))
    graph = onnx_files.complete(onnx.load(exported_model), checkpoint, options)
    path = tmp_path / "labels.onnx"
    onnx_files.save_onnx(graph, with_description(checkpoint, options), path)
    session = import_onnxruntime().InferenceSession(str(path))
    assert [output.name for output in session.get_outputs()] == ["scores", "labels"]
    assert not any("logits" in node.output for node in graph.graph.node)
    image = sample_images((1, 61, 90), seed=3)[0]
    expected, model = load(random_model, engine="torch", precision="f32"), load(path)
    found = session.run(["labels"], {"images": image[None]})[0][0]
    np.testing.assert_array_equal(model(image).labels, found)
    assert (found == expected(image).labels).mean() >= 0.999
    np.testing.assert_allclose(model.logits(image), expected.logits(image), atol=1e-4)
    with pytest.raises(OptionError, match="gives no logits"):
        load(path, engine="opencv")
    for more in ({"short_side": 40}, {"format": "torchscript"}):
        config = {"model": str(random_model), "out": tmp_path, "include": ("argmax-only",)}
        with pytest.raises(OptionError, match="saves nothing here"):
            export(ExportConfig.make({**config, **more}))


def tables_of_contract() -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, list[str]]]:
    """Inputs, outputs and metadata of docs/export.md: the first cell of a row -> the others."""
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    rows: list[dict[str, list[str]]] = []
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
        if cells[:1] in (["name"], ["key"]):
            rows.append({})
        elif line.startswith("| `") and rows:
            rows[-1][cells[0]] = cells[1:]
    inputs, outputs, metadata = rows
    return inputs, outputs, metadata


def test_the_contract_is_what_a_file_says(complete_file: Path, exported_model: Path):
    inputs, outputs, metadata = tables_of_contract()
    kinds = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}
    seen = set()
    for path in (complete_file, exported_model):
        model = onnx.load(path)
        for table, values in ((inputs, model.graph.input), (outputs, model.graph.output)):
            for value in values:
                name = re.sub(r"^skip_\d+$", "skip_S", value.name)
                dtype, shape = table[name][:2]
                tensor = value.type.tensor_type
                assert tensor.elem_type == kinds[dtype], name
                assert len(tensor.shape.dim) == shape.count(",") + 1, name
                seen.add(name)
        header = json.loads({one.key: one.value for one in model.metadata_props}["fcnseg"])
        for key, (kind, _) in metadata.items():
            found = header
            for part in key.split("."):
                found = found[part]
            assert ("null" if found is None else type(found).__name__) in kind.split(" or "), key
        assert set(header["extra"]["export"]) == {
            key.rpartition(".")[2] for key in metadata if key.startswith("extra.export.")
        }
    assert seen == {*inputs, *outputs}


def test_a_bundle_that_can_not_be_written_is_named(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(_: object, path: Path, *more: object, **options: object) -> None:
        raise cannot_write(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr("fcnseg.commands.export.convert", refuse)
    out = tmp_path / "m.zip"
    with pytest.raises(MediaError, match="No space left") as caught:
        export(ExportConfig.make({"model": str(random_model), "bundle": True, "out": out}))
    assert caught.value.message == f"Can't write {out}: No space left on device."
    assert not list(tmp_path.iterdir())


def test_a_bundle_carries_the_documented_contract():
    root = Path(__file__).parents[2]
    carried = (root / "fcnseg/exporting/bundled/contract.md").read_text(encoding="utf-8")
    documented = (root / "docs" / "export.md").read_text(encoding="utf-8")
    assert carried.removeprefix("# Contract") in documented
