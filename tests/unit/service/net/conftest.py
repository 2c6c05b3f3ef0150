# SPDX-License-Identifier: Apache-2.0
"""A scripted upstream on a unix socket, and a sink that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from mooring.net.http1client import Http1Pool, PoolLimits, UpstreamRequest
from mooring.net.sockets import unix_connector
from mooring.wire.frames import Code
from mooring.wire.headers import Headers, RequestHead, ResponseHead

Script = Callable[["Peer"], Awaitable[None]]


async def until(condition: Callable[[], Any], what: str = "condition") -> None:
    """Waits for a condition, at most 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, with a deadline
            await asyncio.sleep(0.002)


class Peer:
    """One accepted connection, as a script sees it."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def closed(self) -> bool:
        """Waits until the client has closed."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True


class Upstream:
    """Runs `script` for each connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.script: Script = self.hello
        self.connections = 0
        self.ended = 0
        self.errors: list[BaseException] = []

    async def hello(self, peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.script(Peer(self.connections, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        except Exception as error:
            self.errors.append(error)
        finally:
            self.ended += 1
            writer.close()


class Recorder:
    """An `UpstreamSink` that remembers, and consumes unless told not to."""

    def __init__(self, consume: bool = True) -> None:
        self.request: UpstreamRequest | None = None
        self.head: ResponseHead | None = None
        self.body = bytearray()
        self.ended = False
        self.failure: tuple[str, Code, str] | None = None
        self.writable = 0
        self.consume = consume
        self.finals = 0

    def on_head(self, head: ResponseHead, fin: bool) -> None:
        assert self.head is None
        self.head = head
        if fin:
            self.ended = True
            self.finals += 1

    def on_data(self, data: bytes) -> None:
        assert self.request is not None
        self.body += data
        if self.consume:
            self.request.consumed(len(data))

    def on_end(self) -> None:
        self.ended = True
        self.finals += 1

    def on_reset(self, code: Code, message: str) -> None:
        self.failure = ("reset", code, message)
        self.finals += 1

    def on_refused(self, code: Code, message: str) -> None:
        self.failure = ("refused", code, message)
        self.finals += 1

    def on_writable(self) -> None:
        self.writable += 1

    async def done(self) -> None:
        await until(lambda: self.ended or self.failure, "the end of the response")
        assert self.finals == 1


class Client:
    """A pool to the scripted upstream."""

    def __init__(self, pool: Http1Pool, upstream: Upstream | None) -> None:
        self.pool = pool
        self.upstream = upstream

    def ask(
        self,
        method: bytes = b"GET",
        target: bytes = b"/",
        headers: Headers | None = None,
        consume: bool = True,
        head_timeout: float | None = 10.0,
    ) -> Recorder:
        sink = Recorder(consume)
        head = RequestHead(method, target, [(b"Host", b"upstream"), *(headers or [])])
        sink.request = self.pool.request(head, sink, head_timeout=head_timeout)
        return sink

    async def get(self) -> Recorder:
        sink = self.ask()
        await sink.done()
        return sink


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test runs on both loops: the product uses uvloop, the standard one shows what we may rely on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Upstream]:
    """The scripted upstream, listening."""
    upstream = Upstream(tmp_path / "upstream.sock")
    server = await asyncio.start_unix_server(upstream.accept, upstream.path)
    yield upstream
    server.close()
    assert upstream.errors == []


@pytest.fixture
def limits() -> PoolLimits:
    """Bounds of the pool; a test module may override them."""
    return PoolLimits()


@pytest.fixture
async def client(upstream: Upstream, limits: PoolLimits) -> AsyncIterator[Client]:
    """A pool to it."""
    pool = Http1Pool(unix_connector(str(upstream.path)), name="upstream", limits=limits)
    yield Client(pool, upstream)
    await pool.aclose()
