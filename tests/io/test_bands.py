"""Images of other bands and depths: from the file to the network, and to every command."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import fcnseg
from fcnseg.config import (
    CheckConfig,
    CompareConfig,
    ExportConfig,
    InferConfig,
    ReviewConfig,
    TrainConfig,
    VizConfig,
)
from fcnseg.datasets.augment import Augment
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.errors import (
    CheckpointError,
    DatasetError,
    InputError,
    MediaError,
    MissingExtra,
    OptionError,
)
from fcnseg.io.bands import Bands, choose_bands, common_layout, parse_bands
from fcnseg.io.bands.files import decode_bands, layout_of, measure_bands, read_bands
from fcnseg.io.images import read_image, write_image
from fcnseg.io.sources import open_source
from fcnseg.io.sources.files import count_pages
from fcnseg.models.backbones import first_convolution, widened
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.spec import IMAGENET, ModelSpec, Preprocess
from tests.conftest import TINY, skip_without

tifffile = pytest.importorskip("tifffile")

Array = NDArray[Any]
FIVE = Bands(5, "uint16", low=(0.0,) * 5, high=(4095.0,) * 5)


def values(bands: int, dtype: str, *, side: int = 24, seed: int = 0) -> Array:
    """(side, side + 5, bands) of every value there is."""
    white = {"uint8": 255, "uint16": 65535, "float32": 1.0}[dtype]
    random = np.random.default_rng(seed).random((side, side + 5, bands))
    return (random * white).astype(dtype)


def tiff(array: Array, **tags: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack", **tags})
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("extra", [0, 1, 2], ids=["unspecified", "associated", "unassociated"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)], ids=["strips", "tiles"])
def test_a_fourth_band_is_read_as_it_is_stored(
    dtype: str, extra: int, planar: str, tile: tuple[int, int] | None
) -> None:
    """Each photometric and extra-sample tag; tifffile writes, and says what is stored."""
    array = values(4, dtype)
    for photometric, others in (("rgb", 0), ("minisblack", 2), ("miniswhite", 2)):
        data = tiff(
            array if planar == "contig" else np.moveaxis(array, -1, 0),
            photometric=photometric,
            planarconfig=planar,
            tile=tile,
            compression="zlib",
            extrasamples=[0] * others + [extra],
        )
        found = decode_bands(data, "a.tif")
        np.testing.assert_array_equal(found.pixels, array)
        assert found.alpha == (extra > 0)
        # Of noise most is neither full nor zero: no opacity, whatever the tag says.
        assert layout_of(data, "a.tif") == f"4 {dtype}" + (" values" if extra else "")


def test_inks_are_read_as_they_are_stored() -> None:
    array = values(4, "uint16")
    found = decode_bands(tiff(array, photometric="separated"), "a.tif")
    np.testing.assert_array_equal(found.pixels, array)
    assert not found.alpha


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_any_number_of_bands_reaches_the_network_with_its_stored_values(
    tmp_path: Path, count: int, dtype: str
) -> None:
    array = values(count, dtype)
    bands = Bands(count, dtype)
    files = {
        "a.tif": tiff(array, planarconfig="contig") if count > 1 else tiff(array[:, :, 0]),
        "last.npy": npy(array),
        "first.npy": npy(np.moveaxis(array, -1, 0)),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        found = bands.carry(bands.take(read_bands(tmp_path / name), name))
        np.testing.assert_array_equal(found, array)
        mean, std = array.mean((0, 1)), array.std((0, 1))
        inputs = Preprocess(tuple(map(float, mean)), tuple(map(float, std)), bands=bands)
        tensor = inputs.normalise(torch.from_numpy(found[None]))
        expected = (array.astype(np.float64) - mean) / std
        np.testing.assert_allclose(tensor[0].permute(1, 2, 0).numpy(), expected, atol=1e-4)


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [np.zeros((20, 20, 20)), np.zeros(4), np.zeros((2, 3, 4, 5)), np.array([["a", "b"]])],
    ids=["no bands", "a row", "four axes", "text"],
)
def test_an_array_that_is_no_image(array: Array) -> None:
    with pytest.raises(MediaError):
        decode_bands(npy(array), "a.npy")
    with pytest.raises(MediaError):
        decode_bands(npy(array)[:100], "a.npy")


def test_other_formats_have_the_bands_that_they_state(tmp_path: Path) -> None:
    deep = values(3, "uint16")
    import cv2  # the independent writer

    cv2.imwrite(str(tmp_path / "deep.png"), deep[:, :, ::-1])
    found = read_bands(tmp_path / "deep.png")
    np.testing.assert_array_equal(found.pixels, deep)
    assert found.names == ("red", "green", "blue")
    rgba = values(4, "uint8")
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    found = read_bands(tmp_path / "clear.png")
    np.testing.assert_array_equal(found.pixels, rgba)
    assert found.alpha
    np.testing.assert_array_equal(found.opaque, read_image(tmp_path / "clear.png"))


def test_no_data_is_no_value(tmp_path: Path) -> None:
    array = values(2, "float32")
    array[:4] = -9999
    nothing = [(42113, "s", 0, "-9999", True)]
    (tmp_path / "a.tif").write_bytes(tiff(array, planarconfig="contig", extratags=nothing))
    measured, mean, _ = measure_bands(Bands(2, "float32"), [tmp_path / "a.tif"])
    np.testing.assert_allclose(mean, array[4:].reshape(-1, 2).mean(0), rtol=1e-5)
    taken = measured.take(read_bands(tmp_path / "a.tif"), "a.tif")
    np.testing.assert_allclose(taken[:4].reshape(-1, 2)[0], measured.middle(), rtol=1e-6)


def test_names_of_bands_are_gdal_s() -> None:
    item = '<Item name="DESCRIPTION" sample="{}" role="description">{}</Item>'
    text = "".join(item.format(at, name) for at, name in enumerate(["NIR", "Red", "Green", "Blue"]))
    tags = [(42112, "s", 0, f"<GDALMetadata>{text}</GDALMetadata>", True)]
    found = decode_bands(tiff(values(4, "uint8"), planarconfig="contig", extratags=tags), "a.tif")
    assert found.names == ("nir", "red", "green", "blue")
    assert Bands(4, "uint8", names=found.names).shown == (2, 3, 4)


# --- what a set's images have in common


@pytest.mark.parametrize(
    ("layouts", "expected"),
    [
        (["3 uint8"], None),
        (["1 uint8", "3 uint8"], None),
        (["3 uint8", "3 uint16", "1 uint8"], None),
        (["4 uint8 opacity"], None),
        (["4 uint8"], (4, "uint8")),
        (["4 uint8 opacity", "4 uint8 values"], (4, "uint8")),
        (["1 uint16"], (1, "uint16")),
        (["5 float32"], (5, "float32")),
    ],
)
def test_which_sets_are_read_in_bands(layouts: list[str], expected: tuple[int, str] | None) -> None:
    bands = choose_bands(common_layout({text: Path(text) for text in layouts}), None, None)
    assert (bands and (bands.stored, bands.dtype)) == expected


@pytest.mark.parametrize(
    "layouts", [["4 uint8", "5 uint8"], ["5 uint8", "5 uint16"], ["3 uint8", "4 uint8"]]
)
def test_images_that_differ_in_bands_or_type_are_refused(layouts: list[str]) -> None:
    with pytest.raises(DatasetError, match="differ in their bands"):
        common_layout({text: Path(text) for text in layouts})


def test_the_option_of_bands() -> None:
    layout = common_layout({"4 uint8 opacity": Path("a.tif")})
    chosen = choose_bands(layout, "4,1", "4")
    assert chosen is not None
    assert (chosen.stored, chosen.chosen, chosen.shown) == (4, (4, 1), (4,))
    only_colors = choose_bands(layout, "3 2 1", None)
    assert only_colors is not None
    assert only_colors.stored == 3
    for text in ("0", "1,1", "a", "", "1,-2", "5"):
        with pytest.raises(OptionError, match="--bands"):
            choose_bands(layout, text, None)
    with pytest.raises(OptionError, match="1 or 3"):
        parse_bands("--show-bands", "1,2", (1, 3))
    with pytest.raises(OptionError, match="8-bit RGB"):
        choose_bands(layout, None, "1")


# --- the model


def test_first_kernels_are_widened() -> None:
    weight = torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(widened(weight, [0, 1, 2]), weight)
    assert torch.equal(widened(weight, [2, 1, 0]), weight.flip(1))
    wide = widened(weight, [None, 2, 1, 0, None])
    torch.testing.assert_close(wide[:, 3], weight[:, 0] * 3 / 5)
    torch.testing.assert_close(wide[:, 0], weight.mean(1) * 3 / 5)
    # Alike bands give what RGB gave.
    image = torch.rand(1, 1, 16, 16)
    for colors in ([None], [None] * 7, [0, 1, 2]):
        found = torch.conv2d(image.expand(-1, len(colors), -1, -1), widened(weight, colors))
        torch.testing.assert_close(found, torch.conv2d(image.expand(-1, 3, -1, -1), weight))


@pytest.mark.parametrize("backbone", ["tiny", "efficientnet_lite0", "resnet18"])
def test_a_network_of_five_bands(backbone: str) -> None:
    network = fcnseg.create_model(backbone=backbone, num_classes=3, in_channels=5)
    assert network.eval()(torch.rand(1, 5, 40, 50)).shape == (1, 3, 40, 50)


def test_pretrained_kernels_are_widened() -> None:
    rgb = fcnseg.create_model(weights="auto").backbone
    wide = fcnseg.create_model(weights="auto", in_channels=4).backbone
    expected = widened(first_convolution(rgb)[1].weight, [None] * 4)
    assert torch.equal(first_convolution(wide)[1].weight, expected)


def test_descriptions_without_bands_are_as_before() -> None:
    """Files that know nothing of bands load, and those of RGB are written as they always were."""
    spec = ModelSpec(backbone="tiny", num_classes=2)
    assert "in_channels" not in spec.as_dict()
    assert "bands" not in IMAGENET.as_dict()
    assert ModelSpec.from_dict(spec.as_dict()) == spec
    assert Preprocess.from_dict(IMAGENET.as_dict()) == IMAGENET
    five = Preprocess((1.0,) * 5, (2.0,) * 5, bands=FIVE)
    assert Preprocess.from_dict(five.as_dict()) == five
    with pytest.raises(CheckpointError, match="3 bands"):
        Checkpoint(spec, five, fcnseg.classes.ClassMap.numbered(2), {})


@pytest.mark.parametrize("broken", [{}, {"stored": 0}, {"stored": 2, "chosen": [3]}, {"low": [1]}])
def test_a_broken_description_of_bands(broken: dict[str, Any]) -> None:
    data = {**FIVE.as_dict(), **broken} if broken else {}
    with pytest.raises(InputError):
        Bands.from_dict(data)


# --- augmentation


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_augmentation_keeps_bands_and_their_ratios(count: int, dtype: str) -> None:
    """Every band goes through what one band goes through; none takes anything of another."""
    one = values(1, dtype, side=60)
    labels = np.zeros(one.shape[:2], np.uint8)
    augment = Augment((32, 48), scale=(0.4, 2.0), rotate=20.0, color=0.3)
    for seed in range(6):
        found, _ = augment(
            np.repeat(one, count, axis=2), labels, np.random.default_rng(seed),
            fill=(7.0,) * count, rgb=False,
        )  # fmt: skip
        assert found.dtype == dtype
        assert found.shape == (32, 48, count)
        assert (found == found[:, :, :1]).all()


# --- the full pipeline


def blocks(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Labels 0 and 1 in blocks of 16 pixels."""
    return np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16))).astype(np.uint8)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five bands of uint16, 12 bits of them used; only the fourth tells the classes apart."""
    folder, rng = tmp_path_factory.mktemp("five"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            labels = blocks(rng)
            image = rng.normal(1500, 200, (64, 64, 5))
            image[:, :, 3] += np.where(labels, 1500, 0)
            stored = image.clip(0, 4095).astype(np.uint16)
            (folder / split / "images" / f"{index}.tif").write_bytes(
                tiff(stored, planarconfig="contig")
            )
            Image.fromarray(labels).save(folder / split / "masks" / f"{index}.png")
    return folder


def options(**more: Any) -> dict[str, Any]:
    return {
        **TINY, "epochs": 20, "crop": (64, 64), "batch": 4, "lr": 0.02, "scale": (1.0, 1.0), **more
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(five: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("bands") / "run"
    assert fcnseg.train(five, out=run, **options()).miou > 0.95
    return run


def test_only_the_fourth_band_can_be_learned_from(
    five: Path, trained: Path, tmp_path: Path
) -> None:
    rgb = fcnseg.train(five, bands="1,2,3", out=tmp_path / "rgb", **options(epochs=8))
    assert rgb.miou < 0.6
    header = Checkpoint.load(trained / "best.safetensors")
    bands = header.preprocess.bands
    assert bands is not None
    assert (bands.stored, bands.dtype, header.spec.in_channels) == (5, "uint16", 5)
    assert max(bands.high) < 4096  # the set's own range, of 12 bits in 16


def test_bands_are_chosen_and_kept(five: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = fcnseg.train(five, bands="4", out=run, show_bands="4", **options(epochs=6))
    assert result.miou > 0.9
    model = fcnseg.load(run)
    assert model.preprocess.bands is not None
    assert (model.preprocess.bands.chosen, model.preprocess.bands.shown) == ((4,), (4,))
    report = fcnseg.evaluate(model, five, split="val")
    assert report.miou == pytest.approx(result.miou, abs=0.02)
    resumed = fcnseg.train(out=run, resume=True, epochs=7)
    assert resumed.epochs == 7


@pytest.fixture(scope="module")
def exported(five: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fcnseg.commands.export import export

    pytest.importorskip("onnxscript")
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    images = str(five / "val" / "images")
    result = export(ExportConfig(model=str(trained), out=file, size=(64, 64), images=images))
    assert result.parity is not None
    assert result.parity.holds
    return file


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "opencv"])
def test_the_exported_file_takes_the_bands(
    five: Path, trained: Path, exported: Path, engine: str
) -> None:
    skip_without(engine)
    image = five / "val" / "images" / "0.tif"
    expected = fcnseg.load(trained, engine="torch", precision="f32")(image).labels
    np.testing.assert_array_equal(fcnseg.load(exported, engine=engine)(image).labels, expected)


def test_commands_work_on_bands(five: Path, trained: Path, tmp_path: Path) -> None:
    from fcnseg.commands.analysis.compare import compare
    from fcnseg.commands.analysis.review import review
    from fcnseg.commands.check import check
    from fcnseg.commands.infer import infer
    from fcnseg.commands.viz import view

    images = five / "val" / "images"
    seen: list[str] = []
    result = infer(
        InferConfig(source=(str(images),), model=str(trained), out=tmp_path / "out"),
        lambda event: seen.append(getattr(event, "text", "")),
    )
    assert result.frames_out == 3
    assert fcnseg.evaluate(trained, five, split="val").miou > 0.95
    overview = tmp_path / "viz" / "0" / "overview.png"
    config = VizConfig(source=(str(images / "0.tif"),), model=str(trained), out=tmp_path / "viz")
    view(config)
    first = read_image(overview)
    view(replace(config, show_bands="4"))
    assert (read_image(overview) != first).any()
    shown = replace(config, show_what=("errors",), labels=five, out=tmp_path / "errors")
    assert view(shown).failed == ()
    models = tuple(str(trained / f"{name}.safetensors") for name in ("best", "last"))
    page = tmp_path / "compared.html" if find_spec("matplotlib") else None
    assert compare(CompareConfig(data=five, model=models, split="val", html=page)).failed == ()
    one = {"model": str(trained), "device": "cpu"}
    review(ReviewConfig(data=five, split="val", out=tmp_path / "review", **one))
    ranked = review(ReviewConfig(data=images, unlabeled=True, out=tmp_path / "ranked", **one))
    assert ranked.to_label
    checked = check(CheckConfig(data=five, contact=tmp_path / "contact.png"))
    assert checked.as_dict()["bands"] == {"count": 5, "dtype": "uint16", "as_rgb": False}
    assert not checked.failed


def test_a_model_is_called_on_arrays_of_bands(five: Path, trained: Path) -> None:
    model = fcnseg.load(trained, engine="torch", precision="f32")
    path = five / "val" / "images" / "0.tif"
    array = read_bands(path).pixels
    expected = model(path).labels
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for image in (array, tensor, path.read_bytes(), str(path)):
        np.testing.assert_array_equal(model(image).labels, expected)
    assert [p.labels.shape for p in model([array, array[:40]])] == [(64, 64), (40, 64)]
    assert model(array).overlay().shape == (64, 64, 3)
    assert SegmentationDataset(five, "val", preprocess=model.preprocess)[0].image.shape[2] == 5


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8, 3), np.uint16), "has 3 bands; the model takes 5"),
        (np.zeros((8, 8, 6), np.uint16), "has 6 bands; the model takes 5"),
        (np.zeros((8, 8, 5), np.uint8), "of uint8; the model was trained on uint16"),
        (np.zeros((8, 8), np.uint16), "has 1 band"),
        (np.zeros((5, 8, 8, 8, 8), np.uint16), "shape"),
    ],
)
def test_what_a_model_of_bands_does_not_take(trained: Path, image: Array, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fcnseg.load(trained)(image)
    with pytest.raises(OptionError, match="bgr"):
        fcnseg.load(trained)(np.zeros((8, 8, 5), np.uint16), bgr=True)


def test_a_folder_with_an_image_of_other_bands_is_done_but_for_it(
    five: Path, trained: Path, tmp_path: Path
) -> None:
    from fcnseg.commands.infer import infer

    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.tif").write_bytes((five / "val" / "images" / "0.tif").read_bytes())
    write_image(folder / "b.png", np.zeros((20, 20, 3), np.uint8))
    np.save(folder / "c.npy", np.zeros((5, 30, 40), np.uint16))
    result = infer(
        InferConfig(
            source=(str(folder), str(folder / "c.npy")), model=str(trained), out=tmp_path / "out"
        )
    )
    assert result.frames_out == 2
    [(name, why)] = result.failed
    assert name.endswith("b.png")
    assert "3 bands" in why


def test_a_set_of_several_kinds_of_images_is_refused(five: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for index, count in enumerate((4, 5, 5)):
        data = tiff(values(count, "uint16"), planarconfig="contig")
        (tmp_path / "images" / f"{index}.tif").write_bytes(data)
        labels = np.tile(np.arange(29, dtype=np.uint8) % 2, (24, 1))
        Image.fromarray(labels).save(tmp_path / "masks" / f"{index}.png")
    with pytest.raises(DatasetError, match="differ in their bands"):
        fcnseg.train(tmp_path, out=tmp_path / "run", **options())


def test_a_set_of_eight_bit_rgb_has_no_bands(tiny_run: Path) -> None:
    header = Checkpoint.load(tiny_run / "best.safetensors")
    assert header.preprocess.bands is None
    assert header.preprocess == IMAGENET


def test_training_starts_from_a_network_of_rgb(five: Path, tiny_run: Path, tmp_path: Path) -> None:
    result = fcnseg.train(
        five, finetune=str(tiny_run), out=tmp_path / "run", epochs=1, workers=0, device="cpu",
        crop=(64, 64), batch=4,
    )  # fmt: skip
    assert Checkpoint.load(result.best).spec.in_channels == 5
    config = TrainConfig(data=five)
    assert config.bands is None


# --- pages, and the photos of phones


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A TIFF of three pages of one grey each, 10, 20 and 30, and a GIF of two."""
    folder = tmp_path / "pages"
    folder.mkdir()
    first, *others = [Image.fromarray(np.full((40, 48), 10 * n, np.uint8)) for n in (1, 2, 3)]
    first.save(folder / "a.tif", save_all=True, append_images=others)
    first.save(folder / "b.gif", save_all=True, append_images=others[:1])
    return folder


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (None, {"a": 10, "b": 10}),
        ("2", {"a": 20, "b": 20}),
        ("all", {"a_page1": 10, "a_page2": 20, "a_page3": 30, "b_page1": 10, "b_page2": 20}),
    ],
)
def test_pages_are_chosen(pages: Path, page: str | None, expected: dict[str, int]) -> None:
    said: list[Any] = []
    with open_source(pages, page=page, callback=said.append) as source:
        frames = list(source)
    assert {frame.name: int(frame.image.max()) for frame in frames} == expected
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert len(said) == (2 if page is None else 0)


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_limit_counts_pages(pages: Path, limit: int) -> None:
    with open_source(pages, page="all", limit=limit) as source:
        assert len(list(source)) == limit
    with open_source(pages / "b.gif", page="all") as source:
        assert source.kind == "folder"  # several images: one file can't hold what comes of them


