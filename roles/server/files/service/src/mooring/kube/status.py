# SPDX-License-Identifier: Apache-2.0
"""Kubernetes `Status` objects: how errors on the proxy path are said, so that kubectl prints a sentence that helps.

Only builds bytes; who answers, and when, is decided elsewhere.
Source: https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.36/#status-v1-meta
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

CONTENT_TYPE: Final = b"application/json"

UNAUTHORIZED: Final = "Unauthorized"
FORBIDDEN: Final = "Forbidden"
NOT_FOUND: Final = "NotFound"
BAD_REQUEST: Final = "BadRequest"
CONFLICT: Final = "Conflict"
TOO_LARGE: Final = "RequestEntityTooLarge"
TOO_MANY: Final = "TooManyRequests"
INTERNAL: Final = "InternalError"
UNAVAILABLE: Final = "ServiceUnavailable"
TIMEOUT: Final = "Timeout"


def status(
    code: int, reason: str, message: str, details: dict[str, Any] | None = None, retry_after: int | None = None
) -> bytes:
    """A `Status` of kind Failure as JSON.

    `code` is the HTTP status, `reason` one of the machine-readable words above, `message` what kubectl prints after
    `Error from server (<reason>):`. `retry_after` (seconds) is repeated in the details, where client-go reads it; the
    caller sends the `Retry-After` header too.
    """
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    if details is not None or retry_after is not None:
        body["details"] = {**(details or {})}
        if retry_after is not None:
            body["details"]["retryAfterSeconds"] = retry_after
    return msgspec.json.encode(body) + b"\n"
