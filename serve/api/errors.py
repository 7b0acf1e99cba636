"""All errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

A message says what to change, and never repeats a prompt, a completion or a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypedDict, Unpack

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "request_too_large",
    429: "overloaded",
    431: "request_head_too_large",
    503: "unavailable",
}


_NO_OBJECT = ("missing", "model_attributes_type", "model_type", "dict_type")
"""pydantic's errors of a body that is absent, or is no object: FastAPI does not parse one that is not sent as JSON."""
CLIENT_CLOSED = 499
"""The status of a request whose client disconnected; it is counted, and no client reads it."""
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that the current task answers."""


class ErrorDetail(BaseModel):
    message: str
    type: str
    """`invalid_request_error`, `server_error`, or for a key's limit `requests`, `tokens` or `concurrency`."""
    param: str | None = None
    """The field with the wrong value, as a dotted path."""
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of each answer with a status of 400 or more."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "k: Input should be less than or equal to 64",
                        "type": "invalid_request_error",
                        "param": "k",
                        "code": "invalid_value",
                    },
                    "request_id": "0a0a6fbc-3a3c-4a0e-8b39-bf6b3f4c6c3f",
                }
            ]
        }
    )

    error: ErrorDetail
    request_id: str | None = None
    """The value of the header X-Request-Id."""


class Details(TypedDict, total=False):
    """What an error may have besides its status and message."""

    param: str | None
    code: str | None
    kind: str | None
    """The error's `type`, where it is not the one of its status."""
    headers: Mapping[str, str] | None


class Refusal(Exception):
    """Raised by this service's code for a request that is answered with an error."""

    def __init__(self, status: int, message: str, **details: Unpack[Details]) -> None:
        super().__init__(message)
        self.status, self.message, self.details = status, message, details

    def response(self) -> Response:
        """The HTTP response. The JSON is ASCII, so that it can hold a lone surrogate of a field's name."""
        given = self.details
        kind = given.get("kind") or ("invalid_request_error" if self.status < 500 else "server_error")
        code = given.get("code") or _CODES.get(self.status)
        detail = ErrorDetail(message=self.message, type=kind, param=given.get("param"), code=code)
        body = json.dumps(ErrorBody(error=detail, request_id=request_id.get()).model_dump())
        return Response(body, self.status, headers=given.get("headers"), media_type="application/json")


def response(status: int, message: str, **details: Unpack[Details]) -> Response:
    """The HTTP response of an error that no code raised as a Refusal."""
    return Refusal(status, message, **details).response()


def install(app: FastAPI) -> None:
    """Answer the exceptions of `app`'s routes in OpenAI's shape."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)


async def unavailable(_: Request, error: Exception) -> Response:
    """The handler of exceptions that mean that no replica can answer now."""
    return response(503, "the model is not available at the moment: try again later", headers={"Retry-After": "5"})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _invalid(_: Request, error: Any) -> Response:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return response(400, "the body is not valid JSON", code="invalid_json")
    param = str(first["loc"][1])[:100] if len(first["loc"]) > 1 else None  # what follows names types of a union
    message = str(first["msg"]).removeprefix("Value error, ")
    if param is None and first["type"] in _NO_OBJECT:
        message = "the body must be a JSON object, sent with the header Content-Type: application/json"
    code = {"missing": "missing_field", "extra_forbidden": "unknown_field"}.get(first["type"], "invalid_value")
    return response(400, f"{param}: {message}" if param else message, param=param, code=code)


async def _http(_: Request, error: Any) -> Response:
    return response(error.status_code, str(error.detail), headers=error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    return response(500, "internal error: the server's log has the details")
