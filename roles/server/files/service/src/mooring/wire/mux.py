# SPDX-License-Identifier: Apache-2.0
"""The state machine of `mooring-tunnel/1`: frames and time in, events and frames out.

Exists so that the whole protocol can be run, and fuzzed, without a socket or a clock. docs/protocol/tunnel.md is its
specification. It must not do I/O, sleep, log or call its user back. RemoteError means that the peer broke the protocol:
send `goaway` with its code and close. LocalError means that our side used it wrongly: nothing was queued.

    shell:  event = mux.receive_frame(data, now)     for each frame that came
            mux.tick(now)                            at mux.next_deadline()
            carrier.write(mux.frames_to_send(room))  whenever the carrier has room and mux.has_output
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from mooring.wire import frames
from mooring.wire.events import (
    DataReceived,
    Event,
    GoAwayReceived,
    HeadReceived,
    HelloReceived,
    MessageReceived,
    PongReceived,
    StreamOpened,
    StreamRefused,
    StreamReset,
)
from mooring.wire.flow import SMALL_QUEUE, Grants, Limits, StreamState
from mooring.wire.frames import FIN, HEADER_SIZE, Code, LocalError, RemoteError
from mooring.wire.heartbeat import Heartbeat
from mooring.wire.hello import Hello
from mooring.wire.scheduler import Outbox

Side = Literal["server", "agent"]


class Busy(LocalError):
    """`open` cannot take a stream now: as many are open as the peer allows, or too much is queued already."""


class Exhausted(LocalError):
    """`open` cannot take a stream any more: the stream ids are used up."""


class Mux:
    """One session, seen from one side. `server` opens streams, `agent` accepts them."""

    def __init__(self, side: Side, hello: Hello, limits: Limits, now: float) -> None:
        self.side = side
        self.hello = hello
        self.limits = limits
        self.peer: Hello | None = None
        self.going_away = False  # we sent GOAWAY
        self.peer_going_away = False
        self.accepting = False  # HELLO came, and neither side is going away
        self.frames_in = self.bytes_in = self.frames_out = self.bytes_out = self.streams_total = 0
        self.taken = 0  # bytes of what `frames_to_send` returned last: less than it was allowed means, that was all
        self._streams: dict[int, StreamState] = {}
        self._last_id = -1 if side == "server" else 0  # of the newest stream: ours (server), the peer's (agent)
        self._out = Outbox(limits.send_buffer)
        self._grants = Grants(hello.window, limits)
        self._window = hello.window  # what the peer may send on a new stream
        self._credit = 0  # ... and what we may
        self._most = 0  # streams that may be open at once
        self._pieces = frames.Pieces()
        self._was_reset: dict[int, int] = {}  # stream that we reset -> credit that its late frames may use
        self.heartbeat = Heartbeat(limits, now, side == "server")
        self._pong: bytes | None = None
        self._out.control(frames.pack_hello(hello))

    # -- what is so -------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def __contains__(self, stream_id: int) -> bool:
        """Whether a stream with this id is open."""
        return stream_id in self._streams

    @property
    def has_output(self) -> bool:
        """Whether `frames_to_send` may have something. It may still answer with nothing."""
        return self._pong is not None or bool(self._out)

    @property
    def overflowing(self) -> bool:
        """The peer does not read: more heads and control frames wait than the bound allows. Close the session."""
        return self._out.control_bytes > self.limits.control_buffer

    @property
    def rtt(self) -> float:
        """Round trip of the newest PING, in seconds; a guess before the first."""
        return self._grants.rtt

    # -- sending ----------------------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """The stream ids are used up: `open` fails from now on."""
        return self._last_id + 2 > frames.MAX_STREAM_ID

    def open(self, payload: bytes, fin: bool = False, tag: Any = None) -> int:
        """Open a stream and return its id. Raises Busy, Exhausted, and LocalError before HELLO and after GOAWAY."""
        if self.side != "server":
            raise LocalError("only the server opens streams")
        if not self.accepting:
            raise LocalError("the session takes no streams")
        if len(self._streams) >= self._most:
            raise Busy(f"{self._most} streams are open")
        if self._out.open_bytes >= self.limits.open_backlog:
            raise Busy("the peer does not keep up with new streams")
        stream_id = self._last_id + 2
        if stream_id > frames.MAX_STREAM_ID:
            raise Exhausted("the stream ids are used up")
        head = frames.heads(frames.OPEN, stream_id, payload, FIN if fin else 0)
        self._last_id = stream_id
        stream = StreamState(stream_id, tag, self._window, self._credit)
        self._streams[stream_id] = stream
        self.streams_total += 1
        if fin:
            stream.fin_queued = True
            stream.send_open = False
        self._out.open(stream, head)
        return stream_id

    def tag(self, stream_id: int, tag: Any) -> None:
        """Attach the user's object to an accepted stream; its events carry it."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.tag = tag

    def opened(self, stream_id: int, payload: bytes, fin: bool = False) -> None:
        """Answer a stream. Does nothing when it is over. Raises LocalError for a second answer, or over 128 KiB."""
        stream = self._answering(stream_id)
        if stream is None:
            return
        for frame in frames.heads(frames.OPENED, stream_id, payload, FIN if fin else 0):
            self._out.control(frame)
        stream.answered = True
        if fin:
            stream.fin_queued = True
            stream.send_open = False
            if not stream.recv_open:
                self._remove(stream)

    def respond(self, stream_id: int, head: bytes, body: bytes) -> None:
        """`opened` with the head, and `send_data` with the whole body and the end of our half."""
        if not body:
            self.opened(stream_id, head, True)
            return
        stream = self._answering(stream_id)
        if stream is None:
            return
        for frame in frames.heads(frames.OPENED, stream_id, head):
            self._out.control(frame)
        stream.answered = True
        self._queue(stream, body, True)

    def refuse(self, stream_id: int, code: Code, message: str = "") -> None:
        """Refuse a stream, of which nothing was sent upstream. Raises LocalError once it was answered."""
        stream = self._answering(stream_id)
        if stream is not None:
            self._give_up(stream, frames.pack_reason(frames.REFUSED, stream_id, code, message))

    def send_data(self, stream_id: int, data: bytes | bytearray, fin: bool = False) -> bool:
        """Queue bytes of a stream, then its end. All are taken; False asks to stop until `take_writable` names it.

        True on a stream that is over. Raises LocalError after the end, and before OPENED on the accepting side; Overrun
        when four times the send buffer is queued already.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return True
        if not stream.answered and self.side == "agent":
            raise LocalError(f"stream {stream_id}: DATA before OPENED")
        return self._queue(stream, data, fin)

    def _queue(self, stream: StreamState, data: bytes | bytearray, fin: bool) -> bool:
        out = self._out
        room = stream.queue(data, fin, self.limits.send_buffer)
        out.data_bytes += len(data)
        if room and stream.queued >= SMALL_QUEUE and self._out.data_bytes >= self.limits.send_total:
            # Many peers that do not read must not hold a whole buffer each; what flows is only told to stop more often.
            stream.full = True
            room = False
        if not stream.in_ring:
            out.wake(stream)
        return room

    def consume(self, stream_id: int, size: int, now: float) -> bool:
        """The user dealt with `size` bytes of a stream: grant them again when it is time. Returns whether it was."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.consumed(size):
            return False
        self._out.control(self._grants.grant(stream, now))
        return True

    def reset(self, stream_id: int, code: Code, message: str = "") -> None:
        """Give a stream up, both ways. What is queued is dropped; an OPEN that has not left never leaves."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.head:
            self._forget(stream)
        else:
            self._give_up(stream, frames.pack_reason(frames.RESET, stream_id, code, message))

    def message(self, message: dict[str, Any]) -> None:
        """Queue a control message, a JSON object with a `kind`. Raises LocalError over 128 KiB."""
        for frame in frames.pack_message(message):
            self._out.control(frame)

    def goaway(self, code: Code = Code.NO_ERROR, message: str = "") -> None:
        """Take no new streams from now on; those that are open go on."""
        if not self.going_away:
            self.going_away = True
            self.accepting = False
            self._out.control(frames.pack_goaway(max(self._last_id, 0), code, message))

    def frames_to_send(self, max_bytes: int) -> list[bytes]:
        """Take the next frames off the queues, about `max_bytes` together (the last frame may go over)."""
        if self._pong is not None:
            self._out.control(frames.frame(frames.PONG, 0, self._pong))
            self._pong = None
        out = self._out
        taken = out.take(max_bytes)
        self.frames_out += len(taken)
        self.taken = out.taken
        self.bytes_out += out.taken
        if out.ended:
            for stream in out.ended:
                if not stream.recv_open:
                    self._remove(stream)
            out.ended.clear()
        return taken

    def take_writable(self) -> list[Any]:
        """Tags of the streams that were full and have room again, since the last call."""
        if not self._out.writable:
            return []
        tags = [stream.tag for stream in self._out.writable if stream.id in self._streams]
        self._out.writable.clear()
        return tags

    def abandon(self) -> list[tuple[Any, bool]]:
        """The session is lost: forget all streams. Returns each one's tag, and whether any of it was ever sent."""
        lost = [(stream.tag, not stream.head) for stream in self._streams.values()]
        self._streams.clear()
        return lost

    # -- time -------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When `tick` wants to be called next."""
        return self.heartbeat.deadline()

    def tick(self, now: float, delivered: bool = False) -> None:
        """Queue a PING or a PULSE when it is due. Raises RemoteError(TIMEOUT) when the peer is silent for too long.

        `delivered`: the carrier knows that all that was written has reached the peer's machine.
        """
        kind = self.heartbeat.due(now, bool(self._streams), delivered)
        if kind == frames.PING:
            self._send_ping(now)
        elif kind == frames.PULSE:
            self._out.control(frames.frame(frames.PULSE))

    @property
    def resting(self) -> bool:
        """Whether the session is at rest: then `stir` must be called with the first stream."""
        return self.heartbeat.resting

    def stir(self, now: float) -> None:
        """Streams begin on a session at rest. Its deadline is another one afterwards."""
        self.heartbeat.stir(now)

    def rest(self, interval: float, now: float) -> None:
        """PULSEs of a session at rest come every `interval` seconds from now on. Its deadline is another one then."""
        self.heartbeat.rest(interval, now)

    def doubt(self, now: float) -> None:
        """There is reason to think that the peer is dead. Its deadline is another one afterwards."""
        if self.heartbeat.doubt(now):
            self._send_ping(now)

    def _send_ping(self, now: float) -> None:
        self._out.control(frames.frame(frames.PING, 0, self.heartbeat.ping(now)))

    # -- receiving --------------------------------------------------------------------------------------------------

    def receive_frame(self, data: bytes | memoryview, now: float) -> Event | None:
        """Take one frame of the peer. Raises RemoteError, after which the session must be closed."""
        kind, flags, stream_id = frames.split(data)
        self.heartbeat.heard = now
        self.frames_in += 1
        self.bytes_in += len(data)
        rest = data[HEADER_SIZE:]
        payload = rest if isinstance(rest, bytes) else rest.tobytes()
        if self.peer is None:
            return self._on_hello(kind, payload, now)
        receiver = _RECEIVERS.get(kind)
        if receiver is not None:
            return receiver(self, flags, stream_id, payload, now)
        if kind & frames.CRITICAL or kind == 0:
            raise RemoteError(Code.PROTOCOL, f"unknown frame type {kind}")
        return None

    def _on_hello(self, kind: int, payload: bytes, now: float) -> Event:
        if kind != frames.HELLO:
            raise RemoteError(Code.PROTOCOL, "the first frame is not HELLO")
        peer = frames.unpack_hello(payload)
        self.peer = peer
        self.accepting = not (self.going_away or self.peer_going_away)
        self._credit = peer.window
        self._most = min(peer.max_streams, self.limits.max_streams)
        self.heartbeat.greeted = True
        self._send_ping(now)  # the first round trip tells how fast windows should grow
        return HelloReceived(peer)

    def _on_second_hello(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        raise RemoteError(Code.PROTOCOL, "a second HELLO")

    def _on_data(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._find(stream_id)
            left = self._was_reset.get(stream_id)
            if left is not None:
                if len(payload) > left:
                    raise RemoteError(Code.FLOW_CONTROL, f"stream {stream_id}: DATA over the window, after RESET")
                self._was_reset[stream_id] = left - len(payload)
            return None
        fin = flags & FIN != 0
        if not stream.recv_open:
            raise RemoteError(Code.PROTOCOL, f"stream {stream_id}: DATA after the end")
        if not stream.answered and self.side == "server":
            raise RemoteError(Code.PROTOCOL, f"stream {stream_id}: DATA before OPENED")
        if not payload and not fin:
            raise RemoteError(Code.PROTOCOL, f"stream {stream_id}: empty DATA")
        stream.arrived(len(payload))
        if fin:
            stream.recv_open = False
            if not stream.send_open:
                self._remove(stream)
        return DataReceived(stream.tag, payload, fin)

    def _on_window(self, flags: int, stream_id: int, payload: bytes, now: float) -> None:
        increment = frames.unpack_window(payload)
        stream = self._find(stream_id)
        if stream is not None:
            stream.granted(increment)
            self._out.wake(stream)

    def _on_open(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        if self.side == "server" or not stream_id & 1:
            raise RemoteError(Code.PROTOCOL, f"stream {stream_id}: OPEN is for the server, with odd ids")
        whole = self._pieces.add(frames.OPEN, flags, stream_id, payload)
        if whole is None:
            return None
        if stream_id <= self._last_id:
            raise RemoteError(Code.PROTOCOL, f"stream {stream_id}: OPEN after stream {self._last_id}")
        self._last_id = stream_id
        fin = flags & FIN != 0
        code = Code.SHUTDOWN if self.going_away else Code.BUSY
        if self.going_away or len(self._streams) >= self.hello.max_streams:
            self._remember_reset(stream_id, 0 if fin else self.hello.window)
            self._out.control(frames.pack_reason(frames.REFUSED, stream_id, code, "no new streams here now"))
            return None
        stream = StreamState(stream_id, None, self._window, self._credit)
        stream.recv_open = not fin
        self._streams[stream_id] = stream
        self.streams_total += 1
        return StreamOpened(stream_id, whole, fin)

    def _on_opened(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        whole = self._pieces.add(frames.OPENED, flags, stream_id, payload)
        if whole is None:
            return None
        stream = self._unanswered(stream_id, "OPENED")
        if stream is None:
            return None
        stream.answered = True
        fin = flags & FIN != 0
        if fin:
            stream.recv_open = False
            if not stream.send_open:
                self._remove(stream)
        return HeadReceived(stream.tag, whole, fin)

    def _on_refused(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        code, message = frames.unpack_reason(payload)
        stream = self._unanswered(stream_id, "REFUSED")
        if stream is None:
            return None
        self._forget(stream)
        return StreamRefused(stream.tag, code, message)

    def _on_end(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        if payload:
            raise RemoteError(Code.PROTOCOL, f"stream {stream_id}: END with a payload")
        return self._on_data(FIN, stream_id, payload, now)

    def _on_reset(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        code, message = frames.unpack_reason(payload)
        stream = self._find(stream_id)
        if stream is None:
            return None
        self._forget(stream)
        return StreamReset(stream.tag, code, message)

    def _on_message(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        whole = self._pieces.add(frames.MESSAGE, flags, 0, payload)
        return None if whole is None else MessageReceived(frames.unpack_message(whole))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event:
        last, code, message = frames.unpack_goaway(payload)
        self.peer_going_away = True
        self.accepting = False
        event = GoAwayReceived(last, code, message)
        if self.side == "server":
            for stream in [s for s in self._streams.values() if s.id > last and not s.answered]:
                self._forget(stream)
                event.refused.append(stream.tag)
        return event

    def _on_ping(self, flags: int, stream_id: int, payload: bytes, now: float) -> None:
        if len(payload) != frames.PING_SIZE:
            raise RemoteError(Code.PROTOCOL, "PING is not 8 bytes long")
        self._pong = payload  # at most one answer waits: a flood of PINGs cannot fill our memory

    def _on_pulse(self, flags: int, stream_id: int, payload: bytes, now: float) -> None:
        """A sign of life, which needs no answer."""
        if payload:
            raise RemoteError(Code.PROTOCOL, "PULSE with a payload")

    def _on_pong(self, flags: int, stream_id: int, payload: bytes, now: float) -> Event | None:
        if len(payload) != frames.PING_SIZE:
            raise RemoteError(Code.PROTOCOL, "PONG is not 8 bytes long")
        rtt = self.heartbeat.pong(payload, now)
        if rtt is None:
            return None
        self._grants.rtt = rtt
        return PongReceived(rtt)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _answering(self, stream_id: int) -> StreamState | None:
        if self.side == "server":
            raise LocalError("only the agent answers streams")
        stream = self._streams.get(stream_id)
        if stream is not None and stream.answered:
            raise LocalError(f"stream {stream_id}: a second answer")
        return stream

    def _unanswered(self, stream_id: int, what: str) -> StreamState | None:
        if self.side == "agent":
            raise RemoteError(Code.PROTOCOL, f"{what} is for the agent")
        stream = self._find(stream_id)
        if stream is not None and stream.answered:
            raise RemoteError(Code.PROTOCOL, f"stream {stream_id}: {what} after OPENED")
        return stream

    def _find(self, stream_id: int) -> StreamState | None:
        """The open stream; None for one that is over, whose frames may come late. Never opened is an error."""
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id > self._last_id or not stream_id & 1:
                raise RemoteError(Code.PROTOCOL, f"stream {stream_id} was never opened")
        elif stream.head:
            raise RemoteError(Code.PROTOCOL, f"stream {stream_id}: answered before it was opened")
        return stream

    def _remove(self, stream: StreamState) -> None:
        if self._streams.pop(stream.id, None) is not None and stream.window > self._window:
            self._grants.release(stream)

    def _forget(self, stream: StreamState) -> None:
        """The stream is over at once: what it has queued never leaves, its OPEN included."""
        self._out.cancel_open(stream)
        self._remove(stream)
        self._out.data_bytes -= stream.queued
        stream.drop()

    def _give_up(self, stream: StreamState, frame: bytes) -> None:
        self._remember_reset(stream.id, stream.left if stream.recv_open else 0)
        self._forget(stream)
        self._out.control(frame)

    def _remember_reset(self, stream_id: int, left: int) -> None:
        memory = self._was_reset
        memory[stream_id] = left
        if len(memory) > self.limits.reset_memory:
            del memory[next(iter(memory))]


# One table for all sessions: bound methods would be a kilobyte in each.
_RECEIVERS: Final[dict[int, Callable[[Mux, int, int, bytes, float], Event | None]]] = {
    frames.OPEN: Mux._on_open,
    frames.OPENED: Mux._on_opened,
    frames.DATA: Mux._on_data,
    frames.WINDOW: Mux._on_window,
    frames.REFUSED: Mux._on_refused,
    frames.END: Mux._on_end,
    frames.RESET: Mux._on_reset,
    frames.MESSAGE: Mux._on_message,
    frames.GOAWAY: Mux._on_goaway,
    frames.PING: Mux._on_ping,
    frames.PONG: Mux._on_pong,
    frames.PULSE: Mux._on_pulse,
    frames.HELLO: Mux._on_second_hello,
}
