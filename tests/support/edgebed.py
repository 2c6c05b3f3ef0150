# SPDX-License-Identifier: Apache-2.0
"""What the tests of the edge hold in their hands: the listener, and clients that send the bytes they are told to."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mooring.edge.agents import AgentRoute
from mooring.edge.listener import Listener
from mooring.edge.routes import Routes
from mooring.net.http1client import Http1Pool

from support.proxyfakes import World


@dataclass(frozen=True)
class Tls:
    server: ssl.SSLContext
    client: ssl.SSLContext
    ca: Path


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        await asyncio.sleep(0.005)


class Peer:
    """A client that sends the bytes it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, mark: bytes, seconds: float = 5.0) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(mark), seconds)

    async def exactly(self, size: int, seconds: float = 5.0) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), seconds)

    async def rest(self, seconds: float = 5.0) -> bytes:
        """Everything up to the end of the connection, also a rude one."""
        data = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await self.reader.read(65536):
                    data += piece
        except (ConnectionError, ssl.SSLError):
            pass
        return data

    def stop_reading(self) -> None:
        cast(asyncio.Transport, self.writer.transport).pause_reading()

    def read_on(self) -> None:
        cast(asyncio.Transport, self.writer.transport).resume_reading()

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


@dataclass
class Edge:
    """The listener and the world behind it."""

    listener: Listener
    world: World
    tls: Tls
    accepted: list[tuple[str, bytes]]
    refused: list[tuple[str, str]]
    pool: Http1Pool
    route: AgentRoute
    routes: Routes
    peers: list[Peer] = field(default_factory=list)
    agent_keys: dict[str, bytes] = field(default_factory=dict)
    ready: dict[str, str] = field(default_factory=dict)

    async def connect(self) -> Peer:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.listener.port, ssl=self.tls.client, server_hostname="localhost"
        )
        peer = Peer(reader, writer)
        self.peers.append(peer)
        return peer

    async def stream(self, count: int = 1) -> None:
        """Wait until alpha's agent has been given so many streams."""
        await until(lambda: len(self.world.agent.streams) >= count)

    def get(self, path: str, who: str | None = "bob", *headers: str, method: str = "GET") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        if who is not None:
            lines.append(f"Authorization: Bearer {self.world.bearer(who)}")
        return "\r\n".join([*lines, *headers, "", ""]).encode()


MakeEdge = Callable[..., Awaitable[Edge]]
