# SPDX-License-Identifier: Apache-2.0
"""What stands at the two ends of a tunnel in tests: a sink that writes down, and a server like the edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mooring.tunnel.session import Session
from mooring.tunnel.stream import Code, Stream


class EdgeLike(asyncio.Protocol):
    """Reads a request head, then gives the raw transport away."""

    def __init__(self, take: Callable[[asyncio.Transport, bytes], None]) -> None:
        self._take = take
        self._seen = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if b"\r\n\r\n" in self._seen:
            self._take(self._transport, self._seen)


class Recorder:
    """A sink that writes down what happened to it, and hands credit back unless told not to."""

    def __init__(self, greedy: bool = True) -> None:
        self.stream: Stream | None = None
        self.greedy = greedy
        self.head: bytes | None = None
        self.data = bytearray()
        self.calls: list[str] = []
        self.code: Code | None = None
        self.message = ""
        self.over = asyncio.Event()
        self.changed = asyncio.Event()

    def _note(self, what: str) -> None:
        self.calls.append(what)
        self.changed.set()

    def on_head(self, head: bytes, fin: bool) -> None:
        self.head = head
        self._note("head")
        if fin:
            self.over.set()

    def on_data(self, data: bytes) -> None:
        self.data += data
        self._note("data")
        if self.greedy and self.stream is not None:
            self.stream.consumed(len(data))

    def on_end(self) -> None:
        self._note("end")
        self.over.set()

    def on_reset(self, code: Code, message: str) -> None:
        self.code, self.message = code, message
        self._note("reset")
        self.over.set()

    def on_refused(self, code: Code, message: str) -> None:
        self.code, self.message = code, message
        self._note("refused")
        self.over.set()

    def on_writable(self) -> None:
        self._note("writable")

    async def wait(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:  # noqa: ASYNC109
        async with asyncio.timeout(timeout):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Ends:
    """A connected pair: `server` opens streams, `agent` accepts them with `on_open`."""

    server: Session
    agent: Session
    server_transport: Any = None

    async def aclose(self) -> None:
        self.server.close()
        self.agent.close()
