"""The data of trainings: a complete dataset, or a folder of links to a part of one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainings import Training

from fcnseg.datasets import Pair, split_pairs
from fcnseg.datasets.describe import describe


def data_of(training: Training, seed: int, root: Path, work: Path) -> tuple[Path, Path | None]:
    """The dataset of a training, and the folder of its unlabeled images, if any."""
    name, _, part = training.dataset.partition("-")
    if training.part == "drives":
        return without_drive(root / "camvid", part, work / training.dataset).resolve(), None
    data = data_folder(root, name).resolve()
    if training.part == "few":
        return few_labels(data, int(part), seed, (work / f"{training.dataset}-{seed}").resolve())
    return data, None


def data_folder(root: Path, name: str) -> Path:
    """A dataset's folder, or the dataset.toml in it."""
    declared = root / name / "dataset.toml"
    return declared if declared.is_file() else root / name


def few_labels(data: Path, every: int, seed: int, out: Path) -> tuple[Path, Path]:
    """Make links to one in `every` labeled training images, and to the images of the others.

    Validation images are those of the dataset. With the training images sorted by name, seed 0
    takes the first of each `every`, seed 1 the second. Each is linked `every` times, so that an
    epoch has the same number of steps as with all labels, and validation its usual share.
    """
    description = describe(data)
    train = split_pairs(description, "train")
    labeled = train[seed % every :: every]
    for copy in range(every):
        _link_pairs(labeled, out / "labeled" / "train", suffix=f"-{copy}")
    _link_pairs(split_pairs(description, "val"), out / "labeled" / "val")
    kept = {pair.image for pair in labeled}
    for pair in train:
        if pair.image not in kept:
            _link(pair.image, out / "unlabeled" / pair.image.name)
    return out / "labeled", out / "unlabeled"


def without_drive(camvid: Path, drive: str, out: Path) -> Path:
    """Make links to CamVid's training images, with every second one of `drive` in val.

    The others of the drive are omitted, because neighbouring frames are similar. CamVid's own
    validation images are omitted as well: they are from a training recording.
    """
    chosen = sorted((camvid / "train").iterdir())
    held_out = [image for image in chosen if image.name.startswith(f"{drive}_")][::2]
    trained = [image for image in chosen if not image.name.startswith(f"{drive}_")]
    for split, images in (("train", trained), ("val", held_out)):
        for image in images:
            for folder in (split, f"{split}annot"):
                original = camvid / f"train{folder[len(split) :]}" / image.name
                _link(original, out / folder / image.name)
    return out


def _link_pairs(pairs: Iterable[Pair], folder: Path, *, suffix: str = "") -> None:
    for pair in pairs:
        for file, room in ((pair.image, "images"), (pair.labels, "labels")):
            _link(file, folder / room / f"{file.stem}{suffix}{file.suffix}")


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target.resolve())
