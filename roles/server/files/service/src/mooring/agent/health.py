# SPDX-License-Identifier: Apache-2.0
"""/healthz and /readyz for the kubelet, on a plain port.

Healthy: the event loop turns (a dead one does not answer). Ready: registered, connected, and in possession of a token.
It must not: be a web server, or say anything that is a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_HEAD = 4096
"""Bytes of a request that are read."""
MAX_CONNECTIONS = 16
"""Probes at the same time; more are closed unanswered."""
DEADLINE = 5.0
"""Seconds for one probe."""


class Health:
    """Answers probes. `problems` says what keeps the agent from being ready; empty: it is ready."""

    def __init__(self, problems: Callable[[], list[str]]) -> None:
        self._problems = problems
        self._server: asyncio.Server | None = None
        self._open = 0

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self, address: str, port: int) -> None:
        """Listens. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, address or None, port, limit=MAX_HEAD)

    async def aclose(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            async with asyncio.timeout(DEADLINE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b"\r\n", 1)[0].split(b" ")))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or does not speak HTTP
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, request: list[bytes]) -> bytes:
        path = request[1] if len(request) == 3 and request[0] in (b"GET", b"HEAD") else b""
        if path == b"/healthz":
            status, text = "200 OK", "ok\n"
        elif path == b"/readyz":
            problems = self._problems()
            status, text = ("503 Service Unavailable", "\n".join(problems) + "\n") if problems else ("200 OK", "ok\n")
        else:
            status, text = "404 Not Found", "only /healthz and /readyz are here\n"
        body = text.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"Connection: close\r\n\r\n" + (body if request[0] != b"HEAD" else b"")
