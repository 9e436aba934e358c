"""The interface as an OpenAPI document: GET /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fcnseg import __version__
from fcnseg.inference.outputs import OUTPUTS
from fcnseg.serving.outputs import DRAWN, MEDIA_TYPES

if TYPE_CHECKING:
    from fcnseg.serving.app import Limits

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


def describe_api(models: Sequence[str], limits: Limits, *, token: bool) -> dict[str, Any]:
    """The document, version 3.1, for these models and limits; token: whether one is needed."""
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
            "/models/{name}/{output}": {"post": _predict(models, limits)},
        },
    }
    if token:
        scheme = {"bearer": {"type": "http", "scheme": "bearer"}}
        document |= {"components": {"securitySchemes": scheme}, "security": [{"bearer": []}]}
    return document


def _predict(models: Sequence[str], limits: Limits) -> dict[str, Any]:
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
