"""JSON of outlines in forms of many tools and data sets: one reading for all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fcnseg.datasets.describe import describe, own_split_sizes
from fcnseg.errors import DatasetError
from fcnseg.io.annotations import rings_in
from tests.datasets.test_pairing import photo, put
from tests.datasets.test_public_folders import Truth, agrees

SIDE = 48
NAMES = ("background", "disc", "ring")
Rings = dict[str, list[list[int]]]


def rings_of(number: int) -> Rings:
    """Outlines of two areas that do not touch."""
    x, y = 4 + 2 * number, 5 + number
    return {
        "disc": [[x, y], [x + 12, y], [x + 12, y + 9], [x + 3, y + 14]],
        "ring": [[x + 2, y + 20], [x + 15, y + 22], [x + 9, y + 30]],
    }


def labels_of(rings: Rings) -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for name, ring in rings.items():
        cv2.fillPoly(labels, [np.array(ring)], NAMES.index(name))
    return labels


def xy(ring: list[list[int]], scale: float = 1) -> list[dict[str, float]]:
    return [{"x": x / scale, "y": y / scale} for x, y in ring]


def flat(ring: list[list[int]]) -> list[int]:
    return [value for point in ring for value in point]


Record = Callable[[int, Rings], Any]

FORMS: dict[str, tuple[Record, str]] = {
    "HuBMAP": (
        lambda n, rings: {
            "id": f"{n:03}aef",
            "annotations": [{"type": k, "coordinates": [one]} for k, one in rings.items()],
        },
        "lines",
    ),
    "Prodigy": (
        lambda n, rings: {
            "image": "data:image/jpeg;base64,/9j/4A",
            "path": f"/data/images/{n:03}aef.png",
            "width": SIDE,
            "height": SIDE,
            "spans": [{"label": k, "type": "polygon", "points": one} for k, one in rings.items()],
            "answer": "accept",
        },
        "lines",
    ),
    "DeepFashion2": (
        lambda n, rings: {
            "source": "user",
            **{
                f"item{place}": {
                    "segmentation": [flat(one)],
                    "landmarks": [1, 2, 2, 4, 5, 2],
                    "bounding_box": [1, 2, 3, 4],
                    "category_id": place,
                    "category_name": k,
                }
                for place, (k, one) in enumerate(rings.items(), 1)
            },
        },
        "files",
    ),
    "VoTT": (
        lambda n, rings: {
            "asset": {"name": f"{n:03}aef.png", "size": {"width": SIDE, "height": SIDE}},
            "regions": [
                {"type": "POLYGON", "tags": [k], "boundingBox": {}, "points": xy(one)}
                for k, one in rings.items()
            ],
        },
        "assets",
    ),
    "EISeg": (
        lambda n, rings: [
            {"name": k, "labelIdx": NAMES.index(k), "color": [1, 2, 3], "points": one}
            for k, one in rings.items()
        ],
        "files",
    ),
    "ISAT": (
        lambda n, rings: {
            "info": {"description": "ISAT", "name": f"{n:03}aef.png"},
            "objects": [{"category": k, "segmentation": one} for k, one in rings.items()],
        },
        "files",
    ),
    "Kili": (
        lambda n, rings: {
            "externalId": f"{n:03}aef.png",
            "labels": [
                {
                    "jsonResponse": {
                        "JOB": {
                            "annotations": [
                                {
                                    "boundingPoly": [{"normalizedVertices": xy(one, SIDE)}],
                                    "categories": [{"name": k, "confidence": 100}],
                                    "type": "semantic",
                                }
                                for k, one in rings.items()
                            ]
                        }
                    }
                }
            ],
        },
        "list",
    ),
    "BDD100K": (
        lambda n, rings: {
            "name": f"{n:03}aef.png",
            "labels": [
                {"category": k, "poly2d": [{"vertices": one, "types": "LLLL", "closed": True}]}
                for k, one in rings.items()
            ]
            + [{"category": "lane", "poly2d": [{"vertices": [[0, 0], [40, 9], [9, 40]],
                                                "closed": False}]}],
        },
        "list",
    ),
    "Hugging Face": (
        lambda n, rings: {
            "file_name": f"{n:03}aef.png",
            "objects": {"polygons": [flat(one) for one in rings.values()],
                        "categories": [*rings]},
        },
        "lines",
    ),
}  # fmt: skip


def written(root: Path, form: str) -> Truth:
    record, how = FORMS[form]
    truth, records = {}, []
    for number in range(6):
        rings = rings_of(number)
        name = f"images/{number:03}aef.png"
        truth[name] = labels_of(rings)
        put(root / name, photo(truth[name], number))
        records.append(record(number, rings))
        if how == "files":
            (root / "annos").mkdir(exist_ok=True)
            (root / f"annos/{number:03}aef.json").write_text(json.dumps(records[-1]))
    if how == "lines":
        (root / "polygons.jsonl").write_text("\n".join(map(json.dumps, records)))
    elif how == "list":
        (root / "export.json").write_text(json.dumps(records))
    elif how == "assets":
        tags = [{"name": name, "color": "#ff0000"} for name in NAMES[1:]]
        assets = {f"id{place}": one for place, one in enumerate(records)}
        (root / "export.json").write_text(json.dumps({"tags": tags, "assets": assets}))
    return truth


@pytest.mark.parametrize("form", FORMS)
def test_outlines_with_names_are_found_in_any_json(form: str, tmp_path: Path) -> None:
    truth = written(tmp_path, form)
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.classes.names == NAMES
    assert own_split_sizes(description) == {}


def test_images_without_outlines_are_background_and_rejected_ones_are_left_out(
    tmp_path: Path,
) -> None:
    truth = written(tmp_path, "Prodigy")
    file = tmp_path / "polygons.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    records[2]["spans"], records[4]["answer"] = [], "reject"
    file.write_text("\n".join(map(json.dumps, records)))
    truth["images/002aef.png"][:] = 0
    del truth["images/004aef.png"]
    assert agrees(describe(tmp_path), truth)


@pytest.mark.parametrize("form", ["ISAT", "EISeg"])
def test_a_file_without_outlines_is_of_an_image_without_objects(form: str, tmp_path: Path) -> None:
    """If it is of the same form as those beside it; a file about something else is not."""
    truth = written(tmp_path, form)
    file = tmp_path / "annos/002aef.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps([] if isinstance(data, list) else data | {"objects": []}))
    truth["images/002aef.png"][:] = 0
    (tmp_path / "annos/004aef.json").write_text('{"info": {}, "boxes": [], "score": 1}')
    del truth["images/004aef.png"]
    assert agrees(describe(tmp_path), truth)


def test_what_is_no_area_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.png", photo(labels_of(rings_of(number)), number))
        record = {"image": f"{number}.png", "keypoints": [[1, 2], [3, 4], [5, 9]], "label": "face",
                  "boxes": [{"label": "disc", "bbox": [1, 2, 30, 40]}]}  # fmt: skip
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    with pytest.raises(DatasetError, match="no labels that can be read"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("value", "corners"),
    [
        ([[0, 0], [4, 0], [4, 4]], [3]),
        ([0, 0, 4, 0, 4, 4], [3]),
        ("0,0 4,0 4,4", [3]),
        ({"x": [0, 4, 4], "y": [0, 0, 4]}, [3]),
        ({"0": {"x": 0, "y": 0}, "1": {"x": 4, "y": 0}, "2": {"x": 4, "y": 4}}, [3]),
        ({"exterior": [[0, 0], [9, 0], [9, 9]], "interior": [[[5, 1], [8, 1], [8, 4], [6, 2]]]},
         [3, 4]),
        ([[[0, 0], [4, 0], [4, 4]], [[5, 5], [9, 5], [9, 9], [5, 9]]], [3, 4]),
        ([{"vertices": [[0, 0], [4, 0], [4, 4]]}], [3]),
        ([{"label": "a", "points": [[0, 0], [4, 0], [4, 4]]}], []),
        ([[0, 0], [4, 0]], []),
        ([1, 2, 3, 4], []),
        ([True, False, True, True, True, True], []),
        ("images/1.jpg", []),
        ("2024-01-01", []),
        (None, []),
    ],
)  # fmt: skip
def test_outlines_in_json(value: Any, corners: list[int]) -> None:
    assert [len(ring) for ring in rings_in(value)] == corners


def test_corners_of_type_c_bend_an_outline() -> None:
    """BDD100K: a circle of four curves, the last of which ends where the first began."""
    k = 0.5523
    corners = [[1, 0], [1, k], [k, 1], [0, 1], [-k, 1], [-1, k],
               [-1, 0], [-1, -k], [-k, -1], [0, -1], [k, -1], [1, -k]]  # fmt: skip
    (ring,) = rings_in([{"vertices": corners, "types": "LCC" * 4, "closed": True}])
    assert len(ring) > 40
    assert np.allclose(np.hypot(*ring.T), 1, atol=1e-3)
    half = rings_in({"vertices": corners[:7], "types": "LCCCCCL"})[0]
    assert np.allclose(half[-1], [-1, 0])
    assert np.allclose(np.hypot(*half.T), 1, atol=1e-3)
    assert len(rings_in({"vertices": corners, "types": "LC"})[0]) == 12
