"""Images and labels paired whatever they are called; wrong labels are not taken for the labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from fcnseg.datasets import Description, split_sizes
from fcnseg.datasets.dataset_toml import write_declared
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_stored
from fcnseg.datasets.pairing import Listing, file_stats, list_folder, marks
from fcnseg.datasets.pairing.by_content import find_by_content, find_sides
from fcnseg.datasets.pairing.candidates import other_size
from fcnseg.datasets.pairing.file_stats import (
    Candidate,
    FileStats,
    StatsCache,
    measure_file,
    tell_labels,
)
from fcnseg.errors import DatasetError

SIZE = 48
COLORS = np.array([[70, 90, 80], [200, 120, 60], [60, 160, 220]])
PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
TOWNS = ("berlin", "paris", "roma", "oslo", "wien", "genf")
HEXES = ("a3f1c9", "09bd2e", "77aa01", "c0ffee", "deadbe", "1e2d3c")


def disc(number: int, radius: int = 8, value: int = 1) -> np.ndarray:
    x, y = np.random.default_rng(number).integers(10, SIZE - 10, 2)
    drawn = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(drawn).ellipse([x - radius, y - radius, x + radius, y + radius], fill=value)
    return np.asarray(drawn)


def photo(labels: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 14, (*labels.shape, 3))
    return (COLORS[labels] + noise).clip(0, 255).astype(np.uint8)


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def scenes(classes: int = 2) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for number in range(6):
        labels = disc(number)
        if classes == 3:
            labels = np.where(disc(number + 50, 6) > 0, 2, labels).astype(np.uint8)
        yield number, photo(labels, number), labels


def pairs_of(description: Description) -> dict[str, str]:
    root = description.root
    return {
        pair.image.relative_to(root).as_posix(): pair.labels.relative_to(root).as_posix()
        for pair in description.pairs
    }


NAMES = {
    "a word and one more": ("last/{n}.jpg", "last_msk/{n}.png"),
    "student": ("Training_Images/{n}.jpg", "Ground_Truth/{n}.png"),
    "german": ("bilder/aufnahme_{n:03}.jpg", "etiketten/aufnahme_{n:03}.png"),
    "chinese": ("图片/{n}.jpg", "标签/{n}.png"),
    "russian": ("снимки/снимок_{n}.jpg", "разметка/снимок_{n}_маска.png"),
    "suffix": ("leaf_{n}.jpg", "leaf_{n}_zones.png"),
    "suffix, names are words": ("{town}.png", "{town}_zonen.png"),
    "prefixes": ("scan-{n:03}.png", "expert-{n:03}.png"),
    "prefix on one side": ("leaf{n}.png", "z_leaf{n}.png"),
    "constant words and numbers": ("img_{n:03}.png", "{n:03}_fields_2.png"),
    "constant end": ("images/x{n}.png", "labels/x{n}_P.png"),
    "padding": ("photos/img_{n}.jpg", "truth/{n:04}.png"),
    "hashes": ("a/{hex}.png", "b/{hex}.png"),
    "camel case": ("RawImages/Img{n}.png", "HandDrawn/Img{n}Zones.png"),
    "suffixes of files": ("{n}.tif", "{n}.png"),
    "two suffixes": ("bilder/{n}.jpg", "etiketten/{n}.jpg.png"),
    "a folder an image": ("scene{n}/rgb.png", "scene{n}/sem.png"),
    "a folder a town": ("{town}/shot.jpg", "{town}/zones.png"),
    "mirrored trees": ("drone/site{g}/day{n}/a.jpg", "painted/site{g}/day{n}/a.png"),
    "numbers twice": ("b/{g}/{m}.jpg", "e/{g}/{m}.png"),
    "numbers twice, one folder": ("g{g}/{m}.jpg", "g{g}/{m}_z.png"),
    "one side deeper": ("bilder/kamera/roh/{n}.jpg", "etiketten/{n}.png"),
    "spaces": ("My Pictures/pic ({n}).jpg", "My Zones/zone ({n}).png"),
}
SPLITS = {
    "inside": ("bilder/{part}/{n}.jpg", "etiketten/{part}/{n}.png"),
    "outside": ("{part}/bilder/{n}.jpg", "{part}/etiketten/{n}.png"),
    "in the word": ("{part}_bilder/{n}.jpg", "{part}_etiketten/{n}.png"),
    "images only": ("images/{part}/{n}.jpg", "labels/{n}.png"),
    "labels only": ("images/{n}.jpg", "masks/{part}/{n}.png"),
    "sets": ("{part}_set/image/{n}.jpg", "{part}_set/label/{n}.png"),
    "datasets": ("{Part}Dataset/CVC-300/images/{n}.png", "{Part}Dataset/CVC-300/masks/{n}.png"),
    "in names": ("images/{part}_{n}.jpg", "masks/{part}_{n}.png"),
}


def write(root: Path, image: str, labels: str) -> dict[str, str]:
    wanted = {}
    for number, picture, truth in scenes():
        part = "train" if number % 3 else "val"
        words = {
            "n": number + 1, "town": TOWNS[number], "hex": HEXES[number], "g": number // 3,
            "m": number % 3, "part": part, "Part": part.capitalize(),
        }  # fmt: skip
        one, other = image.format(**words), labels.format(**words)
        put(root / one, picture)
        put(root / other, truth * 255)
        wanted[one] = other
    return wanted


@pytest.mark.parametrize("name", NAMES)
def test_files_are_paired_whatever_their_words(name: str, tmp_path: Path) -> None:
    wanted = write(tmp_path, *NAMES[name])
    description = describe(tmp_path)
    assert pairs_of(description) == wanted
    assert description.classes.names == ("background", "object")


@pytest.mark.parametrize(
    "names", [("\u00e5.png", "a\u030a.png"), ("\u00e5.png", "a\u030a_mask.png")]
)
def test_accents_are_composed_on_one_side_only(names: tuple[str, str], tmp_path: Path) -> None:
    """As macOS writes names, and as others do; folders, too."""
    for number, image, labels in scenes():
        put(tmp_path / "images" / "\u00e9" / f"{number}{names[0]}", image)
        put(tmp_path / "labels" / "e\u0301" / f"{7 - number}0{names[1]}", labels)
    put(tmp_path / "images" / "\u00e9" / names[0], photo(disc(0), 0))
    put(tmp_path / "labels" / "e\u0301" / names[1], disc(0))
    description = describe(tmp_path)
    assert pairs_of(description) == {f"images/\u00e9/{names[0]}": f"labels/e\u0301/{names[1]}"}


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_is_kept_wherever_it_is_named(name: str, tmp_path: Path) -> None:
    wanted = write(tmp_path, *SPLITS[name])
    description = describe(tmp_path)
    assert pairs_of(description) == wanted
    assert split_sizes(description) == {"train": 4, "val": 2}
    assert not description.random_split


@pytest.mark.parametrize(
    "lists",
    [
        {"train.txt": "1\n2\n3\n4\n", "val.txt": "5\n6\n"},
        {"ImageSets/train.txt": "1.jpg\n2.jpg\n3.jpg\n4.jpg", "ImageSets/val.txt": "5.jpg\n6.jpg"},
        {"splits/train_list.csv": "/at/home/a/1.jpg\n/at/home/a/2.jpg\na/3.jpg\na/4.jpg",
         "splits/val_list.csv": "a/5.jpg\na/6.jpg"},
        {"trainval.txt": "1\n2\n3\n4\n5\n6", "val.txt": "5\n6\n"},
        {"split.csv": "file,set\n1.jpg,train\n2,train\n3,train\n4,train\n5,val\n6.jpg,val\n"},
        {"data_split.txt": "train 1\ntrain 2\ntrain 3\ntrain 4\nval 5\nval 6\n"},
        {"splits_final.json": json.dumps([{"train": list("1234"), "val": ["5", "6"]},
                                          {"train": list("3456"), "val": ["1", "2"]}])},
        {"split.json": json.dumps({n: "val" if n in "56" else "train" for n in "123456"})},
        {"split.json": json.dumps({"train": [1, 2, 3, 4], "val": [5, 6]})},
    ],
)  # fmt: skip
@pytest.mark.parametrize("sides", ["{side}/{n}", "images masks"])
def test_lists_say_the_split(lists: dict[str, str], sides: str, tmp_path: Path) -> None:
    images, masks = ("images", "masks") if " " in sides else ("a", "b")
    write(tmp_path, f"{images}/{{n}}.jpg", f"{masks}/{{n}}.png")
    for name, text in lists.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        # PowerShell's lists are UTF-16
        (tmp_path / name).write_text(text, encoding="utf-16" if name == "train.txt" else "utf-8")
    description = describe(tmp_path)
    assert split_sizes(description) == {"train": 4, "val": 2}
    assert {p.image.stem for p in description.pairs if p.split == "val"} == {"5", "6"}


def test_lists_may_name_folders(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        folder = f"480p/{('bear', 'bus', 'camel')[number // 2]}"  # DAVIS
        put(tmp_path / f"JPEGImages/{folder}/{number % 2:05}.png", picture)
        put(tmp_path / f"Annotations/{folder}/{number % 2:05}.png", labels * 255)
    (tmp_path / "train.txt").write_text("bear\nbus\n")
    (tmp_path / "val.txt").write_text("camel\n")
    description = describe(tmp_path)
    assert split_sizes(description) == {"train": 4, "val": 2}
    assert {p.image.parent.name for p in description.pairs if p.split == "val"} == {"camel"}


def test_pairs_that_no_list_names_are_skipped_and_told(tmp_path: Path) -> None:
    write(tmp_path, "images/{n}.jpg", "masks/{n}.png")
    (tmp_path / "train.txt").write_text("1\n2\n3\n")
    (tmp_path / "val.txt").write_text("5\n")
    description = describe(tmp_path)
    assert split_sizes(description) == {"train": 3, "val": 1}
    assert [(note.count, note.what) for note in description.found.notes] == [(2, "image")]


def test_a_quote_left_open_in_a_table_of_splits(tmp_path: Path) -> None:
    """The rest of a large file is more than Python's csv takes as one cell."""
    write(tmp_path, "images/{n}.jpg", "masks/{n}.png")
    (tmp_path / "splits.csv").write_text('1.png,train\n"' + "2.png,val\n" * 20_000)
    assert describe(tmp_path).found.notes == ()


