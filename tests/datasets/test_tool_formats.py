"""Exports of annotation tools and files of many images: read with names and areas, copied alike."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_pair_image, read_sample
from fcnseg.errors import DatasetError, MissingExtra
from tests.commands.test_clean_copy import copied
from tests.datasets import test_annotation_formats as others
from tests.datasets.test_annotation_formats import (
    HEIGHT,
    NAMES,
    WIDTH,
    agrees,
    corners,
    dump,
    image,
    ring,
    truth,
)


def each(root: Path, folder: str, write: Callable[[int], None]) -> None:
    for index in range(4):
        image(root / folder / f"{index}.png", index)
        write(index)


def points(index: int, kind: int) -> list[dict[str, int]]:
    return [{"x": x, "y": y} for x, y in ring(index, kind)]


def darwin(root: Path) -> None:
    def write(index: int) -> None:
        runs = [[int(value), 1] for value in (truth(index) == 2).ravel()]
        dump(root / f"annotations/{index}.json", {
            "version": "2.0",
            "item": {"name": f"{index}.png", "path": "/", "slots": [
                {"type": "image", "width": WIDTH, "height": HEIGHT, "source_files": []}]},
            "annotations": [
                {"id": "a", "name": "leaf", "polygon": {"paths": [points(index, 1)]}},
                {"id": "b", "name": "stone", "mask": {}},
                {"id": "c", "name": "day", "tag": {}},
                {"id": "d", "name": "__raster_layer__", "raster_layer": {
                    "dense_rle": [number for run in runs for number in run],
                    "mask_annotation_ids_mapping": {"b": 1}}},
            ],
        })  # fmt: skip

    each(root, "images", write)


def datumaro(root: Path) -> None:
    items = []

    def write(index: int) -> None:
        x0, y0, x1, y1 = corners(index, 2)
        flat = [value for point in ring(index, 1) for value in point]
        columns = (truth(index) == 1).T.ravel().astype(int)
        edges = [0, *(np.flatnonzero(np.diff(columns)) + 1).tolist(), columns.size]
        shapes = [
            {"type": "polygon", "label_id": 0, "points": flat, "z_order": 0},
            {"type": "mask", "label_id": 0, "z_order": 0,
             "rle": {"size": [HEIGHT, WIDTH], "counts": np.diff(edges).tolist()}},
            {"type": "bbox", "label_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "z_order": 1},
            {"type": "label", "label_id": 0},
        ]  # fmt: skip
        items.append({"id": str(index), "annotations": shapes, "image": {"path": f"{index}.png"}})

    each(root, "images/default", write)
    labels = [{"name": name, "parent": ""} for name in NAMES]
    dump(
        root / "annotations/default.json",
        {"info": {}, "categories": {"label": {"labels": labels}}, "items": items},
    )


def hasty(root: Path) -> None:
    images: list[dict[str, Any]] = []

    def write(index: int) -> None:
        x0, y0, x1, y1 = corners(index, 2)
        whole = [0, (x1 + 1 - x0) * (y1 + 1 - y0)]
        labels = [
            {"class_name": "leaf", "bbox": [0, 0, 9, 9], "polygon": ring(index, 1), "z_index": 1},
            {"class_name": "stone", "bbox": [x0, y0, x1 + 1, y1 + 1], "mask": whole},
        ]
        images.append({"image_id": str(index), "image_name": f"{index}.png", "dataset_name": "ds",
                       "width": WIDTH, "height": HEIGHT, "labels": labels})  # fmt: skip

    each(root, "ds", write)
    classes = [{"class_name": name, "color": "#c6c0ff80"} for name in NAMES]
    dump(root / "export.json", {"label_classes": classes, "images": images})


def image_scope(root: Path) -> None:
    def write(index: int) -> None:
        layers = []
        for kind, name in enumerate(NAMES, 1):
            vertices = "".join(f'<Vertex X="{x}.0" Y="{y}.0"/>' for x, y in ring(index, kind))
            layers.append(
                f'<Annotation Id="{kind}" Name="{name}"><Attributes/><Regions><Region><Vertices>'
                f"{vertices}</Vertices></Region></Regions></Annotation>"
            )
        file = root / f"Annotations/{index}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'<?xml version="1.0"?><Annotations>{"".join(layers)}</Annotations>')

    each(root, "Tissue Images", write)


def cityscapes_json(root: Path) -> None:
    def write(index: int) -> None:
        border = [[0, 0], [WIDTH - 1, 0], [WIDTH - 1, HEIGHT - 1], [0, HEIGHT - 1]]
        things = [("background", border), ("leaf", ring(index, 1)), ("stone", ring(index, 2))]
        dump(root / f"gtFine/train/a/{index}_gtFine_polygons.json", {
            "imgHeight": HEIGHT, "imgWidth": WIDTH,
            "objects": [{"label": name, "polygon": outline} for name, outline in things],
        })  # fmt: skip

    each(root, "leftImg8bit/train/a", write)


def geojson(root: Path) -> None:
    def write(index: int) -> None:
        said = ({"classification": {"name": "leaf"}}, {"name": "stone"})
        features = [
            {"type": "Feature", "properties": properties, "geometry": {
                "type": "Polygon", "coordinates": [[*ring(index, kind), ring(index, kind)[0]]]}}
            for kind, properties in enumerate(said, 1)
        ]  # fmt: skip
        dump(root / f"geojson/{index}.geojson", {"type": "FeatureCollection", "features": features})

    each(root, "images", write)


def via_csv(root: Path) -> None:
    heads = ("filename", "region_shape_attributes", "region_attributes")
    rows = []
    for index in range(4):
        image(root / f"img/{index}.png", index)
        for kind, name in enumerate(NAMES, 1):
            x, y = np.array(ring(index, kind)).T.tolist()
            shape = {"name": "polygon", "all_points_x": x, "all_points_y": y}
            rows.append((f"{index}.png", json.dumps(shape), json.dumps({"class": name})))
    with (root / "via_export_csv.csv").open("w", newline="") as file:
        csv.writer(file).writerows([heads, *rows])


def cvat_video(root: Path) -> None:
    """A track for each shape; one is outside (gone) in the second frame."""
    tracks = ""
    for index in range(4):
        image(root / f"images/frame_{index:06}.png", index)
        for kind, name in enumerate(NAMES, 1):
            points = ";".join(f"{x},{y}" for x, y in ring(index, kind))
            shape = f'<polygon z_order="{kind}" points="{points}" frame="%d" outside="%d"/>'
            shown = shape % (index, 0) + shape % (index + 1, 1)
            tracks += f'<track label="{name}">{shown}</track>'
    size = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"
    meta = f"<meta><job>{size}</job></meta>"
    (root / "annotations.xml").write_text(f"<annotations>{meta}{tracks}</annotations>")


def superannotate(root: Path) -> None:
    def write(index: int) -> None:
        x0, y0, x1, y1 = corners(index, 2)
        flat = [value for point in ring(index, 1) for value in point]
        shapes = [
            {"type": "polygon", "classId": 1, "className": "leaf", "points": flat, "exclude": []},
            {"type": "bbox", "classId": 2, "points": {"x1": x0, "y1": y0, "x2": x1, "y2": y1}},
        ]
        about = {"name": f"{index}.png", "width": WIDTH, "height": HEIGHT}
        dump(root / f"{index}.png.json", {"metadata": about, "instances": shapes})

    each(root, ".", write)
    names = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    dump(root / "classes/classes.json", names)


def via_3(root: Path) -> None:
    files, views, regions = {}, {}, {}

    def write(index: int) -> None:
        x0, y0, x1, y1 = corners(index, 2)
        files[str(index)] = {"fid": str(index), "fname": f"{index}.png", "type": 2}
        views[f"v{index}"] = {"fid_list": [str(index)]}
        flat = [value for point in ring(index, 1) for value in point]
        for kind, xy in ((0, [7, *flat]), (1, [2, x0, y0, x1 - x0, y1 - y0])):
            regions[f"{index}_{kind}"] = {"vid": f"v{index}", "xy": xy, "av": {"1": str(kind)}}

    each(root, ".", write)
    names = {str(kind): name for kind, name in enumerate(NAMES)}
    attribute = {"1": {"aname": "class", "options": names}}
    parts = {"file": files, "view": views, "metadata": regions, "attribute": attribute}
    dump(root / "via_project.json", {"project": {"pid": "x"}, "config": {}, **parts})


def labelme_xml(root: Path) -> None:
    """LabelMe's <pt>s, and the outline that Roboflow adds to Pascal VOC's <object>s."""

    def write(index: int) -> None:
        one, two = ring(index, 1), ring(index, 2)
        points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in one)
        numbers = "".join(f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate(two, 1))
        box = "<bndbox><xmin>0</xmin><xmax>9</xmax><ymin>0</ymin><ymax>9</ymax></bndbox>"
        (root / f"{index}.xml").write_text(
            f"<annotation><filename>{index}.png</filename><object><name>leaf</name><deleted>0"
            f"</deleted><polygon><username>me</username>{points}</polygon></object><object><name>"
            f"stone</name>{box}<polygon>{numbers}</polygon></object><object><name>gone</name>"
            f"<deleted>1</deleted><polygon>{points}</polygon></object></annotation>"
        )

    each(root, ".", write)


def xbd(root: Path) -> None:
    def write(index: int) -> None:
        shapes = [
            {"properties": {"feature_type": name, "subtype": "destroyed"},
             "wkt": f"POLYGON (({', '.join(f'{x} {y}' for x, y in ring(index, kind))}))"}
            for kind, name in enumerate(NAMES, 1)
        ]  # fmt: skip
        about = {"width": WIDTH, "height": HEIGHT, "img_name": f"{index}.png"}
        features = {"lng_lat": [], "xy": shapes}
        dump(root / f"labels/{index}.json", {"features": features, "metadata": about})

    each(root, "images", write)


def labelbox(root: Path) -> None:
    rows: list[str] = []

    def write(index: int) -> None:
        objects = [
            {"name": name, "annotation_kind": "ImagePolygon", "polygon": points(index, kind)}
            for kind, name in enumerate(NAMES, 1)
        ]
        labels = [{"annotations": {"objects": objects, "classifications": []}}]
        about = {"id": "x", "external_id": f"{index}.png"}
        row = {"data_row": about, "projects": {"p": {"labels": labels}}}
        rows.append(json.dumps({**row, "media_attributes": {"height": HEIGHT, "width": WIDTH}}))

    each(root, ".", write)
    (root / "export.ndjson").write_text("\n".join(rows))


def label_studio_min(root: Path) -> None:
    tasks: list[dict[str, Any]] = []

    def write(index: int) -> None:
        shapes = [
            {"points": [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in ring(index, kind)],
             "polygonlabels": [name], "original_width": WIDTH, "original_height": HEIGHT}
            for kind, name in enumerate(NAMES, 1)
        ]  # fmt: skip
        tasks.append(
            {"image": f"/data/upload/1/0a1b2c3d-{index}.png", "id": index, "label": shapes}
        )

    each(root, ".", write)
    dump(root / "min.json", tasks)


def page_xml(root: Path) -> None:
    def write(index: int) -> None:
        regions = "".join(
            f'<TextRegion type="{name}"><Coords points="'
            + " ".join(f"{x},{y}" for x, y in corners)
            + '"/></TextRegion>'
            for name, corners in zip(NAMES, (ring(index, 1), ring(index, 2)), strict=True)
        )
        file = root / f"page/{index}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            '<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2013-07-15">'
            f'<Page imageFilename="{index}.png" imageWidth="{WIDTH}" imageHeight="{HEIGHT}">'
            f"{regions}</Page></PcGts>"
        )

    each(root, ".", write)


def asap(root: Path) -> None:
    def write(index: int) -> None:
        areas = "".join(
            f'<Annotation Name="1" Type="Polygon" PartOfGroup="{name}"><Coordinates>'
            + "".join(f'<Coordinate Order="0" X="{x}" Y="{y}" />' for x, y in ring(index, kind))
            + "</Coordinates></Annotation>"
            for kind, name in enumerate(NAMES, 1)
        )
        text = f"<ASAP_Annotations><Annotations>{areas}</Annotations></ASAP_Annotations>"
        (root / f"{index}.xml").write_text(text)

    each(root, ".", write)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "page-xml": ("page-xml", page_xml),
    "asap": ("asap", asap),
    "labelme-xml": ("labelme-xml", labelme_xml),
    "xbd": ("xbd", xbd),
    "labelbox": ("labelbox", labelbox),
    "label studio min": ("label-studio", label_studio_min),
    "darwin": ("darwin", darwin),
    "datumaro": ("datumaro", datumaro),
    "hasty": ("hasty", hasty),
    "image-scope": ("image-scope", image_scope),
    "cityscapes-json": ("cityscapes-json", cityscapes_json),
    "geojson": ("geojson", geojson),
    "via csv": ("via", via_csv),
    "via 3": ("via", via_3),
    "superannotate": ("superannotate", superannotate),
    "cvat video": ("cvat-xml", cvat_video),
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_export_is_read_with_names_and_areas(name: str, tmp_path: Path) -> None:
    store, write = WRITERS[name]
    write(tmp_path)
    found = describe(tmp_path)
    assert (found.encoding.label_format, len(found.pairs)) == (store, 4)
    assert found.classes.names == ("background", *NAMES)
    assert agrees(found)


@pytest.mark.parametrize("name", [*WRITERS, *others.WRITERS])
def test_a_clean_copy_of_an_export_reads_alike(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (WRITERS[name][1] if name in WRITERS else others.WRITERS[name])(tmp_path / "data")
    copied(tmp_path / "data", tmp_path)


def test_masks_without_classes_are_object(tmp_path: Path) -> None:
    """SA-1B: run lengths down the columns, no categories."""

    def write(index: int) -> None:
        flat = np.r_[0, (truth(index) > 0).T.ravel(), 0]
        runs = np.diff(np.r_[0, np.flatnonzero(np.diff(flat)), flat.size - 2]).tolist()
        size = {"size": [HEIGHT, WIDTH], "counts": runs}
        about = {"file_name": f"{index}.png", "height": HEIGHT, "width": WIDTH}
        areas = [{"segmentation": size, "predicted_iou": 0.9}]
        dump(tmp_path / f"{index}.json", {"image": about, "annotations": areas})

    each(tmp_path, ".", write)
    found = describe(tmp_path)
    assert (found.encoding.label_format, found.classes.names) == ("sa-1b", ("background", "object"))
    for pair in found.pairs:
        labels = read_sample(pair, found.encoding)[1]
        assert np.array_equal(labels, truth(int(pair.image.stem)) > 0)


def test_json_that_is_not_read_is_named_with_its_tool(tmp_path: Path) -> None:
    image(tmp_path / "0.png", 0)
    dump(tmp_path / "labels.json", [{"data_units": {}, "data_title": "0.png"}])
    with pytest.raises(DatasetError, match="is Encord's own JSON") as error:
        describe(tmp_path)
    assert error.value.hint == "export as COCO from Encord"


def test_degrees_are_no_pixels(tmp_path: Path) -> None:
    image(tmp_path / "images/0.png", 0)
    outline = [[-115.1, 36.1], [-115.1, 36.2], [-115.2, 36.2], [-115.1, 36.1]]
    geometry = {"type": "Polygon", "coordinates": [outline]}
    dump(tmp_path / "geojson/0.geojson", {"features": [{"geometry": geometry}]})
    with pytest.raises(DatasetError, match="degrees of longitude and latitude"):
        describe(tmp_path)


def geotiff(path: Path, index: int, epsg: int) -> Callable[[np.ndarray], np.ndarray]:
    """Write an image with its place in tags; returns pixels -> coordinates."""
    image(path.with_suffix(".png"), index)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    size, left, top = 1e-5 if epsg == 4326 else 0.5, -115.2 + index, 36.2
    key = 2048 if epsg == 4326 else 3072
    for tag, kind, values in (
        (33550, 12, (size, size, 0.0)),
        (33922, 12, (0.0, 0.0, 0.0, left, top, 0.0)),
        (34735, 3, (1, 1, 0, 1, key, 0, 1, epsg)),
    ):
        tags.tagtype[tag] = kind
        tags[tag] = values
    Image.open(path.with_suffix(".png")).save(path, tiffinfo=tags)
    path.with_suffix(".png").unlink()
    return lambda ring: np.array([left, top]) + ring * [size, -size]


@pytest.mark.parametrize(
    ("epsg", "system"),
    [(4326, None), (4326, "urn:ogc:def:crs:OGC:1.3:CRS84"), (32611, "urn:ogc:def:crs:EPSG::32611")],
)
def test_coordinates_on_a_map_are_pixels_of_a_geotiff(
    epsg: int, system: str | None, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "geojson").mkdir()
    for index in range(3):
        on_map = geotiff(tmp_path / f"images/{index}.tif", index, epsg)
        square = on_map(np.array([(2, 3), (9, 3), (9, 8), (2, 8), (2, 3)]))
        geometry = {"type": "Polygon", "coordinates": [square.tolist()]}
        named = {"crs": {"type": "name", "properties": {"name": system}}} if system else {}
        dump(tmp_path / f"geojson/{index}.geojson", {**named, "features": [{"geometry": geometry}]})
    found = describe(tmp_path)
    labels = read_sample(found.pairs[0], found.encoding)[1]
    assert labels[3:8, 2:9].all()
    assert labels.sum() == 5 * 7  # corners are those of pixels: the squares end before 9 and 8


def test_a_map_that_is_not_the_images_is_said(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "geojson").mkdir()
    geotiff(tmp_path / "images/0.tif", 0, 32611)
    ring = [[-115.1, 36.1], [-115.1, 36.2], [-115.2, 36.2], [-115.1, 36.1]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    dump(tmp_path / "geojson/0.geojson", {"features": [{"geometry": geometry}]})
    with pytest.raises(DatasetError, match=r"EPSG:4326.*EPSG:32611.*ogr2ogr"):
        describe(tmp_path)


def test_a_list_of_other_images_names_no_classes(tmp_path: Path) -> None:
    """A sample submission has other columns, and images that are elsewhere."""
    for index in range(3):
        image(tmp_path / f"train/{index}.png", index)
    rows = "".join(f"{index}.png,{kind},40 9\n" for index in range(3) for kind in (1, 2))
    (tmp_path / "train.csv").write_text(f"ImageId,ClassId,EncodedPixels\n{rows}")
    (tmp_path / "sample_submission.csv").write_text("ImageId,EncodedPixels,ClassId\nz.png,1 9,0\n")
    assert describe(tmp_path).classes.names == ("background", "1", "2")


# --- files of many images -------------------------------------------------------------------------


def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (HEIGHT, WIDTH), np.uint8) + truth(n) for n in range(4)]


def save_pages(path: Path, pages: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = map(Image.fromarray, pages)
    first.save(path, save_all=True, append_images=rest)


def tiff_pair(root: Path) -> None:
    save_pages(root / "train-volume.tif", photos())
    save_pages(root / "train-labels.tif", [truth(index) for index in range(4)])
    save_pages(root / "test-volume.tif", photos()[::-1])


def arrays(root: Path) -> None:
    (root / "fold1").mkdir(parents=True)
    np.save(root / "fold1/images.npy", np.stack([np.dstack([p] * 3) for p in photos()]) * 1.0)
    layers = [np.stack([t == 1, t == 2, t == 0], 2) for t in (truth(n) for n in range(4))]
    numbered = [layer * np.array([7.0, 9.0, 1.0]) for layer in layers]
    np.save(root / "fold1/masks.npy", np.stack(numbered))


def npz_each(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for index, shown in enumerate(photos()):
        np.savez(root / f"CT_{index}.npz", imgs=shown, gts=truth(index))


def volumes(root: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="NIfTI takes nibabel")
    for folder, pages in (("imagesTr", photos()), ("labelsTr", [truth(n) for n in range(4)])):
        (root / folder).mkdir(parents=True)
        volume = np.stack(pages, 2).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), root / folder / "a_1.nii.gz")


STACKS = {"tiff": tiff_pair, "npy": arrays, "npz": npz_each, "nifti": volumes}


@pytest.mark.parametrize("kind", STACKS)
def test_each_page_is_an_image(kind: str, tmp_path: Path) -> None:
    STACKS[kind](tmp_path / "data")
    found = describe(tmp_path / "data")
    assert (found.encoding.label_format, len(found.pairs), len(found.classes)) == ("stacks", 4, 3)
    for pair in found.pairs:
        shown, labels = read_sample(pair, found.encoding)
        number = next(n for n in range(4) if np.array_equal(labels, truth(n)))
        if kind != "nifti":  # whose numbers are scaled
            np.testing.assert_array_equal(shown[..., 0], photos()[number])
        np.testing.assert_array_equal(shown, read_pair_image(pair))
    copied(tmp_path / "data", tmp_path)


def test_two_files_of_images_for_one_of_labels_are_asked_about(tmp_path: Path) -> None:
    save_pages(tmp_path / "one.tif", photos())
    save_pages(tmp_path / "two.tif", photos()[::-1])
    save_pages(tmp_path / "labels.tif", [truth(index) for index in range(4)])
    with pytest.raises(DatasetError, match=r"labels\.tif may belong to one\.tif or to two\.tif"):
        describe(tmp_path)


def test_nifti_without_its_reader_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a_1.nii.gz").write_bytes(b"a volume")
    with pytest.raises(MissingExtra, match="a NIfTI volume") as caught:
        describe(tmp_path)
    assert "fcnseg[nifti]" in str(caught.value)


def test_a_file_is_looked_at_once_for_all_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        image(tmp_path / f"{number}.png", number)
        (tmp_path / f"{number}.json").write_text('{"something": "else"}')
    looked: list[str] = []
    opened = Path.open

    def counted(path: Path, *arguments: Any, **more: Any) -> Any:
        looked.append(path.name)
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", counted)
    with pytest.raises(DatasetError):
        describe(tmp_path)
    assert sorted(name for name in looked if name.endswith(".json")) == [
        "0.json", "1.json", "2.json"
    ]  # fmt: skip


def test_masks_beside_json_of_other_shapes_are_the_labels(tmp_path: Path) -> None:
    """RailSem19: rails are lines in the JSON, areas in the masks."""

    def write(index: int) -> None:
        folder = tmp_path / "uint8/val"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truth(index)).save(folder / f"{index}.png")
        dump(tmp_path / f"jsons/val/{index}.json", {"objects": [
            {"label": "rail", "polyline-pair": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]},
            {"label": "sign", "polygon": [[1, 1], [9, 1], [9, 9]]},
        ]})  # fmt: skip

    each(tmp_path, "jpgs/val", write)
    found = describe(tmp_path)
    assert found.layout == "content"
    assert agrees(found)
