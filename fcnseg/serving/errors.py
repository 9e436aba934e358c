"""Requests that are refused: always JSON, with what was found and what to do."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class HttpError(Exception):
    """A request that is refused: its status, and what to say."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


def refusal(error: HttpError) -> JSONResponse:
    """An error as JSON, with the headers that say when to come again."""
    headers = dict(SECURITY_HEADERS)
    if error.status == 429:
        headers["Retry-After"] = "1"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = {"error": error.message} | ({"hint": error.hint} if error.hint else {})
    return JSONResponse(content, status_code=error.status, headers=headers)


def busy() -> HttpError:
    """A request that finds no room."""
    return HttpError(429, "Too many requests are waiting.", "try again in a second")


def check_content(headers: Headers) -> None:
    """HttpError (415) for a body that holds the image in something else: a form, or compressed."""
    if headers.get("content-type", "").lower().startswith("multipart/"):
        raise HttpError(
            415,
            "The body is a form; the image file itself is expected.",
            "curl --data-binary @photo.jpg, or requests.post(url, data=file)",
        )
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise HttpError(
            415, f"The body is compressed ({encoding[:20]}).", "send the image file as it is"
        )


async def unknown_address(request: Request, error: Exception) -> Response:
    """The response to an address or a method that is not served."""
    assert isinstance(error, HTTPException)
    known = "GET /models lists the models, GET /openapi.json describes the interface"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        refused = HttpError(405, f"{request.method} is not possible here; {allowed} is.", known)
    else:
        refused = HttpError(error.status_code, f"{error.detail}.", known)
    response = refusal(refused)
    response.headers.update(error.headers or {})
    return response