# --- labels that are not the labels -----------------------------------------------------------


def fields_of_view(root: Path, place: str = "1st_manual/{n}_manual1.png") -> None:
    view = np.asarray(Image.fromarray(disc(0, 0)).resize((SIZE, SIZE))) * 0
    view[4:44, 4:44] = 255
    for number, picture, labels in scenes():
        put(root / f"images/{number + 21}_training.png", picture)
        put(root / f"mask/{number + 21}_training_mask.png", view)
        put(root / place.format(n=number + 21), labels * 255)


def color_copies(root: Path) -> None:
    for number, picture, labels in scenes(3):
        put(root / f"bilder/{number}.jpg", picture)
        put(root / f"bunt/{number}.png", PALETTE[labels])
        put(root / f"index/{number}.png", labels)


def trimaps(root: Path) -> None:
    for number, picture, labels in scenes():
        put(root / f"image/{number}.jpg", picture)
        put(root / f"trimaps/{number}.png", np.where(disc(number, 11) > labels, 128, labels * 255))
        put(root / f"alpha/{number}.png", labels * 255)


def predictions(root: Path) -> None:
    for number, picture, labels in scenes():
        put(root / f"images/{number}.jpg", picture)
        put(root / f"masks/{number}.png", labels * 255)
        put(root / f"results/{number}.png", np.roll(labels, 3, 1) * 255)


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        (fields_of_view, "1st_manual"),
        (lambda root: fields_of_view(root, "gt/{n}_training.png"), "gt"),
        (color_copies, "index"),
        (trimaps, "alpha"),
        (predictions, "masks"),
    ],
)
def test_the_labels_that_are_meant_are_taken(
    make: Callable[[Path], None], taken: str, tmp_path: Path
) -> None:
    make(tmp_path)
    description = describe(tmp_path)
    assert {pair.labels.parent.name for pair in description.pairs} == {taken}
    assert len(description.pairs) == 6
    assert not description.found.orphan_images


