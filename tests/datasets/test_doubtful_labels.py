"""Labels that may mean two things: how they are read, and what is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fcnseg.datasets.check import CheckResult, examine
from fcnseg.datasets.check.findings import Finding
from fcnseg.datasets.describe import describe, own_split_sizes
from fcnseg.datasets.formats import read_sample
from fcnseg.errors import DatasetError
from tests.datasets.test_more_folders import runs_of, trimap, written
from tests.datasets.test_pairing import disc, photo, put, scenes
from tests.datasets.test_public_folders import Truth, agrees


def asked(result: CheckResult, code: str) -> Finding | None:
    return next((one for one in result.findings if one.code == code), None)


@pytest.mark.parametrize("values", [(2, 3, 1), (1, 2, 0)])  # background, band, object
def test_a_band_of_the_last_number_is_a_class_with_a_question(
    values: tuple[int, int, int], tmp_path: Path
) -> None:
    trimap(tmp_path, 5, 8, values)
    result = examine(tmp_path)
    question = asked(result, "unlabelled-class")
    assert len(result.description.classes) == 3
    assert question is not None
    assert f"Is value {values[1]} " in question.message
    assert "read as one" in question.message
    assert f"put {values[1]} under `ignore`" in question.repair


def test_the_last_number_of_what_is_called_a_trimap_is_ignored(tmp_path: Path) -> None:
    """Oxford's pets: 1 the animal, 2 the background, 3 not classified."""
    truth = trimap(tmp_path, 3, 10, (2, 3, 1))
    (tmp_path / "masks").rename(tmp_path / "trimaps")
    result = examine(tmp_path)
    question = asked(result, "unlabelled-class")
    assert agrees(
        result.description,
        {name: np.array([1, 0, *[0] * 253, 255], np.uint8)[one] for name, one in truth.items()},
    )
    assert question is not None
    assert "ignored, as a band between the others" in question.message


@pytest.mark.parametrize(
    "kind", ["a broad ring", "the ring in the middle", "a class list", "rings elsewhere"]
)
def test_three_numbers_are_three_classes(kind: str, tmp_path: Path) -> None:
    order = (0, 1, 2) if kind == "the ring in the middle" else (2, 3, 1)
    trimap(tmp_path, 2 if kind == "a broad ring" else 5, 20 if kind == "a broad ring" else 8, order)
    if kind == "a class list":
        (tmp_path / "classes.txt").write_text("1 pet\n2 ground\n3 rim\n")
    if kind == "rings elsewhere":
        for number in range(6):
            put(tmp_path / f"masks/{number}.png", disc(number, 5) + disc(number + 20, 4) + 1)
    result = examine(tmp_path)
    assert len(result.description.classes) == 3
    assert asked(result, "unlabelled-class") is None


def in_folders(root: Path, image: str, mask: str) -> Truth:
    truth = {}
    for number, picture, labels in scenes():
        kind = ("cat", "dog")[number % 2]
        put(root / image.format(kind=kind, n=number), picture)
        put(root / mask.format(kind=kind, n=number), labels * 255)
        truth[image.format(kind=kind, n=number)] = labels * np.uint8(1 + number % 2)
    return truth


FOLDERS = [
    ("{kind}/images/{n}.png", "{kind}/masks/{n}.png"),
    ("images/{kind}/{n}.png", "masks/{kind}/{n}.png"),
    ("{kind}/{n}.png", "{kind}/{n}_mask.png"),
]


@pytest.mark.parametrize(("image", "mask"), FOLDERS)
def test_folders_that_a_class_list_names_are_classes(image: str, mask: str, tmp_path: Path) -> None:
    truth = in_folders(tmp_path, image, mask)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    description = describe(tmp_path)
    assert description.classes.names == ("background", "cat", "dog")
    assert agrees(description, truth)


