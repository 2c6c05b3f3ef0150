# SPDX-License-Identifier: Apache-2.0
"""One client connection: bytes to requests, one exchange at a time, responses to bytes.

Why: a raw asyncio protocol costs a tenth of a server framework per request and can hand over the connection after an
upgrade. The reader (`wire.http1_request`) and the writer (`wire.http1_writer`) know HTTP; this shell knows the
transport: when to read, when to stop, when to give up.

    idle -> head -> body -> answer -> idle ...      one request at a time; what a client sends ahead waits, bounded
                       \\-> linger -> closed         answered before the request was complete
             upgrade -> raw -> closed

It must not: route or authenticate (the `Routes` it is given do), keep a request's bytes, or use a timer per request:
the listener's sweep calls `check`.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Final, Protocol, cast

from mooring.edge.accept import Ticket
from mooring.edge.settings import EdgeSettings
from mooring.lib import bounds, logging, metrics
from mooring.lib.ids import request_id
from mooring.net.sockets import tune
from mooring.proxy import answers
from mooring.proxy.ports import Handler
from mooring.wire.headers import BadMessage, ResponseHead
from mooring.wire.http1_request import READ_AHEAD, Body, End, Event, Request, RequestReader
from mooring.wire.http1_writer import ResponseWriter, switching
from mooring.wire.plainhead import PlainHead

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
READ: Final = 320 * 1024
"""Bytes taken at once, at most: what uvloop reads (256 KiB), and a record of which the beginning had come before."""
# Shared by all: what is read into it is copied before anything else is read. With a protocol that brings no buffer,
# uvloop has Python make one of 256 KiB for each read from TLS, which costs a mapping each (`lib.heap`).
_BUFFER: Final = memoryview(bytearray(READ))
_FLUSH_AT: Final = 64 * 1024
_TURNS: Final = 16
_NEVER: Final = math.inf
_TCP_ESTABLISHED: Final = 1

_UPSTREAM_FULL: Final = 1
_AHEAD_FULL: Final = 2

_log: Final = logging.get("mooring.edge")


class Service(Protocol):
    """What a connection needs of its listener."""

    settings: EdgeSettings
    now: float
    """The loop's time at the last sweep; exact enough for deadlines."""
    stopping: bool
    due: list[Connection]
    """Connections that have gathered something in this turn of the loop; whoever is the first has `flush` called."""

    def flush(self) -> None:
        """Flush those that are due."""

    def opened(self, connection: Connection) -> str | None:
        """A connection is there; answers with a reason when there are too many."""

    def closed(self, connection: Connection) -> None:
        """A connection is gone, or was handed over."""

    def claim(self, connection: Connection, user_id: str) -> bool:
        """A user has shown who they are on a connection that was nobody's, or another's. False: they have too many."""

    def handle(self, connection: Connection, request: Request) -> Handler | None:
        """Take a request. None: it has been answered, or the connection handed over."""


