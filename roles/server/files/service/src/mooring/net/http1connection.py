# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 client connection and the request that runs on it, with back-pressure in both directions.

Why: streams of a tunnel and clients of the edge must be joined to an upstream without ever holding more than a bound:
the caller says what it has `consumed`, and reading from the upstream stops while too much is outstanding; `write`
says when to stop giving more. After a 101 the connection is a raw pipe both ways (SPDY, WebSocket).

It must not: retry what may have had an effect, hide a response that was cut short, or know who sits at either end.
The names of the methods are those of a tunnel's stream and sink, so that joining the two is one line per direction.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, cast

from mooring.wire.frames import Code
from mooring.wire.headers import (
    CODING,
    CONNECTION,
    LENGTH,
    BadMessage,
    Headers,
    ResponseHead,
    connection_tokens,
    get,
    role,
)
from mooring.wire.http1_response import LAST_CHUNK, Body, End, Response, ResponseReader, encode_chunk
from mooring.wire.plainhead import PlainHead

if TYPE_CHECKING:
    from mooring.net.http1client import Http1Pool

WRITE_HIGH: Final = 128 * 1024
"""Bytes waiting to be sent at which `write` says stop."""
READ_HIGH: Final = 64 * 1024
"""Delivered but not yet consumed bytes at which reading from the upstream stops; it goes on below half of it."""

_REPEATABLE: Final = (b"GET", b"HEAD", b"OPTIONS")

Framing: TypeAlias = tuple[bool, Literal["ended", "length", "chunked", "upgrade", "raw"], int]
"""Whether a request asks for an upgrade, how the body that it declares is framed, and a declared length."""


class UpstreamSink(Protocol):
    """Who listens to a response. Callbacks come on the loop and must not block or raise.

    Exactly one of these ends it: `on_head` with fin, `on_end`, `on_refused`, `on_reset`. Only after a 101 may an
    `on_reset` follow `on_end`: we still had something to send.
    """

    def on_head(self, head: ResponseHead, fin: bool) -> None:
        """The head of the response; `fin`: it has no body and nothing follows. Status 101: raw bytes follow."""

    def on_data(self, data: bytes) -> None:
        """A piece of the decoded body. Call `consumed(len(data))` once it has been passed on."""

    def on_end(self) -> None:
        """The response is complete (after a 101: the peer sends no more)."""

    def on_reset(self, code: Code, message: str) -> None:
        """Failed after the request may have reached the upstream."""

    def on_refused(self, code: Code, message: str) -> None:
        """Failed before anything was sent: it is safe to try again."""

    def on_writable(self) -> None:
        """`write` takes more again."""


class PlainSink(UpstreamSink, Protocol):
    """A sink that passes on heads as they came, when they can be."""

    def on_plain_head(self, head: PlainHead) -> None:
        """In place of `on_head`; a body follows."""

    def on_whole(self, head: PlainHead, body: bytes) -> None:
        """In place of `on_head` and all that would follow it. Nothing of the body is to be `consumed`."""