def test_a_page_that_is_not_there(pages: Path) -> None:
    with open_source(pages, page="3") as source:
        assert [frame.name for frame in source] == ["a"]
        [(name, why)] = source.failures
    assert name.endswith("b.gif")
    assert "has 2 pages" in why
    with (
        open_source(pages / "b.gif", page="9") as source,
        pytest.raises(MediaError, match="page 9"),
    ):
        list(source)
    for wrong in ("0", "-1", "x"):
        with pytest.raises(OptionError, match="--page"):
            open_source(pages, page=wrong)


def test_pages_of_many_bands(tmp_path: Path) -> None:
    array = values(5, "uint16")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for part in (array, array + 1):
            file.write(part, photometric="minisblack", planarconfig="contig")
    with open_source(tmp_path / "a.tif", page="2") as source:
        source.bands = Bands(5, "uint16")
        [frame] = source
    np.testing.assert_array_equal(frame.pixels, array + 1)


def test_heic_photos_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra images is not installed")
    flat = np.full((64, 80, 3), (200, 60, 40), np.uint8)
    pillow_heif.from_pillow(Image.fromarray(flat)).save(tmp_path / "a.heic", quality=95)
    assert np.abs(read_image(tmp_path / "a.heic").astype(int) - flat).max() <= 3
    with open_source(tmp_path / "a.heic") as source:
        assert [frame.image.shape for frame in source] == [(64, 80, 3)]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingExtra, match="HEIC"):
        read_image(tmp_path / "a.heic")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_are_counted_without_smaller_versions(big: bool, order: Any) -> None:
    file = io.BytesIO()
    page = np.zeros((20, 20, 5), np.uint16)
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=order) as out:
        for kind in (0, 1, 2):  # a page, a smaller version, a page of many
            out.write(page, photometric="minisblack", planarconfig="contig", subfiletype=kind)
    data = file.getvalue()
    assert count_pages(data) == 2
    assert count_pages(data[:30]) == 1


