"""Charts as SVG that stands in a page: text stays text and takes the page's colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fcnseg.errors import MissingExtra, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#010203"  # replaced by the page's own colour
BLUE, ORANGE, GREEN = "#3b7dd8", "#d9822b", "#2f9e63"
MARKS = (BLUE, ORANGE, GREEN, "#b0549c", "#7a7a7a")


def has_charts() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def require_charts() -> None:
    """MissingExtra where there is no matplotlib: asked before the work, not after it."""
    if not has_charts():
        raise MissingExtra("A report", "report")


def lines(
    series: Mapping[str, Sequence[float | None]], *, x: Sequence[float], x_name: str, name: str
) -> str:
    """Values over x as lines, with a legend where there are several."""
    figure, axes = _figure(5.2, 2.6)
    for (label, values), color in zip(series.items(), MARKS * 9, strict=False):
        heights = [float("nan") if value is None else value for value in values]
        axes.plot(x, heights, label=shown(label), color=color, marker="o" if len(x) < 30 else None)
    axes.set_xlabel(x_name)
    axes.set_ylabel(name)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=_INK)
    axes.locator_params("x", integer=True)  # there is no epoch 1.5
    return _svg(figure, f"lines-{name}")


def bars(values: Mapping[str, float], *, unit: str, name: str) -> str:
    """Horizontal bars with their values, from the top down."""
    figure, axes = _figure(5.2, 0.5 + 0.32 * len(values))
    drawn = axes.barh([shown(key) for key in values], list(values.values()), color=BLUE)
    axes.bar_label(drawn, fmt="%.2f", padding=3, color=_INK)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(unit)
    return _svg(figure, f"bars-{name}")


def calibration(curve: Sequence[tuple[float, float, int]]) -> str:
    """Accuracy over the probability of the predicted class, and the pixels of each bin."""
    figure, axes = _figure(3.6, 3.6)
    total = sum(pixels for *_, pixels in curve) or 1
    sure = [row[0] for row in curve]
    axes.plot([0, 1], [0, 1], color="#8a8a8a", linestyle="--", linewidth=1, label="calibrated")
    axes.plot(sure, [row[1] for row in curve], color=BLUE, marker="o", label="accuracy")
    heights = [row[2] / total for row in curve]
    axes.bar(sure, heights, width=0.05, color=ORANGE, alpha=0.5, label="proportion of pixels")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability of the predicted class")
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left")
    return _svg(figure, "calibration")


def intervals(rows: Sequence[Mapping[str, Any]]) -> str:
    """Differences with their intervals, in points of mIoU, beside a line at 0."""
    figure, axes = _figure(5.2, 0.7 + 0.4 * len(rows))
    axes.axvline(0, color="#8a8a8a", linewidth=1, linestyle="--")
    for place, row in enumerate(rows):
        value, (low, high) = 100 * row["miou"], row["interval"]
        axes.plot([value], [place], "o", color=BLUE)
        if low is not None:
            axes.plot([100 * low, 100 * high], [place, place], color=BLUE, linewidth=2)
    axes.set_yticks(range(len(rows)), [row["models"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("points of mIoU")
    return _svg(figure, "intervals")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    for part in (*axes.spines.values(),):
        part.set_color(_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element whose ids are its own."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(_INK, "currentColor").replace("DejaVu Sans", "system-ui")
    own = re.sub(r"\W", "-", name)
    text = re.sub(r'\bid="', f'id="{own}-', text)
    text = text.replace("url(#", f"url(#{own}-").replace('xlink:href="#', f'xlink:href="#{own}-')
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
