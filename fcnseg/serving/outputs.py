"""Responses of the server: an image's bytes in, labels, overlay, polygons or heatmaps out.

Also the OpenAPI document of the interface: GET /openapi.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fcnseg import __version__
from fcnseg.errors import MediaError, OptionError
from fcnseg.inference.outputs import OUTPUTS, Renderer
from fcnseg.inference.prediction import PredictedArrays, Prediction
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.content.integrity import claimed_size
from fcnseg.io.images import decode_image, encode_image

Needs = Literal["labels", "probabilities", "skips"]

MEDIA_TYPES = {
    ".txt": "text/plain",
    ".png": "image/png",
    ".npz": "application/octet-stream",
    ".geojson": "application/geo+json",
    ".json": "application/json",
}

DRAWN = {
    "heatmap": "the probability of one class as a gray PNG, 255 = 1 (class)",
    "skip": "what a skip connection adds to the logit of a class, as a gray PNG: 128 = 0, and the "
    "header X-Range says what 255 is (class, stride); networks of fuse score only",
}
"""Outputs that only the server has, with their descriptions."""

ERRORS = {
    "400": "unknown parameter, class or stride",
    "401": "the token is missing or wrong",
    "404": "no such model or output",
    "408": "the body came too slowly",
    "413": "too many bytes or pixels",
    "422": "the body is not an image that can be decoded",
    "429": "too many requests wait; the header Retry-After says when to come again",
    "504": "no response in time",
}


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    queue: waiting requests of each model. bytes: of a body. pixels: of an image. seconds: timeout
    for sending the body, and again for the response. batch: maximum batch size.
    """

    queue: int = 256
    bytes: int = 32 * 2**20
    pixels: int = 2**24
    seconds: float = 30.0
    batch: int = 1


@dataclass(frozen=True)
class Request:
    """One image and the requested output.

    data: the bytes of an image file. output: a name in OUTPUTS or DRAWN. classes: names of the
    classes in the output (empty: all). stride: of the skip. alpha: opacity, 0..1.
    max_pixels: larger images are refused before they are decoded.
    """

    data: bytes
    output: str
    classes: tuple[str, ...] = ()
    stride: int = 0
    alpha: float = 0.5
    max_pixels: int = 2**24

    @property
    def needs(self) -> Needs:
        """What the network has to compute for it."""
        if self.output == "skip":
            return "skips"
        return "probabilities" if self.output in ("probabilities", "heatmap") else "labels"


@dataclass(frozen=True)
class Reply:
    """A response's body, its media type and further headers."""

    body: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)


class TooManyPixels(MediaError):
    """An image exceeds the server's limit of pixels."""


def check_request(model: Segmenter, request: Request, strides: Sequence[int]) -> None:
    """OptionError for an unknown class or stride, before anything is computed."""
    for name in request.classes:
        model.classes.index_of(name)
    if request.output in DRAWN and len(request.classes) != 1:
        raise OptionError(f"{request.output} is of one class: ?class=NAME.")
    if request.output == "skip" and request.stride not in strides:
        has = ", ".join(map(str, strides)) or "none"
        raise OptionError(f"No skip of stride {request.stride}; this model has: {has}.")


def outputs_of(strides: Sequence[int]) -> list[str]:
    """The outputs of a model whose skips have these strides."""
    return [*OUTPUTS, *(name for name in DRAWN if name != "skip" or strides)]


def strides_of(model: Segmenter) -> list[int]:
    """The strides whose contributions to the logits are exact; none for other models."""
    if not model.sums_scores:
        return []
    return sorted(model.skip_scores(np.zeros((32, 32, 3), np.uint8)), reverse=True)


def respond(
    model: Segmenter, requests: Sequence[Request], network: AbstractContextManager[object]
) -> list[Reply | BaseException]:
    """Compute a reply, or an error, for each request; all must have the same `needs`.

    network: a lock that is held while the network runs.
    """
    replies: dict[int, Reply | BaseException] = {}
    images: dict[int, NDArray[np.uint8]] = {}
    for index, request in enumerate(requests):
        try:
            images[index] = decode(request)
        except Exception as error:  # noqa: BLE001 - affects only its own request
            replies[index] = error
    try:
        with network:
            predictions = _predict(model, requests, images)
        for index, predicted in predictions.items():
            replies[index] = _encode(model, requests[index], predicted)
    except Exception as error:  # noqa: BLE001 - threads must survive any request
        replies = dict.fromkeys(range(len(requests)), error) | replies
    return [replies[index] for index in range(len(requests))]


