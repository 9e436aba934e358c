"""--show-what: each item says and draws what its numbers are, checked against references."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fcnseg.classes import ClassMap
from fcnseg.commands.viz import view
from fcnseg.config import VizConfig
from fcnseg.errors import Interrupted, OptionError
from fcnseg.inference.loading import load
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.draw import overlay
from fcnseg.io.images import read_image, write_image
from fcnseg.io.sources.base import Frame
from fcnseg.metrics.regions import COLORS, KINDS, RIGHT, kinds_of_errors
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.progress import Progress
from fcnseg.viz import IGNORED, LabelledFrame, Panel, View, cell_map, nearest
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.layout import Section
from fcnseg.viz.show import NEED_LABELS, SHOWN, USED_BY


@pytest.fixture(scope="module")
def segmenter(random_model: Path) -> Segmenter:
    return load(random_model, device="cpu", engine="torch", precision="f32")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture(scope="module")
def shown(segmenter: Segmenter, image: np.ndarray) -> Callable[..., tuple[View, Section]]:
    """An item of the image, with labels that are right but for two rows and an ignored corner."""
    labels = segmenter.predict([image])[0].labels.copy()
    labels[10:12] = (labels[10:12] + 1) % 4
    labels[:5, :5] = 255

    def show(name: str, **options: object) -> tuple[View, Section]:
        config = VizConfig.make({"source": ["a.png"], **options})
        frame = LabelledFrame(image, labels=labels)
        beside = [("other", segmenter)]
        seen = View(HeatmapFigures.of(segmenter, config), frame, beside=beside)
        return seen, SHOWN[name](seen)

    return show


def titles(section: Section) -> list[str]:
    return [panel.title for panel in section.panels]


def test_every_item_draws_tiles_of_the_frames_shape(shown):
    for name in SHOWN:
        _, section = shown(name)
        assert section.panels, name
        assert all(panel.title for panel in section.panels), name


def seen(section: Section) -> list[object]:
    return [
        (panel.title, panel.note, panel.color, panel.image.tobytes()) for panel in section.panels
    ]


@pytest.mark.parametrize(
    ("option", "values"), [("alpha", [0.2]), ("classes", [("disk",), ("box",), ("star",)])]
)
def test_items_follow_the_options_that_are_not_refused(shown, option, values):
    for name in SHOWN.keys() - {"kernels"}:  # which tells of a class where upsampling is learned
        before = seen(shown(name)[1])
        changed = any(seen(shown(name, **{option: value})[1]) != before for value in values)
        assert changed == (name in USED_BY[option]), name


def test_errors_have_the_colours_of_their_kinds(shown):
    seen, section = shown("errors")
    [panel] = section.panels
    kinds = kinds_of_errors(seen.truth, seen.predicted.labels, 2)
    assert (kinds != RIGHT).any()
    for index in range(len(KINDS)):
        np.testing.assert_array_equal(
            (panel.image == COLORS[index]).all(axis=2), kinds == index, KINDS[index]
        )
    named = dict(section.keys["errors"])
    assert named["no label"] == IGNORED
    wrong, counted = (kinds != RIGHT).sum(), (seen.truth != 255).sum()
    assert f"{100 * wrong / counted:.1f} %" in panel.note
    parts = [float(name.split()[-2]) for name in named if name != "no label"]
    assert sum(parts) == pytest.approx(100 * wrong / counted, abs=0.03)


def test_the_runner_up_is_the_second_most_probable(shown):
    seen, section = shown("runner-up", alpha=1.0)
    order = np.argsort(seen.probabilities, axis=0)
    second = order[-2]
    names = {seen.name(index) for index in np.unique(second)}
    assert {name for name, _ in section.keys["classes"]} == names
    colors = seen.segmenter.classes.colors
    [panel] = section.panels
    drawn = second != seen.segmenter.classes.background
    np.testing.assert_array_equal(panel.image[drawn], colors[second[drawn]])
    expected = np.sort(seen.probabilities, axis=0)[-2].mean()
    assert f"{expected:.2f}" in panel.note


def test_confidence_is_the_highest_probability(shown):
    seen, section = shown("confidence")
    assert f"mean {seen.probabilities.max(axis=0).mean():.2f}" == section.panels[0].note


def test_keys_name_every_class_in_sight(shown):
    for name in ("prediction", "labels"):
        seen, section = shown(name)
        there = seen.truth if name == "labels" else seen.predicted.labels
        expected = {seen.name(index) for index in np.unique(there) if index != 255}
        assert {found for found, _ in section.keys["classes"]} == expected


def test_scores_are_those_of_the_class_before_and_after(shown, segmenter, image):
    _, section = shown("scores", classes=("disk",))
    assert titles(section) == ["raw scores of disk", "upsampled scores of disk"]
    assert section.panels[0].note == "24 x 16 elements, stride 4"
    cells = segmenter.engine.scores(image[None])[0, 1]
    full = segmenter.logits(image)[1]
    offset = segmenter.engine.network.decoder.offsets[4]
    drawn = cell_map(cells, (64, 96), 4, offset)
    rows = np.arange(5, 60, 4)
    for row in rows:  # a reference: the nearest cell by its place in pixels
        cell = min(range(16), key=lambda i: abs(offset + 4 * i - row))
        assert drawn[row, 40] == cells[cell, min(range(24), key=lambda i: abs(offset + 4 * i - 40))]
    # where a cell lies on a pixel, bilinear upsampling has its value
    if offset == int(offset):
        np.testing.assert_allclose(
            full[int(offset) :: 4, int(offset) :: 4], cells, rtol=1e-4, atol=1e-4
        )


def test_nearest_enlarges_by_whole_pixels():
    values = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(
        values[nearest((4, 6), values.shape)], values.repeat(2, 0).repeat(2, 1)
    )


def test_items_about_a_class_take_the_largest_that_is_no_background(shown):
    seen, _ = shown("image")
    counts = np.bincount(seen.predicted.labels.ravel(), minlength=4)
    counts[0] = -1
    assert seen.subjects == (counts.argmax(),)
    assert shown("image", classes=("3", "disk"))[0].subjects == (3, 1)


def test_one_figure_or_separate_files(random_model, image, tmp_path):
    write_image(tmp_path / "a.png", image)
    options = {"model": str(random_model), "device": "cpu", "show_what": ("prediction,entropy",)}
    one = view(tmp_path / "a.png", out=tmp_path / "one", **options)
    assert [path.relative_to(tmp_path / "one").as_posix() for path in one.outputs] == [
        "a/figure.png"
    ]
    several = view(
        tmp_path / "a.png", out=tmp_path / "two", separate=True, theme="light", **options
    )
    assert [path.name for path in several.outputs] == ["prediction.png", "entropy.png"]
    dark, light = read_image(one.outputs[0]), read_image(several.outputs[0])
    assert dark[0, 0].max() < 40
    assert light[0, 0].min() == 255


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_figures_for_papers(random_model, image, tmp_path, kind):
    pytest.importorskip("matplotlib", reason="SVG and PDF are drawn by matplotlib")
    write_image(tmp_path / "a.png", image)
    options = {"model": str(random_model), "device": "cpu", "show_what": "prediction,entropy"}
    files = [
        view(tmp_path / "a.png", out=tmp_path / out, format=kind, **options).outputs[0]
        for out in ("x", "y")
    ]
    assert files[0].name == f"figure.{kind}"
    assert files[0].read_bytes()[:5] in (b"<?xml", b"%PDF-")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_dataset_as_source_has_its_labels(random_model, drawn_folder, tmp_path):
    result = view(
        drawn_folder, model=str(random_model), device="cpu", out=tmp_path, show_what="errors",
        limit=2,
    )  # fmt: skip
    assert result.frames == 2
    assert [path.name for path in result.outputs] == ["figure.png"] * 2


def label_file(folder: Path) -> tuple[Path, Path]:
    """An image of a dataset and its labels."""
    from fcnseg.datasets.describe import describe

    pair = describe(folder).pairs[0]
    return pair.image, pair.labels


def test_labels_from_a_dataset_a_folder_and_a_file(tiny_run, drawn_folder, tmp_path):
    image, labels = label_file(drawn_folder)
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / f"{image.stem}_mask.png").write_bytes(labels.read_bytes())
    drawn = []
    for number, given in enumerate((drawn_folder, loose, labels)):
        result = view(
            image, model=str(tiny_run), device="cpu", labels=given, show_what="labels,errors",
            out=tmp_path / str(number),
        )  # fmt: skip
        assert not result.failed
        drawn.append(result.outputs[0].read_bytes())
    assert drawn[0] == drawn[1] == drawn[2]


def test_images_without_labels_are_told_of_and_the_others_drawn(tiny_run, drawn_folder, tmp_path):
    image, labels = label_file(drawn_folder)
    (tmp_path / "in").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image.read_bytes())
    (tmp_path / "in" / "b.png").write_bytes(image.read_bytes())
    write_image(tmp_path / "in" / "c.png", read_image(image)[:20])
    for name in "ac":
        (tmp_path / "labels" / f"{name}.png").write_bytes(labels.read_bytes())
    result = view(
        tmp_path / "in", model=str(tiny_run), device="cpu", labels=tmp_path / "labels",
        show_what="errors", out=tmp_path / "out",
    )  # fmt: skip
    assert [path.parent.name for path in result.outputs] == ["a"]
    assert [name for name, _ in result.failed] == ["b", "c"]
    assert "no label file" in result.failed[0][1]
    assert "pixels" in result.failed[1][1]


def test_partial_sums_stand_above_networks_trained_separately(segmenter, image, tmp_path):
    """Row one: the network's own; row two: each other's prediction, its classes in our order."""
    order = [3, 1, 0, 2]
    torch.manual_seed(1)
    spec = ModelSpec(backbone="tiny", num_classes=4, decoder="fcn32s", fuse="score")
    network, names = build(spec), [segmenter.classes.names[index] for index in order]
    for module in network.decoder.modules():
        if isinstance(module, torch.nn.Conv2d):  # they start at or near zero
            torch.nn.init.normal_(module.weight, std=0.3)
    Checkpoint(spec, segmenter.preprocess, ClassMap.of(names), network.state_dict()).save(
        tmp_path / "coarse.safetensors"
    )
    coarse = load(tmp_path / "coarse.safetensors", device="cpu", engine="torch", precision="f32")
    figures = HeatmapFigures.of(segmenter, VizConfig(source=("a.png",)))
    found = SHOWN["partial-sums"](View(figures, Frame(image), beside=[("runs/coarse", coarse)]))
    sums = segmenter.logits_up_to_skips(image)
    assert found.columns == len(sums) == 4
    assert titles(found) == [
        *("stride 32 (like pool5) alone", "sum to stride 16 (like pool4)"),
        *("sum to stride 8 (like pool3)", "sum of all: FCN-4s"),
        "trained separately: coarse",
    ]
    labels = [np.uint8(scores.argmax(0)) for scores in sums.values()]
    labels.append(np.array(order, np.uint8)[coarse.predict([image])[0].labels])
    for panel, expected in zip(found.panels, labels, strict=True):
        drawn = overlay(image, expected, segmenter.classes, alpha=figures.alpha)
        np.testing.assert_array_equal(panel.image, drawn)
    assert {name for name, _ in found.keys["classes"]} == {
        segmenter.classes.names[index] for index in np.unique(np.stack(labels))
    }
    same = float((labels[4] == labels[3]).mean())
    assert f"{100 * same:.1f} %" in found.panels[4].note
    assert found.panels[3].note == ""


def test_slow_items_say_how_far_they_are_and_stop_when_asked(random_model, image, tmp_path):
    write_image(tmp_path / "a.png", image)
    options = {"model": str(random_model), "device": "cpu", "out": tmp_path / "out"}
    heard = []
    view(tmp_path / "a.png", heard.append, show_what="pyramid,integrated", **options)
    told = [event for event in heard if isinstance(event, Progress) and event.unit == "passes"]
    fields = [event for event in told if "fields" in event.task]
    assert [event.done for event in fields] == list(range(1, len(fields) + 1))
    assert fields[-1].total == len(fields) >= 4
    assert max(event.done for event in told if "integrated" in event.task) >= 32

    def interrupt(event):
        heard.append(event)
        if isinstance(event, Progress) and event.done >= 3:
            signal.raise_signal(signal.SIGINT)

    heard.clear()
    with pytest.raises(Interrupted, match="Stopped after 0 frames"):
        view(
            tmp_path / "a.png",
            interrupt,
            show_what="integrated",
            **{**options, "out": tmp_path / "no"},
        )
    assert max(event.done for event in heard if isinstance(event, Progress)) < 32
    assert not list((tmp_path / "no").rglob("*.png"))


def test_partial_sums_need_networks_of_the_same_classes(random_model, image, tmp_path):
    write_image(tmp_path / "a.png", image)
    options = {"model": str(random_model), "device": "cpu", "out": tmp_path / "out"}
    with pytest.raises(OptionError, match="networks to compare with") as caught:
        view(tmp_path / "a.png", show_what="partial-sums", **options)
    assert "--beside" in caught.value.hint
    assert not (tmp_path / "out").exists()
    with pytest.raises(OptionError, match="--beside nuclei has the classes background, nucleus;"):
        view(tmp_path / "a.png", show_what="partial-sums", beside=("nuclei",), **options)
    with pytest.raises(OptionError, match="--beside has no effect without one of partial-sums"):
        view(tmp_path / "a.png", show_what="image", beside=("nuclei",), **options)
    with pytest.raises(OptionError, match="is the model that it is to be compared with"):
        view(tmp_path / "a.png", show_what="partial-sums", beside=(str(random_model),), **options)


@pytest.mark.parametrize("item", [*sorted(NEED_LABELS), "errors,gained"])
def test_what_needs_labels_says_so(random_model, image, tmp_path, item):
    write_image(tmp_path / "in" / "a.png", image)
    for source in (tmp_path / "in", tmp_path / "in" / "a.png"):
        with pytest.raises(OptionError, match=f"--show-what {item} needs labels") as caught:
            view(source, model=str(random_model), device="cpu", show_what=f"image,{item}")
        assert "--labels" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"separate": True}, "--separate has no effect without --show-what"),
        ({"format": "svg"}, "--format has no effect without --show-what"),
        ({"at": (1, 2)}, "--at has no effect without --show-what"),
        ({"show_what": "image", "at": (1, 2)}, "--at has no effect without one of gradcam"),
        ({"show_what": "image,errors", "alpha": 0.2}, "--alpha has no effect without one of"),
        ({"show_what": "image", "classes": "disk"}, "--class has no effect without one of"),
        ({"show_what": "image", "tta": True}, "--tta has no effect without one of"),
        ({"show_what": "image", "rungs": True}, "--rungs has no effect with --show-what"),
        ({"show_what": "image", "split": "val"}, "--split has no effect without labels,"),
        ({"show_what": "image", "labels": "."}, "--labels has no effect without labels"),
        ({"show_what": "errors", "labels": "nowhere"}, "nowhere: no such file or folder"),
        ({"show_what": "image", "classify": True}, "--show-what has no effect with --classify"),
    ],
)
def test_options_that_would_do_nothing_are_refused(random_model, tmp_path, options, found):
    write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    values = {"device": "cpu", "out": tmp_path / "out", **options}
    if "classify" not in options:
        values["model"] = str(random_model)
    with pytest.raises(OptionError, match=found):
        view(tmp_path / "a.png", **values)


def test_an_unknown_item_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match=r"runner-up.*found") as caught:
        VizConfig.make({"source": ["a"], "show_what": "image, entrpy"})
    assert "entropy" in caught.value.hint
    assert VizConfig.make({"source": ["a"], "show_what": "image, entropy"}).show_what == (
        "image",
        "entropy",
    )


def test_exported_files_are_refused_where_the_network_is_looked_into(exported_model, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    for options in ({"show_what": "scores"}, {"rungs": True}):
        with pytest.raises(OptionError, match="an exported file does not show") as caught:
            view(tmp_path / "a.png", model=str(exported_model), device="cpu", **options)
        assert "--engine" not in caught.value.hint


def test_more_classes_than_a_page_holds(segmenter: Segmenter, image: np.ndarray) -> None:
    """Those in the image have a heatmap each, and all the others none."""
    from fcnseg.classes import ClassMap
    from fcnseg.engines.pytorch import TorchEngine
    from fcnseg.models.networks import build
    from fcnseg.models.spec import ModelSpec

    torch.manual_seed(0)
    network = build(ModelSpec(backbone="tiny", num_classes=60, width=8, decoder="fcn8s"))
    classes = ClassMap.of([f"class {k}" for k in range(60)])
    many = replace(segmenter, engine=TorchEngine(network, segmenter.preprocess), classes=classes)
    figures = HeatmapFigures.of(many, VizConfig.make({"source": ["a.png"]}))
    frame = LabelledFrame(image)
    present = np.unique(many.predict([image])[0].labels).tolist()
    section = SHOWN["heatmaps"](View(figures, frame))
    assert titles(section) == [f"class {k}" for k in present]
    pages = dict(figures.images(frame))
    assert len(pages) == 2 + len(present)
    video = figures.for_video(frame)
    assert video.heat == tuple(present)
    black = LabelledFrame(np.zeros_like(image))
    sizes = [{name: drawn.shape for name, drawn in video.videos(f)} for f in (frame, black)]
    assert sizes[0] == sizes[1]


def test_a_tile_of_a_figure_has_its_scale() -> None:
    from fcnseg.viz.drawing import THEMES, heat_scale, to_pixels
    from fcnseg.viz.layout import figure

    panel = Panel(np.zeros((100, 300, 3), np.uint8), "t", scale=heat_scale("0", "1", "a meaning"))
    plain = to_pixels(figure([Section([replace(panel, scale=None)])]), THEMES["dark"])
    drawn = to_pixels(figure([Section([panel])]), THEMES["dark"])
    assert drawn.shape[0] > plain.shape[0] + 15
    long = replace(panel, note="a note that is much longer than the panel is wide " * 4)
    assert to_pixels(figure([Section([long])]), THEMES["dark"]).shape[0] > drawn.shape[0] + 30


def test_an_image_with_text_keeps_its_size() -> None:
    from fcnseg.viz.drawing import THEMES, to_pixels
    from fcnseg.viz.layout import figure

    image = np.random.default_rng(0).integers(0, 256, (50, 1500, 3), np.uint8)
    section = Section([Panel(image, "t")], columns=1, as_drawn=True)
    drawn = to_pixels(figure([section]), THEMES["dark"])
    assert drawn.shape[1] == 1516
    assert any((drawn[y : y + 50, 8:1508] == image).all() for y in range(drawn.shape[0] - 50))
    assert to_pixels(figure([section], width=816), THEMES["dark"]).shape[1] == 816
