"""The page of `review`: a card for each region or image to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.errors import shown
from fcnseg.inference.review import Suspect
from fcnseg.io.draw import overlay
from fcnseg.io.images import resize_image
from fcnseg.report.gallery import jpeg, legend
from fcnseg.report.page import render

SIDE = 224
"""Pixels of an image on a card."""

ROOM = 24
"""Pixels around a region that are shown with it, at least."""


@dataclass(frozen=True)
class Card:
    """What a card says, and its images: titles and data addresses."""

    name: str
    text: str
    images: tuple[tuple[str, str], ...]


def cards_of_region(
    one: Suspect,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    classes: ClassMap,
) -> Card:
    """A region with what is around it: the image, its labels, the prediction, framed in white."""
    left, top, width, height = one.box
    room = max(ROOM, width, height) // 2 + ROOM // 2
    part = (
        slice(max(0, top - room), top + height + room),
        slice(max(0, left - room), left + width + room),
    )
    place = (top - part[0].start, left - part[1].start, height, width)
    crops = (
        ("image", image[part]),
        ("labels", overlay(image[part], labels[part], classes, alpha=0.6)),
        ("prediction", overlay(image[part], predicted[part], classes, alpha=0.6)),
    )
    text = (
        f"labelled {classes.names[one.labelled]} (probability {one.p_labelled:.2f}), predicted "
        f"{classes.names[one.predicted]} ({one.p_predicted:.2f}); {one.area} px, "
        f"score {one.score:.3f}"
    )
    images = tuple((title, _framed(crop, place)) for title, crop in crops)
    return Card(one.name, text, images)


def thumbnail(image: NDArray[np.uint8]) -> str:
    """An image as a data address, small."""
    factor = min(1.0, SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return jpeg(resize_image(image, (height, width)))


def review_page(title: str, summary: str, cards: Sequence[Card], classes: ClassMap) -> str:
    """The page, as HTML."""
    plain = [Card(shown(one.name), shown(one.text), one.images) for one in cards]
    content = {
        "title": title,
        "summary": shown(summary),
        "cards": plain,
        "legend": legend(classes) if any(len(one.images) > 1 for one in cards) else [],
    }
    return render("review.html.j2", content, {"views": {}, "order": []})


def _framed(crop: NDArray[np.uint8], place: tuple[int, int, int, int]) -> str:
    """A crop, SIDE pixels long, with a frame around (top, left, height, width)."""
    factor = SIDE / max(crop.shape[:2])
    size = (max(1, round(crop.shape[0] * factor)), max(1, round(crop.shape[1] * factor)))
    drawn = resize_image(np.ascontiguousarray(crop), size).copy()
    top, left, bottom, right = (
        round(value * factor)
        for value in (place[0], place[1], place[0] + place[2], place[1] + place[3])
    )
    for thick, color in ((3, 0), (1, 255)):  # a white line in a black one
        for offset in range(-1, thick - 1) if thick > 1 else (0,):
            rows = np.clip([top - 1 + offset, bottom + offset], 0, size[0] - 1)
            columns = np.clip([left - 1 + offset, right + offset], 0, size[1] - 1)
            drawn[rows, columns[0] : columns[1] + 1] = color
            drawn[rows[0] : rows[1] + 1, columns] = color
    return jpeg(drawn)