@pytest.mark.parametrize(("image", "mask"), FOLDERS)
def test_folders_that_nothing_names_are_asked_about(image: str, mask: str, tmp_path: Path) -> None:
    truth = in_folders(tmp_path, image, mask)
    result = examine(tmp_path)
    question = asked(result, "class-folders")
    assert agrees(result.description, {name: np.minimum(one, 1) for name, one in truth.items()})
    assert question is not None
    assert "Are cat, dog classes?" in question.message


@pytest.mark.parametrize(
    "image", ["site{g}/images/{n}.png", "images/{n}.png", "images/{part}set_new/{n}.png"]
)
def test_other_folders_are_not_asked_about(image: str, tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        name = image.format(g=number % 2, n=number, part=("train", "test")[number // 4])
        put(tmp_path / name, picture)
        put(tmp_path / name.replace("images", "masks"), labels * 255)
    assert asked(examine(tmp_path), "class-folders") is None


@pytest.mark.parametrize("objects", [True, False])
def test_a_few_numbers_in_steps_are_objects_unless_they_look_different(
    objects: bool, tmp_path: Path
) -> None:
    """10, 20, 30, at most three of them in a file."""
    truth = {}
    for number in range(9):
        labels = np.zeros((96, 96), np.uint8)
        for thing in range(1 + number % 3):
            x, y = np.random.default_rng((number, thing)).integers(0, 16, 2)
            labels[32 * thing + y : 32 * thing + y + 12, x + number : x + number + 14] = thing + 1
        picture = photo(np.minimum(labels, 1 if objects else 2), number)
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", labels * 10)
        truth[f"images/{number}.png"] = np.minimum(labels, 1) if objects else labels
    assert agrees(describe(tmp_path), truth)


@pytest.mark.parametrize("nothing", [np.nan, -np.inf, np.float32(-3.4028235e38)])
@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_what_a_file_of_floats_has_no_data_for_is_ignored(
    nothing: float, suffix: str, tmp_path: Path
) -> None:
    truth = written(tmp_path, "images/{n}.png")
    for name, labels in truth.items():
        stored = labels.astype(np.float32)
        stored[:4] = nothing
        labels = truth[name] = labels.copy()
        labels[:4] = 255
        path = tmp_path / name.replace("images", "masks").replace("png", suffix)
        path.parent.mkdir(exist_ok=True)
        np.save(path, stored) if suffix == "npy" else put(path, stored)
    assert agrees(describe(tmp_path), truth)


def test_a_list_that_names_more_files_elsewhere_is_told_of(tmp_path: Path) -> None:
    written(tmp_path, "images/{n:03}.png", mask="masks/{n:03}.png", factor=255)
    (tmp_path / "train.txt").write_text("000\n001\n" + "".join(f"x{n}\n" for n in range(6)))
    (tmp_path / "val.txt").write_text("002\n003\n")
    question = asked(examine(tmp_path), "left-out")
    assert question is not None
    assert "of the first 8 files that it names 2 are here" in question.message


def test_nnunet_names_its_regions(tmp_path: Path) -> None:
    truth = written(tmp_path, "imagesTr/case_{n}_0000.png", 3, "labelsTr/case_{n}.png")
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": labels, "regions_class_order": [1, 2], "file_ending": ".png"})
    )
    description = describe(tmp_path)
    assert description.classes.names == ("background", "whole", "core")
    assert agrees(description, truth)


def boxes(root: Path) -> str:
    written(root, "{n}.jpg")
    (root / "a-export.csv").write_text(
        '"image","xmin","ymin","xmax","ymax","label"\n"0.jpg",1,2,9,9,"a"'
    )
    return "a-export.csv holds bounding boxes"


def one_file(root: Path) -> str:
    (root / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 7.3 MAT-file")
    return "unpack nyu_depth_v2_labeled.mat"


@pytest.mark.parametrize("write", [boxes, one_file])
def test_what_is_no_dataset_is_told_by_its_cause(
    write: Callable[[Path], str], tmp_path: Path
) -> None:
    said = write(tmp_path)
    with pytest.raises(DatasetError) as caught:
        describe(tmp_path)
    assert said in f"{caught.value.message} {caught.value.hint}"


def named_apart(root: Path, image: str, mask: str) -> Truth:
    truth = {}
    for number, picture, labels in scenes():
        own = hashlib.sha256(bytes([number])).hexdigest()[:8]
        part = ("train", "val")[number // 4]
        names = [one.format(n=number, own=own, part=part, m=number % 4) for one in (image, mask)]
        put(root / names[0], picture)
        put(root / names[1], labels * 255)
        truth[names[0]] = labels
    return truth


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/IMG_{n}.png", "masks/{own}-IMG_{n}.png"),
        ("images/{own}-IMG_{n}.png", "masks/IMG_{n}.png"),
        ("images/{n}.png", "masks/{n}_{own}_mask.png"),
        ("{part}/images/a {m}.png", "{part}/masks/{own}_a {m}.png"),
    ],
)
def test_names_with_something_of_their_own_are_paired(
    image: str, mask: str, tmp_path: Path
) -> None:
    truth = named_apart(tmp_path, image, mask)
    assert agrees(describe(tmp_path), truth)


def test_the_folder_that_one_is_in_is_read_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"fold{number % 3}/images/{number}.png", picture)
        put(tmp_path / f"fold{number % 3}/masks/{number}.png", labels * 255)
    monkeypatch.chdir(tmp_path)
    assert own_split_sizes(describe(".")) == own_split_sizes(describe(tmp_path)) != {}


def test_masks_of_a_class_each_may_be_jpeg(tmp_path: Path) -> None:
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number}.png", picture)
        for value, word in ((1, "road"), (2, "car")):
            put(tmp_path / f"masks/{word}/{number}.jpg", (labels == value) * np.uint8(255))
    assert not examine(tmp_path).failed


