"""Dataset folders of every annotation format, read as `check` and `train` read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from fcnseg.datasets.check import scan_and_check
from fcnseg.datasets.dataset_toml import write_declared
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_sample
from fcnseg.errors import FcnsegError
from fcnseg.progress import no_callback
from tests.datasets import test_annotation_formats as tools
from tests.datasets import test_public_folders as public
from tests.datasets import test_tool_formats as more
from tests.datasets import written
from tests.faults.kinds import Kind

DRAWN = written.draw_set(train=2, val=1)

_TEXTS = (".json", ".xml", ".csv", ".txt", ".yaml", ".geojson", ".jsonl", ".ndjson")

_ARRAYS = (".npy", ".npz", ".mat", ".tif", ".nii.gz")


def use(folder: Path) -> None:
    """What `fcnseg check` finds; then every pair as it is trained on."""
    data = next((folder / "data").glob("*.toml"), folder / "data")
    seen, _ = scan_and_check(data, no_callback)
    found = seen.description
    for pair in found.pairs:
        try:
            read_sample(pair, found.encoding)
        except FcnsegError:
            continue


def _below(write: Callable[[Path], object]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        (folder / "data").mkdir()
        write(folder / "data")

    return both


def _declared(root: Path) -> None:
    """A folder and the dataset.toml that says all that one can say."""
    written.folders(root, DRAWN, written.as_color)
    written.class_table(root)
    write_declared(describe(root), root / "dataset.toml")
    with (root / "dataset.toml").open("a") as file:
        file.write(f'\n[splits]\nval = ["{DRAWN[0].name}*"]\n')


def _named_masks(root: Path) -> None:
    """Label images with a list of classes in each of the forms it may have."""
    written.camvid(root, DRAWN)
    (root / "classes.json").write_text(
        json.dumps({str(n): name for n, name in enumerate(written.NAMES)})
    )


def _csv_classes(root: Path) -> None:
    written.folders(root, DRAWN, written.as_color)
    written.class_table(root)


WRITERS: dict[str, Callable[[Path], object]] = {
    **tools.WRITERS,
    **{name: write for name, (_, write) in more.WRITERS.items()},
    "COCO polygons": partial(written.coco, drawn=DRAWN, kind="polygons"),
    "COCO run lengths": partial(written.coco, drawn=DRAWN, kind="runs"),
    "COCO boxes": tools.half_annotated,
    "labelme": partial(written.labelme, drawn=DRAWN),
    "YOLO": partial(written.yolo, drawn=DRAWN),
    "VOC": partial(written.cvat, drawn=DRAWN),
    "Roboflow masks": partial(written.roboflow, drawn=DRAWN),
    "list of pairs": partial(written.pair_list, drawn=DRAWN),
    "class table": _csv_classes,
    "class names": _named_masks,
    "labelme folders": public.labelme_folders,
    "ADE20K 2020": public.ade20k_2020,
    "Open Images": public.open_images,
    "Hugging Face": public.hugging_face,
    "Kaggle runs": public.kaggle_runs,
}

if find_spec("faster_coco_eval"):
    WRITERS["COCO compressed"] = partial(written.coco, drawn=DRAWN, kind="compressed")

STACKS: dict[str, Callable[[Path], object]] = {
    "npy labels": lambda root: tools.write_arrays(root, *tools.ARRAYS["npy"]),
    "npz labels": lambda root: tools.write_arrays(root, *tools.ARRAYS["npz"]),
    "npy stacks": more.arrays,
    "npz stacks": more.npz_each,
    "TIFF stacks": more.tiff_pair,
}

if find_spec("scipy"):
    STACKS["mat labels"] = lambda root: tools.write_arrays(root, "mat", tools.save_mat)

MASKS: dict[str, Callable[[Path], object]] = {
    "label PNGs": partial(written.camvid, drawn=DRAWN),
    "palette PNGs": partial(written.voc, drawn=DRAWN),
}

KINDS = {
    **{name: Kind(_below(write), use, _TEXTS) for name, write in WRITERS.items()},
    "dataset.toml": Kind(_below(_declared), use, (".toml",), rename=False),
    **{name: Kind(_below(write), use, _ARRAYS, text=False) for name, write in STACKS.items()},
    **{name: Kind(_below(write), use, (".png",), text=False) for name, write in MASKS.items()},
}
