"""Each kind of trouble, made on purpose: its code, its files, its severity, the exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fcnseg.cli.app import app
from fcnseg.cli.tables import show_check
from fcnseg.commands.check import check
from fcnseg.config import CheckConfig
from fcnseg.datasets.check import CheckResult, examine
from fcnseg.datasets.check.statistics import count_classes
from fcnseg.datasets.describe import describe, scan
from fcnseg.datasets.formats import read_sample
from fcnseg.errors import DatasetError, OptionError
from tests.datasets import written
from tests.datasets.test_describe import assert_same, samples, wanted
from tests.datasets.written import Drawn, draw_set, folders

DOCS = Path(__file__).parent.parent.parent / "docs" / "datasets.md"

ORIENTATION = 0x0112


@dataclass(frozen=True)
class Trouble:
    """How a trouble is made in a good folder, and what check has to say of it."""

    make: Callable[[Path], object]
    severity: str
    files: tuple[str, ...] = ()


def good(root: Path, count: int = 10) -> list[Drawn]:
    drawn = draw_set(train=count, val=4)
    folders(root, drawn)
    (root / "classes.txt").write_text("\n".join(written.NAMES))
    return drawn


def first(root: Path, role: str, split: str = "train") -> Path:
    return sorted((root / role / split).iterdir())[0]


def shape_of(path: Path, size: tuple[int, int]) -> None:
    with Image.open(path) as image:
        image.resize(size, Image.Resampling.NEAREST).save(path)


def in_folders_of_words(root: Path) -> None:
    (root / "classes.txt").unlink()
    for role in ("images", "masks"):
        for number, path in enumerate(sorted((root / role).glob("*/*.png"))):
            if role == "masks":
                relabel(path, lambda a: np.minimum(a, 1, out=a))
            folder = path.parent / ("cat", "dog")[number % 2]
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)


def turned(path: Path, orientation: int) -> None:
    """The same file with an EXIF orientation; its pixels stay as they are."""
    with Image.open(path) as image:
        exif = image.getexif()
        exif[ORIENTATION] = orientation
        image.copy().save(path, exif=exif)


def relabel(path: Path, change: Callable[[np.ndarray], object]) -> None:
    labels = np.array(Image.open(path))
    change(labels)
    Image.fromarray(labels).save(path)


def put(value: int, rows: slice = slice(0, 2)) -> Callable[[np.ndarray], object]:
    return lambda labels: labels.__setitem__((rows, slice(0, 3)), value)


def copied(root: Path) -> None:
    """A training picture and its labels once more, in val."""
    for role in ("images", "masks"):
        source = first(root, role)
        (root / role / "val" / source.name).write_bytes(source.read_bytes())


def looks_alike(root: Path) -> None:
    copied(root)
    copy = root / "images" / "val" / first(root, "images").name
    pixels = np.array(Image.open(copy)).astype(int) + 2
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(copy)


def as_video(root: Path) -> None:
    """Frames of one recording, the last third in val."""
    rng = np.random.default_rng(0)
    scene = np.array(Image.fromarray(rng.integers(0, 255, (12, 40, 3)).astype(np.uint8)).resize(
        (640, 48), Image.Resampling.BICUBIC))  # fmt: skip
    for role in ("images", "masks"):
        for path in (root / role).rglob("*.png"):
            path.unlink()
    labels = draw_set()[0].labels
    for frame in range(30):
        split = "train" if frame < 20 else "val"
        view = scene[:, 8 * frame : 8 * frame + 64]
        written.save(Image.fromarray(view), root / "images" / split / f"drive_{frame * 5:05}.png")
        written.save(Image.fromarray(labels), root / "masks" / split / f"drive_{frame * 5:05}.png")


def unsplit(root: Path) -> None:
    for role in ("images", "masks"):
        for path in (root / role).rglob("*.png"):
            path.rename(root / role / path.name)


def everything(root: Path, change: Callable[[Path], object]) -> None:
    for path in sorted((root / "masks").rglob("*.png")):
        change(path)


def to_jpeg(path: Path) -> None:
    Image.open(path).save(path.with_suffix(".jpg"), quality=90)
    path.unlink()


def greys_to_jpeg(path: Path) -> None:
    relabel(path, lambda a: np.multiply(np.minimum(a, 3), 85, out=a))
    to_jpeg(path)


def inverted(path: Path) -> None:
    relabel(path, lambda a: np.copyto(a, np.where(a == 1, 0, 255).astype(np.uint8)))


def two_meanings(root: Path) -> None:
    (root / "classes.txt").write_text("background\ndisk\n")
    for index, path in enumerate(sorted((root / "masks").rglob("*.png"))):
        relabel(path, lambda a: np.minimum(a, 1, out=a))
        if index % 2:
            relabel(path, lambda a: a.__setitem__(slice(2), 255))
        else:
            relabel(path, lambda a: np.multiply(a, 255, out=a))


def cut_out(path: Path) -> None:
    labels = np.minimum(np.array(Image.open(path)), 1)
    written.as_alpha(labels).save(path)


def few(root: Path) -> None:
    for role in ("images", "masks"):
        for path in sorted((root / role / "train").iterdir())[3:]:
            path.unlink()


def in_coco(root: Path) -> None:
    """As COCO, with one image that is not there."""
    for path in root.rglob("*.png"):
        path.unlink()
    written.coco(root, draw_set(train=10), "polygons")
    path = root / "annotations" / "instances_train2017.json"
    data = json.loads(path.read_text())
    data["images"].append({"id": 99, "file_name": "gone.png", "height": 48, "width": 64})
    path.write_text(json.dumps(data))


def as_boxes(root: Path) -> None:
    """Objects of another task: labelme's rectangles around them."""
    for path in (root / "masks").rglob("*.png"):
        path.unlink()
    for path in sorted((root / "images").rglob("*.*")):
        corners = [[[4, 6], [20, 30]], [[30, 10], [50, 28]]]
        shapes = [
            {"label": name, "shape_type": "rectangle", "points": points}
            for name, points in zip(("disk", "box"), corners, strict=True)
        ]
        data = {"imagePath": path.name, "shapes": shapes}
        path.with_suffix(".json").write_text(json.dumps(data))


