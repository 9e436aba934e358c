"""Stored values that are easily taken for something else: far, smoothed, numbered, two scales."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fcnseg.datasets import Description, Encoding, Pair
from fcnseg.datasets.check import examine
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.datasets.encoding import areas, objects
from fcnseg.datasets.encoding.values import count_values, decode_values, total
from fcnseg.io.labels import RawLabels
from tests.datasets.test_pairing import put, scenes


def read(description: Description) -> dict[str, np.ndarray]:
    """The labels of each image by its stem, as they are learnt."""
    dataset = SegmentationDataset(description, "all", cache=False)
    return {
        pair.image.stem: dataset[number].labels for number, pair in enumerate(description.pairs)
    }


def write(root: Path, stored: list[np.ndarray]) -> Description:
    for (number, picture, _), values in zip(scenes(3), stored, strict=True):
        put(root / "images" / f"{number}.png", picture)
        put(root / "masks" / f"{number}.png", values)
    return describe(root)


@pytest.mark.parametrize(
    ("first", "others"),
    [((0, 1), (0, 255)), ((0, 1), (0, 128)), ((0, 1, 2), (0, 127, 255)), ((0, 1, 2), (0, 85, 170))],
)
def test_greys_here_and_indices_there_are_one_meaning(
    first: tuple[int, ...], others: tuple[int, ...], tmp_path: Path
) -> None:
    truth = [labels for _, _, labels in scenes(len(first))]
    stored = [
        np.array(first if number < 4 else others, np.uint8)[labels]
        for number, labels in enumerate(truth)
    ]
    description = write(tmp_path, stored)
    assert len(description.classes.names) == len(first)
    assert description.ignore_index is None
    for name, labels in read(description).items():
        np.testing.assert_array_equal(labels, truth[int(name)])


def test_255_is_ignored_where_classes_stand_beside_it(tmp_path: Path) -> None:
    stored = [labels.copy() for _, _, labels in scenes()]
    stored[0][:3] = 255
    description = write(tmp_path, stored)
    assert description.ignore_index == 255
    assert description.classes.names == ("background", "object")


@pytest.mark.parametrize("step", [10, 20, 7])
@pytest.mark.parametrize("classes", [2, 3])
def test_few_values_far_between_are_classes_in_their_order(
    step: int, classes: int, tmp_path: Path
) -> None:
    if (step, classes) == (7, 2):
        step = 12
    truth = [labels for _, _, labels in scenes(classes)]
    description = write(tmp_path, [labels * step for labels in truth])
    assert description.encoding.values == tuple((index * step,) for index in range(classes))
    for name, labels in read(description).items():
        np.testing.assert_array_equal(labels, truth[int(name)])


def test_far_values_need_no_zero(tmp_path: Path) -> None:
    truth = [labels for _, _, labels in scenes(3)]
    description = write(tmp_path, [labels * 10 + 10 for labels in truth])
    assert description.encoding.values == ((10,), (20,), (30,))


def test_exact_colours_may_be_nearly_grey(tmp_path: Path) -> None:
    colors = np.array([(100, 100, 100), (100, 110, 100), (105, 100, 100)], np.uint8)
    truth = [labels for _, _, labels in scenes(3)]
    description = write(tmp_path, [colors[labels] for labels in truth])
    for name, labels in read(description).items():
        np.testing.assert_array_equal(labels, truth[int(name)])


@pytest.mark.parametrize("quality", [50, 75])
def test_compression_does_not_change_the_order_of_colours(quality: int, tmp_path: Path) -> None:
    colors = np.array([(60, 60, 60), (60, 130, 60), (120, 60, 60)], np.uint8)
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number}.png", picture)
        file = tmp_path / f"masks/{number}.jpg"
        file.parent.mkdir(exist_ok=True)
        large = np.kron(colors[labels], np.ones((4, 4, 1), np.uint8))
        Image.fromarray(large).save(file, quality=quality)
        put(tmp_path / f"images/{number}.png", np.kron(picture, np.ones((4, 4, 1), np.uint8)))
    found = describe(tmp_path).classes.colors.astype(int)
    assert np.abs(found - colors).max() <= 6


def test_a_class_list_says_that_far_values_are_indices(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("".join(f"class {n}\n" for n in range(21)))
    description = write(tmp_path, [labels * 20 for _, _, labels in scenes()])
    assert len(description.classes.names) == 21


@pytest.mark.parametrize("colors", [
    [(0, 0, 0), (255, 0, 0), (255, 255, 0)], [(0, 0, 0), (100, 100, 100), (200, 200, 200)],
    [(10, 20, 30), (30, 180, 220), (200, 40, 90)],
])  # fmt: skip
def test_smoothed_labels_snap_to_the_values_that_cover_areas(
    colors: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    truth = [labels for _, _, labels in scenes(3)]
    stored = []
    for labels in truth:
        large = cv2.resize(labels, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
        large = cv2.medianBlur(large, 9)  # round: each pixel's share is then any of sixteen
        stored.append(cv2.resize(np.array(colors, np.uint8)[large], labels.shape[::-1],
                                 interpolation=cv2.INTER_AREA))  # fmt: skip
    description = write(tmp_path, stored)
    assert len(description.classes.names) == 3
    assert description.encoding.nearest
    for name, labels in read(description).items():
        assert (labels == truth[int(name)]).mean() > 0.97


@pytest.mark.parametrize("quality", [60, 90])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_small_colored_areas_survive_jpeg(suffix: str, quality: int, tmp_path: Path) -> None:
    colors = np.array([(0, 0, 0), (220, 20, 60), (40, 200, 90)], np.uint8)
    truth = {}
    for number, picture, labels in scenes(3):
        put(tmp_path / "images" / f"{number}.png", picture)
        file = tmp_path / "masks" / f"{number}.{suffix}"
        file.parent.mkdir(exist_ok=True)
        jpeg = io.BytesIO()
        Image.fromarray(colors[labels]).save(jpeg, "JPEG", quality=quality)
        # Some programs save what they have read from a JPEG as PNG.
        file.write_bytes(jpeg.getvalue())
        if suffix == "png":
            Image.open(jpeg).save(file)
        truth[str(number)] = labels
    description = describe(tmp_path)
    assert len(description.classes.names) == 3
    for name, labels in read(description).items():
        assert ((labels > 0) == (truth[name] > 0)).mean() > 0.95


@pytest.mark.parametrize("thin", ["band", "class"])
def test_a_band_between_classes_after_a_gap_is_ignored(thin: str, tmp_path: Path) -> None:
    """MaSTr1325: 0, 1, 2 and, along their borders, 4. A thin class has one class about it."""
    stored = []
    for _, _, labels in scenes(3):
        values = labels.copy()
        if thin == "band":
            around = np.ones((3, 3), np.uint8)
            values[cv2.dilate(labels, around) != cv2.erode(labels, around)] = 4
        else:
            values[:2] = 4
        stored.append(values)
    description = write(tmp_path, stored)
    assert description.encoding.ignore == ((4,) if thin == "band" else ())
    assert len(description.classes.names) == (3 if thin == "band" else 5)
    said = [finding.message for finding in examine(tmp_path).findings]
    assert any("Is value 4" in message for message in said) == (thin == "band")


def test_rare_classes_between_frequent_ones_are_no_smoothing(tmp_path: Path) -> None:
    colors = np.array([(0, 0, 0), (80, 80, 80), (160, 160, 160), (240, 240, 240)], np.uint8)
    stored = []
    for number, _, labels in scenes():
        index = labels * 3
        index[:4, :4] = 1 + number % 2
        stored.append(colors[index])
    assert len(write(tmp_path, stored).classes.names) == 4


def numbered(count: int, seed: int, kind: type = np.uint16) -> np.ndarray:
    ids = np.zeros((48, 48), kind)
    for number in range(count):
        y, x = divmod(number, 6)
        ids[y * 8 + seed % 2 : y * 8 + 6, x * 8 : x * 8 + 6] = number + 1
    return ids


@pytest.mark.parametrize("kind", [np.uint16, np.uint8])
def test_numbers_of_objects_are_no_classes(kind: type, tmp_path: Path) -> None:
    stored = [numbered(3 + 2 * number, number, kind) for number in range(6)]
    description = write(tmp_path, stored)
    assert description.classes.names == ("background", "object")
    assert any("number the objects" in why for why in description.why)
    for name, labels in read(description).items():
        np.testing.assert_array_equal(labels, stored[int(name)] > 0)


@pytest.mark.parametrize("colored", [False, True])
def test_objects_numbered_throughout_are_no_classes(colored: bool, tmp_path: Path) -> None:
    ids = [numbered(5, seed) for seed in range(6)]
    stored = [np.where(one, one + 5 * seed, 0).astype(np.uint8) for seed, one in enumerate(ids)]
    if colored:
        palette = np.random.default_rng(0).integers(30, 255, (256, 3), np.uint8)
        palette[0] = 0
        stored = [palette[one] for one in stored]
    description = write(tmp_path, stored)
    assert description.classes.names == ("background", "object")
    for name, labels in read(description).items():
        np.testing.assert_array_equal(labels, ids[int(name)] > 0)


@pytest.mark.parametrize(
    ("way", "lightest"), [(Image.Resampling.BILINEAR, 255), (Image.Resampling.BICUBIC, 200)]
)
def test_greys_resized_with_interpolation_snap_to_those_that_cover_areas(
    way: Image.Resampling, lightest: int, tmp_path: Path
) -> None:
    """Bicubic: some pixels are lighter than all that was drawn."""
    stored = []
    for seed in range(6):
        large = np.zeros((96, 96), np.uint8)
        large[10 + seed : 50, 8:40] = 128
        large[55 : 80 + seed, 30:77] = lightest
        stored.append(np.asarray(Image.fromarray(large).resize((44, 44), way)))
    description = write(tmp_path, stored)
    assert description.encoding.values == ((0,), (128,), (lightest,))
    assert description.encoding.nearest


def test_very_many_numbers_are_objects_too(tmp_path: Path) -> None:
    stored = []
    for number in range(6):
        ids = numbered(30, 0, np.uint16).astype(np.int32)
        stored.append(np.where(ids > 0, ids * 7 + 1000 * number, 0).astype(np.uint16))
    for (number, picture, _), values in zip(scenes(), stored, strict=True):
        put(tmp_path / "images" / f"{number}.png", picture)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / "masks" / f"{number}.png")
    assert describe(tmp_path).classes.names == ("background", "object")


def test_classes_that_are_missing_here_and_there_stay_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = []
    for number in range(6):
        values = numbered(36, number, np.uint8)
        kept = rng.choice(np.arange(1, 9), 5, replace=False)
        stored.append(np.where(values > 0, kept[values % 5], 0).astype(np.uint8))
    assert len(write(tmp_path, stored).classes.names) == 9


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_class_numbers_may_stand_in_one_channel(channel: int, tmp_path: Path) -> None:
    truth = [labels for _, _, labels in scenes(3)]
    stored = []
    for labels in truth:
        rgba = np.zeros((*labels.shape, 4), np.uint8)
        rgba[..., channel], rgba[..., 3] = labels, 255
        stored.append(rgba)
    description = write(tmp_path, stored)
    assert len(description.classes.names) == 3
    for name, labels in read(description).items():
        np.testing.assert_array_equal(labels, truth[int(name)])


def test_a_meta_file_names_the_classes(tmp_path: Path) -> None:
    (tmp_path / "dataset_meta.json").write_text(
        '{"labels": ["sky", "leaf", "stone"], "label_colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}'
    )
    description = write(tmp_path, [labels for _, _, labels in scenes(3)])
    assert description.classes.names == ("sky", "leaf", "stone")
    assert description.classes.colors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_of_many_stored_values_each_is_looked_at_once() -> None:
    """Objects that are numbered throughout a dataset are one class of 20,000 values."""

    class Number(int):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Number.compared += 1
            return super().__eq__(other)

        __hash__ = int.__hash__

    values = tuple(Number(value) for value in range(1, 300))
    Encoding("index", ((0,), values))
    assert Number.compared < 10 * len(values)


def test_of_many_objects_each_is_looked_at_in_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4,000 objects in each file the whole image was looked at: minutes a file."""
    seen = []

    def region_areas(mask: np.ndarray) -> np.ndarray:
        seen.append(mask.size)
        return np.array([mask.sum()])

    monkeypatch.setattr(objects, "region_areas", region_areas)
    numbers = np.zeros((96, 96), np.int32)
    for number in range(144):
        y, x = 8 * (number // 12), 8 * (number % 12)
        numbers[y : y + 6, x : x + 6] = number + 1
    samples = [numbers + np.where(numbers > 0, 144 * each, 0) for each in range(3)]
    counts = [count_values(RawLabels(one.astype(np.int32), None, "I")) for one in samples]
    pairs = [Pair(Path(str(each)), Path(str(each)), "train", str(each)) for each in range(3)]
    closer = areas.analyze_areas(
        total(counts), pairs, counts, lambda pair: RawLabels(samples[int(pair.name)], None, "I")
    )
    assert closer.instances
    assert sum(seen) <= 3 * numbers.size


def test_what_values_mean_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was for each file, of all numbers of a dataset's objects: by the square of the files."""
    calls = []
    class_of = Encoding.class_of
    monkeypatch.setattr(Encoding, "class_of", lambda self: calls.append(self) or class_of(self))
    encoding = Encoding.of((0, *range(301, 400)))
    for _ in range(3):
        assert decode_values(np.array([0, 302, 7]), encoding).tolist() == [0, 2, 255]
    assert len(calls) == 1
