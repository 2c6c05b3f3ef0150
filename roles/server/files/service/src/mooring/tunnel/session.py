# SPDX-License-Identifier: Apache-2.0
"""One live session: a `Mux` with a clock, a carrier below it and the users of its streams above.

Exists so that the state machine stays free of callbacks and the users of streams stay free of frames. What is queued in
one turn of the event loop leaves in one write. It must not know WebSockets (that is `carrier`), nor clusters (`hub`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mooring.lib import logging
from mooring.lib.config import TunnelSection
from mooring.tunnel.stream import OpenHandler, SessionBusy, SessionClosed, Stream, StreamSink
from mooring.wire import events
from mooring.wire.flow import Limits, Overrun
from mooring.wire.frames import Code, LocalError, RemoteError
from mooring.wire.hello import Hello
from mooring.wire.mux import Busy, Exhausted, Mux, Side

_log: Final = logging.get("mooring.tunnel")

PULSE: Final = "pulse"  # kind of the message in which an agent says how often it wants a sign of life
MAX_PER_TURN: Final = 1024 * 1024  # bytes written before other users of the event loop get their turn


def tunnel_limits(section: TunnelSection) -> Limits:
    """The bounds of the server's sessions, as the configuration has them."""
    return Limits(
        max_streams=section.max_streams_per_session,
        max_window=section.window_max_bytes,
        growth_budget=section.window_growth_bytes,
        send_buffer=section.send_buffer_bytes,
        send_total=section.send_total_bytes,
        open_backlog=section.open_backlog_bytes,
        control_buffer=section.control_buffer_bytes,
        ping_after=section.ping_after_seconds,
        dead_after=section.dead_after_seconds,
        hello_timeout=section.hello_timeout_seconds,
    )


class Link(Protocol):
    """What a session needs of its carrier."""

    def room(self) -> int:
        """Bytes that may be written now; 0: wait until the link calls `Session.link_writable`."""

    def write(self, frames: list[bytes]) -> None:
        """Send whole frames, in one go."""

    def delivered(self) -> bool:
        """Whether the peer's machine has acknowledged all that was written. False: no, or it is not known."""

    def close(self, code: Code, reason: str) -> None:
        """Close when what was written has left, within a deadline of the link's. The session is told by `link_lost`."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one session since it began, and its state now."""

    streams: int
    streams_total: int
    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int
    rtt: float


class TunnelStream:
    """A `mooring.tunnel.stream.Stream`: see there for what each method does."""

    __slots__ = ("_ended", "_session", "id", "received", "silent", "sink")

    def __init__(self, session: Session, stream_id: int, sink: StreamSink | None, ended: bool = False) -> None:
        self._session = session
        self.id = stream_id
        self.sink = sink
        self._ended = ended  # we ended our half
        self.received = False  # the peer has ended its half: there is nothing to grant any more
        self.silent = False  # refused, reset or lost: the sink is not called any more

    @property
    def closed(self) -> bool:
        return self.silent or self.id not in self._session.mux

    def write(self, data: bytes, fin: bool = False) -> bool:
        session = self._session
        if self._ended and fin and not data:
            return True
        try:
            room = session.mux.send_data(self.id, data, fin)
        except Overrun as exc:
            session.give_up(self, str(exc))
            return False
        if fin:
            self._ended = True
        if not session.flush_due:
            session.wake()
        return room

    def end(self) -> None:
        self.write(b"", True)

    def reset(self, code: Code, message: str = "") -> None:
        self.silent = True
        self._session.mux.reset(self.id, code, message)
        self._session.wake()

    def consumed(self, n: int) -> None:
        if self.received:
            return
        session = self._session
        if session.mux.consume(self.id, n, session.time()):
            session.wake()

    def opened(self, head: bytes, fin: bool = False) -> None:
        session = self._session
        session.mux.opened(self.id, head, fin)
        if fin:
            self._ended = True
        if not session.flush_due:
            session.wake()

    def respond(self, head: bytes, body: bytes) -> None:
        session = self._session
        session.mux.respond(self.id, head, body)
        self._ended = True
        if not session.flush_due:
            session.wake()

    def refuse(self, code: Code, message: str) -> None:
        self.silent = True
        self._session.mux.refuse(self.id, code, message)
        self._session.wake()

    def over(self) -> StreamSink | None:
        """Mark as over; returns the sink if it still wants to hear of it."""
        sink = None if self.silent else self.sink
        self.silent = True
        return sink