def annotators(root: Path) -> None:
    for number, picture, labels in scenes():
        put(root / f"s{number}.jpg", picture)
        put(root / f"s{number}_1stHO.png", labels * 255)
        put(root / f"s{number}_2ndHO.png", np.roll(labels, 2, 0) * 255)


def versions(root: Path) -> None:
    for number, picture, labels in scenes(3):
        put(root / f"training/images/{number}.jpg", picture)
        put(root / f"training/v1.2/labels/{number}.png", labels)
        put(root / f"training/v2.0/labels/{number}.png", np.roll(labels, 3, 1))


def changes(root: Path, names: tuple[str, str, str] = ("A", "B", "label")) -> None:
    for number, picture, labels in scenes():
        put(root / names[0] / f"{number}.png", picture)
        put(root / names[1] / f"{number}.png", photo(labels * 0, number + 9))
        put(root / names[2] / f"{number}.png", labels * 255)


@pytest.mark.parametrize(
    ("make", "said", "choice", "taken"),
    [
        (annotators, "2 sets of labels", 'labels = "*_2ndHO.png"', "s0_2ndHO.png"),
        (versions, "2 sets of labels", 'labels = "training/v2.0/labels"',
         "training/v2.0/labels/0.png"),
        (changes, "two images for each label file", 'images = "A"', "label/0.png"),
        (lambda root: changes(root, ("vorher", "nachher", "wechsel")), "two images",
         'images = "vorher"', "wechsel/0.png"),
    ],
)  # fmt: skip
def test_two_readings_are_refused_until_one_is_chosen(
    make: Callable[[Path], None], said: str, choice: str, taken: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    make(root)
    with pytest.raises(DatasetError, match=said) as error:
        describe(root)
    assert "dataset.toml" in str(error.value.hint)
    assert "image,labels[,split]" in str(error.value.hint)
    (tmp_path / "dataset.toml").write_text(f'root = "data"\n{choice}\n')
    chosen = describe(tmp_path / "dataset.toml")
    assert len(chosen.pairs) == 6
    assert taken in pairs_of(chosen).values()
    write_declared(chosen, tmp_path / "full.toml")
    assert describe(tmp_path / "full.toml").pairs == chosen.pairs


def test_numbered_folders_of_classes_are_read_where_the_hint_puts_them(tmp_path: Path) -> None:
    """class_1_masks/ beside class_2_masks/ may as well be two drawings of the same thing."""
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.jpg", picture)
        for index in (1, 2):
            put(tmp_path / f"class_{index}_masks/{number}.png", np.roll(labels, 6 * index, 1) * 255)
    with pytest.raises(DatasetError, match="2 sets of labels") as error:
        describe(tmp_path)
    assert "move them into one folder" in str(error.value.hint)
    (tmp_path / "masks").mkdir()
    for name in ("car", "tree"):
        folder = tmp_path / f"class_{1 + (name == 'tree')}_masks"
        folder.rename(tmp_path / "masks" / name)
    assert describe(tmp_path).classes.names == ("background", "car", "tree")


def test_numbers_of_segments_alone_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "images/{n}.jpg", "panoptic/{n}.png")
    with pytest.raises(DatasetError, match="no labels"):
        describe(tmp_path)


