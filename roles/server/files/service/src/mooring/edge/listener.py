# SPDX-License-Identifier: Apache-2.0
"""The one TLS port: accepts connections, bounds them, sweeps their deadlines, and stops without breaking answers.

Why: what has to be true of all connections together lives here; what is true of one is in `edge.connection`.

It must not: exist without TLS, or offer anything but HTTP/1.1 in ALPN.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mooring.edge.connection import Connection
from mooring.edge.settings import EdgeSettings
from mooring.lib import metrics
from mooring.proxy.ports import Handler
from mooring.wire.http1_request import Request

Route = Callable[[Connection, Request], Handler | None]


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A server context: TLS 1.2 or later, HTTP/1.1 only, no renegotiation. Raises OSError or ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Forward secrecy and authenticated encryption only; TLS 1.3 has nothing else.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key)
    return context


class Listener:
    """The server's port. `start`, then `stop`."""

    def __init__(self, route: Route, settings: EdgeSettings, *, sweep: Callable[[], None] = lambda: None) -> None:
        """`sweep` is called with each sweep of deadlines (the registry's, so that expired rights end)."""
        self.settings = settings
        self.now = 0.0
        self.stopping = False
        self._route = route
        self._sweep_also = sweep
        self._connections: set[Connection] = set()
        self._by_source: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self, host: str | None, port: int, context: ssl.SSLContext) -> None:
        """Listen on an address (None or "": all) and port (0: any free one). Raises OSError."""
        loop = self._loop = asyncio.get_running_loop()
        self.now = loop.time()
        self._server = await loop.create_server(
            lambda: Connection(self, loop),
            host or None,
            port,
            ssl=context,
            ssl_handshake_timeout=self.settings.handshake_timeout,
            # Until then a slow client may take what was written; afterwards the connection is reset under it.
            ssl_shutdown_timeout=self.settings.close_timeout,
            backlog=1024,
        )
        self._timer = loop.call_later(self.settings.sweep_interval, self._sweep)

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 - the deadline is the point of this call
        """Take no new connections, let exchanges that are under way finish for `timeout` seconds, then cut them."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.stop()
        if self._connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout)
        for connection in list(self._connections):
            connection.abort_gone()
        await asyncio.sleep(0)  # lets the transports say connection_lost
        if self._timer is not None:
            self._timer.cancel()

    # -- Service -------------------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> str | None:
        """A connection is there. A sentence when it is one too many."""
        if self.stopping:
            return "the server stops; connect again"
        if len(self._connections) >= self.settings.max_connections:
            metrics.EDGE_REFUSED.labels("connections").inc()
            return "the server has too many connections; try again later"
        if self._by_source[connection.source] >= self.settings.max_connections_per_source:
            metrics.EDGE_REFUSED.labels("connections_per_source").inc()
            return "too many connections from your address; close some"
        self._connections.add(connection)
        self._by_source[connection.source] += 1
        metrics.EDGE_CONNECTIONS.inc()
        return None

    def closed(self, connection: Connection) -> None:
        """A connection is gone, or is a tunnel now."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._by_source[connection.source] -= 1
        if self._by_source[connection.source] <= 0:
            del self._by_source[connection.source]
        metrics.EDGE_CONNECTIONS.dec()
        if not self._connections:
            self._empty.set()

    def handle(self, connection: Connection, request: Request) -> Handler | None:
        """A request has come."""
        return self._route(connection, request)

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
