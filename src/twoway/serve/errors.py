"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, whatever goes wrong and wherever.

A refusal is an `ApiError`. What the parts below say of content or use is the asker's to mend (400); what they say of the index is ours
(503). Anything else is a fault of this program: it is logged whole, and the answer tells nothing of the machine.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ..content import ContentError
from ..errors import BusyError, SlowError, TwowayError, UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

_log = logging.getLogger(__name__)
_LONGEST = 2000  # characters of a message; what was wrong may be repeated in it
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request is refused, with a status and words for the asker."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        wait: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.wait, self.close = status, message, code, param, wait, close

    def response(self) -> JSONResponse:
        """Return the answer; after `wait` seconds it is worth trying again, and with `close` the connection ends."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        body = {"error": {"message": self.message[:_LONGEST], "type": kind, "param": self.param, "code": self.code}}
        headers = {} if self.wait is None else {"Retry-After": str(max(1, math.ceil(self.wait)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.close:
            headers["Connection"] = "close"
        return JSONResponse(body, self.status, headers)


def as_api_error(error: Exception) -> ApiError:
    """Return what the asker is told of any error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return ApiError(400, f"{where}: {first['msg']}", code="invalid_value", param=where)
    if isinstance(error, ContentError):
        return ApiError(400, str(error), code="invalid_content")
    if isinstance(error, BusyError):
        return ApiError(503, str(error), code="busy", wait=5)
    if isinstance(error, SlowError):
        return ApiError(504, str(error), code="timeout", wait=5)
    if isinstance(error, UsageError):
        return ApiError(400, str(error), code="invalid_value")
    if isinstance(error, TwowayError):
        _log.error("%s", error)
        return ApiError(503, str(error), code="unavailable", wait=5)
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the server met an error of its own; its log says which", code="internal_error")


def answer_errors(app: FastAPI) -> None:
    """Have an application answer every error in this shape."""

    async def answer(_: Request, error: Exception) -> Any:
        return as_api_error(error).response()

    for kind in (ApiError, HTTPException, RequestValidationError, TwowayError, Exception):
        app.add_exception_handler(kind, answer)
