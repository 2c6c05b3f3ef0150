# SPDX-License-Identifier: Apache-2.0
"""Small requests over a pool, awaited: the agent's own calls to Kubernetes and to its server.

It must not: be used for what passes through (that streams), or hold more of a response than the caller allows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from mooring.lib.errors import MooringError
from mooring.net.http1client import Http1Pool
from mooring.net.http1connection import UpstreamRequest
from mooring.wire.frames import Code
from mooring.wire.headers import Headers, RequestHead, ResponseHead, get


class FetchError(MooringError):
    """No usable response. `code` says why; `sent` whether the request may have reached the upstream."""

    def __init__(self, code: Code, reason: str, *, sent: bool, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.code = code
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    headers: Headers
    body: bytes

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, in lower case."""
        value = get(self.headers, b"content-type") or b""
        return value.split(b";")[0].strip().lower().decode("latin-1")


class Download:
    """A response that is read piece by piece: `async for piece in download`. Ends in FetchError when cut short."""

    def __init__(self, pool: Http1Pool, head: RequestHead, body: bytes, head_timeout: float) -> None:
        self._head: asyncio.Future[ResponseHead] = asyncio.get_running_loop().create_future()
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._failure: FetchError | None = None
        self._news = asyncio.Event()
        self._request: UpstreamRequest = pool.request(head, self, head_timeout=head_timeout)
        if body:
            self._request.write(body, fin=True)

    async def head(self) -> ResponseHead:
        """The head of the response. Raises FetchError."""
        return await self._head

    def __aiter__(self) -> Download:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        piece = self._pieces.popleft()
        self._request.consumed(len(piece))
        return piece

    def close(self) -> None:
        """Gives up; harmless when the response is complete."""
        self._request.reset()

    # --- UpstreamSink ---

    def on_head(self, head: ResponseHead, fin: bool) -> None:
        """Called by the pool."""
        self._ended = fin
        if not self._head.done():
            self._head.set_result(head)
        self._news.set()

    def on_data(self, data: bytes) -> None:
        """Called by the pool."""
        self._pieces.append(data)
        self._news.set()

    def on_end(self) -> None:
        """Called by the pool."""
        self._ended = True
        self._news.set()

    def on_reset(self, code: Code, message: str) -> None:
        """Called by the pool."""
        self._fail(FetchError(code, message, sent=True))

    def on_refused(self, code: Code, message: str) -> None:
        """Called by the pool."""
        self._fail(FetchError(code, message, sent=False))

    def on_writable(self) -> None:
        """Called by the pool; small bodies are given at once."""

    def _fail(self, error: FetchError) -> None:
        self._failure = error
        if not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # seen, also if nobody waits any more
        self._news.set()


async def fetch(
    pool: Http1Pool, head: RequestHead, body: bytes = b"", *, deadline: float = 10.0, max_body: int = 1024 * 1024
) -> Answer:
    """One request and its whole response within `deadline` seconds. A Content-Length is added for `body`.

    Raises FetchError: no connection, cut short, too late, or a body over `max_body` bytes.
    """
    if body:
        head = RequestHead(head.method, head.target, [*head.headers, (b"Content-Length", b"%d" % len(body))])
    download = Download(pool, head, body, deadline)
    received = bytearray()
    try:
        async with asyncio.timeout(deadline):
            response = await download.head()
            async for piece in download:
                received += piece
                if len(received) > max_body:
                    raise FetchError(Code.INTERNAL, f"{pool.name} answered with over {max_body} bytes", sent=True)
    except TimeoutError:
        raise FetchError(Code.TIMEOUT, f"{pool.name} did not answer within {deadline:g} s", sent=True) from None
    finally:
        download.close()
    return Answer(response.status, response.headers, bytes(received))
