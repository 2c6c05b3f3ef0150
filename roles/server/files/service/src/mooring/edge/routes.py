# SPDX-License-Identifier: Apache-2.0
"""Which part of the server a path belongs to.

    /k8s/clusters/<name or id>/...     proxy/chain.py       Kubernetes calls; errors are Status objects
    /tunnel/connect                    edge/agents.py       agents
    /api/..., /schema...               edge/rest.py         the REST API
    /healthz /readyz /version /metrics edge/builtin.py      the edge itself

Why: a path is matched as the bytes that came, never decoded or cleaned first, so that no two parts of the server can
read one URL in two ways. What would need cleaning (dot segments, also encoded) is refused.

It must not: fall through. What is not listed is a 404.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from mooring.edge.builtin import Builtin
from mooring.lib import metrics
from mooring.proxy.answers import Refused, refuse
from mooring.proxy.entrance import PREFIX
from mooring.proxy.impersonate import verdict
from mooring.proxy.ports import Client, Handler
from mooring.wire.headers import has_dot_segments
from mooring.wire.http1_request import Request

if TYPE_CHECKING:
    from mooring.edge.connection import Connection

TUNNEL: Final = b"/tunnel/connect"


class Takes(Protocol):
    """A part of the server that takes requests (the chain, the REST route)."""

    def handle(self, client: Client, request: Request, /) -> Handler | None:
        """Take a request. None: it has been answered."""


class TakesConnection(Protocol):
    """A part that may take the whole connection (the agents' route)."""

    def handle(self, client: Connection, request: Request, /) -> Handler | None:
        """Take a request. None: it has been answered, or the connection handed over."""


class Routes:
    """Gives each request to the part that it is for."""

    def __init__(self, *, chain: Takes, agents: TakesConnection, rest: Takes, builtin: Builtin) -> None:
        self._chain = chain
        self._agents = agents
        self._rest = rest
        self._builtin = builtin

    def handle(self, client: Connection, request: Request) -> Handler | None:
        """Take a request. None: it has been answered, or the connection handed over."""
        target = request.head.target
        if (b"/." in target or b"%2" in target) and has_dot_segments(target):
            self._no(client, Refused(400, "a path with '.' or '..' segments is not taken; write it without"))
            return None
        if target.startswith(PREFIX):
            return self._chain.handle(client, request)
        path = target.split(b"?", 1)[0]
        # The chain refuses these after authentication, with a sentence about --as; elsewhere they have no business.
        if any(verdict(name) == "impersonation" for name, _unused in request.head.headers):
            self._no(client, Refused(403, "Impersonate-* headers are not taken here"))
            return None
        if path == TUNNEL:
            return self._agents.handle(client, request)
        if path.startswith(b"/api/") or path == b"/schema" or path.startswith(b"/schema/"):
            return self._rest.handle(client, request)
        if path in Builtin.PATHS:
            metrics.HTTP_REQUESTS.labels("own", path.decode()).inc()
            return self._builtin.handle(client, request, path)
        self._no(client, Refused(404, "there is nothing at this path; clusters are at /k8s/clusters/<name>/"))
        return None

    def _no(self, client: Connection, refusal: Refused) -> None:
        metrics.HTTP_REQUESTS.labels("own", str(refusal.code)).inc()
        refuse(client, refusal)
