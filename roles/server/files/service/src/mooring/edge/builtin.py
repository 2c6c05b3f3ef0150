# SPDX-License-Identifier: Apache-2.0
"""What the edge answers by itself: `/healthz`, `/readyz`, `/version`, `/metrics`.

Why: these must work when everything behind the edge does not. `/metrics` needs a token of somebody in the
group `admins` unless `metrics_public` is set: names of routes and rates of failures help an attacker more than a
stranger needs them. That group and not the right `get metrics`, since workers know groups and have no policy.

It must not: say anything about users, clusters or paths on disk to who is not authenticated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from mooring.authn.identity import Identity
from mooring.edge.pending import Pending
from mooring.lib import logging, metrics
from mooring.lib.version import VERSION
from mooring.proxy.answers import Refused, refuse, send
from mooring.proxy.ports import Client, Handler
from mooring.wire.headers import Headers
from mooring.wire.http1_request import Request

TEXT: Final = b"text/plain; charset=utf-8"
JSON: Final = b"application/json"

Check = Callable[[], str]
"""A readiness check: empty when ready, else what is wrong."""

Render = Callable[[Callable[[bytes], None]], None]
"""Makes the page of metrics and gives it to the function that it is called with, at once or later."""

_log = logging.get("mooring.edge")


class Builtin:
    """Routes that need nothing behind the edge."""

    PATHS: Final = frozenset((b"/healthz", b"/readyz", b"/version", b"/metrics"))

    def __init__(
        self,
        checks: Mapping[str, Check],
        authenticate: Callable[[Headers], Identity],
        *,
        metrics_public: bool = False,
        stopping: Callable[[], bool] = lambda: False,
        render: Render = lambda answer: answer(metrics.render()),
    ) -> None:
        self._checks = dict(checks)
        self._authenticate = authenticate
        self._metrics_public = metrics_public
        self._stopping = stopping
        self._render = render

    def handle(self, client: Client, request: Request, path: bytes) -> Handler | None:
        """Answer a request for one of PATHS. None: it has been answered."""
        if request.head.method not in (b"GET", b"HEAD"):
            refuse(client, Refused(405, "only GET and HEAD here", headers=[(b"Allow", b"GET, HEAD")]))
            return None
        match path:
            case b"/healthz":
                send(client, 200, b"ok\n", TEXT)
            case b"/readyz":
                self._ready(client)
            case b"/version":
                send(client, 200, msgspec.json.encode({"name": "mooring", "version": VERSION}) + b"\n", JSON)
            case _:
                return self._metrics(client, request)
        return None

    def _ready(self, client: Client) -> None:
        problems = {name: check() for name, check in self._checks.items()}
        if self._stopping():
            problems["stopping"] = "the server stops"
        bad = sorted(name for name, problem in problems.items() if problem)
        if bad:
            # The reasons may name paths or addresses: they go to the log, the names of the checks to everybody.
            _log.warning("not ready", problems={name: problems[name] for name in bad})
        lines = [f"{name} {'failed' if problems[name] else 'ok'}" for name in sorted(problems)]
        body = "\n".join([*lines, "not ready" if bad else "ready", ""]).encode()
        send(client, 503 if bad else 200, body, TEXT, [(b"Retry-After", b"5")] if bad else None)

    def _metrics(self, client: Client, request: Request) -> Handler | None:
        if not self._metrics_public:
            try:
                identity = self._authenticate(request.head.headers)
            except Refused as refusal:
                refuse(client, refusal)
                return None
            if not identity.admin or identity.token_cluster is not None:
                refuse(
                    client, Refused(403, "metrics are for the group admins; use a token that is not bound to a cluster")
                )
                return None
        pending = Pending()

        def answer(page: bytes) -> None:
            if pending.take():
                send(client, 200, page, metrics.CONTENT_TYPE.encode())

        self._render(answer)
        return pending if pending.open else None
