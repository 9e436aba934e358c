"""The server's page in a browser: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fcnseg
from tests.exporting.test_web import write_y4m
from tests.serving.test_serve import Running, drawn, png

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

DROP = """(bytes) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def server(random_model: Path) -> Iterator[Running]:
    running = Running(f"net={random_model}", "--device", "cpu", "--precision", "f32")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser(drawn_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, whose camera shows a drawn clip."""
    camera = tmp_path_factory.mktemp("camera") / "camera.y4m"
    write_y4m(drawn_clip, camera)
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    """The page, open; at the end nothing was asked of others, and the console is empty."""
    address = f"http://127.0.0.1:{server.port}/"
    context = browser.new_context(permissions=["camera"])
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    own_doing = ("status of 422", "willReadFrequently")  # a bad file; pixels_of below
    opened.on(
        "console",
        lambda one: None if any(x in one.text for x in own_doing) else wrong.append(one.text),
    )
    own = (address, "blob:", "data:")
    opened.on("request", lambda one: None if one.url.startswith(own) else wrong.append(one.url))
    opened.goto(address)
    opened.wait_for_selector("#legend li")
    yield opened
    assert wrong == []
    context.close()


def wait_for_frame(page: Any) -> None:
    """Until the server's response is drawn."""
    page.wait_for_function("() => document.getElementById('status').textContent.includes('ms,')")


def pixels_of(page: Any) -> np.ndarray:
    """What the canvas shows, uint8 (H, W, 3)."""
    height, width, data = page.evaluate(
        "() => { const c = document.getElementById('canvas');"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        " return [d.height, d.width, Array.from(d.data)]; }"
    )
    return np.array(data, np.uint8).reshape(height, width, 4)[:, :, :3]


def set_opacity(page: Any, value: float) -> None:
    page.locator("#alpha").fill(str(value))


@pytest.fixture(scope="module")
def expected(random_model: Path) -> fcnseg.Prediction:
    return fcnseg.load(random_model, device="cpu", precision="f32", engine="torch")(drawn(3))


@pytest.mark.parametrize("way", ["choose", "drop"])
def test_an_image_gets_its_labels(page: Any, tmp_path: Path, expected, way: str) -> None:
    if way == "choose":
        (tmp_path / "image.png").write_bytes(png(drawn(3)))
        page.set_input_files("#file", tmp_path / "image.png")
    else:
        page.evaluate(DROP, list(png(drawn(3))))
    wait_for_frame(page)
    set_opacity(page, 1)
    colors = np.array(expected.classes.colors, np.uint8)[expected.labels]
    np.testing.assert_array_equal(pixels_of(page), colors)
    set_opacity(page, 0)
    np.testing.assert_array_equal(pixels_of(page), drawn(3))
    assert page.locator("#legend li").all_text_contents() == list(expected.classes.names)


def test_a_heatmap_and_what_a_skip_adds(page: Any, tmp_path: Path, expected) -> None:
    (tmp_path / "image.png").write_bytes(png(drawn(3)))
    page.set_input_files("#file", tmp_path / "image.png")
    wait_for_frame(page)
    set_opacity(page, 1)
    page.select_option("#shown", "heatmap")
    page.select_option("#class", expected.classes.names[1])
    page.wait_for_timeout(50)
    page.wait_for_load_state("networkidle")
    red = pixels_of(page)[:, :, 0].astype(float)
    wanted = 255 * np.minimum(1, 1.5 * expected.heatmap(expected.classes.names[1]))
    assert np.abs(red - wanted).mean() < 2
    page.select_option("#shown", "skip")
    page.wait_for_function("() => document.getElementById('status').textContent.includes('red')")
    assert page.locator("#stride").is_visible()


def test_a_file_that_is_no_image_is_named_and_the_next_one_is_done(page: Any, tmp_path: Path):
    (tmp_path / "x.png").write_bytes(b"no image")
    page.set_input_files("#file", tmp_path / "x.png")
    page.wait_for_function(
        "() => document.getElementById('status').textContent.includes('image')"
        " && !document.getElementById('status').textContent.includes('Drop')"
    )
    (tmp_path / "image.png").write_bytes(png(drawn(3)))
    page.set_input_files("#file", tmp_path / "image.png")
    wait_for_frame(page)


def test_the_camera_by_keyboard(page: Any) -> None:
    page.focus("#camera")
    page.keyboard.press("Enter")
    wait_for_frame(page)
    assert "frames/s" in page.inner_text("#status")
    page.keyboard.press("Enter")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    assert pixels_of(page).std() > 5