@pytest.mark.parametrize("folder", ["instances", "SegmentationObject"])
def test_numbers_of_objects_alone_are_no_classes(folder: str, tmp_path: Path) -> None:
    """Whatever the numbers are like, and whatever a list of classes says."""
    for number, image, labels in scenes(3):
        put(tmp_path / f"images/{number}.jpg", image)
        border = np.where(np.roll(labels, 1, 1) != labels, 255, labels).astype(np.uint8)
        put(tmp_path / f"{folder}/{number}.png", border)
    (tmp_path / "classes.txt").write_text("background\ncar\nbus\n")
    found = describe(tmp_path)
    assert found.classes.names == ("background", "object")
    assert found.encoding.ignore == (255,)
    assert any("number the objects" in why for why in found.why)


def test_a_choice_that_means_nothing_is_said(tmp_path: Path) -> None:
    annotators(tmp_path / "data")
    (tmp_path / "dataset.toml").write_text('root = "data"\nlabels = "thirdHO"\n')
    with pytest.raises(DatasetError, match="no two files match"):
        describe(tmp_path / "dataset.toml")


# --- several masks of one image ------------------------------------------------------------------


def stored(description: Description, number: int) -> np.ndarray:
    pair = next(p for p in description.pairs if str(number) in p.image.stem)
    encoding = description.encoding
    return np.asarray(read_stored(pair, encoding.label_format, encoding.class_words).values)


SEVERAL = ["x{n}_mask{k}.png", "masks/x{n}{k}.png", "masks/x{n}_{k1}.png", "x{n}_obj{k1}.png"]


def several_masks(root: Path, place: str) -> None:
    folder = "images/" if place.startswith("masks") else ""
    for number, picture, labels in scenes():
        put(root / f"{folder}x{number}.jpg", picture)
        for k in range(1 + number % 2):
            put(root / place.format(n=number, k=f"_{k}" if k else "", k1=k),
                np.roll(labels, 22 * k, 0) * 255)  # fmt: skip