def one_value_each(root: Path) -> None:
    """Two people drew one thing, one in grey, the other in white."""
    (root / "classes.txt").unlink()
    for number, path in enumerate(sorted((root / "masks").rglob("*.png"))):
        relabel(path, lambda a, n=number: np.copyto(a, (a == 1) * np.uint8(128 + 127 * (n % 2))))


def in_two_ways(root: Path) -> None:
    """All label files but one are in colors."""
    (root / "classes.txt").unlink()
    palette = np.full((256, 3), 255, np.uint8)
    palette[:4] = (0, 0, 0), (200, 0, 0), (0, 0, 200), (0, 200, 0)
    for path in sorted((root / "masks").rglob("*.png")):
        if path != first(root, "masks"):
            Image.fromarray(palette[np.asarray(Image.open(path))]).save(path)


TROUBLES: dict[str, Trouble] = {
    "empty-file": Trouble(lambda r: first(r, "images").write_bytes(b""), "error", ("images",)),
    "unreadable": Trouble(
        lambda r: first(r, "images").write_text("not a picture"), "error", ("images",)
    ),
    "size-mismatch": Trouble(lambda r: shape_of(first(r, "masks"), (30, 30)), "error", ("masks",)),
    "exif-mismatch": Trouble(lambda r: turned(first(r, "images"), 6), "warning", ("masks",)),
    "lossy-indices": Trouble(lambda r: everything(r, to_jpeg), "error"),
    "nothing-labelled": Trouble(
        lambda r: everything(r, lambda p: relabel(p, lambda a: a.fill(255))), "error"
    ),
    "one-class": Trouble(
        lambda r: everything(r, lambda p: relabel(p, lambda a: np.copyto(a, a * 0 + 2))), "error"
    ),
    "orphan-image": Trouble(lambda r: first(r, "masks").unlink(), "warning", ("images",)),
    "orphan-labels": Trouble(lambda r: first(r, "images").unlink(), "warning", ("masks",)),
    "left-out": Trouble(in_coco, "warning", ("annotations/instances_train2017.json",)),
    "unlabelled-class": Trouble(
        lambda r: (r / "class_dict.csv").write_text("name,id\nvoid,2\na,0\nb,1\nc,3\n"), "warning"
    ),
    "undeclared-value": Trouble(
        lambda r: relabel(first(r, "masks"), put(77)), "warning", ("masks",)
    ),
    "snapped": Trouble(lambda r: everything(r, greys_to_jpeg), "warning"),
    "unused-class-list": Trouble(
        lambda r: (r / "classes.txt").write_text("7 sea\n8 sand\n9 palm\n"), "warning"
    ),
    "absent-class": Trouble(
        lambda r: (r / "classes.txt").write_text("background\ndisk\nbox\nstar\nmoon\n"), "warning"
    ),
    "absent-in-split": Trouble(
        lambda r: [
            relabel(p, lambda a: np.copyto(a, np.where(a == 3, 0, a)))
            for p in (r / "masks" / "val").iterdir()
        ],
        "warning",
    ),
    "unlabelled-picture": Trouble(
        lambda r: relabel(first(r, "masks"), lambda a: a.fill(255)), "warning", ("masks",)
    ),
    "copies-across-splits": Trouble(copied, "warning", ("images", "images/val")),
    "lookalikes-across-splits": Trouble(looks_alike, "warning", ("images", "images/val")),
    "neighbouring-frames": Trouble(as_video, "warning"),
    "few-pairs": Trouble(few, "warning"),
    "rare-class": Trouble(
        lambda r: everything(
            r, lambda p: relabel(p, lambda a: np.copyto(a, np.where(a == 2, 0, a)) or put(2)(a))
        ),
        "info",
    ),
    "covered-picture": Trouble(
        lambda r: [
            good(r, 40),
            relabel(first(r, "masks"), lambda a: a.fill(2)),
        ],
        "info",
        ("masks",),
    ),
    "outsized-label": Trouble(
        lambda r: [
            good(r, 40),
            relabel(first(r, "masks"), lambda a: np.copyto(a[:42], 3)),
        ],
        "warning",
        ("masks",),
    ),
    "drawn-split": Trouble(unsplit, "info"),
    "boxes": Trouble(as_boxes, "warning"),
    "class-folders": Trouble(in_folders_of_words, "warning"),
    "two-meanings": Trouble(two_meanings, "warning"),
    "one-value-each": Trouble(one_value_each, "warning"),
    "two-storages": Trouble(in_two_ways, "warning", ("masks",)),
    "names-alike": Trouble(
        lambda r: (r / "classes.txt").write_text("background\ndisk\nDisk\nstar\n"), "warning"
    ),
    "inverted-mask": Trouble(lambda r: everything(r, inverted), "info"),
    "alpha-labels": Trouble(lambda r: everything(r, cut_out), "info"),
    "copies": Trouble(
        lambda r: [
            (r / role / "train" / "again.png").write_bytes(first(r, role).read_bytes())
            for role in ("images", "masks")
        ],
        "info",
        ("images", "images/train/again.png"),
    ),
    "deep-image": Trouble(
        lambda r: Image.fromarray(np.full((48, 64), 40000, np.uint16)).save(first(r, "images")),
        "info",
        ("images",),
    ),
    "transparent-image": Trouble(
        lambda r: Image.new("RGBA", (64, 48), (9, 9, 9, 100)).save(first(r, "images")),
        "info",
        ("images",),
    ),
    "exif-turned": Trouble(lambda r: turned(first(r, "images"), 3), "info", ("images",)),
}