# --- places on the map


@pytest.fixture
def placed(tmp_path: Path) -> Path:
    """A GeoTIFF of pixels of 10 m, turned a little, in UTM zone 33 north."""
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    path = tmp_path / "place.tif"
    transform = rasterio.Affine(10, 1, 500000, 1, -10, 5200000)
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8",
        crs="EPSG:32633", transform=transform,
    ) as file:  # fmt: skip
        file.write(np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8))
    return path


def test_outputs_lie_where_their_image_lies(placed: Path, tiny_run: Path, tmp_path: Path) -> None:
    import rasterio

    from fcnseg.commands.infer import infer

    out = tmp_path / "out"
    save = ("labels", "overlay", "geojson")
    infer(InferConfig(source=(str(placed),), model=str(tiny_run), out=out, save=save))
    with rasterio.open(placed) as image:
        for kind in ("labels", "overlay"):
            with rasterio.open(out / kind / "place.png") as found:
                assert found.crs.to_epsg() == 32633
                assert found.transform == image.transform
        corners = [image.transform @ corner for corner in ((0, 0), (64, 0), (64, 64), (0, 64))]
    polygons = json.loads((out / "geojson" / "place.geojson").read_bytes())
    assert polygons["crs"]["properties"]["name"].endswith("EPSG::32633")
    points = np.concatenate(
        [ring for one in polygons["features"] for ring in one["geometry"]["coordinates"]]
    )
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    assert ((points >= low) & (points <= high)).all()
    np.testing.assert_allclose([points.min(0), points.max(0)], [low, high])


def test_without_rasterio_it_is_said(
    placed: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcnseg.commands.infer import infer
    from fcnseg.io.bands import georeference

    monkeypatch.setattr(georeference, "has_rasterio", lambda: False)
    said: list[str] = []
    config = InferConfig(source=(str(placed),), model=str(tiny_run), out=tmp_path / "out")
    infer(config, lambda event: said.append(getattr(event, "text", "")))
    assert any("fcnseg[geo]" in text for text in said)
    assert not list((tmp_path / "out").rglob("*.xml"))
    write_image(tmp_path / "plain.tif", np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(Path, "read_bytes", None)  # of a file of gigabytes its tags are enough
    assert georeference.not_copied(tmp_path / "plain.tif") == ""