class Connection(asyncio.BufferedProtocol):
    """The protocol of one client connection, and the `Client` half of its exchange."""

    __slots__ = (
        "_ahead",
        "_answered",
        "_blocked",
        "_brought",
        "_complete",
        "_deadline",
        "_discarded",
        "_handler",
        "_head_sent",
        "_left_to_write",
        "_loop",
        "_out",
        "_out_size",
        "_paused",
        "_phase",
        "_raw",
        "_reader",
        "_service",
        "_settings",
        "_taking",
        "_transport",
        "_upgrade",
        "_write_deadline",
        "_writer",
        "admitted",
        "certified",
        "due",
        "request_id",
        "source",
        "ticket",
        "user_id",
    )

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop, ticket: Ticket) -> None:
        self.ticket = ticket
        self.admitted = False
        """Whether the listener counts it among its clients."""
        self.certified = False
        """Whether the client has shown a certificate that TLS has verified, where the listener asks for one."""
        self.user_id = ""
        """Whose it is: who last asked for a cluster on it."""
        self.due = False
        """Whether it is among those that the listener flushes at the end of this turn of the loop."""
        self._service = service
        self._settings = service.settings
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(head_max=service.settings.head_max, headers_max=service.settings.headers_max)
        self._writer = ResponseWriter(b"GET", keep_alive=False)
        self._handler: Handler | None = None
        self._phase = "head"
        self._deadline = _NEVER
        self._write_deadline = _NEVER
        self._left_to_write = 0
        self._complete = True
        self._answered = True
        self._head_sent = False
        self._raw = False
        self._upgrade = False
        self._taking = False
        self._blocked = False
        self._paused = 0
        self._out: list[bytes] = []
        self._out_size = 0
        self._discarded = 0
        self._brought = 0
        self.source = ""
        self.request_id = ""

    # -- asyncio.BufferedProtocol -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's TLS transport derives from nothing
        peer = transport.get_extra_info("peername")
        self.source = str(peer[0]) if isinstance(peer, tuple) and peer else "local"
        self.certified = bool(transport.get_extra_info("peercert"))
        transport.set_write_buffer_limits(high=self._settings.write_high, low=self._settings.write_high // 4)
        self._deadline = self._loop.time() + self._settings.head_timeout
        tune(transport)
        problem = self._service.opened(self)
        if problem is not None:
            self._refuse(503, problem, retry_after=1)
            # It takes up a place in which others could be told the same.
            self._deadline = self._loop.time() + self._settings.linger_timeout

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.data_received(bytes(_BUFFER[:nbytes]))
        except Exception:
            self._failed()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's."""
        if self._raw:
            if self._handler is not None:
                self._deadline = self._service.now + self._settings.upgrade_idle_timeout
                self._handler.client_data(data)
            return
        if self._phase in ("closing", "closed"):
            return
        try:
            events = self._reader.feed(data)
        except BadMessage as error:
            self._bad(error)
            return
        if events:
            self._take(events)
        elif self._phase == "idle" and self._reader.begun:
            self._phase, self._deadline = "head", self._service.now + self._settings.head_timeout
        # What is ahead of a request that began or ended now is a part of what came now.
        if (not events or len(data) >= READ_AHEAD) and self._reader.backlog >= READ_AHEAD:
            self._pause(_AHEAD_FULL)

    def eof_received(self) -> bool:
        handler = self._handler
        if handler is not None and self._raw:
            try:
                handler.client_end()
            except Exception:
                self._failed()
            # TLS has no half-close in asyncio: the transport closes whatever is answered here.
            return self._transport is not None and self._transport.can_write_eof()
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._phase = "closed"
        self._deadline = self._write_deadline = _NEVER
        self._out.clear()
        self._service.closed(self)
        self._gone()

    def pause_writing(self) -> None:
        self._blocked = True
        self._left_to_write = self._waiting()
        self._write_deadline = self._service.now + self._settings.write_timeout

    def resume_writing(self) -> None:
        self._blocked = False
        self._write_deadline = _NEVER
        if self._handler is not None:
            try:
                self._handler.client_drained()
            except Exception:
                self._failed()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _take(self, events: list[Event]) -> None:
        self._taking = True
        turns = _TURNS
        try:
            while events:
                for event in events:
                    if isinstance(event, Body):
                        self._body(event.data)
                    elif isinstance(event, Request):
                        self._begin(event, complete=isinstance(events[-1], End))
                    elif self._handler is not None or not self._complete:
                        self._end()
                    if self._phase in ("closing", "closed"):
                        return
                if not self._answered:
                    return
                turns -= 1
                if not turns:  # others are served before a client that has sent many requests ahead goes on
                    self._loop.call_soon(self._go_on)
                    return
                events = self._next()
        finally:
            self._taking = False

    def _go_on(self) -> None:
        if self._answered and self._transport is not None and self._phase not in ("closing", "closed", "idle", "head"):
            try:
                self._take(self._next())
            except Exception:
                self._failed()

    def _begin(self, request: Request, *, complete: bool) -> None:
        self._complete = complete
        self._answered = False
        self._head_sent = False
        self._upgrade = request.upgrade
        self.request_id = request_id()
        keep_alive = request.keep_alive and not request.upgrade and not self._service.stopping
        self._writer = ResponseWriter(request.head.method, keep_alive=keep_alive)
        if complete or request.upgrade:
            self._phase, self._deadline = "answer", _NEVER
        else:
            self._phase = "body"
            self._time_body()
        handler = self._service.handle(self, request)
        if handler is None or self._answered:
            return
        self._handler = handler
        if request.expect_continue and not complete:
            self._send(_CONTINUE)

    def _body(self, data: bytes) -> None:
        if self._handler is not None:
            self._brought += len(data)
            self._handler.client_data(data)
        else:
            self._discarded += len(data)
            if self._discarded > self._settings.linger_max:
                self.abort()

    def _time_body(self) -> None:
        """From now on the body has `body_timeout` to bring its next part."""
        self._brought = 0
        self._deadline = self._service.now + self._settings.body_timeout

    def _end(self) -> None:
        self._complete = True
        if self._phase == "body":
            self._phase, self._deadline = "answer", _NEVER
        if self._handler is not None:
            self._handler.client_end()

    def _next(self) -> list[Event]:
        """The request is answered: the events of the next one, if it is there already."""
        if not self._writer.keep_alive:
            if self._complete:
                self._close()
            return []
        self._phase, self._deadline = "idle", self._service.now + self._settings.idle_timeout
        if self._paused:
            self._unpause(_UPSTREAM_FULL | _AHEAD_FULL)
        try:
            events = self._reader.resume()
        except BadMessage as error:
            self._bad(error)
            return []
        if not events and self._reader.begun:
            self._phase, self._deadline = "head", self._service.now + self._settings.head_timeout
        return events

    def _failed(self) -> None:
        """A fault of ours, which is being handled. Nothing may fail open, and one request's fault is not the next
        one's: the exchange ends, and the connection with it."""
        _log.exception("request failed", request_id=self.request_id)
        if self._phase != "closed":
            self._refuse(500, f"internal error; the server's log has it under {self.request_id}")

    def _gone(self) -> None:
        """Tell the exchange, if there is one, that its client has left."""
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.client_gone()
            except Exception:
                _log.exception("an exchange did not end", request_id=self.request_id)

    def _bad(self, error: BadMessage) -> None:
        if error.status == 431:
            bounds.met("headers" if error.reason.endswith("headers") else "head_bytes")
            self._refuse(431, f"bad request: {error.reason}", retry_after=1)
            return
        metrics.EDGE_REFUSED.labels(str(error.status)).inc()
        self._refuse(error.status, f"bad request: {error.reason}")

    def _refuse(self, code: int, message: str, *, retry_after: int | None = None) -> None:
        """Answer what is wrong with the connection itself, and close it. Within a response: cut it."""
        self._gone()
        if self._raw or (self._head_sent and not self._answered):
            self.abort()
            return
        if self._phase == "linger":
            self._close()
            return
        self.request_id = request_id()
        self._complete = True
        self._answered = False
        self._writer = ResponseWriter(b"GET", keep_alive=False)
        answers.refuse(self, answers.Refused(code, message, retry_after=retry_after))
        self._close()

    # -- Client: the exchange's side ----------------------------------------------------------------------------------

    def respond(self, head: ResponseHead | PlainHead, fin: bool) -> None:
        writer = self._writer
        if not self._complete:
            writer.keep_alive = False  # the rest of the request is read, but not understood any more
        if isinstance(head, PlainHead) and not writer.has_body:
            head = head.full()
        if isinstance(head, PlainHead):
            data = writer.plain(head, b"X-Request-Id: %b\r\n" % self.request_id.encode(), fin=fin)
        else:
            head.headers.append((b"X-Request-Id", self.request_id.encode()))
            data = writer.head(head, fin=fin)
        self._head_sent = True
        self._send(data)

    def write(self, data: bytes) -> bool:
        if self._raw:
            self._deadline = self._service.now + self._settings.upgrade_idle_timeout
            self._send(data)
        else:
            self._send(self._writer.data(data))
        return not self._blocked

    def finish(self) -> None:
        if self._raw:
            self._finish_raw()
            return
        ending = self._writer.end()
        if ending:
            self._send(ending)
        self._answered = True
        self._handler = None
        if self._upgrade:
            self._close()
        elif not self._complete:
            self._phase, self._deadline = "linger", self._loop.time() + self._settings.linger_timeout
            self._discarded = 0
            self._unpause(_UPSTREAM_FULL | _AHEAD_FULL)
        elif not self._taking:
            events = self._next()
            if events:
                self._take(events)

    def switch(self, head: ResponseHead) -> None:
        self._raw = True
        self._phase, self._deadline = "raw", self._service.now + self._settings.upgrade_idle_timeout
        self._head_sent = True
        head.headers.append((b"X-Request-Id", self.request_id.encode()))
        self._send(switching(head))
        ahead = self._reader.trailing()
        self._unpause(_AHEAD_FULL)
        if ahead and self._handler is not None:
            self._handler.client_data(ahead)

    def pause(self) -> None:
        self._pause(_UPSTREAM_FULL)

    def resume(self) -> None:
        if self._phase == "body" and self._paused & _UPSTREAM_FULL:
            self._time_body()  # what we stopped is not the client's fault
        self._unpause(_UPSTREAM_FULL)

    def belongs_to(self, user_id: str) -> bool:
        if user_id == self.user_id or self._service.claim(self, user_id):
            return True
        self._writer.keep_alive = False
        return False

    def abort(self) -> None:
        self._handler = None
        self._out.clear()
        self._out_size = 0
        self._phase = "closed"
        if self._transport is not None:
            self._transport.abort()

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """Give the transport away, with the bytes of the last request's head and all after them."""
        self.flush()
        transport = self._transport
        assert transport is not None
        self._transport = None
        self._phase = "closed"
        self._deadline = _NEVER
        self._answered = True
        self._service.closed(self)
        return transport, self._reader.raw_head + self._reader.trailing()

    # -- deadlines ----------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Called by the sweep."""
        if now >= self._deadline:
            self._expired()
        elif self._write_deadline <= now:
            waiting = self._waiting()
            if waiting >= self._left_to_write:
                bounds.met("write_timeout")
                self.abort_gone()
            else:
                self._left_to_write = waiting
                self._write_deadline = now + self._settings.write_timeout
        elif self._paused and self._handler is not None and self._peer_closed():
            self.abort_gone()

    def _expired(self) -> None:
        phase = self._phase
        if phase == "idle" or (phase == "head" and not self._reader.begun):
            self._close()
        elif phase == "head":
            bounds.met("head_timeout")
            self._refuse(408, f"the request head did not arrive within {self._settings.head_timeout:.0f} s")
        elif phase == "body":
            settings = self._settings
            if self._paused & _UPSTREAM_FULL or self._brought >= settings.body_rate * settings.body_timeout:
                self._time_body()
                return
            bounds.met("body_timeout")
            self._refuse(
                408,
                f"the request body came slower than {settings.body_rate} bytes/s for {settings.body_timeout:.0f} s",
            )
        else:
            if phase == "raw":
                bounds.met("upgrade_idle_timeout")
            self.abort_gone()

    def abort_gone(self) -> None:
        """Cut the connection as if the client had gone."""
        handler = self._handler
        self.abort()
        self._handler = handler
        self._gone()

    def stop(self) -> None:
        """The server stops: close if nothing is under way, else after this answer."""
        if self._phase in ("idle", "head"):
            self._close()
        elif not self._head_sent:
            self._writer.keep_alive = False

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way."""
        return self._handler is not None

    # -- the transport ------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        """Gather what one turn of the loop writes, so that a head and a body leave as one TLS record."""
        if not data or self._transport is None:
            return
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size >= _FLUSH_AT:
            self.flush()
        elif not self.due:
            self.due = True
            due = self._service.due
            if not due:
                self._loop.call_soon(self._service.flush)
            due.append(self)

    def flush(self) -> None:
        """Write what was gathered."""
        if self._out and self._transport is not None:
            out = self._out
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._out_size = 0
            if not self._transport.is_closing():
                self._transport.write(data)

    def _close(self) -> None:
        """Close when everything has been sent, and the client has had its time to take it."""
        self._phase = "closing"
        self._deadline = self._loop.time() + self._settings.close_timeout
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def _finish_raw(self) -> None:
        self.flush()
        if self._transport is None:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _waiting(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _pause(self, why: int) -> None:
        if not self._paused and self._transport is not None:
            self._transport.pause_reading()
        self._paused |= why

    def _unpause(self, why: int) -> None:
        if self._paused:
            self._paused &= ~why
            if not self._paused and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def _peer_closed(self) -> bool:
        """Whether the peer has closed; asked of the kernel, since nobody reads the socket while it is paused."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return state != _TCP_ESTABLISHED