def decode(request: Request) -> NDArray[np.uint8]:
    """Decode the image to uint8 RGB (H, W, 3); TooManyPixels, MediaError if it is damaged."""
    size = claimed_size(request.data)
    if size is None:
        raise MediaError("The body is not an image file.", hint="send its bytes")
    width, height = size
    if width * height > request.max_pixels:
        raise TooManyPixels(
            f"The image has {width}x{height} pixels; at most {request.max_pixels:,} are taken."
        )
    return decode_image(request.data, name="the image")


def _predict(
    model: Segmenter, requests: Sequence[Request], images: dict[int, NDArray[np.uint8]]
) -> dict[int, Prediction | dict[int, NDArray[np.float32]]]:
    if not images:
        return {}
    needs = requests[next(iter(images))].needs
    if needs == "skips":
        return {index: model.skip_scores(image) for index, image in images.items()}
    found = model(list(images.values()), probabilities=needs == "probabilities")
    return dict(zip(images, found, strict=True))


def _encode(
    model: Segmenter, request: Request, predicted: Prediction | dict[int, NDArray[np.float32]]
) -> Reply:
    if not isinstance(predicted, Prediction):
        return _skip(predicted[request.stride][model.classes.index_of(request.classes[0])])
    if request.output == "heatmap":
        levels = np.round(predicted.heatmap(request.classes[0]) * 255).astype(np.uint8)
        return Reply(encode_image(levels), "image/png")
    only = [model.classes.index_of(name) for name in request.classes] or None
    renderer = Renderer(model.classes, alpha=request.alpha, only=only)
    suffix = OUTPUTS[request.output].suffix
    chances = predicted.probabilities if request.needs == "probabilities" else None
    arrays = PredictedArrays(predicted.labels, probabilities=chances)
    body = renderer.encode(request.output, predicted.frame, arrays, Path(f"image{suffix}"))
    return Reply(body, MEDIA_TYPES[suffix])


def _skip(values: NDArray[np.float32]) -> Reply:
    """Encode signed values as a gray PNG: 1 to 255, 128 = 0."""
    most = max(float(np.abs(values).max()), 1e-6)
    levels = np.round(values / most * 127 + 128).astype(np.uint8)
    return Reply(encode_image(levels), "image/png", {"X-Range": f"{most:.6g}"})


def describe_api(models: Sequence[str], limits: Limits, *, token: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document for these models and limits; token: whether one is required."""
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "fcnseg", "version": __version__},
        "paths": {
            "/models": {
                "get": _get("Classes, colors and outputs of each model", "application/json")
            },
            "/health": {"get": _get("200 while the process runs", "text/plain")},
            "/ready": {"get": _get("200 when models are loaded", "text/plain")},
            "/metrics": {"get": _get("Metrics for Prometheus", "text/plain")},
            "/models/{name}/{output}": {"post": _prediction(models, limits)},
        },
    }
    if token:
        scheme = {"bearer": {"type": "http", "scheme": "bearer"}}
        document |= {"components": {"securitySchemes": scheme}, "security": [{"bearer": []}]}
    return document


def _prediction(models: Sequence[str], limits: Limits) -> dict[str, Any]:
    kinds = {MEDIA_TYPES[output.suffix] for output in OUTPUTS.values()} | {"image/png"}
    errors = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    number = {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5}
    return {
        "summary": "Segment one image",
        "description": f"The body is an image file of at most {limits.bytes} bytes and "
        f"{limits.pixels} pixels. " + "; ".join(f"{name}: {what}" for name, what in DRAWN.items()),
        "parameters": [
            _parameter("name", "path", {"enum": list(models)}),
            _parameter("output", "path", {"enum": [*OUTPUTS, *DRAWN]}),
            _parameter("class", "query", {"type": "array", "items": {"type": "string"}}),
            _parameter("stride", "query", {"type": "integer"}),
            _parameter("alpha", "query", number),
        ],
        "requestBody": {
            "required": True,
            "content": {kind: {} for kind in ("image/*", "application/octet-stream")},
        },
        "responses": {
            "200": {"description": "The output", "content": {kind: {} for kind in sorted(kinds)}},
            **{status: {"description": text, "content": errors} for status, text in ERRORS.items()},
        },
    }


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _get(summary: str, kind: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: {}}}},
    }
