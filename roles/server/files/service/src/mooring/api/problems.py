# SPDX-License-Identifier: Apache-2.0
"""Errors of the REST API: problem documents (RFC 9457) that name the field and say what to do.

Every answer that is not a success comes from here, so that there is one form. What is not foreseen is a 500 without
any detail; the detail is in the log, found by the request id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from mooring.authn.index import Unauthenticated
from mooring.authn.passwords import Busy
from mooring.lib import bounds, logging, metrics
from mooring.lib.errors import MooringError
from mooring.lib.names import holds_token
from mooring.store.ports import StoreUnavailable, Taken

MEDIA_TYPE: Final = "application/problem+json"
REQUEST_ID: Final = "X-Mooring-Request-Id"
_log = logging.get("mooring.api")


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field. `field` is a path such as `labels.team`, or the name of a parameter."""

    field: str
    message: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457. `code` is a word for programs; `hint` says what to do; `request_id` finds it in the log."""

    status: int
    title: str
    detail: str
    code: str
    type: str = ""
    hint: str = ""
    errors: list[FieldError] = []
    request_id: str = ""


class Problem(Exception):
    """Raised by a handler to answer with a problem document."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        hint: str = "",
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.errors = errors
        self.headers = dict(headers or {})


def quoted(ref: str) -> str:
    """What somebody named, for an error; but a token, given where an id belongs, is not repeated: errors are kept."""
    return "with this name (a token was given in its place)" if holds_token(ref) else repr(ref)


def invalid(field: str, message: str) -> Problem:
    """422: one field is wrong."""
    return Problem(422, "invalid", f"{field}: {message}", errors=(FieldError(field, message),))


def not_found(what: str, ref: str) -> Problem:
    """404, also where the thing exists and the caller may not know."""
    return Problem(404, "not_found", f"there is no {what} {quoted(ref)}")


def conflict(code: str, detail: str, *, field: str = "", hint: str = "") -> Problem:
    """409: what is asked does not fit what is there."""
    errors = (FieldError(field, detail),) if field else ()
    return Problem(409, code, detail, hint=hint, errors=errors)


def forbidden(detail: str, hint: str = "") -> Problem:
    """403."""
    return Problem(403, "forbidden", detail, hint=hint)


def unauthenticated(detail: str, code: str = "unauthenticated", hint: str = "") -> Problem:
    """401."""
    headers = {"WWW-Authenticate": 'Bearer realm="mooring"'}
    return Problem(401, code, detail, hint=hint, headers=headers)


def later(status: int, code: str, detail: str, seconds: float) -> Problem:
    """429 or 503: try again after so many seconds."""
    return Problem(status, code, detail, headers={"Retry-After": str(max(1, round(seconds + 0.5)))})


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The exception handler of the whole API."""
    problem = _problem(error)
    if problem.status >= 500:
        _log.error(
            "request failed",
            path=request.url.path,
            method=request.method,
            request_id=request.headers.get(REQUEST_ID, ""),
            error=repr(error),
            exc_info=error if problem.status == 500 else None,
        )
    document = ProblemDocument(
        type="about:blank",
        status=problem.status,
        title=HTTPStatus(problem.status).phrase,
        detail=problem.detail,
        code=problem.code,
        hint=problem.hint,
        errors=list(problem.errors),
        request_id=request.headers.get(REQUEST_ID, ""),
    )
    return Response(
        msgspec.json.encode(document),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={**problem.headers, "Cache-Control": "no-store"},
    )


def _problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case ValidationException():
            return _validation(error)
        case Unauthenticated():
            metrics.AUTH_FAILURES.labels(error.cause).inc()
            return unauthenticated(error.reason, hint=error.hint)
        case Taken():
            return conflict("taken", error.reason, field=error.field)
        case Busy():
            bounds.met("passwords_waiting")
            return later(503, "busy", error.reason, error.retry_after)
        case StoreUnavailable():
            return later(503, "store_unavailable", error.reason, 5)
        case HTTPException():
            status = error.status_code if error.status_code in set(HTTPStatus) else 500
            code = HTTPStatus(status).phrase.lower().replace(" ", "_")
            detail = error.detail if status < 500 else "the server failed"
            return Problem(status, code, detail or HTTPStatus(status).phrase, headers=error.headers or {})
        case UnicodeDecodeError() | RecursionError():  # raised by the JSON decoder
            return Problem(400, "bad_request", "the body is not JSON in UTF-8 of a sane depth")
        case MooringError():
            return Problem(422, "invalid", error.reason, hint=error.hint)
        case _:
            return Problem(500, "internal", "the server failed", hint="its log says more, under the request id")


def _validation(error: ValidationException) -> Problem:
    """Litestar's list of {message, key, source} as our field errors."""
    extra = error.extra if isinstance(error.extra, list) else []
    errors = []
    for item in extra:
        if isinstance(item, dict):
            errors.append(_field_error(str(item.get("key") or ""), str(item.get("message", "is not valid"))))
    if not errors:
        errors.append(FieldError("body", error.detail))
    return Problem(422, "invalid", "; ".join(f"{e.field}: {e.message}" for e in errors), errors=tuple(errors))


def _field_error(key: str, message: str) -> FieldError:
    """One error. `data` is how handlers call the body; `Object ... field `x`` names the field in the message only."""
    field = "" if key == "data" else key.removeprefix("data.").removeprefix("in_")
    unknown = re.search(r"unknown field `([^`]+)`", message)
    missing = re.search(r"missing required field `([^`]+)`", message)
    named = unknown or missing
    if named:
        field = f"{field}.{named[1]}" if field else named[1]
        message = "is not known here" if unknown else "is missing"
    if message in ("'data'", "data"):
        message = "is missing"
    return FieldError(field or "body", message)