@pytest.mark.parametrize("place", SEVERAL)
def test_several_masks_are_areas_of_one_class(place: str, tmp_path: Path) -> None:
    several_masks(tmp_path, place)
    description = describe(tmp_path)
    assert description.classes.names == ("background", "object")
    assert len(description.pairs) == 6
    np.testing.assert_array_equal(stored(description, 1) > 0,
                                  (disc(1) + np.roll(disc(1), 22, 0)) > 0)  # fmt: skip
    np.testing.assert_array_equal(stored(description, 2) > 0, disc(2) > 0)


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("images/shot{n}.jpg", "masks/shot{n}_class_{kind}.png"),
        ("images/shot{n}.jpg", "masks/{kind}_shot{n}.png"),
        ("shot{n}.jpg", "shot{n}_{kind}.png"),
        ("images/{n}.jpg", "masks/task-{n}-annotation-7{n}-by-1-tag-{kind}-0.png"),
        ("bilder/{n}.jpg", "{kind}/{n}.png"),
    ],
)
def test_the_class_may_stand_in_the_files_name(image: str, place: str, tmp_path: Path) -> None:
    for number, picture, labels in scenes(3):
        put(tmp_path / image.format(n=number), picture)
        for value, kind in ((1, "disc"), (2, "ring")):
            area = ((labels == value) * 255).astype(np.uint8)
            put(tmp_path / place.format(n=number, kind=kind), area)
    description = describe(tmp_path)
    assert description.classes.names == ("background", "disc", "ring")
    for number, _, labels in scenes(3):
        np.testing.assert_array_equal(stored(description, number), labels)


def test_overlaps_of_classes_are_told_and_the_smaller_lies_above(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"images/s{number}.jpg", picture)
        put(tmp_path / f"masks/s{number}_disc.png", labels * 255)
        put(tmp_path / f"masks/s{number}_cup.png", disc(number, 4, 255))
    description = describe(tmp_path)
    assert any("overlap in 6 of 6" in why for why in description.why)
    cup = description.encoding.class_words.index("cup") + 1
    np.testing.assert_array_equal(stored(description, 3) == cup, disc(3, 4) > 0)


# --- what holds for every folder -----------------------------------------------------------------

WORD = st.text("abcdefghijklmnopqrstuvwyzäößжиыслк", min_size=2, max_size=8)


def fake_look(marks: tuple[str, ...]) -> Callable[[Path], FileStats]:
    """What a file would show: labels where its path has one of the marks, else a photograph."""

    def looks(path: Path) -> FileStats:
        number = hash(path.name) % 20
        small = np.zeros((64, 64), np.int32)
        small[number : number + 20, number : number + 20] = 1
        if any(mark in str(path) for mark in marks):
            return FileStats(0.97, 1, 2, small, color=False)
        return FileStats(0.1, 2000, 1, small, color=True)

    return looks


def found_pairs(files: list[str], marks: tuple[str, ...]) -> set[tuple[str, str]] | None:
    root = Path("/nowhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_stats, "measure_file", fake_look(marks))
        found = find_by_content(Listing(root, tuple(files)))
    if found is None:
        return None
    return {(str(p.image.relative_to(root)), str(p.labels.relative_to(root))) for p in found.pairs}


@settings(deadline=None, derandomize=True)
@given(
    words=st.lists(WORD, min_size=3, max_size=3, unique=True),
    numbers=st.lists(st.integers(0, 9999), min_size=3, max_size=12, unique=True),
    shift=st.integers(1, 500),
    form=st.sampled_from(["{w}/{c}{n}", "{c}_{n}_{w}", "{w}-{n}", "{n}/{c}_{w}"]),
    order=st.randoms(use_true_random=False),
)
def test_pairing_does_not_depend_on_words_order_or_numbers(
    words: list[str], numbers: list[int], shift: int, form: str, order: object
) -> None:
    first, second, common = words
    for own in ("QQ" + first, second):  # renaming one side's constant word
        for add in (0, shift):  # and renumbering both alike
            wanted = {
                (
                    form.format(w=own, c=common, n=n + add) + ".jpg",
                    form.format(w=f"{second}zzlabels", c=common, n=n + add) + ".png",
                )
                for n in numbers
            }
            files = sorted(name for pair in wanted for name in pair)
            order.shuffle(files)  # type: ignore[attr-defined]
            assert found_pairs(files, ("zzlabels",)) == wanted


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    folders=st.lists(WORD, min_size=1, max_size=3, unique=True),
    names=st.lists(st.one_of(WORD, st.integers(0, 99).map(str)), min_size=2, max_size=10),
    ends=st.lists(st.sampled_from(["", "_a", "_mask", "_left", "_2"]), min_size=1, unique=True),
)
def test_a_folder_without_labels_never_yields_pairs(
    folders: list[str], names: list[str], ends: list[str]
) -> None:
    files = sorted({f"{f}/{n}{e}.jpg" for f in folders for n in names for e in ends})
    assert found_pairs(files, ()) is None
    assert found_pairs(files, tuple(folders)) is None  # nor one of labels without images


