# SPDX-License-Identifier: Apache-2.0
"""A pool of HTTP/1.1 client connections to one address.

Why: the agent reaches its kube-apiserver with it, and the edge the REST API; both need keep-alive, streaming with
back-pressure, raw upgrades, deadlines and bounds, at a cost per request far below that of general client libraries.

It must not: dial any address but that of its connector, follow redirects, or queue requests without bound: at the
limit of connections a request is refused with BUSY.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass

from mooring.lib.tasks import Supervisor
from mooring.net.deadlines import Deadlines
from mooring.net.http1connection import Connection, Framing, PlainSink, UpstreamRequest, UpstreamSink, framing
from mooring.net.sockets import Connector
from mooring.net.tls import explain
from mooring.wire.frames import Code
from mooring.wire.headers import RequestHead, serialize_request

__all__ = ["Http1Pool", "PlainSink", "PoolLimits", "UpstreamRequest", "UpstreamSink"]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of a pool. Times in seconds."""

    max_connections: int = 1024
    """Connections in use or being dialled; a watch holds one for as long as it runs."""
    max_idle: int = 256
    """Free connections kept for the next request. Fewer than there are clients would mean a TLS handshake for every
    request above it."""
    idle_timeout: float = 60.0
    """How long a free connection is kept; kube-apiserver closes them after 90 s."""
    connect_timeout: float = 10.0
    """For dialling, TLS handshake included."""
    write_timeout: float = 60.0
    """How long the upstream may leave a request body unread."""


class Http1Pool:
    """Keeps connections to one address and runs requests on them."""

    def __init__(self, connect: Connector, *, name: str, limits: PoolLimits | None = None) -> None:
        self.name = name
        self.limits = limits or PoolLimits()
        self.deadlines = Deadlines()
        """For the heads of responses; used by the requests."""
        self._connect = connect
        self._tasks = Supervisor(f"pool/{name}")
        self._idle: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self._dialling: set[UpstreamRequest] = set()
        # The loop that runs, known from the first dial on: in Python 3.11, to ask for it is a system call.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def size(self) -> int:
        """Connections that exist or are being dialled."""
        return len(self._connections) + len(self._dialling)

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    def request(
        self,
        head: RequestHead,
        sink: UpstreamSink,
        *,
        head_timeout: float | None = 90.0,
    ) -> UpstreamRequest:
        """Starts a request; the sink hears of it later, never during this call.

        `head` is sent as it is, so it must hold Host and no hop-by-hop header but those meant for this connection. The
        body that it declares (Content-Length, chunked) is given with `write` and `end`; with `Upgrade` the request is
        raw after a 101. `head_timeout` is the time in seconds from the end of the request to the head of the response;
        None for requests that may stay silent (watches). Raises ValueError for a head that cannot be sent.
        """
        raw = serialize_request(head)
        request = UpstreamRequest(self, head.method, raw, framing(head.headers), sink, head_timeout, None)
        self.start(request)
        return request

    def pass_on(
        self, method: bytes, raw: bytes, framing: Framing, sink: PlainSink, head_timeout: float | None
    ) -> UpstreamRequest:
        """As `request`, for who has the head as bytes, knows its framing, and takes plain heads."""
        request = UpstreamRequest(self, method, raw, framing, sink, head_timeout, sink)
        self.start(request)
        return request

    def start(self, request: UpstreamRequest, *, fresh: bool = False) -> None:
        """Runs a request on a free connection, or (always if `fresh`) on a new one."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if not connection.closing:
                request.start(connection)
                return
        loop = self._loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(request.refuse, Code.SHUTDOWN, "shutting down")
        elif len(self._connections) - len(self._idle) + len(self._dialling) >= self.limits.max_connections:
            loop.call_soon(request.refuse, Code.BUSY, f"{self.limits.max_connections} connections are in use")
        else:
            self._dialling.add(request)
            task = self._tasks.spawn(self._dial(request), "dial")
            # also when cancelled before it began
            task.add_done_callback(lambda _unused: self._dialling.discard(request))
            request.connecting(task)

    async def _dial(self, request: UpstreamRequest) -> None:
        made: list[Connection] = []

        def factory() -> Connection:
            made.append(Connection(self, self.limits.write_timeout))
            return made[-1]

        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                await self._connect(factory)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._dialling.discard(request)  # before anybody hears of it
            code = Code.UPSTREAM_TLS if isinstance(error, ssl.SSLError) else Code.UPSTREAM_UNREACHABLE
            request.refuse(code, f"cannot connect to {self.name}: {explain(error)}")
            return
        except asyncio.CancelledError:
            for connection in made:
                connection.abort()  # it may have been made just before the request was given up
            raise
        self._dialling.discard(request)
        connection = made[-1]
        if connection.closing:
            request.refuse(Code.UPSTREAM_UNREACHABLE, f"{self.name} closed the connection at once")
            return
        self._connections.add(connection)
        if self._closed:
            connection.abort()
        if request.closed:
            connection.release(True)
        else:
            request.start(connection)

    def freed(self, connection: Connection) -> None:
        """A connection has done its request and can take another."""
        if self._closed or len(self._idle) >= self.limits.max_idle:
            connection.abort()
            return
        loop = self._loop
        assert loop is not None
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self.limits.idle_timeout, self._sweep)

    def gone(self, connection: Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep(self) -> None:
        """Closes what was free for too long; the oldest are on the left."""
        self._sweeper = None
        loop = asyncio.get_running_loop()
        limit = loop.time() - self.limits.idle_timeout
        while self._idle and self._idle[0].idle_since <= limit:
            self._idle.popleft().abort()
        if self._idle:
            self._sweeper = loop.call_at(self._idle[0].idle_since + self.limits.idle_timeout, self._sweep)

    def close_idle(self) -> None:
        """Closes the free connections, so that the next requests dial anew."""
        while self._idle:
            self._idle.popleft().abort()

    async def aclose(self) -> None:
        """Ends everything: requests under way are reset with SHUTDOWN."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self.close_idle()
        requests = [c.request for c in self._connections if c.request is not None]
        for request in [*requests, *self._dialling]:
            request.shut_down()
        self.deadlines.clear()
        await self._tasks.aclose()