class UpstreamRequest:
    """A request under way. Made by `Http1Pool.request`."""

    __slots__ = (
        "_blocked",
        "_closed",
        "_connecting",
        "_connection",
        "_head",
        "_head_timeout",
        "_left",
        "_out",
        "_outstanding",
        "_peer_ended",
        "_pending",
        "_pending_size",
        "_plain",
        "_pool",
        "_raw",
        "_reader",
        "_upgrade",
        "_waiting",
        "repeatable",
        "sink",
    )

    def __init__(
        self,
        pool: Http1Pool,
        method: bytes,
        head: bytes,
        framing: Framing,
        sink: UpstreamSink,
        head_timeout: float | None,
        plain: PlainSink | None,
    ) -> None:
        self.sink = sink
        self._plain = plain
        self._pool = pool
        self._head = head
        self._head_timeout = head_timeout
        self._waiting = False
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._upgrade, self._out, self._left = framing
        self.repeatable = self._out == "ended" and method in _REPEATABLE
        self._reader = ResponseReader(method, upgrade=self._upgrade, plain=plain is not None)
        self._raw = False
        self._peer_ended = False
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._blocked = False
        self._outstanding = 0

    # --- the caller's side -------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the exchange is over."""
        return self._closed

    def write(self, data: bytes, fin: bool = False) -> bool:
        """Sends a piece of body (decoded; after a 101 raw). False: stop until `on_writable`.

        The piece is taken in any case. Bytes beyond the declared length end the request with BAD_REQUEST; bytes after
        the response is complete are dropped.
        """
        if self._closed or self._out == "ended":
            if data and not self._closed and not self._upgrade:
                self._fail(Code.BAD_REQUEST, "the request has more body than it declared")
            return True
        if self._out == "length":
            self._left -= len(data)
            if self._left < 0 or (fin and self._left > 0):
                self._fail(Code.BAD_REQUEST, "the request body is not as long as it declared")
                return True
            fin = self._left == 0
        elif self._out == "chunked":
            data = encode_chunk(data) + (LAST_CHUNK if fin else b"")
        if data:
            self._send(data)
        if fin:
            self._finish_sending()
        if self._connection is None or self._out == "upgrade":
            self._blocked = self._out == "upgrade" or self._pending_size >= WRITE_HIGH
        return not self._blocked

    def end(self) -> None:
        """The body is complete (after a 101: we send no more)."""
        if self._out != "ended":
            self.write(b"", fin=True)

    def reset(self, code: Code = Code.CANCEL, message: str = "") -> None:
        """Gives the request up: its connection is closed at once and the sink hears nothing more."""
        if self._closed:
            return
        self._close()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    def consumed(self, n: int) -> None:
        """The caller has passed `n` bytes of response body on."""
        self._outstanding -= n
        if self._connection is not None and not self._closed and self._outstanding < READ_HIGH // 2:
            self._connection.resume_reading()

    # --- the pool's and the connection's side ------------------------------------------------------------------

    def connecting(self, task: asyncio.Task[None]) -> None:
        """The pool dials for this request in `task`."""
        self._connecting = task

    def start(self, connection: Connection) -> None:
        """Runs the request on a connection that is free."""
        self._connecting = None
        self._connection = connection
        connection.request = self
        data = self._head
        if self._pending and self._out != "upgrade":
            data += b"".join(self._pending)
            self._pending.clear()
            self._pending_size = 0
        connection.write(data)
        if self._out in ("ended", "upgrade"):
            self._wait_for_head()
        if self._blocked and self._out != "upgrade" and not connection.blocked:
            self.writable()

    def refuse(self, code: Code, message: str) -> None:
        """Nothing was sent."""
        if not self._closed:
            self._close()
            self.sink.on_refused(code, message)

    def writable(self) -> None:
        """The connection has room again."""
        if self._blocked and not self._closed and self._out != "upgrade":
            self._blocked = False
            self.sink.on_writable()

    def received(self, data: bytes) -> None:
        """Bytes of the connection."""
        if self._raw:
            self._deliver(data)
            return
        try:
            events = self._reader.feed(data)
        except BadMessage as error:
            self._fail(Code.UPSTREAM_UNREACHABLE, error.reason)
            return
        for index, event in enumerate(events):
            if self._closed:
                return
            if isinstance(event, Body):
                self._deliver(event.data)
                continue
            if isinstance(event, End):
                self._release()
                self.sink.on_end()
                return
            if self._waiting:
                self._stop_timer()
            if isinstance(event, Response) and event.body == "raw":
                self._switch(event.head)
                return
            if self._out == "upgrade":  # the upgrade was declined: an ordinary response follows
                self._out, self._blocked = "ended", False
                self._pending.clear()
            if isinstance(event, Response):
                fin = self._reader.complete and index == len(events) - 2
                if fin:
                    self._release()
                self.sink.on_head(event.head, fin)
                if fin:
                    return
                continue
            assert self._plain is not None
            if isinstance(event, PlainHead):
                self._plain.on_plain_head(event)
            else:
                self._release()
                self._plain.on_whole(event.head, event.body)

    def eof(self) -> bool:
        """The peer sends no more. True keeps our direction open."""
        if self._closed or not self._raw:
            return False
        if not self._peer_ended:
            self._peer_ended = True
            self.sink.on_end()
        return not self._closed and self._out != "ended"

    def lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        connection, self._connection = self._connection, None
        if self._closed:
            return
        if self._raw:
            self._close()
            if error is not None and not (self._peer_ended and self._out == "ended"):
                self.sink.on_reset(Code.UPSTREAM_UNREACHABLE, f"connection lost: {error}")
            elif not self._peer_ended:
                self.sink.on_end()
            return
        if connection is not None and connection.reused and self.repeatable and not self._reader.started:
            # The peer closed an idle connection just as we took it: nothing was answered, and a repeat is harmless.
            self.repeatable = False
            if self._waiting:
                self._stop_timer()
            self._pool.start(self, fresh=True)
            return
        try:
            events = self._reader.eof() if error is None else []
        except BadMessage as bad:
            self._fail(Code.UPSTREAM_UNREACHABLE, bad.reason)
            return
        if events:
            self._close()
            self.sink.on_end()
        else:
            self._fail(Code.UPSTREAM_UNREACHABLE, f"connection lost: {error}")

    # --- inside ------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        if self._connection is None or self._out == "upgrade":
            self._pending.append(data)
            self._pending_size += len(data)
        else:
            self._connection.write(data)
            self._blocked = self._connection.blocked

    def _finish_sending(self) -> None:
        if self._out == "upgrade":
            self._pending.append(b"")  # stands for the end, see _switch
            return
        self._out = "ended"
        if self._raw:
            self._blocked = False
            if self._connection is not None:
                self._connection.write_eof(self._peer_ended)
        elif self._connection is not None and not self._reader.answered:
            self._wait_for_head()

    def _switch(self, head: ResponseHead) -> None:
        """101: from here on both directions are raw bytes."""
        self._raw, self._out = True, "raw"
        pending, self._pending = self._pending, []
        self._pending_size = 0
        self.sink.on_head(head, False)
        trailing = self._reader.trailing()
        if trailing and not self._closed:
            self._deliver(trailing)
        if self._closed or self._connection is None:
            return
        ended = bool(pending) and pending[-1] == b""
        if data := b"".join(pending):
            self._connection.write(data)
        if ended:
            self._finish_sending()
        elif not self._connection.blocked:
            self.writable()

    def _deliver(self, data: bytes) -> None:
        self._outstanding += len(data)
        self.sink.on_data(data)
        if self._outstanding >= READ_HIGH and self._connection is not None:
            self._connection.pause_reading()

    def _release(self) -> None:
        """The response is complete: the connection is free if the request is complete too, else closed."""
        connection, self._connection = self._connection, None
        reusable = self._reader.keep_alive and self._out == "ended"
        self._close()
        if connection is not None:
            connection.release(reusable)

    def _wait_for_head(self) -> None:
        if self._head_timeout is not None and not self._waiting:
            self._waiting = True
            self._pool.deadlines.add(self._head_timeout, self)

    def late(self) -> None:
        """No head of a response in time."""
        self._waiting = False
        self._fail(Code.TIMEOUT, f"no response within {self._head_timeout:g} s")

    def write_late(self) -> None:
        """The upstream has not read anything for the time a connection allows."""
        if not self._raw:  # a program may leave its input unread for as long as it likes
            self._fail(Code.TIMEOUT, "the upstream does not read the request body")

    def _fail(self, code: Code, message: str) -> None:
        if not self._closed:
            sink = self.sink
            self.reset()
            sink.on_reset(code, message)

    def shut_down(self) -> None:
        """The pool is closed."""
        self._fail(Code.SHUTDOWN, "shutting down")

    def _close(self) -> None:
        self._closed = True
        self._pending.clear()
        if self._waiting:
            self._stop_timer()

    def _stop_timer(self) -> None:
        self._waiting = False
        if self._head_timeout is not None:
            self._pool.deadlines.drop(self._head_timeout, self)