def test_labels_are_told_from_photographs_by_their_runs(tmp_path: Path) -> None:
    sides = []
    for kind in ("photo", "grey", "blurred", "labels", "jpeg"):
        looks = []
        for number, picture, labels in scenes():
            values = {
                "photo": picture,
                "grey": picture.mean(2).astype(np.uint8),
                "blurred": np.asarray(Image.fromarray(picture).resize((6, 6)).resize((48, 48), 3)),
            }.get(kind, labels * 255)
            path = tmp_path / f"{kind}{number}.{'jpg' if kind == 'jpeg' else 'png'}"
            put(path, values)
            looks.append(measure_file(path))
        sides.append([one for one in looks if one is not None])
    photo_, grey, blurred, labels_, jpeg = sides
    assert tell_labels(photo_, labels_) == 1
    assert tell_labels(jpeg, photo_) == 0
    assert tell_labels(grey, jpeg) == 1
    assert tell_labels(blurred, labels_) == 1
    for images in (grey, blurred, photo_):
        assert tell_labels(photo_, images) == -1
    assert tell_labels(labels_, jpeg) == -1


# --- numbers, folders and words of published sets -------------------------------------------------


@pytest.mark.parametrize("step", [1, 10])
def test_another_first_number_is_asked_about(step: int, tmp_path: Path) -> None:
    """images/0001..0006, labels/0000..0005: the same number, or the same place?"""
    for number, image, labels in scenes():
        put(tmp_path / f"frames/{step * number + step:04}.png", image)
        put(tmp_path / f"painted/{step * number:04}.png", labels)
    wanted = f"numbered {step} to {6 * step}, the label files 0 to {5 * step}"
    with pytest.raises(DatasetError, match=wanted) as caught:
        describe(tmp_path)
    assert 'images = "frames"' in (caught.value.hint or "")
    (tmp_path / "dataset.toml").write_text('root = "."\nimages = "frames"\n')
    assert len(describe(tmp_path / "dataset.toml").pairs) == 5


def test_a_missing_last_label_is_no_question(tmp_path: Path) -> None:
    for number, image, labels in scenes():
        put(tmp_path / f"images/{number}.png", image)
        if number:
            put(tmp_path / f"masks/{number}.png", labels)
    assert len(describe(tmp_path).pairs) == 5
    put(tmp_path / "masks/of_0.png", disc(0))  # a partner by another name
    assert len(describe(tmp_path).pairs) == 5


@pytest.mark.parametrize(
    "words",
    [
        ("entrenamiento", "validación"), ("Training", "Validierung"), ("entraînement", "val"),
        ("训练集", "验证集"), ("学習用", "検証用"), ("обучающая", "валидационная"),
        ("обучение", "проверка"), ("تدريب", "تحقق"), ("eğitim", "doğrulama"),
        ("treino", "validac\u0327a\u0303o"),
    ],
)  # fmt: skip
def test_splits_are_named_in_other_languages(words: tuple[str, str], tmp_path: Path) -> None:
    for number, image, labels in scenes():
        part = words[number >= 4]
        put(tmp_path / f"{part}/fotos/{number}.png", image)
        put(tmp_path / f"{part}/gemalt/{number}.png", labels)
    assert split_sizes(describe(tmp_path)) == {"train": 4, "val": 2}


