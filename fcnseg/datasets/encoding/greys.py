"""Detect whether gray levels are classes drawn as grays, possibly compressed, or class indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from fcnseg.classes import BACKGROUND_NAMES, BINARY, IGNORE, unpack
from fcnseg.datasets.encoding.colors import MOVED, without_gradients
from fcnseg.datasets.encoding.entries import Entry, by_stored_value
from fcnseg.datasets.encoding.values import GREY, GREYS, Values

FAR = 8

EVEN_STEP = 5
"""Values are grays if the largest is at least FAR, or if equal steps are at least EVEN_STEP."""

INDICES_NOT_BLUR = 0.2
"""Values 1..11 in a JPEG are class indices if they cover this fraction of the pixels of 0 (and 5 %
of all). Measured: blur around 0 covers 0.07 in bag's masks, 0.12 in 48x64 images.
"""

PHOTOGRAPH = 100
"""Files with more distinct values than this, on average, are photographs."""

LARGEST = 65535
"""The largest 16-bit value: never a class, often "ignore"."""


def as_greys(values: Values) -> Values:
    """Convert colors that are all gray, or nearly, to gray levels."""
    greys = replace(values, kind="index", pixels={}, border={}, files={}, solid=())
    for color, pixels in values.pixels.items():
        level = round(sum(unpack(color)) / 3)
        greys.pixels[level] = greys.pixels.get(level, 0) + pixels
        greys.border[level] = greys.border.get(level, 0) + values.border[color]
        greys.files[level] = max(greys.files.get(level, 0), values.files[color])
    if any(chroma(color) for color in values.pixels):
        greys.lossy = True
    return greys


def grey_entries(entries: Sequence[Entry]) -> dict[int, Entry]:
    """The gray levels among a class list's colors; {} if two names share one."""
    greys = [e for e in entries if e.color is not None and chroma(e.color) == 0]
    levels = {unpack(entry.color or 0)[0]: entry for entry in greys}
    return levels if len(levels) == len(greys) else {}


def listed_greys(levels: Sequence[int], entries: Sequence[Entry]) -> dict[int, Entry]:
    """A class list's grays, if the stored levels are near these (compressed); else {}."""
    listed = grey_entries(entries)
    near = [{grey for grey in listed if abs(grey - level) <= MOVED} for level in levels]
    return listed if levels and all(near) else {}


def chroma(color: int) -> int:
    """The difference between the largest and the smallest channel; 0 for grays."""
    channels = unpack(color)
    return max(channels) - min(channels)


def without_outliers(seen: Sequence[int], values: Values) -> list[int]:
    """Remove outliers: values far above consecutive indices, in few pixels of few files."""
    kept: list[int] = []
    in_a_row = False
    for value in seen:
        apart = bool(kept) and value > 2 * (kept[-1] + 1) and value - kept[-1] > 8
        few = values.pixels[value] < values.total / 100
        seldom = values.files[value] <= max(1, values.count / 10)
        if in_a_row and apart and few and seldom and value not in (IGNORE, LARGEST):
            continue
        in_a_row |= bool(kept) and value == kept[-1] + 1
        kept.append(value)
    return kept


def peaks(values: Values) -> tuple[int, ...]:
    """The original levels of lossy grays: peaks of their histogram; () if values are not lossy."""
    if max(values.pixels) > 255 or len(values.pixels) < _lossy_count(values):
        return ()
    histogram = np.zeros(256 + 24)
    for value, pixels in values.pixels.items():
        histogram[value + 12] = pixels
    found = []
    for value in range(256):
        window = histogram[value : value + 25]  # value +- 12
        here = window[12]
        if here == 0 or here < window.max():
            continue
        around = (window[6:19].sum() - window[11:14].sum()) / 10
        sharp = here >= 10 * around and here >= values.total / 5000
        if window.sum() >= values.total / 200 or sharp:
            found.append(value)
    held = sum(histogram[peak + 12] for peak in found)
    return tuple(found) if len(found) >= 2 and held >= 0.5 * values.total else ()