class Connection(asyncio.Protocol):
    """A connection of a pool: free, or running one request."""

    __slots__ = (
        "_pool",
        "_reading",
        "_transport",
        "_write_timeout",
        "_write_timer",
        "blocked",
        "idle_since",
        "request",
        "reused",
    )

    def __init__(self, pool: Http1Pool, write_timeout: float) -> None:
        self.blocked = False
        self.reused = False
        self.idle_since = 0.0
        self.request: UpstreamRequest | None = None
        self._pool = pool
        self._write_timeout = write_timeout
        self._write_timer: asyncio.TimerHandle | None = None
        self._reading = True
        self._transport: asyncio.Transport | None = None

    def release(self, reusable: bool) -> None:
        """The request is over. The pool looks whether the connection still stands when it takes it again."""
        self.request = None
        if reusable and not self.blocked and self._transport is not None:
            self.reused = True
            if not self._reading:
                self.resume_reading()
            self._pool.freed(self)
        else:
            self.abort()

    @property
    def closing(self) -> bool:
        """Whether it can take no request any more."""
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        if self._transport is not None:
            self._transport.write(data)

    def write_eof(self, peer_ended: bool) -> None:
        """We send no more. TLS has no half-close here, so that there this ends both directions, after a flush."""
        if self._transport is None:
            return
        if self._transport.can_write_eof() and not peer_ended:
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once, whatever is still to be sent."""
        self.request = None
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Stops reading from the upstream."""
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads again."""
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    # --- asyncio.Protocol --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not derive from it
        self._transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_HIGH // 4)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self.request is None:
            self.abort()  # nothing was asked for: this connection cannot be trusted with a request
        else:
            self.request.received(data)

    def eof_received(self) -> bool:
        """Called by the loop."""
        # TLS transports close both directions, whatever is answered here.
        half_close = self._transport is not None and self._transport.can_write_eof()
        return self.request is not None and self.request.eof() and half_close

    def pause_writing(self) -> None:
        """Called by the loop."""
        self.blocked = True
        self._write_timer = asyncio.get_running_loop().call_later(self._write_timeout, self._write_late)

    def resume_writing(self) -> None:
        """Called by the loop."""
        self.blocked = False
        self._stop_timer()
        if self.request is not None:
            self.request.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self._stop_timer()
        self._pool.gone(self)
        request, self.request = self.request, None
        if request is not None:
            request.lost(exc)

    def _write_late(self) -> None:
        if self.request is not None:
            self.request.write_late()

    def _stop_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def framing(headers: Headers) -> Framing:
    """What the headers of a request say of it. Raises ValueError for a body that is declared in no clear way."""
    codings: list[bytes] = []
    lengths: list[bytes] = []
    connection = False
    for name, value in headers:
        what = role(name)
        if what == LENGTH:
            lengths.append(value)
        elif what == CODING:
            codings.append(value)
        elif what == CONNECTION:
            connection = True
    if len(codings) + len(lengths) > 1:
        raise ValueError("the request declares its length twice")
    if codings and codings[0].lower() != b"chunked":
        raise ValueError("unknown Transfer-Encoding")
    if lengths and not (lengths[0].isdigit() and len(lengths[0]) <= 18):
        raise ValueError("malformed Content-Length")
    length = int(lengths[0]) if lengths else 0
    if connection and b"upgrade" in connection_tokens(headers) and get(headers, b"upgrade") is not None:
        if codings or length:
            raise ValueError("a request to upgrade has a body")
        return True, "upgrade", 0
    if codings:
        return False, "chunked", 0
    return (False, "length", length) if length else (False, "ended", 0)