def test_an_image_with_its_labels_drawn_over_it_is_no_second_image(tmp_path: Path) -> None:
    for number, image, labels in scenes():
        put(tmp_path / f"{number}_raw.png", image)
        put(tmp_path / f"{number}_segm.png", labels)
        put(tmp_path / f"{number}_blend.png", image // 2 + PALETTE[labels] // 2)
    assert pairs_of(describe(tmp_path)) == {f"{n}_raw.png": f"{n}_segm.png" for n in range(6)}


def test_other_images_in_the_folder_change_no_layout(tmp_path: Path) -> None:
    """CamVid as SegNet ships it, beside a folder of scripts and pictures: 11 is still void."""
    for split, name in (("train", "0001TP_1"), ("val", "0016E5_2"), ("test", "Seq05VD_3")):
        put(tmp_path / f"CamVid/{split}/{name}.png", photo(disc(3), 1))
        put(tmp_path / f"CamVid/{split}annot/{name}.png", disc(3) * 11)
    put(tmp_path / "Scripts/sun.png", photo(disc(5), 2))
    found = describe(tmp_path)
    assert (found.layout, len(found.classes), found.ignore_index) == ("camvid", 11, 11)


def test_masks_of_classes_need_no_folder_of_the_images_name(tmp_path: Path) -> None:
    """pycococreator: shapes_train/1000.jpeg, annotations/1000_square_0.png."""
    for number in range(2):
        labels = np.where(disc(number) > 0, 1, disc(number + 70, 5) * 2)
        put(tmp_path / f"shapes_train/{1000 + number}.jpeg", photo(labels, number))
        for value, word in ((1, "circle"), (2, "square")):
            mask = ((labels == value) * 255).astype(np.uint8)
            put(tmp_path / f"annotations/{1000 + number}_{word}_{value}.png", mask)
    assert describe(tmp_path).classes.names == ("background", "circle", "square")


@pytest.mark.parametrize(
    ("named", "classes"),
    [("{0}/{0}_mask", ("object",)), ("{0}/{0}_road", ("road",)), ("road/{0}", ("road",))],
)
def test_a_folder_called_like_its_image_is_no_class(
    named: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    for number, image, labels in scenes():
        put(tmp_path / f"images/a{number}.png", image)
        put(
            tmp_path / f"masks/{named.format(f'a{number}')}.png",
            (labels > 0).astype(np.uint8) * 255,
        )
    assert describe(tmp_path).classes.names == ("background", *classes)


def test_folders_with_one_more_word_on_both_sides_belong_to_it(tmp_path: Path) -> None:
    for number, image, labels in scenes():
        for end in ("", "_night"):
            put(tmp_path / f"images{end}/{number}.png", image)
            put(tmp_path / f"masks{end}/{number}.png", labels)
    found = describe(tmp_path)
    assert len({pair.image for pair in found.pairs}) == len(found.pairs) == 2 * len(list(scenes()))
    rows = [f"images/{number}.png,masks/{number}.png" for number, *_ in scenes()]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))  # a list says all there is
    assert len(describe(tmp_path).pairs) == len(rows)


