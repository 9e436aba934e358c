"""What many tests need: one small trained run on drawn data, made once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock  # torch needs it, too
from hypothesis import settings

from fcnseg.config import TrainConfig
from fcnseg.device import AUTO_PRECISION

TINY = {
    "backbone": "tiny", "backbone_weights": "none", "width": 16, "workers": 0, "device": "cpu",
    "precision": "f32", "report": False,
}  # fmt: skip
"""Options that make a training small enough for a test, and the same on every processor."""

TINY_FLAGS = [
    text
    for name, value in TINY.items()
    for flag in (f"--{name.replace('_', '-')}",)
    for text in ((flag, str(value)) if value is not False else (f"--no-{flag[2:]}",))
]
"""The same on the command line."""


settings.register_profile("short", max_examples=30)
settings.load_profile("short")
settings.register_profile("thousand", max_examples=1000)
"""`pytest --hypothesis-profile thousand`: more examples where a test sets no number."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--auto-precision",
        choices=["f32", "bf16"],
        help="what precision auto is, whatever the processor (torch emulates bf16 elsewhere)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The environment, so that the processes that tests start see it, too."""
    # Torch's threads spin while they wait, which takes the cores from the other tests.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # pytest-xdist's order is by the number of tests
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts `pytest &`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    forced = config.getoption("--auto-precision")
    if forced:
        os.environ[AUTO_PRECISION] = forced


SLOWEST = (
    "commands/test_train", "test_distributed_training", "engines/test_forking", "test_readme",
    "test_examples", "commands/test_export", "test_distributed", "io/test_bands",
    "exporting/test_int8", "test_process", "test_docs", "commands/test_demo",
    "commands/test_paper", "serving/test_serve", "exporting/test_web", "models/test_models",
)  # fmt: skip
"""Files that take longest. They come first: what begins last decides when the last process ends."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort whole files; within one the order stays."""
    ranks = {Path(__file__).parent / f"{name}.py": rank for rank, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def skip_without(engine: str) -> None:
    """Skip a test whose engine is not installed; nothing is imported.

    A plain import, as importorskip does it, would let OpenVINO's telemetry in.
    """
    module = {"opencv": "cv2", "auto": "torch"}.get(engine, engine)
    if find_spec(module) is None:
        pytest.skip(f"{engine} is not installed")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills once for all processes of pytest-xdist; only read it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each worker has a folder of its own in it
    folder, made = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks run faster on one thread than on many."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Files are written as ever, but no test waits until a power cut could not harm them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of drawn images: 24 to train on, 6 to validate."""
    from fcnseg.commands.demo.scenes import write_dataset

    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, train=24, val=6)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of drawn images: 4 to train on, 2 to validate."""
    from fcnseg.commands.demo.scenes import write_dataset

    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, train=4, val=2)
    return folder


@pytest.fixture(scope="session")
def tiny_run(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two epochs on the drawn folder."""
    from fcnseg.commands.train import train

    run = tmp_path_factory.mktemp("runs") / "train1"
    train(TrainConfig.make({"data": drawn_folder, "out": run, "epochs": 2, "lr": 4e-3, **TINY}))
    return run


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random tiny network with four classes, fuse score, down to stride 4."""
    from fcnseg.commands.demo.scenes import CLASSES
    from fcnseg.models.checkpoint import Checkpoint
    from fcnseg.models.networks import build
    from fcnseg.models.spec import ModelSpec

    torch.manual_seed(0)
    spec = ModelSpec(backbone="tiny", num_classes=4, decoder="fcn4s", fuse="score")
    network = build(spec)
    for module in network.decoder.modules():
        if isinstance(module, torch.nn.Conv2d):  # they start at or near zero
            torch.nn.init.normal_(module.weight, std=0.3)
    checkpoint = Checkpoint(spec, network.backbone.preprocess, CLASSES, network.state_dict())
    return checkpoint.save(tmp_path_factory.mktemp("random") / "random.safetensors")


@pytest.fixture(scope="session")
def subpixel_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random tiny network of two classes, with a sub-pixel convolution."""
    from fcnseg.classes import ClassMap
    from fcnseg.models.checkpoint import Checkpoint
    from fcnseg.models.networks import build
    from fcnseg.models.spec import ModelSpec

    torch.manual_seed(0)
    spec = ModelSpec(backbone="tiny", num_classes=2, width=8, decoder="fcn4s", upsample="subpixel")
    network = build(spec)
    assert network.decoder.detail is not None
    torch.nn.init.normal_(network.decoder.detail[1].weight)  # it starts at zero
    classes, preprocess = ClassMap.of(["background", "crack"]), network.backbone.preprocess
    checkpoint = Checkpoint(spec, preprocess, classes, network.state_dict())
    return checkpoint.save(tmp_path_factory.mktemp("subpixel") / "subpixel.safetensors")


@pytest.fixture(scope="session")
def seen_at_80(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random network, for images of a short side of 80 pixels."""
    from fcnseg.models.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(random_model)
    checkpoint = replace(checkpoint, preprocess=checkpoint.preprocess.at(80))
    return checkpoint.save(tmp_path_factory.mktemp("seen") / "seen.safetensors")


@pytest.fixture(scope="session")
def exported_model(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as ONNX, with the result of the export beside it as export.json."""
    import json

    from fcnseg.commands.export import export
    from fcnseg.config import ExportConfig

    pytest.importorskip("onnxscript")

    def make(folder: Path) -> None:
        result = export(ExportConfig(model=str(random_model), out=folder / "random.onnx"))
        text = json.dumps(result.as_dict())
        (folder / "export.json").write_text(text, encoding="utf-8")

    return made_once(tmp_path_factory, "exported", make) / "random.onnx"


@pytest.fixture(scope="session")
def web_page(seen_at_80: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of `--format web` of that one, with the npm package onnxruntime-web.

    The package is that of FCNSEG_ORT_WEB, or empty files of its names.
    """
    from fcnseg.commands.export import export
    from fcnseg.config import ExportConfig
    from fcnseg.exporting.onnx_file import RUNTIME

    pytest.importorskip("onnxscript")

    def make(folder: Path) -> None:
        package = Path(os.environ.get("FCNSEG_ORT_WEB", folder / "npm"))
        if package == folder / "npm":
            (package / "dist").mkdir(parents=True)
            for name in RUNTIME:
                (package / "dist" / name).touch()
        model = shutil.copy(seen_at_80, folder / "seen.safetensors")
        export(ExportConfig(model=str(model), format="web", web_runtime=package))

    return made_once(tmp_path_factory, "page", make) / "seen-web"


@pytest.fixture(scope="session")
def drawn_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 12 drawn frames at 12.5 frames a second, 160x128."""
    from fractions import Fraction

    from fcnseg.commands.demo.scenes import SIZE, draw, make_scene
    from fcnseg.io.video_writer import VideoWriter

    clip = tmp_path_factory.mktemp("clip") / "clip.mp4"
    scene = make_scene(77)
    with VideoWriter(clip, Fraction(25, 2), SIZE) as writer:
        for index in range(12):
            writer.write(draw(scene, index / 12.5)[0])
    return clip


@pytest.fixture(scope="session")
def noise_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of 40 frames of noise, 48x32: each frame has many bytes, to be cut anywhere."""
    from fractions import Fraction

    from fcnseg.io.video_writer import VideoWriter

    path = tmp_path_factory.mktemp("noise") / "noise.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path, Fraction(10), (32, 48)) as writer:
        for _ in range(40):
            writer.write(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8))
    return path.read_bytes()