@pytest.mark.parametrize("code", TROUBLES)
def test_each_trouble_is_found(code: str, tmp_path: Path) -> None:
    trouble = TROUBLES[code]
    root = tmp_path / "data"
    good(root)
    spoiled = {role: first(root, role).relative_to(root).as_posix() for role in ("images", "masks")}
    before = {finding.code for finding in examine(root).findings}
    trouble.make(root)
    result = CliRunner().invoke(
        app, ["check", str(root), "--json", "--contact", str(tmp_path / "contact.png")]
    )
    assert result.exit_code == (1 if trouble.severity == "error" else 0), result.output
    findings = {finding["code"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert code not in before
    assert code in findings
    found = findings[code]
    assert found["severity"] == trouble.severity
    assert found["message"]
    assert found["repair"]
    if trouble.files:
        named = [
            f"images/val/{Path(spoiled['images']).name}" if name == "images/val"
            else spoiled.get(name, name)
            for name in trouble.files
        ]  # fmt: skip
        assert sorted(found["files"]) == sorted(named)


def test_a_good_folder_has_nothing_to_say(tmp_path: Path) -> None:
    good(tmp_path)
    assert examine(tmp_path).findings == ()


@pytest.mark.parametrize("code", TROUBLES)
def test_each_trouble_is_documented(code: str) -> None:
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    row = next((line for line in rows if f"`{code}`" in line), None)
    assert row is not None
    assert TROUBLES[code].severity in row


def test_no_code_is_without_a_test() -> None:
    package = Path(__file__).parent.parent.parent / "fcnseg" / "datasets" / "check"
    for name in ("findings.py", "label_checks.py", "__init__.py"):
        text = (package / name).read_text(encoding="utf-8")
        codes = {part.split('"')[1] for part in text.split("\n") if _is_code(part)}
        assert codes <= set(TROUBLES), codes - set(TROUBLES)


def _is_code(line: str) -> bool:
    """A line that holds nothing but a word with a dash in quotes."""
    word = line.strip().rstrip(",")
    return word.startswith('"') and word.endswith('"') and "-" in word and " " not in word


def test_errors_are_raised_for_a_training(tmp_path: Path) -> None:
    good(tmp_path)
    first(tmp_path, "masks").write_bytes(b"")
    with pytest.raises(DatasetError, match="empty") as error:
        examine(tmp_path).raise_errors(tmp_path)
    assert "masks/train" in error.value.message
    assert f"fcnseg check {tmp_path} --fix {tmp_path.name}_clean" in error.value.hint


def test_all_errors_are_named_once_with_the_command_that_mends_them(tmp_path: Path) -> None:
    good(tmp_path)
    first(tmp_path, "masks").write_bytes(b"")
    shape_of(sorted((tmp_path / "images/train").iterdir())[1], (40, 40))
    with pytest.raises(DatasetError, match="has 2 errors") as error:
        examine(tmp_path).raise_errors(tmp_path)
    text = str(error.value)
    assert (text.count("1 file is empty"), text.count("different size")) == (1, 1)
    assert f"fcnseg check {tmp_path} --fix {tmp_path.name}_clean" in error.value.hint


def test_as_dict_is_what_json_promises(tmp_path: Path) -> None:
    good(tmp_path)
    found = examine(tmp_path).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["layout"] == "folders"
    assert found["pairs"] == 14
    assert found["classes"] == list(written.NAMES)
    assert found["ignore_index"] == 255
    assert found["splits"] == {"train": 10, "val": 4}


def test_frequencies_are_those_of_the_labels(tmp_path: Path) -> None:
    drawn = good(tmp_path)
    result = examine(tmp_path)
    every = np.stack([one.labels for one in drawn])
    counts = np.bincount(every[every < 255], minlength=4)
    assert [one.pixels for one in result.frequencies] == counts.tolist()
    assert sum(one.proportion for one in result.frequencies) == pytest.approx(1)
    train = np.stack([one.labels for one in drawn if one.split == "train"])
    assert result.train_pixels == tuple(np.bincount(train[train < 255], minlength=4))
    assert result.frequencies[2].images == {"train": 10, "val": 4, "test": 0}
    counted = count_classes(scan(tmp_path))
    assert counted.ignored.tolist()[:2] == [
        (train == 255).sum(),
        (every == 255).sum() - (train == 255).sum(),
    ]


def test_mean_and_spread_are_those_of_the_pixels(tmp_path: Path) -> None:
    drawn = good(tmp_path)
    result = examine(tmp_path)
    pixels = np.stack([one.image for one in drawn]).reshape(-1, 3) / 255
    np.testing.assert_allclose(result.mean, pixels.mean(0), atol=1e-3)
    np.testing.assert_allclose(result.spread, pixels.std(0), atol=1e-3)


def checked(root: Path, **options: Path) -> CheckResult:
    return check(CheckConfig(data=root, contact=root.parent / "contact.png", **options))


def test_the_contact_sheet_shows_images_and_names(tmp_path: Path) -> None:
    good(tmp_path / "data")
    result = checked(tmp_path / "data")
    assert result.contact == tmp_path / "contact.png"
    with Image.open(result.contact) as sheet:
        assert sheet.width > 4 * 240
        colors = np.array(sheet).reshape(-1, 3)
    assert (colors.std(0) > 10).all()


def first_of_the_sheet(root: Path, result: CheckResult, index: int) -> float:
    """How far the sheet's first image is from the color of a class, on average."""
    with Image.open(root.parent / "contact.png") as sheet:
        middle = np.array(sheet)[60:180, :320].astype(int)  # of pictures of 64x48, 240 high
    return float(np.abs(middle - np.array(result.description.classes.colors[index])).mean())


def test_the_contact_sheet_begins_with_what_is_doubtful(tmp_path: Path) -> None:
    root = tmp_path / "data"
    good(root, 40)
    before = first_of_the_sheet(root, checked(root), 3)
    doubtful = sorted((root / "masks" / "train").iterdir())[-2]
    relabel(doubtful, lambda labels: np.copyto(labels[:42], 3))
    result = checked(root)
    assert [finding.code for finding in result.findings] == ["outsized-label"]
    assert first_of_the_sheet(root, result, 3) < before - 20


def test_a_clean_copy_has_no_errors(tmp_path: Path) -> None:
    root = tmp_path / "data"
    drawn = good(root)
    names = sorted(one.name for one in drawn if one.split == "train")
    first(root, "images").write_bytes(b"")
    shape_of(root / "masks" / "train" / f"{names[1]}.png", (128, 96))
    shape_of(root / "masks" / "train" / f"{names[2]}.png", (30, 30))
    turned(root / "images" / "train" / f"{names[3]}.png", 6)
    for role in ("images", "masks"):
        source = root / role / "train" / f"{names[4]}.png"
        (root / role / "val" / source.name).write_bytes(source.read_bytes())
    result = checked(root, fix=tmp_path / "clean")
    assert result.failed
    cleaned = result.cleaned
    assert cleaned is not None
    assert {name.rpartition("/")[2] for name in cleaned.repaired} == {names[1], names[3]}
    assert {name.rpartition("/")[2] for name in cleaned.left_out} == {names[0], names[2], names[4]}
    again = examine(tmp_path / "clean")
    assert not again.failed
    assert again.description.classes == result.description.classes
    expected = wanted([one for one in drawn if one.name not in names[:5]])
    assert_same({k: v for k, v in samples(again.description).items() if k in expected}, expected)
    pair = next(p for p in again.description.pairs if names[3] in p.name)
    image, labels = read_sample(pair, again.description.encoding)
    original = next(one for one in drawn if one.name == names[3])
    np.testing.assert_array_equal(image, np.rot90(original.image, -1))
    np.testing.assert_array_equal(labels, np.rot90(original.labels, -1))


def test_a_clean_copy_overwrites_nothing(tmp_path: Path) -> None:
    good(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="already exists"):
        checked(tmp_path / "data", fix=tmp_path / "out")


def test_what_is_written_trains_the_same(tmp_path: Path) -> None:
    root = tmp_path / "data"
    good(root)
    unsplit(root)
    result = checked(root, write=tmp_path / "dataset.toml")
    assert result.written == tmp_path / "dataset.toml"
    again = describe(tmp_path / "dataset.toml")
    assert [replace(p, name="") for p in again.pairs] == [
        replace(p, name="") for p in result.description.pairs
    ]
    assert again.encoding == result.description.encoding
    assert again.classes == result.description.classes


def test_images_that_all_look_alike_have_no_val_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        for folder, color in (("images", 90), ("labels", 1)):
            path = tmp_path / "data" / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (32, 32), color).save(path)
    result = check(CheckConfig(data=tmp_path / "data", contact=tmp_path / "contact.png"))
    drawn = next(finding for finding in result.findings if finding.code == "drawn-split")
    assert "no validation images" in drawn.message
    assert "none was drawn" in result.description.why[-1]
    assert "Pair(" not in repr(result), "thousands at the prompt"
    show_check(result)
    assert "put a classes.txt" in " ".join(capsys.readouterr().out.split())
