"""HTML tables that represent objects in a notebook; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from fcnseg.classes import ClassMap
from fcnseg.errors import counted, printable

Color = tuple[int, int, int]


def model(title: str, engine: str, short_side: int | None, classes: ClassMap) -> str:
    """A model: its file, engine, input size, and classes with their colors."""
    at = f"resized to a short side of {short_side}" if short_side else "at their own size"
    html = facts("Segmentation model", {"file": title, "engine": engine, "images": at})
    colors = [(red, green, blue) for red, green, blue in classes.colors.tolist()]
    return html + table(counted(len(classes), "class"), (), zip(classes.names), colors)


def dataset(
    summary: str, classes: Sequence[Sequence[str]], count: str, findings: Sequence[Sequence[str]]
) -> str:
    """A dataset: each class with its proportion of the pixels, each finding with its fix."""
    html = f"<p>{_text(summary)}</p>" + table("Classes", ("class", "pixels"), classes)
    return html + table(
        count, ("finding", "what was found", "what to do") if findings else (), findings
    )


def comparison(
    models: Mapping[str, str], classes: Iterable[Sequence[str]], verdicts: Sequence[str]
) -> str:
    """Models by letter, the IoU of each class by model, and the significance of the differences."""
    letters = list(models)
    heading = ("class", *(f"{one} IoU" for one in letters), *(f"{one} - A" for one in letters[1:]))
    html = facts("Comparison", models) + table("IoU of each class", heading, classes)
    return html + "".join(f"<p>{_text(one)}</p>" for one in verdicts)


def facts(title: str, values: Mapping[str, object]) -> str:
    """A table of names and values; omits values that are None."""
    rows = [(name, str(value)) for name, value in values.items() if value is not None]
    return table(title, (), rows)


def table(
    title: str,
    heading: Sequence[str],
    rows: Iterable[Sequence[str]],
    colors: Sequence[Color] | None = None,
) -> str:
    """A table whose rows begin with their name.

    colors: of a square before each row's name, red, green and blue in 0..255.
    """
    lines = [f"<table><caption>{_text(title)}</caption>"]
    if heading:
        cells = "".join(f'<th scope="col">{_text(name)}</th>' for name in heading)
        lines.append(f"<thead><tr>{cells}</tr></thead>")
    lines.append("<tbody>")
    for index, (name, *cells_of_row) in enumerate(rows):
        mark = _mark(colors[index]) if colors is not None else ""
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in cells_of_row)
        lines.append(f'<tr><th scope="row">{mark}{_text(name)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table>"])


def _mark(color: Color) -> str:
    red, green, blue = (int(value) for value in color)
    style = f"background: rgb({red}, {green}, {blue}); border: 1px solid gray"
    return f'<span style="{style}; display: inline-block; width: 1em; height: 1em"></span> '


def _text(value: str) -> str:
    return escape(printable(value))