def flat_greys(values: Values) -> tuple[int, ...]:
    """Widely spaced grays that cover areas, if smoothing has added rare ones between them."""
    if min(values.pixels) < 0 or not 2 * GREYS <= max(values.pixels) <= 255:
        return ()
    shades = replace(values, pixels={value * GREY: n for value, n in values.pixels.items()})
    greys = tuple(color // GREY for color in without_gradients(shades))
    apart = all(after - before >= GREYS for before, after in pairwise(greys))
    return greys if len(greys) >= 2 and apart else ()


def lossy_indices(values: Values) -> int:
    """Estimate the number of class indices stored as JPEG; 0 for grays.

    Around a gray level of 0 few pixels have 1, 2, 3 ...; with indices many have.
    """
    low = np.array([values.pixels.get(value, 0) for value in range(12)])
    if low[0] == 0 or low[1:].sum() < max(INDICES_NOT_BLUR * low[0], values.total / 20):
        return 0
    return int(np.flatnonzero(low > values.total / 1000).max()) + 1


def _lossy_count(values: Values) -> int:
    """Least number of distinct values of lossy labels: fewer for JPEG or with values near white."""
    if values.lossy:
        return 3
    return 12 if any(240 <= value < 255 for value in values.pixels) else 64


def assign_greys(order: Sequence[int], entries: Sequence[Entry]) -> list[tuple[Entry, int]]:
    """Assign grays to a class list without values; [] if their numbers differ.

    order: the grays, dark to light, or the background first if it is the lighter one. Entries are
    sorted by number if they have one; one of them may be the background.
    """
    rows = by_stored_value(entries)
    if len(rows) != len(order):
        rows = [entry for entry in rows if not entry.ignored]
    first = next((n for n, e in enumerate(rows) if e.name.lower() in BACKGROUND_NAMES), None)
    if len(rows) == len(order) - 1 and rows and first is None:
        return [*zip([Entry(BINARY[0]), *rows], order, strict=True)]
    if len(rows) != len(order):
        return []
    greys = sorted(order)
    if len(rows) == 2 and first is not None and rows[0].value is None:
        greys = [*order] if first == 0 else [*reversed(order)]
    return [*zip(rows, greys, strict=True)]


def nearest_totals(values: Values, levels: Sequence[int]) -> dict[int, tuple[int, int]]:
    """level -> (pixels, pixels at the image's edge), summed over the values nearest to it."""
    totals = dict.fromkeys(levels, (0, 0))
    for value, pixels in values.pixels.items():
        level = min(levels, key=lambda level: abs(level - value))
        inside, edge = totals[level]
        totals[level] = inside + pixels, edge + values.border.get(value, 0)
    return totals


def are_greys(seen: Sequence[int]) -> bool:
    """Whether values are gray levels (0, 255; 0, 85, 170, 255), not indices."""
    below = [value for value in seen if value != IGNORE]
    if not below or list(seen) == [0, IGNORE]:
        return list(seen) == [0, IGNORE]
    return 32 <= below[-1] < 256 and 2 <= len(below) <= 16 and len(below) / (below[-1] + 1) < 0.25


def are_widely_spaced(levels: Sequence[int]) -> bool:
    """Whether values are few and widely spaced (0, 20; 0, 10, 20): classes, but not indices."""
    if len(levels) < 2 or levels[-1] >= IGNORE:
        return False
    steps = {after - before for before, after in pairwise(levels)}
    even = len(levels) > 2 and len(steps) == 1 and min(steps) >= EVEN_STEP
    if levels[0] != 0:
        return even and {levels[0]} == steps
    return even or (levels[-1] >= FAR and len(levels) / (levels[-1] + 1) < 0.25)


def listed_values(
    values: Values, seen: Sequence[int], entries: Sequence[Entry]
) -> list[tuple[Entry, int]]:
    """Assign stored values to the entries of a class list; [] if the list does not fit."""
    if not entries:
        return []
    by_color = {color: value for value, color in values.palette.items()}
    missing = (
        len(seen) > 0
        and seen[-1] == len(entries)
        and entries[0].name.lower() not in BACKGROUND_NAMES
    )
    ways: list[list[tuple[Entry, int]]] = []
    if all(entry.values for entry in entries):
        ways.append([(entry, value) for entry in entries for value in entry.values])
    if len(by_color) >= len(entries) and all(
        entry.color in by_color for entry in entries if not entry.ignored
    ):
        ways.append([(e, by_color[e.color or 0]) for e in entries if e.color in by_color])
    in_order = [] if ways else [Entry(BINARY[0]), *entries] if missing else entries
    ways.append([(entry, grey) for grey, entry in grey_entries(entries).items()])
    from_one = [*seen] == [*range(1, len(in_order) + 1)]  # 0 is in no file
    ways.append([(entry, number) for number, entry in enumerate(in_order, from_one)])
    ways = [placed for placed in ways if placed]
    fitting = [placed for placed in ways if _fits(placed, values, seen)]
    if not fitting and ways and not in_order:
        fitting = _without_0(ways[0], values, seen)
    return min(fitting, key=lambda placed: _unexplained(placed, values, seen) > 0, default=[])


def _without_0(
    listed: list[tuple[Entry, int]], values: Values, seen: Sequence[int]
) -> list[list[tuple[Entry, int]]]:
    """Add background for 0 to a list numbered from 1; if it has one, 0 is not a class.

    [] if no file contains the last number: the list may be off by one.
    """
    rest = [value for value in seen if value]
    last = max(number for _, number in listed)
    if last not in {*seen, IGNORE} or not _fits(listed, values, rest):
        return []
    if 0 not in seen or any(number == 0 for _, number in listed):
        return []
    own = [number for entry, number in listed if entry.name.lower() in BACKGROUND_NAMES]
    if own:
        return [listed] if own[0] in seen else []
    return [[(Entry(BINARY[0], 0), 0), *listed]]


def _fits(placed: Sequence[tuple[Entry, int]], values: Values, seen: Sequence[int]) -> bool:
    """Whether a class list contains most values except 0, and those of 95 % of the pixels."""
    numbers = {number for _, number in placed}
    things = [value for value in seen if value]
    most = 2 * sum(value in numbers for value in things) >= len(things)
    return most and _unexplained(placed, values, seen) <= values.total / 20


def _unexplained(placed: Sequence[tuple[Entry, int]], values: Values, seen: Sequence[int]) -> int:
    """Number of pixels whose value is not in the list; all if two entries share a value."""
    numbers = {number for _, number in placed}
    unknown = [value for value in seen if value not in numbers]
    same = len(numbers) < len(placed)
    return values.total if same else sum(values.pixels[value] for value in unknown)


def meaning_alone(two_meanings: bool, entries: Sequence[Entry]) -> tuple[int, ...]:
    """Encoding.alone for labels where some files contain 0 and 255, others 1 and 255.

    If a class list defines what is ignored, 255 is ignored in all files.
    """
    return (IGNORE, 1) if two_meanings and not any(entry.ignored for entry in entries) else ()


def why_ignored(ignored: Sequence[int], alone: tuple[int, ...]) -> list[str]:
    """A sentence about the ignored values, if there are any."""
    if alone:
        return [f"value {alone[0]} is ignored beside {alone[1]}, and {alone[1]} in files without"]
    return [f"{', '.join(map(str, ignored))} is ignored"] if ignored else []
