# SPDX-License-Identifier: Apache-2.0
"""`/tunnel/connect`: an agent proves which cluster it is, and its connection becomes a tunnel.

Why: until the JWT is verified, the peer is anybody. So everything is checked here, on the parsed head, and only then is
the connection handed to the WebSocket carrier. A refusal says why, as JSON, and the hub is told, so that the cluster's
state can say it too.

It must not: speak WebSocket, or let the agent of one cluster in as another's (`authn.agents` looks the key up by id).
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from mooring.authn.agents import AgentIdentity, AgentRefused, AgentVerifier
from mooring.edge.pending import Pending
from mooring.lib import logging, metrics
from mooring.lib.addresses import bucket
from mooring.lib.bounds import Rate
from mooring.lib.clock import Clock
from mooring.proxy.answers import Refused, at_bound, refuse, unauthorized
from mooring.proxy.ports import Handler
from mooring.wire.frames import SUBPROTOCOL
from mooring.wire.headers import Headers, get, get_all
from mooring.wire.http1_request import Request

if TYPE_CHECKING:
    from mooring.edge.connection import Connection

_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9_.-]{1,4096})")
HELD: Final = b"mooring-held"
"""The header in which an agent names the instances that it has a session with (docs/protocol/tunnel.md)."""

_log = logging.get("mooring.edge.agents")

Accept = Callable[[AgentIdentity, asyncio.Transport, bytes, str], None]
"""Given an identity, a transport, the raw request (head and what came after it) and the peer's address, takes the
connection over: everything on it is the callee's from now on."""


Claim = Callable[[AgentIdentity, Callable[[bool | None], None]], None]
"""Asks whether the JWT behind an identity is shown for the first time at any process of the server, and gives the
answer to the function: True, False, or None when nobody can tell."""


class AgentRoute:
    """Lets agents in. `claim` sees to it that a JWT is good once for all processes; `instance` is this process's name,
    for agents that say which instances they have already."""

    def __init__(
        self,
        verifier: AgentVerifier,
        clock: Clock,
        accept: Accept,
        note_refused: Callable[[str, str], None],
        *,
        per_minute: int = 2_000,
        claim: Claim = lambda identity, answer: answer(True),
        instance: str = "",
    ) -> None:
        """`per_minute`: handshakes from one address that are looked at."""
        self._verifier = verifier
        self._clock = clock
        self._accept = accept
        self._note_refused = note_refused
        self._rate = Rate(per_minute, 60.0)
        self._claim = claim
        self._instance = instance.encode()

    def handle(self, client: Connection, request: Request) -> Handler | None:
        """Take a request for `/tunnel/connect`: hand it over, or answer it. None: that has been done."""
        try:
            wait = self._rate.take(bucket(client.source), self._clock.monotonic())
            if wait > 0:
                raise at_bound(
                    "agent_handshakes", "too many agents connect from this address", retry_after=math.ceil(wait)
                )
            identity = self._verify(request)
        except Refused as refusal:
            self._refuse(client, refusal)
            return None
        pending = Pending()

        def answer(first: bool | None) -> None:
            if pending.take():
                self._admit(client, identity, first)

        self._claim(identity, answer)
        return pending if pending.open else None

    def _refuse(self, client: Connection, refusal: Refused) -> None:
        metrics.HTTP_REQUESTS.labels("tunnel", str(refusal.code)).inc()
        refuse(client, refusal)

    def _admit(self, client: Connection, identity: AgentIdentity, first: bool | None) -> None:
        if first is None:
            self._refuse(client, Refused(503, "agents cannot be let in now; try again", retry_after=1))
            return
        if not first or not self._verifier.still_good(identity):
            cause = "signature" if first else "replay"
            metrics.AGENT_REFUSED.labels(cause).inc()
            _log.warning("agent refused", cause=cause, cluster_id=identity.cluster_id)
            self._refuse(client, Refused(403, "the agent's JWT was used before, or its key is not good any more"))
            return
        metrics.HTTP_REQUESTS.labels("tunnel", "101").inc()
        transport, raw = client.hand_over()
        try:
            self._accept(identity, transport, raw, client.source)
        except Exception:
            # Whatever went wrong, nobody owns the connection now.
            transport.abort()
            _log.exception("agent could not be let in", cluster_id=identity.cluster_id)

    def _verify(self, request: Request) -> AgentIdentity:
        headers = request.head.headers
        if request.head.method != b"GET" or not request.upgrade or _lower(headers, b"upgrade") != b"websocket":
            raise Refused(400, "agents connect here, with a WebSocket; people use kubectl and the REST API")
        if SUBPROTOCOL.encode() not in _offers(headers):
            raise Refused(400, f"the agent speaks another tunnel protocol than {SUBPROTOCOL}; upgrade it")
        if get_all(headers, b"origin"):
            raise Refused(403, "agents are not browsers: a request with an Origin is not taken here")
        tokens = get_all(headers, b"authorization")
        match = _BEARER.fullmatch(tokens[0]) if len(tokens) == 1 else None
        if match is None:
            metrics.AGENT_REFUSED.labels("missing").inc()
            raise unauthorized("the agent has shown no JWT")
        try:
            identity = self._verifier.verify(match[1].decode("ascii"), self._clock.now())
        except AgentRefused as error:
            metrics.AGENT_REFUSED.labels(error.cause).inc()
            _log.warning("agent refused", cause=error.cause, reason=error.reason, cluster_id=error.cluster_id)
            if error.cluster_id is not None:
                self._note_refused(error.cluster_id, error.reason)
            # RFC 9110 section 6.6.1. An agent whose clock is off sees by how much.
            date = (b"Date", formatdate(self._clock.now(), usegmt=True).encode("ascii"))
            if error.cause in ("malformed", "signature"):
                raise unauthorized(str(error), date) from None
            raise Refused(403, str(error), headers=[date]) from None
        if self._instance and self._instance in _listed(headers, HELD):
            raise Refused(409, f"the agent has a session with {self._instance.decode()} already")
        return identity


def _lower(headers: Headers, name: bytes) -> bytes:
    return (get(headers, name) or b"").lower()


def _offers(headers: Headers) -> list[bytes]:
    return _listed(headers, b"sec-websocket-protocol")


def _listed(headers: Headers, name: bytes) -> list[bytes]:
    values = get_all(headers, name)
    return [offer.strip(b" \t") for value in values for offer in value.split(b",")]
