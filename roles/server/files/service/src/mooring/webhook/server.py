# SPDX-License-Identifier: Apache-2.0
"""What kube-api-auth answers, on one TLS port of a loopback address.

    POST /authenticate   tokenreview.py   with a client certificate of the client CA
    POST /revocation     revocation.py    with one as well
    GET  /healthz        it runs          for anybody who reaches the port: the kubelet has no certificate
    GET  /readyz         it has a copy that was verified
    GET  /metrics        if that is switched on; counts only, no names

Why the certificate is asked for but not demanded by TLS: who has none is told so in words. Who has one of another CA
does not get through the handshake.

It must not: answer a review to anybody else, or hold more of a body than the bound.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mooring.edge.connection import Connection
from mooring.edge.listener import tls_context
from mooring.edge.settings import EdgeSettings
from mooring.lib import logging, metrics
from mooring.lib.errors import MooringError
from mooring.proxy.answers import Refused, refuse, send
from mooring.proxy.ports import Client, Handler
from mooring.webhook import revocation, tokenreview
from mooring.webhook.book import Book
from mooring.webhook.copy import Copy
from mooring.webhook.tokenreview import BadReview
from mooring.wire.http1_request import Request

AUTHENTICATE: Final = b"/authenticate"
REVOCATION: Final = b"/revocation"
MAX_BODY: Final = 256 * 1024
"""Bytes of a review: a SubjectAccessReview says the selectors of the request, a TokenReview the token."""
LIMITS: Final = EdgeSettings(
    head_max=16 * 1024,
    headers_max=64,
    max_connections=1024,
    max_connections_per_source=1024,
    max_handshakes=512,
    max_handshakes_per_source=512,
    head_timeout=5.0,
    handshake_timeout=5.0,
    body_timeout=10.0,
    write_timeout=15.0,
    close_timeout=5.0,
    linger_max=1024 * 1024,
)
"""All clients are on this machine, so the bounds of one address are those of all."""
_TEXT: Final = b"text/plain; charset=utf-8"
_JSON: Final = b"application/json"
_log = logging.get("mooring.endpoint")

Answer = Callable[[bytes], tuple[bytes, str]]
"""From a body to the answer and a word for metrics. Raises BadReview."""


class BadCertificate(MooringError):
    """A certificate, key or CA cannot be used."""


def server_context(cert: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """TLS that takes client certificates of this CA only. Raises BadCertificate."""
    try:
        context = tls_context(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificate(f"tls_cert and tls_key cannot be used: {error}", f"check {cert} and {key}") from None
    try:
        context.load_verify_locations(cafile=client_ca)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificate(f"client_ca cannot be used: {error}", f"check {client_ca}") from None
    context.verify_mode = ssl.CERT_OPTIONAL
    # A session that is taken up again would bring the certificate of then.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


class Reviews:
    """Routes requests to what answers them. `handle` is a listener's route."""

    def __init__(
        self, book: Book, copy: Copy, audiences: tuple[str, ...], *, show_metrics: bool, stopping: Callable[[], bool]
    ) -> None:
        self._copy = copy
        self._show_metrics = show_metrics
        self._stopping = stopping
        self._answers: dict[bytes, tuple[str, Answer]] = {
            AUTHENTICATE: ("token", lambda body: tokenreview.review(body, book, audiences, copy.now())),
            REVOCATION: ("access", lambda body: revocation.review(body, book, copy.now())),
        }

    def handle(self, connection: Connection, request: Request) -> Handler | None:
        """Take a request. None: it has been answered."""
        path = request.head.target.split(b"?", 1)[0]
        if path in (b"/healthz", b"/readyz") or (path == b"/metrics" and self._show_metrics):
            self._own(connection, request, path)
            return None
        refusal = self._refusal(connection, request, path)
        if refusal is not None:
            metrics.KUBE_API_AUTH_REVIEWS.labels("none", "refused").inc()
            refuse(connection, refusal)
            return None
        return Exchange(connection, *self._answers[path])

    def _refusal(self, connection: Connection, request: Request, path: bytes) -> Refused | None:
        if not connection.certified:
            return Refused(403, "a client certificate of this cluster's API server is needed")
        if path not in self._answers:
            return Refused(404, "reviews are at /authenticate and /revocation")
        if request.head.method != b"POST":
            return Refused(405, "reviews are posted", headers=[(b"Allow", b"POST")])
        if request.upgrade:
            return Refused(400, "nothing here can be upgraded")
        return too_large() if request.length > MAX_BODY else None

    def _own(self, client: Client, request: Request, path: bytes) -> None:
        if request.head.method not in (b"GET", b"HEAD"):
            refuse(client, Refused(405, "only GET and HEAD here", headers=[(b"Allow", b"GET, HEAD")]))
        elif path == b"/healthz":
            send(client, 200, b"ok\n", _TEXT)
        elif path == b"/metrics":
            send(client, 200, metrics.render(), metrics.CONTENT_TYPE.encode())
        elif self._copy.ready and not self._stopping():
            send(client, 200, b"ready\n", _TEXT)
        else:
            send(client, 503, b"not ready: no tokens of this cluster have been read yet\n", _TEXT)


class Exchange:
    """A review on its way: the body is gathered, and answered when it is whole."""

    __slots__ = ("_answer", "_body", "_client", "_kind", "_size")

    def __init__(self, client: Client, kind: str, answer: Answer) -> None:
        self._client = client
        self._kind = kind
        self._answer = answer
        self._body: list[bytes] | None = []
        self._size = 0

    def client_data(self, data: bytes) -> None:
        """Handler: a piece of the body."""
        if self._body is None:
            return
        self._size += len(data)
        if self._size > MAX_BODY:
            self._body = None
            self._count("refused")
            refuse(self._client, too_large())
        else:
            self._body.append(data)

    def client_end(self) -> None:
        """Handler: the body is whole."""
        body, self._body = self._body, None
        if body is None:
            return
        try:
            answer, word = self._answer(b"".join(body))
        except BadReview as error:
            self._count("refused")
            refuse(self._client, Refused(400, str(error)))
            return
        except Exception:  # nothing may fail open, and one review's fault is not the next one's
            _log.exception("a review failed", kind=self._kind)
            self._count("failed")
            refuse(self._client, Refused(500, "internal error; the log of kube-api-auth has it"))
            return
        self._count(word)
        send(self._client, 200, answer, _JSON)

    def client_drained(self) -> None:
        """Handler: nothing waits for that."""

    def client_gone(self) -> None:
        """Handler: nobody is left to be answered."""
        self._body = None

    def _count(self, word: str) -> None:
        metrics.KUBE_API_AUTH_REVIEWS.labels(self._kind, word).inc()


def too_large() -> Refused:
    """The answer to a body over the bound."""
    return Refused(413, f"a review has at most {MAX_BODY} bytes")
