"""The page in a browser without a network: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

from tests.report.pages import CLASSES, EVIL, make_page  # noqa: E402


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=["light", "dark"])
def page(browser: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, open; at the end nothing was fetched, and the console is empty."""
    file = tmp_path / "page.html"
    file.write_text(make_page(), encoding="utf-8")
    context = browser.new_context(color_scheme=request.param, offline=True)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request",
        lambda one: None if one.url.startswith(("data:", "file:")) else wrong.append(one.url),
    )
    opened.goto(file.as_uri())
    yield opened
    assert wrong == []
    assert opened.title().startswith("mIoU")
    context.close()


def test_names_stay_text(page: Any) -> None:
    assert page.locator("img[onerror]").count() == 0
    assert page.locator("#confusion thead th").nth(2).inner_text() == EVIL
    assert page.locator("tbody th", has_text=EVIL).count() > 0


def test_a_cell_lists_the_images_behind_it(page: Any) -> None:
    cell = page.locator('button[data-cell="1,0"]')
    cell.focus()
    page.keyboard.press("Enter")
    assert cell.get_attribute("aria-pressed") == "true"
    cards = page.locator("#behind button")
    assert cards.count() == 5
    assert cards.first.inner_text().endswith("320 px")
    page.locator("#behind button").nth(1).click()
    assert page.locator("#view-name").inner_text().startswith("part/3")
    page.locator("input[name=mode][value=count]").check()
    assert page.locator('button[data-cell="0,0"]').inner_text() == "5,120"


def test_the_slider_moves_by_keyboard_and_layers_change(page: Any) -> None:
    before = page.locator("#left").evaluate("one => one.style.clipPath")
    page.locator("#wipe").focus()
    page.keyboard.press("Home")
    after = page.locator("#left").evaluate("one => one.style.clipPath")
    assert before != after == "inset(0px 100% 0px 0px)"
    labels = page.locator("#left").get_attribute("src")
    page.locator("#left-layer").select_option("probability of background")
    wait_until(page, "before => document.getElementById('left').src !== before", labels)
    wait_until(page, "document.getElementById('left').naturalWidth === 64")


def test_nothing_is_wider_than_the_window(page: Any) -> None:
    for width in (360, 1000):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_names_are_not_broken_into_letters_on_a_telephone(page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    for table in ("#confusion", ".numbers"):
        name = page.locator(f"{table} tbody th", has_text="background").first
        assert name.bounding_box()["width"] >= 9 * 16
        assert name.bounding_box()["height"] < 2 * 24


def wait_until(page: Any, condition: str, argument: Any = None) -> None:
    """As page.wait_for_function, which the page's policy forbids where it has to ask twice."""
    for _ in range(100):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def test_a_point_says_the_probabilities_there(page: Any) -> None:
    page.locator("#stage").focus()
    page.keyboard.press("ArrowDown")  # from the middle, in the band of class 1
    wait_until(page, "document.getElementById('readout').textContent.includes('%')")
    first, *more = page.locator("#readout").inner_text().splitlines()
    assert first == f"69.8 % {CLASSES.names[1]}"  # in 255 steps
    sums = more[more.index("Logits, as the sum of the skips:") + 1 :]
    assert sums[0] == (
        f"{CLASSES.names[1]}: +2.00 (stride 32) +1.50 (stride 16) "
        "\N{MINUS SIGN}0.25 (stride 8) = +3.25"
    )
    assert len(sums) == len(CLASSES)
    assert sums[1].endswith("= +0.00")


def test_it_reads_without_serious_faults(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    found = axe.Axe().run(page)
    serious = [
        (one["id"], [node["html"][:120] for node in one["nodes"]])
        for one in found.response["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