@pytest.mark.parametrize("words", [("liver", "tumor"), ("liver_1", "tumor_1")])
def test_words_that_recur_in_folders_of_one_image_are_classes(
    words: tuple[str, str], tmp_path: Path
) -> None:
    truth = {}
    for number, picture, labels in scenes(3):
        name = f"case_{number}/image.png"
        put(tmp_path / name, picture)
        for value, word in enumerate(words, 1):
            put(tmp_path / f"case_{number}/masks/{word}.png", (labels == value) * np.uint8(255))
        truth[name] = labels
    description = describe(tmp_path)
    assert description.classes.names == ("background", "liver", "tumor")
    assert agrees(description, truth)


def test_pickled_arrays_beside_masks_are_no_labels(tmp_path: Path) -> None:
    """Cellpose writes a_cp_masks.png and a_seg.npy."""
    truth = written(tmp_path, "{n}.png", mask="{n}_cp_masks.png", factor=255)
    for name in truth:
        np.save(tmp_path / name.replace(".png", "_seg.npy"), {"masks": 0}, allow_pickle=True)
    assert agrees(describe(tmp_path), truth)


def test_stacks_of_truth_values_are_labels(tmp_path: Path) -> None:
    images, labels = zip(*((one, drawn) for _, one, drawn in scenes()), strict=True)
    for part, some in (("train", slice(4)), ("test", slice(4, 6))):
        np.save(tmp_path / f"x_{part}.npy", np.stack(images[some]))
        np.save(tmp_path / f"y_{part}.npy", np.stack(labels[some])[..., None] > 0)
    description = describe(tmp_path)
    assert own_split_sizes(description) == {"train": 4, "test": 2}
    read = [read_sample(pair, description.encoding)[1] for pair in description.found.pairs]
    assert sum(int(one.sum()) for one in read) == sum(int(one.sum()) for one in labels)


