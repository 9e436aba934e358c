"""The page that `--format web` writes, in a browser where one is installed."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fcnseg.commands.export import export
from fcnseg.config import ExportConfig
from fcnseg.errors import OptionError
from fcnseg.exporting.onnx_file import RUNTIME
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import load
from fcnseg.io.images import write_image


@pytest.fixture
def page(web_page: Path) -> Path:
    return web_page


def test_the_folder_is_complete(page: Path):
    assert page.name == "seen-web"
    names = {str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()}
    own = {"index.html", "page.js", "model.onnx", "model.json", "model.parity.json", "README.txt"}
    assert names == own | {f"ort/{name}" for name in RUNTIME}
    texts = [(page / name).read_text(encoding="utf-8") for name in ("index.html", "page.js")]
    assert not any("http://" in text or "https://" in text for text in texts)


def test_what_a_page_needs(seen_at_80: Path, subpixel_model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    config = {"model": str(seen_at_80), "format": "web", "out": tmp_path / "notes"}
    with pytest.raises(OptionError, match="not written by --format web"):
        export(ExportConfig.make(config))
    with pytest.raises(OptionError, match="not the npm package"):
        export(ExportConfig.make({**config, "out": tmp_path / "p", "web_runtime": tmp_path}))
    with pytest.raises(OptionError, match="any size"):
        export(ExportConfig.make({**config, "size": (32, 32)}))
    with pytest.raises(OptionError, match="for --format web alone"):
        export(ExportConfig.make({**config, "format": "onnx", "web_runtime": tmp_path}))
    said = []
    config = {"model": str(subpixel_model), "format": "web", "out": tmp_path / "bare"}
    result = export(ExportConfig.make(config), said.append)
    assert result.parity.label_agreement >= 0.999  # of a sub-pixel convolution
    assert result.parity.max_abs_diff < 1e-3
    assert any("npm pack onnxruntime-web" in getattr(one, "text", "") for one in said)
    assert "npm pack" in (tmp_path / "bare" / "README.txt").read_text()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a static server of a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            return

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browser_page(address: str, *arguments: str) -> Iterator[tuple[object, list[str]]]:
    """A page in headless Chromium and the addresses that it asked for."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    if "FCNSEG_ORT_WEB" not in os.environ:
        pytest.skip("FCNSEG_ORT_WEB does not name the npm package onnxruntime-web")
    asked: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", *arguments]
        )
        context = browser.new_context(permissions=["camera"])
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector("html[data-state=ready]", state="attached")
        yield page, asked
        browser.close()


def labels_of(page: object) -> tuple[np.ndarray, np.ndarray]:
    """The image (H, W, 3) that the page segmented last, and its labels (H, W)."""
    width, height, pixels, labels = page.evaluate(
        "() => { const s = window.segmentation;"
        " return [s.width, s.height, Array.from(s.pixels), Array.from(s.labels)]; }"
    )
    image = np.array(pixels, np.uint8).reshape(height, width, 4)[:, :, :3]
    return np.ascontiguousarray(image), np.array(labels, np.uint8).reshape(height, width)


@pytest.mark.timeout(300)
def test_an_image_in_a_browser(page: Path, seen_at_80: Path, tmp_path: Path):
    image = sample_images((1, 120, 150), seed=4)[0]
    write_image(tmp_path / "image.png", image)
    expected = load(seen_at_80, engine="torch", precision="f32")(image)
    with served(page) as address, browser_page(address) as (shown, asked):
        shown.set_input_files("#file", tmp_path / "image.png")
        shown.wait_for_selector("html[data-state=done]", state="attached")
        pixels, labels = labels_of(shown)
        np.testing.assert_array_equal(pixels, image)
        assert (labels == expected.labels).mean() >= 0.99
        assert shown.locator("#legend li").count() == 4
        shown.select_option("#view", "2")
        shown.wait_for_function("() => window.segmentation.values")
        values = np.array(shown.evaluate("() => Array.from(window.segmentation.values)"))
        heatmap = expected.heatmap(expected.classes.names[2])
        assert np.abs(values.reshape(heatmap.shape) - heatmap).mean() < 0.01
        assert shown.locator("#layer option").all_text_contents()[1:] == [
            f"stride {stride} alone" for stride in (32, 16, 8, 4)
        ]
        shown.select_option("#layer", "skip_8")
        shown.wait_for_function("() => window.segmentation.values.some((value) => value < 0)")
        shown.focus("#file")
        for expected_id in ("camera", "view", "layer", "opacity"):
            shown.keyboard.press("Tab")
            assert shown.evaluate("() => document.activeElement.id") == expected_id
    assert all(one.startswith((address, "blob:", "data:")) for one in asked), asked


@pytest.mark.timeout(300)
def test_the_camera_in_a_browser(page: Path, seen_at_80: Path, drawn_clip: Path, tmp_path: Path):
    """Chromium's fake camera shows a drawn clip; labels are those of infer on the same pixels."""
    camera = tmp_path / "camera.y4m"
    write_y4m(drawn_clip, camera)
    arguments = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    )
    with served(page) as address, browser_page(address, *arguments) as (shown, asked):
        shown.focus("#camera")
        shown.keyboard.press("Enter")
        shown.wait_for_selector("html[data-state=live]", state="attached")
        assert "frames/s" in shown.inner_text("#status")
        shown.keyboard.press("Enter")
        assert shown.get_attribute("#camera", "aria-pressed") == "false"
        image, labels = labels_of(shown)
    expected = load(seen_at_80, engine="torch", precision="f32")(image)
    assert image.std() > 5
    assert (labels == expected.labels).mean() >= 0.99
    assert all(one.startswith((address, "blob:", "data:")) for one in asked), asked


def write_y4m(clip: Path, to: Path) -> None:
    """A video as YUV4MPEG2, which Chromium's fake camera reads."""
    import av

    with av.open(str(clip)) as source, to.open("wb") as file:
        frames = [frame.reformat(format="yuv420p") for frame in source.decode(video=0)]
        file.write(f"YUV4MPEG2 W{frames[0].width} H{frames[0].height} F25:2 Ip C420jpeg\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + frame.to_ndarray().tobytes())
