"""The page's script where there is no browser: in QuickJS, on a document that only stores."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcnseg.serving.app import HERE
from tests.serving.test_serve import Running, drawn, png

quickjs = pytest.importorskip("quickjs", reason="needs quickjs")

DOCUMENT = """
const pixels = { data: [0, 0, 0, 255] };
const pen = { drawImage() {}, getImageData: () => pixels, putImageData() {} };
class Element {
  constructor() { Object.assign(this, { children: [], text: "", style: {}, handlers: {} }); }
  classList = { add() {}, remove() {} };
  replaceChildren(...children) { this.children = children; this.value = children[0].value; }
  append(...children) { this.children.push(...children); }
  addEventListener(event, handler) { this.handlers[event] = handler; }
  setAttribute() {}
  getContext() { return pen; }
}
class Option { constructor(text, value) { Object.assign(this, { text, value }); } }
class OffscreenCanvas extends Element {}
class URLSearchParams {
  parts = [];
  append(name, value) { this.parts.push(`${name}=${value}`); }
  toString() { return this.parts.join("&"); }
}
const elements = {}, asked = [];
const document = {
  getElementById: (id) => (elements[id] ??= new Element()),
  createElement: () => new Element(),
  querySelector: () => new Element(),
  addEventListener() {},
};
const performance = { now: () => 1 };
const createImageBitmap = async () => ({ width: 1, height: 1 });
const fetch = async (path, options) => {
  asked.push([options.method ?? "GET", path]);
  return { ok: true, status: 200, json: async () => MODELS, blob: async () => ({}),
           headers: { get: () => "2.5" } };
};
"""


@pytest.fixture(scope="module")
def server(random_model: Path) -> Iterator[Running]:
    running = Running(f"net={random_model}", "--device", "cpu", "--precision", "f32")
    yield running
    running.stop()


def test_the_page_asks_for_what_the_server_has(server: Running) -> None:
    """It lists the models and classes, and each choice is a request that succeeds."""
    models = server.ask("GET", "/models")[1].decode()
    script = quickjs.Context()

    def run(code: str) -> None:
        script.eval(code)
        while script.execute_pending_job():
            pass

    def found(code: str) -> object:
        return json.loads(script.eval(f"JSON.stringify({code})"))

    run(f"const MODELS = {models};{DOCUMENT}")
    run((HERE / "page" / "page.js").read_text("utf-8"))
    [model] = json.loads(models)["models"]
    names = [one["name"] for one in model["classes"]]
    assert found("elements.legend.children.map((one) => one.children[1])") == names
    assert found("elements.stride.children.map((one) => one.value)") == model["strides"]

    run("elements.file.handlers.change({ target: { files: [{}] } })")
    for shown in ("heatmap", "skip"):
        run(f"elements.shown.value = '{shown}'; elements.shown.handlers.change()")
    assert "2.50 logits" in str(found("elements.status.textContent"))
    requests = found("asked.slice(1)")
    assert isinstance(requests, list)
    assert [path.split("?")[0].split("/")[-1] for _, path in requests] == [
        "color", "heatmap", "skip",
    ]  # fmt: skip
    for method, path in requests:
        status, body, _ = server.ask(method, f"/{path}", png(drawn(0)))
        assert status == 200, body