@pytest.mark.parametrize("names", ["background\ndisc\nring\n", "disc\nring\n"])
def test_numbers_of_run_lengths_are_the_lines_of_a_class_list(names: str, tmp_path: Path) -> None:
    truth = written(tmp_path, "images/{n}.png", 3)
    rows = ["ImageId,ClassId,EncodedPixels"]
    for name, labels in truth.items():
        rows += [f"{Path(name).name},{value},{runs_of((labels == value).T)}" for value in (1, 2)]
    (tmp_path / "train.csv").write_text("\n".join(rows))
    (tmp_path / "classes.txt").write_text(names)
    description = describe(tmp_path)
    assert description.classes.names == ("background", "disc", "ring")
    assert agrees(description, truth)


def test_folders_that_share_the_images_are_asked_about(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{('anna', 'bert')[number % 2]}/{number}.png", labels * 255)
    question = asked(examine(tmp_path), "class-folders")
    assert question is not None
    assert "read as classes" in question.message
    (tmp_path / "classes.txt").write_text("anna\nbert\n")
    assert asked(examine(tmp_path), "class-folders") is None


def test_one_matrix_beside_names_is_the_labels(tmp_path: Path) -> None:
    """SIFT Flow's S."""
    truth = written(tmp_path, "images/{n}.png", 3)
    (tmp_path / "semantic").mkdir()
    for name, labels in truth.items():
        names = np.array(["sky", "tree"], object)
        path = tmp_path / name.replace("images", "semantic").replace("png", "mat")
        savemat(path, {"S": labels.astype(float), "names": names, "size": [96, 96]})
    assert agrees(describe(tmp_path), truth)


def test_a_few_arrays_among_images_are_no_labels(tmp_path: Path) -> None:
    """Oxford's pets have three in images/."""
    truth = written(tmp_path, "images/{n}.png", mask="annotations/trimaps/{n}.png")
    savemat(tmp_path / "images/0.mat", {"x": np.eye(4)})
    assert agrees(describe(tmp_path), truth)


@pytest.mark.parametrize("factor", [1, 120])
def test_labels_that_are_jpeg_by_another_name_are_known(factor: int, tmp_path: Path) -> None:
    truth = written(tmp_path, "images/{n}.png", 3)
    (tmp_path / "masks").mkdir()
    for name, labels in truth.items():
        more = labels + 2 * (np.arange(48) < 20) if factor == 1 else labels
        drawn = (more * factor).astype(np.uint8)
        Image.fromarray(drawn).save(
            tmp_path / name.replace("images", "masks"), "JPEG", quality=95 if factor > 1 else 70
        )
    codes = {one.code for one in examine(tmp_path).findings}
    assert ("lossy-indices" if factor == 1 else "snapped") in codes


def test_predictions_are_no_images_where_these_are_in_folders_of_splits(tmp_path: Path) -> None:
    truth = {}
    for number, picture, labels in scenes():
        name = f"Bilder/{('train', 'val')[number // 4]}/{number}.png"
        put(tmp_path / name, picture)
        put(tmp_path / f"Masken/masks/{number}_gt.png", labels)
        put(tmp_path / f"predictions/{number}.png", np.roll(labels, 3, 0))
        truth[name] = labels
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert own_split_sizes(description) == {"train": 4, "val": 2}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("image_data/{n}.png", "masks/{word}/{n}_mask.png"),
        ("Bilder/a ({n}).png", "Masks/{word}/a ({n}).png"),
        ("{part}/Bilder/{n}.png", "{part}/masks/{n}/{word}.png"),
        ("img{n}.png", "img{n}_{word}.png"),
        ("images/{n}.png", "masks/{n}_{word}.png"),
        ("case {n}/image.png", "case {n}/masks/{word}.png"),
    ],
)
@pytest.mark.parametrize("words", [("car", "road"), ("class_1", "class_2")])
@pytest.mark.parametrize("is_missing", [False, True])
def test_masks_of_a_class_each_whatever_folders_are_called(
    image: str, mask: str, words: tuple[str, str], is_missing: bool, tmp_path: Path
) -> None:
    if is_missing and image == "img{n}.png":
        pytest.skip("which files are masks is told by the images that have all of them")
    truth = {}
    for number, picture, labels in scenes(3):
        part = ("train", "val")[number // 4]
        name = image.format(n=number + 1, part=part)
        labels = np.where(labels == 1 + number % 3, 0, labels) if is_missing else labels
        put(tmp_path / name, picture)
        for value, word in enumerate(words, 1):
            if (labels == value).any():
                file = mask.format(n=number + 1, part=part, word=word)
                put(tmp_path / file, (labels == value) * np.uint8(255))
        truth[name] = labels
    description = describe(tmp_path)
    assert description.classes.names == ("background", *words)
    assert agrees(description, truth)


def people(root: Path, counts: list[int], *, sizes: bool = False) -> Truth:
    """So many discs in each file, numbered from 1; of one size, or smaller by number."""
    truth = {}
    for number, count in enumerate(counts):
        rng = np.random.default_rng(number)
        labels = np.zeros((48, 96), np.uint8)
        places = rng.permutation(4)
        rows, columns = np.mgrid[:48, :96]
        for value in range(1, count + 1):
            x, y = 12 + 24 * int(places[value - 1]), int(rng.integers(12, 36))
            radius = 11 - 4 * value if sizes else int(rng.integers(5, 9))
            labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = value
        put(root / f"PNGImages/a{number}.png", photo(np.minimum(labels, 1), number))
        put(root / f"PedMasks/a{number}_mask.png", labels)
        truth[f"PNGImages/a{number}.png"] = labels
    return truth


@pytest.mark.parametrize("counts", [[1, 2, 3, 1, 2, 3, 2, 1], [1, 2, 1, 2, 2, 1]])
def test_numbers_that_may_be_a_few_objects_are_asked_about(
    counts: list[int], tmp_path: Path
) -> None:
    """Penn-Fudan: 1 ... n for the n people in each file."""
    people(tmp_path, counts)
    question = asked(examine(tmp_path), "object-numbers")
    assert question is not None
    assert f"Do 1 to {max(counts)} number the objects of each file?" in question.message
    (tmp_path / "classes.txt").write_text("\n".join(["ground", *"abc"[: max(counts)]]))
    assert asked(examine(tmp_path), "object-numbers") is None


def test_numbers_with_a_size_of_their_own_are_classes_without_a_question(tmp_path: Path) -> None:
    people(tmp_path, [1, 2, 1, 2, 2, 1, 2, 1], sizes=True)
    assert asked(examine(tmp_path), "object-numbers") is None


@pytest.mark.parametrize("file", ["train.csv", "list.csv"])
@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("image,mask,fold", "images/{n}.png,masks/{n}.png,{fold}"),
        ("id,kfold", "{n},{fold}"),
        ("filename,fold_id", "{n}.png,{fold}.0"),
        ("fold,name", "fold_{fold},{n}.png"),
    ],
)
def test_the_first_fold_of_a_table_is_val(file: str, head: str, line: str, tmp_path: Path) -> None:
    lines = [head]
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", labels * 255)
        lines.append(line.format(n=number, fold=number % 3))
    (tmp_path / file).write_text("\n".join(lines) + "\n")
    found = describe(tmp_path)
    assert {pair.image.stem for pair in found.pairs if pair.split == "val"} == {"0", "3"}
    assert {pair.image.stem for pair in found.pairs if pair.split == "train"} == {*"1245"}


def test_numbers_below_zero_are_no_folds(tmp_path: Path) -> None:
    lines = ["image,mask,fold"]
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", labels * 255)
        lines.append(f"images/{number}.png,masks/{number}.png,{-1 - number % 2}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    assert not {pair.split for pair in describe(tmp_path).found.pairs} - {""}


def test_a_line_of_a_list_without_labels_says_so(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", labels * 255)
    lines = [f"images/{n}.png,{f'masks/{n}.png' * (n > 0)}" for n in range(6)]
    (tmp_path / "metadata.csv").write_text("image,mask\n" + "\n".join(lines) + "\n")
    assert [note.why for note in describe(tmp_path).found.notes] == ["no labels named"]
