# SPDX-License-Identifier: Apache-2.0
"""Answers that come from this server itself, as Kubernetes `Status` objects.

Why: kubectl prints the `message` of a Status, so each one says what to do. One place builds them, with the headers that
go along. It must not decide anything; it must never put a token or a header of the client into a message.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from mooring.kube import status as kube
from mooring.lib import bounds
from mooring.proxy.ports import Client
from mooring.wire.headers import Headers, ResponseHead

REASONS: Final[dict[int, str]] = {
    400: kube.BAD_REQUEST,
    401: kube.UNAUTHORIZED,
    403: kube.FORBIDDEN,
    404: kube.NOT_FOUND,
    405: "MethodNotAllowed",
    408: kube.TIMEOUT,
    409: kube.CONFLICT,
    413: kube.TOO_LARGE,
    417: kube.BAD_REQUEST,
    429: kube.TOO_MANY,
    431: kube.BAD_REQUEST,
    500: kube.INTERNAL,
    501: "MethodNotAllowed",
    502: kube.INTERNAL,
    503: kube.UNAVAILABLE,
    504: kube.TIMEOUT,
    505: kube.BAD_REQUEST,
}
"""The machine-readable word for each status that we answer with."""

PHRASES: Final[dict[int, bytes]] = {entry.value: entry.phrase.encode() for entry in HTTPStatus}


class Refused(Exception):
    """A step of the chain says no. `retry_after` in seconds; `headers` go along with the answer."""

    def __init__(
        self, code: int, message: str, *, retry_after: int | None = None, headers: Headers | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.headers = headers or []


def at_bound(name: str, message: str, *, retry_after: int | None = 1) -> Refused:
    """Refused at the bound of this name (`lib.bounds`), which is counted, with the status that belongs to it."""
    return Refused(bounds.met(name).code, message, retry_after=retry_after)


def unauthorized(message: str, *headers: tuple[bytes, bytes]) -> Refused:
    """A 401 with the challenge that RFC 6750 section 3 asks for, and further headers."""
    return Refused(401, message, headers=[(b"WWW-Authenticate", b'Bearer realm="mooring"'), *headers])


def send(client: Client, code: int, body: bytes, content_type: bytes, headers: Headers | None = None) -> None:
    """A whole answer of ours. Never cached: what is true for one token now may not be for the next."""
    head: Headers = [
        (b"Content-Type", content_type),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    head += headers or []
    client.respond(ResponseHead(code, PHRASES.get(code, b""), head), not body)
    if body:
        client.write(body)
    client.finish()


def asks_for_discovery(target: bytes | str) -> bool:
    """Whether a target ends in the roots of discovery, `/api` and `/apis`, which kubectl reads before anything else."""
    path = target.encode() if isinstance(target, str) else target
    return path.partition(b"?")[0].endswith((b"/api", b"/apis"))


def warning(message: str) -> tuple[bytes, bytes]:
    """A `Warning` header in the form that Kubernetes clients print (RFC 7234 section 5.5, KEP-1693)."""
    text = "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in message)
    return (b"Warning", b'299 - "%s"' % text.encode("ascii"))


def refuse(client: Client, refusal: Refused, *, discovery: bool = False) -> None:
    """The answer to a refused request, as a Status.

    client-go does not decode the body of a failed discovery: kubectl would print "unknown". What it does print of any
    answer is a Warning, so that the sentence goes there as well when `discovery` is set.
    """
    headers = list(refusal.headers)
    if discovery:
        headers.append(warning(refusal.message))
    if refusal.retry_after is not None:
        headers.append((b"Retry-After", b"%d" % refusal.retry_after))
    body = kube.status(
        refusal.code,
        REASONS.get(refusal.code, kube.INTERNAL),
        refusal.message,
        retry_after=refusal.retry_after,
    )
    send(client, refusal.code, body, kube.CONTENT_TYPE, headers)


def refuse_problem(client: Client, refusal: Refused) -> None:
    """The answer to a refused request for the REST API, as a problem document (RFC 9457) like all of the API's."""
    phrase = HTTPStatus(refusal.code).phrase
    document = {
        "type": "about:blank",
        "status": refusal.code,
        "title": phrase,
        "detail": refusal.message,
        "code": phrase.lower().replace(" ", "_"),
        "request_id": client.request_id,
    }
    headers = list(refusal.headers)
    if refusal.retry_after is not None:
        headers.append((b"Retry-After", b"%d" % refusal.retry_after))
    send(client, refusal.code, msgspec.json.encode(document), b"application/problem+json", headers)
