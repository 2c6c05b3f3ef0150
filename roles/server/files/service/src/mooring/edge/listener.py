# SPDX-License-Identifier: Apache-2.0
"""The one TLS port: bounds its connections, sweeps their deadlines, and stops without breaking answers.

Why: what has to be true of all connections together lives here; what is true of one is in `edge.connection`, and what
comes before TLS in `edge.accept`.

It must not: exist without TLS, or offer anything but HTTP/1.1 in ALPN.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mooring.edge.accept import Acceptor, Gate, bind, raise_open_files
from mooring.edge.connection import Connection
from mooring.edge.settings import EdgeSettings
from mooring.lib import bounds, logging, metrics
from mooring.proxy.ports import Handler
from mooring.wire.http1_request import Request

_EVERYBODY: Final = ""

_log: Final = logging.get("mooring.edge")

Route = Callable[[Connection, Request], Handler | None]


def bare_context() -> ssl.SSLContext:
    """A server context that has no certificate yet: TLS 1.2 or later, HTTP/1.1 only, no renegotiation."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Forward secrecy and authenticated encryption only; TLS 1.3 has nothing else.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    # No tickets: kubectl and agents do not resume, another worker could not read them, and their keys would live as
    # long as the process. Two for each handshake are 7 % of what an exec costs the server.
    context.num_tickets = 0
    return context


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Such a context with this certificate. Raises OSError or ssl.SSLError."""
    context = bare_context()
    context.load_cert_chain(cert, key)
    return context


class Listener:
    """The server's port. `start`, then `stop`."""

    def __init__(self, route: Route, settings: EdgeSettings, *, sweep: Callable[[], None] = lambda: None) -> None:
        """`sweep` is called with each sweep of deadlines (the registry's, so that expired rights end)."""
        self.settings = settings
        self.now = 0.0
        self.stopping = False
        self.due: list[Connection] = []
        self.handle = route
        self._sweep_also = sweep
        self._connections: set[Connection] = set()
        self._gate = Gate(settings)
        self._admitted = bounds.Slots(settings.max_connections)
        self._by_source = bounds.Slots(settings.max_connections_per_source)
        self._by_user = bounds.Slots(settings.max_connections_per_user)
        self._empty = asyncio.Event()
        self._acceptor: Acceptor | None = None
        self._port = 0
        self._lingering = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    async def start(self, host: str | None, port: int, context: ssl.SSLContext) -> None:
        """Listen on an address (None or "": all) and port (0: any free one). Raises OSError."""
        self.start_on(await bind(host, port), context)

    def start_on(self, sockets: list[socket.socket], context: ssl.SSLContext) -> None:
        """Listen on sockets that listen already; they are closed by `stop`."""
        loop = self._loop = asyncio.get_running_loop()
        self.now = loop.time()
        raise_open_files(self.settings.max_connections)
        self._port = sockets[0].getsockname()[1]
        self._acceptor = Acceptor(self._gate, context, self.settings, lambda ticket: Connection(self, loop, ticket))
        self._acceptor.start(sockets)
        self._timer = loop.call_later(self.settings.sweep_interval, self._sweep)

    async def retire(self, linger: float) -> None:
        """Another process takes over: accept nothing more, but answer what still comes on the connections that are
        there, each for the last time. Returns when they are gone, at the latest after `linger` seconds."""
        self.stopping = self._lingering = True
        if self._acceptor is not None:
            self._acceptor.stop()
        await self._wait_empty(linger)
        self._lingering = False

    async def _wait_empty(self, seconds: float) -> None:
        if self._connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 - the deadline is the point of this call
        """Take no new connections, let exchanges that are under way finish for `timeout` seconds, then cut them."""
        self.stopping = True
        if self._acceptor is not None:
            self._acceptor.stop()
        for connection in list(self._connections):
            connection.stop()
        await self._wait_empty(timeout)
        for connection in list(self._connections):
            connection.abort_gone()
        if self._acceptor is not None:
            await self._acceptor.aclose()
        await asyncio.sleep(0)  # lets the transports say connection_lost
        if self._timer is not None:
            self._timer.cancel()

    # -- Service -------------------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> str | None:
        """A connection is there. A sentence when it is one too many."""
        self._connections.add(connection)  # also one that is told to go: it has a deadline to do so
        if self.stopping and not self._lingering:
            return "the server stops; connect again"
        if not self._by_source.take(connection.ticket.source):
            bounds.met("connections_per_address")
            return "too many connections from your address; close some"
        if not self._admitted.take(_EVERYBODY):
            self._by_source.free(connection.ticket.source)
            bounds.met("connections")
            return "the server has too many connections; try again later"
        connection.admitted = True
        metrics.EDGE_CONNECTIONS.inc()
        return None

    def closed(self, connection: Connection) -> None:
        """A connection is gone, or is a tunnel now."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        connection.ticket.leave()
        self._leave_user(connection)
        if connection.admitted:
            connection.admitted = False
            self._by_source.free(connection.ticket.source)
            self._admitted.free(_EVERYBODY)
            metrics.EDGE_CONNECTIONS.dec()
        if not self._connections:
            self._empty.set()

    def claim(self, connection: Connection, user_id: str) -> bool:
        """A user has shown who they are on a connection. False: they have too many."""
        if not self._by_user.take(user_id):
            return False
        self._leave_user(connection)
        connection.user_id = user_id
        return True

    def _leave_user(self, connection: Connection) -> None:
        if connection.user_id:
            self._by_user.free(connection.user_id)
            connection.user_id = ""

    def flush(self) -> None:
        """One call of the loop for all that one turn of it wrote, as a batch from a tunnel answers many clients."""
        due, self.due = self.due, []
        for connection in due:
            connection.due = False
            try:
                connection.flush()
            except Exception:  # one connection's fault is not the next one's
                _log.exception("a connection could not be written to", source=connection.source)
                connection.abort_gone()

    def _sweep(self) -> None:
        loop = self._loop
        assert loop is not None
        self.now = loop.time()
        try:
            for connection in list(self._connections):
                connection.check(self.now)
            self._sweep_also()
        finally:
            self._timer = loop.call_later(self.settings.sweep_interval, self._sweep)