class Session:
    """One session with one peer. Made by whoever makes the connection, given to a carrier, used through `open`.

    The callbacks are attributes, each None until set; they are called on the event loop and must not block or raise.
    """

    def __init__(
        self,
        side: Side,
        hello: Hello,
        *,
        on_open: OpenHandler | None = None,
        limits: Limits | None = None,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.time = clock  # not loop.time: uvloop's has whole milliseconds only, too coarse for a round trip
        self.name = name
        self.mux = Mux(side, hello, limits or Limits(), clock())
        self.on_open = on_open
        self.owner = ""  # a word of whoever holds the session
        self.on_ready: Callable[[Session], None] | None = None  # HELLO came
        self.on_message: Callable[[Session, dict[str, Any]], None] | None = None
        self.on_going_away: Callable[[Session], None] | None = None  # no new streams any more
        self.on_tick: Callable[[Session], None] | None = None  # every few seconds
        self.on_close: Callable[[Session, Code, str], None] | None = None  # once, at the end
        self.close_code: Code | None = None  # why it ended; None while it lives
        self.close_reason = ""
        self._loop = loop
        self._link: Link | None = None
        self.flush_due = False  # what is queued now will be sent: at the end of a batch of frames, or of this turn
        self._now = 0.0  # when the batch of frames began that is in work
        self._batch = False
        self._closing = False
        self._retired = False
        self._timer: asyncio.TimerHandle | None = None
        self._ready: asyncio.Future[Hello] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._idle: asyncio.Future[None] | None = None

    # -- for the users ----------------------------------------------------------------------------------------------

    @property
    def peer(self) -> Hello | None:
        """What the peer said of itself; None before its HELLO came."""
        return self.mux.peer

    @property
    def usable(self) -> bool:
        """Whether new streams can be opened: HELLO came, and nobody is closing or going away."""
        return self.close_code is None and self.mux.accepting

    @property
    def closed(self) -> bool:
        """Whether the session has ended, or is about to."""
        return self.close_code is not None

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self.mux.streams

    def open(self, payload: bytes, sink: StreamSink, fin: bool = False) -> Stream:
        """Open a stream; see `mooring.tunnel.stream.StreamOpener`.

        Raises SessionClosed and SessionBusy, and LocalError for a payload over 128 KiB.
        """
        mux = self.mux
        if self.close_code is not None or not mux.accepting:
            raise SessionClosed("the tunnel session takes no new streams")
        stream = TunnelStream(self, 0, sink, fin)
        try:
            stream.id = mux.open(payload, fin, stream)
        except Busy as exc:
            raise SessionBusy(f"the tunnel session is busy: {exc}") from None
        except Exhausted:
            self._retire()
            raise SessionClosed("the tunnel session takes no new streams") from None
        if mux.heartbeat.resting:
            self._stir()
        if not self.flush_due:
            self.wake()
        return stream

    def message(self, message: dict[str, Any]) -> None:
        """Send a control message, a JSON object with a `kind`, at most 128 KiB. Does nothing once closed."""
        if self.close_code is None:
            self.mux.message(message)
            self.wake()

    def pulse(self, interval: float) -> None:
        """Agent only: while the session is at rest, the server is to give a sign of life every `interval` seconds."""
        self.message({"kind": PULSE, "seconds": interval})
        self._rest(interval)

    def doubt(self) -> None:
        """The peer may be dead: another session with it is. At rest, it has some seconds to show that it is not."""
        if self.close_code is None:
            self.mux.doubt(self.time())
            self._arm()
            self.wake()

    def stats(self) -> Stats:
        """The counters now."""
        mux = self.mux
        return Stats(
            mux.streams, mux.streams_total, mux.frames_in, mux.bytes_in, mux.frames_out, mux.bytes_out, mux.rtt
        )

    async def wait_ready(self) -> Hello:
        """Wait for the peer's HELLO, which has its own deadline. Raises SessionClosed if the session ends first."""
        return await asyncio.shield(self._ready)

    async def wait_closed(self) -> None:
        """Wait until the session has ended; `close_code` and `close_reason` say why."""
        await asyncio.shield(self._closed)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - the deadline is the point of this call
        """Send GOAWAY, let the open streams finish for at most `timeout` seconds, then close."""
        self.mux.goaway(Code.NO_ERROR, "shutting down")
        self.wake()
        if self.mux.streams and self.close_code is None:
            self._idle = self._loop.create_future()
            await asyncio.wait([self._idle, self._closed], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        self.close(Code.SHUTDOWN, "shutting down")

    def _retire(self) -> None:
        """Go away without a deadline: close when the last stream is done."""
        self._retired = True
        self.mux.goaway(Code.NO_ERROR, "a new session is needed")
        if self.on_going_away is not None:
            self.on_going_away(self)
        self.wake()

    def close(self, code: Code = Code.NO_ERROR, reason: str = "") -> None:
        """End the session now: GOAWAY, then the connection. Open streams are reset. Does nothing the second time."""
        if self._closing:
            return
        self._closing = True
        self.mux.goaway(code, reason)
        self._flush()
        link, self._link = self._link, None
        if link is not None:
            link.close(code, reason)
        self._finish(code, reason)

    # -- for the carrier --------------------------------------------------------------------------------------------

    def attach(self, link: Link) -> None:
        """The connection is there: say HELLO."""
        self._link = link
        if self.close_code is not None:
            link.close(self.close_code, self.close_reason)
            return
        self._arm()
        self._flush()

    def frame_received(self, data: bytes | memoryview, last: bool) -> None:
        """A frame came; `last`: no other one is there already."""
        if self.close_code is not None:
            return
        if not self._batch:
            self._batch = True
            self._now = self.time()
        self.flush_due = True
        try:
            event = self.mux.receive_frame(data, self._now)
            if event is not None:
                _HANDLERS[type(event)](self, event)
        except RemoteError as exc:
            self.close(exc.code, exc.message)
            return
        if last:
            self._batch = False
            self._flush()

    def batch_done(self) -> None:
        """The last of what was there already was not a frame of ours."""
        self._batch = False
        self._flush()

    def link_writable(self) -> None:
        """The link has room again."""
        self._flush()

    def link_lost(self, reason: str) -> None:
        """The connection is gone."""
        self._link = None
        self._finish(Code.UPSTREAM_UNREACHABLE, reason)

    def fail(self, code: Code, reason: str) -> None:
        """The peer broke the rules of the carrier."""
        self.close(code, reason)

    # -- sending ----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was queued: send it when this turn of the loop, or this batch of frames, is over."""
        if not self.flush_due:
            self.flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.flush_due = False
        link, mux = self._link, self.mux
        written = 0
        while link is not None and mux.has_output:
            room = link.room()
            if room <= 0:
                break
            if written >= MAX_PER_TURN:
                self.wake()
                break
            frames = mux.frames_to_send(room)
            if not frames:
                break
            written += room
            link.write(frames)
            if mux.taken < room:  # nothing was left behind
                break
        if mux.overflowing and not self._closing:
            self.close(Code.FLOW_CONTROL, "the peer does not read")
            return
        for stream in mux.take_writable():
            try:
                stream.sink.on_writable()
            except Exception as exc:
                self._failed(stream, exc)
        if (self._idle is not None or self._retired) and not mux.streams:
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
            if self._retired:
                self.close(Code.NO_ERROR, "a new session is needed")

    # -- events -----------------------------------------------------------------------------------------------------

    def _on_hello(self, event: events.HelloReceived) -> None:
        if not self._ready.done():
            self._ready.set_result(event.hello)
        self._arm()
        if self.on_ready is not None:
            self.on_ready(self)

    def _on_open(self, event: events.StreamOpened) -> None:
        mux = self.mux
        if mux.heartbeat.resting:
            self._stir()
        stream = TunnelStream(self, event.id, None)
        mux.tag(event.id, stream)
        if self.on_open is not None:
            try:
                stream.sink = self.on_open(stream, event.payload, event.fin)
            except Exception as exc:
                _log.error("a new stream could not be handled", session=self.name, error=repr(exc), exc_info=exc)
        if stream.sink is None and not stream.closed:
            try:
                stream.refuse(Code.INTERNAL, "the stream was not handled")
            except LocalError:  # it had been answered before the failure
                stream.reset(Code.INTERNAL, "the stream was not handled")

    def _on_head(self, event: events.HeadReceived) -> None:
        stream: TunnelStream = event.tag
        sink = stream.sink
        assert sink is not None
        try:
            sink.on_head(event.payload, event.fin)
        except Exception as exc:
            self._failed(stream, exc)

    def _on_data(self, event: events.DataReceived) -> None:
        stream: TunnelStream = event.tag
        sink = stream.sink
        assert sink is not None
        fin = event.fin
        if fin:
            stream.received = True
        try:
            if event.data:
                sink.on_data(event.data)
            if fin and not stream.silent:
                sink.on_end()
        except Exception as exc:
            self._failed(stream, exc)

    def _on_refused(self, event: events.StreamRefused) -> None:
        self._tell_over(event.tag, False, event.code, event.message)

    def _on_reset(self, event: events.StreamReset) -> None:
        self._tell_over(event.tag, True, event.code, event.message)

    def _on_message(self, event: events.MessageReceived) -> None:
        seconds = event.message.get("seconds")
        if event.message["kind"] == PULSE and self.mux.side == "server":
            if isinstance(seconds, (int, float)):
                self._rest(min(max(seconds, 0.0), 3600.0))
            return
        if self.on_message is not None:
            self.on_message(self, event.message)

    def _on_goaway(self, event: events.GoAwayReceived) -> None:
        for stream in event.refused:
            self._tell_over(stream, False, Code.SHUTDOWN, event.message or "the agent is going away")
        if event.code is not Code.NO_ERROR:
            _log.info("the peer ends the session", session=self.name, code=event.code.name, reason=event.message)
        if self.on_going_away is not None:
            self.on_going_away(self)

    def _on_pong(self, event: events.PongReceived) -> None:
        """Nothing to do: the mux keeps the round trip."""

    def _failed(self, stream: TunnelStream, exc: Exception) -> None:
        """A sink raised: the stream is reset."""
        _log.error("a stream's sink failed", session=self.name, stream=stream.id, error=repr(exc), exc_info=exc)
        self.give_up(stream, "internal error")

    def _tell_over(self, stream: TunnelStream, was_sent: bool, code: Code, message: str) -> None:
        sink = stream.over()
        if sink is None:
            return
        try:
            (sink.on_reset if was_sent else sink.on_refused)(code, message)
        except Exception as exc:
            _log.error("a stream's sink failed", session=self.name, stream=stream.id, error=repr(exc), exc_info=exc)

    def give_up(self, stream: TunnelStream, message: str) -> None:
        """A stream failed on our side: tell the peer now, and its own sink soon."""
        self.mux.reset(stream.id, Code.INTERNAL, message)
        self._loop.call_soon(self._tell_over, stream, True, Code.INTERNAL, message)
        self.wake()

    # -- time and the end -------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(self.mux.next_deadline() - self.time(), 0), self._tick)

    def _stir(self) -> None:
        self.mux.stir(self.time())
        self._arm()

    def _rest(self, interval: float) -> None:
        self.mux.rest(interval, self.time())
        if self.close_code is None:
            self._arm()

    def _tick(self) -> None:
        link = self._link
        try:
            self.mux.tick(self.time(), link is not None and self.mux.resting and link.delivered())
        except RemoteError as exc:
            self.close(exc.code, exc.message)
            return
        if self.on_tick is not None:
            self.on_tick(self)
        self._flush()
        if self.close_code is None:
            self._arm()

    def _finish(self, code: Code, reason: str) -> None:
        if self.close_code is not None:
            return
        self._closing = True
        self.close_code, self.close_reason = code, reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lost = f"tunnel lost: {reason}" if reason else "tunnel lost"
        for stream, was_sent in self.mux.abandon():
            if stream is not None:
                self._tell_over(stream, was_sent, Code.UPSTREAM_UNREACHABLE if was_sent else Code.SHUTDOWN, lost)
        if not self._ready.done():
            self._ready.set_exception(SessionClosed(f"the tunnel session ended before HELLO: {reason}"))
            self._ready.exception()  # nobody may be waiting for it
        if not self._closed.done():
            self._closed.set_result(None)
        if self.on_close is not None:
            self.on_close(self, code, reason)


# One table for all sessions: bound methods would be a kilobyte in each.
_HANDLERS: Final[dict[type, Callable[[Session, Any], None]]] = {
    events.DataReceived: Session._on_data,
    events.HeadReceived: Session._on_head,
    events.StreamOpened: Session._on_open,
    events.StreamRefused: Session._on_refused,
    events.StreamReset: Session._on_reset,
    events.MessageReceived: Session._on_message,
    events.GoAwayReceived: Session._on_goaway,
    events.HelloReceived: Session._on_hello,
    events.PongReceived: Session._on_pong,
}