def test_labels_of_several_pages_are_refused(tmp_path: Path) -> None:
    """A page for each class: the first alone would be taken for all."""
    for number, image, labels in scenes():
        put(tmp_path / f"images/{number}.png", image)
        pages = [Image.fromarray(((labels == kind) * 255).astype(np.uint8)) for kind in (1, 2)]
        (tmp_path / "masks").mkdir(exist_ok=True)
        pages[0].save(tmp_path / f"masks/{number}.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DatasetError, match="holds 2 images"):
        describe(tmp_path)


def test_a_list_of_pairs_may_come_from_windows(tmp_path: Path) -> None:
    rows = ["image,mask,split"]
    for number, image, labels in scenes():
        put(tmp_path / f"images/{number}.png", image)
        put(tmp_path / f"masks/{number}.png", labels)
        rows.append(f"images\\{number}.png,masks\\{number}.png,{'Val' if number else 'TRAIN'}")
    (tmp_path / "pairs.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    found = describe(tmp_path)
    assert found.layout == "list"
    assert [pair.split for pair in found.pairs].count("train") == 1


def test_a_yaml_names_the_folder_of_labels(tmp_path: Path) -> None:
    for number, image, labels in scenes():
        put(tmp_path / f"images/{number}.png", image)
        put(tmp_path / f"first/{number}.png", labels)
        put(tmp_path / f"second/{number}.png", np.roll(labels, 7, 0))
    text = "path: /home/someone/x\nimages: images\nmasks_dir: second  # the newer\nnames: [a, b]\n"
    (tmp_path / "data.yaml").write_text(text)
    for data in (tmp_path, tmp_path / "data.yaml"):
        found = describe(data)
        assert {pair.labels.parent.name for pair in found.pairs} == {"second"}
        assert found.classes.names == ("a", "b")


def test_matlab_files_of_instances_are_no_second_labels(tmp_path: Path) -> None:
    """SBD: img/a.jpg, cls/a.mat, inst/a.mat."""
    matlab = pytest.importorskip("scipy.io")
    for number, image, labels in scenes():
        put(tmp_path / f"img/{number}.png", image)
        for folder, key in (("cls", "GTcls"), ("inst", "GTinst")):
            (tmp_path / folder).mkdir(exist_ok=True)
            numbers = labels if folder == "cls" else labels * (number + 1)
            matlab.savemat(tmp_path / folder / f"{number}.mat", {key: {"Segmentation": numbers}})
    found = describe(tmp_path)
    assert {pair.labels.parent.name for pair in found.pairs} == {"cls"}
    assert len(found.classes) == 2


def test_other_labels_are_no_images_without_labels(tmp_path: Path) -> None:
    """A second annotator of the test part alone, numbers of segments."""
    for number, picture, labels in scenes():
        part = "train" if number < 4 else "test"
        put(tmp_path / f"{part}/aufnahmen/{number}.png", picture)
        put(tmp_path / f"{part}/erste/{number}.png", labels * 255)
        put(tmp_path / f"{part}/instances/{number}.png", labels * (number + 1))
        if part == "test":
            put(tmp_path / f"{part}/zweite/{number}.png", np.roll(labels, 2, 0) * 255)
    put(tmp_path / "train/aufnahmen/9.png", photo(disc(9), 9))
    description = describe(tmp_path)
    assert len(description.pairs) == 6
    assert description.found.orphan_images == (tmp_path / "train/aufnahmen/9.png",)


@pytest.mark.parametrize("copies", ["masks", "images"])
def test_copies_in_colour_are_not_left_over(copies: str, tmp_path: Path) -> None:
    """A label file without an image is, and an image without labels."""
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", labels)
        put(tmp_path / f"{copies}/{number}_color.png", PALETTE[labels])
    put(tmp_path / "images/88.png", photo(disc(9), 9))
    put(tmp_path / "masks/77.png", disc(9))
    found = describe(tmp_path).found
    assert found.orphan_images == (tmp_path / "images/88.png",)
    assert found.orphan_labels == (tmp_path / "masks/77.png",)
    assert f"({copies}/0_color.png ...)" in found.why[-1]


def test_chosen_files_that_look_alike_are_paired_by_name(tmp_path: Path) -> None:
    for number, picture, _ in scenes():
        put(tmp_path / f"a/{number}.png", picture)
        put(tmp_path / f"b/{number}.png", picture[::-1])
    found = find_sides(list_folder(tmp_path), "a", "b")
    assert len(found.pairs) == 6
    assert {(pair.image.parent.name, pair.labels.parent.name) for pair in found.pairs} == {
        ("a", "b")
    }


def test_a_large_file_is_known_by_its_ends(tmp_path: Path) -> None:
    words = marks(b"first-mark", b"last-mark")
    both, far = b"first-mark last-mark", b" " * 100_000
    files = {
        "both ends": b"first-mark" + far + far + b"last-mark",
        "one end": far + far + b"last-mark",
        "its middle": far + both + far,
        "not so large": b" " * 80_000 + both,
        "not so large, one word": b" " * 80_000 + b"last-mark",
    }
    for name, data in files.items():
        (tmp_path / f"{name}.json").write_bytes(data)
    found = list_folder(tmp_path).saying(words, ".json")
    assert found == ["both ends.json", "not so large.json", "one end.json"]


def test_a_file_that_cannot_be_read_does_not_shift_the_sizes(tmp_path: Path) -> None:
    """Images of two sizes, one file broken: each is compared with its own labels."""
    for number in range(6):
        size = (48, 64 if number % 2 else 70)
        put(tmp_path / f"a/{number}.png", np.zeros((*size, 3), np.uint8))
        put(tmp_path / f"b/{number}.png", np.zeros(size, np.uint8))
    (tmp_path / "a/0.png").write_bytes(b"not a PNG")
    pairs = tuple((f"a/{number}.png", f"b/{number}.png") for number in range(6))
    assert not other_size(Candidate(pairs), StatsCache(list_folder(tmp_path)))
    assert other_size(Candidate((("a/3.png", "b/2.png"),)), StatsCache(list_folder(tmp_path)))
