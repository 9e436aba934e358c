"""What `check` found as one HTML page: the reading, classes, findings, images with labels."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.check import CheckResult
from fcnseg.errors import percent
from fcnseg.io.images import encode_image, write_bytes

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .15em .8em .15em 0; text-align: right }
td:first-child, th:first-child { text-align: left } .error { color: #b00 } .warning { color: #a60 }
figure { display: inline-block; margin: 0 1em 1em 0 } figure img { height: 160px }
i { display: inline-block; width: .9em; height: .9em; margin-right: .4em; border: 1px solid #888 }
</style></head><body>
<h1>{{ title }}</h1><p>{{ found.summary }}</p>
<table><tr><th>class</th><th>pixels</th>
{% for split in splits %}<th>{{ split }}</th>{% endfor %}</tr>
{% for row in found.frequencies %}<tr><td><i style="background: {{ colors[loop.index0] }}"></i>
{{- row.name }}</td><td>{{ percent(row.share) }}</td>
{% for split in splits %}<td>{{ row.images[split] }}</td>{% endfor %}</tr>{% endfor %}</table>
{% if time %}<p>{{ time }}</p>{% endif %}
<h2>{{ count }}</h2>{% for one in found.findings %}
<p><b class="{{ one.severity }}">{{ one.severity }}</b> <code>{{ one.code }}</code>:
{{ one.message }}
{% if one.files %}<br>{{ one.files[:12] | join(", ") }}
{%- if one.files | length > 12 %} and {{ one.files | length - 12 }} more{% endif %}{% endif %}
{% if one.repair %}<br>Fix: {{ one.repair }}{% endif %}</p>{% endfor %}
<h2>Images and labels</h2>{% for view in views %}
<figure><img alt="image" src="{{ view.image }}"> <img alt="labels" src="{{ view.labels }}">
<figcaption>{{ view.name }}</figcaption></figure>{% endfor %}
</body></html>
"""


@dataclass(frozen=True, eq=False)
class View:
    """A pair on the page: uint8 (H, W, 3) RGB each, and what stands below."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def write_page(path: Path, title: str, result: CheckResult, views: Sequence[View]) -> None:
    """Write what `check` found as a page that needs no other file; MediaError when that fails."""
    from jinja2 import Environment  # noqa: PLC0415, RUF100 - takes as long as all of `check --help`

    found = result.as_dict()
    page = Environment(autoescape=True).from_string(_PAGE)
    text = page.render(
        title=title,
        found=found,
        splits=[name for name in ("train", "val", "test") if name in found["parts"]],
        colors=["#{:02x}{:02x}{:02x}".format(*c) for c in result.description.classes.colors],
        views=[
            {"name": view.name, "image": _as_url(view.image), "labels": _as_url(view.labels)}
            for view in views
        ],
        percent=percent,
        count=result.count,
        time=result.training_time,
    )
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def _as_url(image: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_image(image)).decode()
