# SPDX-License-Identifier: Apache-2.0
"""The state of one stream, and the credit in both of its directions.

Exists so that the arithmetic of credit stands in one place. For what we receive, at any time

    window = left (the peer may still send) + unread (given to the user, not consumed) + pending (consumed, not granted)

so that a stream holds at most `window` bytes of ours in memory, however slow its user is. It must not know frames of
any other kind, nor who gets to send next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from mooring.wire import frames
from mooring.wire.frames import Code, LocalError, RemoteError

_NEVER: Final = float("-inf")
_NOTHING: Final[deque[bytes | memoryview]] = deque()  # of a stream that has sent nothing yet; never filled
SMALL_QUEUE: Final = 16 * 1024  # bytes: what a stream may queue while all together have queued what they may


class Overrun(LocalError):
    """A writer went on although it was told to stop, until four times the send buffer was queued."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one session; sizes in bytes, times in seconds. docs/protocol/tunnel.md, section "Limits"."""

    max_window: int = 16 * 1024 * 1024  # what a stream's receive window may grow to: 100 ms at 160 MB/s
    growth_budget: int = 64 * 1024 * 1024  # what all windows of a session may grow together
    max_streams: int = 1024  # open streams of ours; the peer names a bound of its own in its HELLO
    send_buffer: int = 256 * 1024  # queued on a stream before `send_data` says stop; four times this is an error
    send_total: int = 64 * 1024 * 1024  # queued on all streams together; above, a stream is full with SMALL_QUEUE
    control_buffer: int = 16 * 1024 * 1024  # queued heads and control frames of a peer that does not read
    open_backlog: int = 1024 * 1024  # queued OPENs before `open` says busy
    reset_memory: int = 1024  # streams that we reset and whose late frames we still count
    ping_after: float = 7.0  # nothing received for so long: PING (the agent half a second later, so that one asks)
    dead_after: float = 15.0  # nothing received for so long: the peer is gone
    hello_timeout: float = 10.0


class StreamState:
    """One stream of a session. The mux and its outbox read and write the fields; nobody else does."""

    __slots__ = (
        "answered",
        "chunks",
        "credit",
        "fin_queued",
        "full",
        "granted_at",
        "head",
        "id",
        "in_ring",
        "left",
        "pending",
        "queued",
        "recv_open",
        "send_open",
        "tag",
        "window",
    )

    def __init__(self, stream_id: int, tag: Any, window: int, credit: int) -> None:
        self.id = stream_id
        self.tag = tag
        self.answered = False  # OPENED was sent (accepting side) or received (opening side)
        self.recv_open = True  # the peer has not ended its half
        self.send_open = True  # our END or FIN has not left yet
        self.fin_queued = False  # ... but is queued behind the data
        self.head: list[bytes] | None = None  # frames of an OPEN that has not left yet
        # sending
        self.chunks = _NOTHING
        self.queued = 0
        self.credit = credit
        self.in_ring = False
        self.full = False
        # receiving
        self.window = window
        self.left = window
        self.pending = 0
        self.granted_at = _NEVER

    def queue(self, data: bytes | bytearray, fin: bool, limit: int) -> bool:
        """Take bytes to send. Returns False when the buffer is full from now on. Raises LocalError, Overrun."""
        if self.fin_queued:
            raise LocalError(f"stream {self.id}: write after end")
        if data:
            if self.queued >= 4 * limit:
                raise Overrun(f"stream {self.id}: {self.queued} bytes queued, the writer ignores back-pressure")
            if self.chunks is _NOTHING:
                self.chunks = deque()
            self.chunks.append(data if isinstance(data, bytes) else bytes(data))
            self.queued += len(data)
        if fin:
            self.fin_queued = True
        if self.queued >= limit:
            self.full = True
            return False
        return True

    def sendable(self) -> bool:
        """Whether a DATA or END frame of this stream could leave now."""
        return self.credit > 0 if self.chunks else self.fin_queued and self.send_open

    def granted(self, increment: int) -> None:
        """The peer's WINDOW. Raises RemoteError when the sum passes 2**31 - 1."""
        self.credit += increment
        if self.credit > frames.MAX_WINDOW:
            raise RemoteError(Code.FLOW_CONTROL, f"stream {self.id}: credit over 2**31 - 1")

    def arrived(self, size: int) -> None:
        """The peer sent so many bytes. Raises RemoteError when it had no credit for them."""
        self.left -= size
        if self.left < 0:
            raise RemoteError(Code.FLOW_CONTROL, f"stream {self.id}: {-self.left} bytes over the granted window")

    def consumed(self, size: int) -> bool:
        """Our user dealt with so many bytes. Returns whether it is time to grant them. Raises LocalError."""
        self.pending += size
        if size < 0 or self.left + self.pending > self.window:
            raise LocalError(f"stream {self.id}: more bytes consumed than were received")
        return self.recv_open and self.pending * 2 >= self.window

    def drop(self) -> None:
        """Forget what is queued: the stream was reset."""
        self.chunks = _NOTHING
        self.head = None
        self.queued = 0
        self.fin_queued = self.full = self.send_open = self.recv_open = False


class Grants:
    """Decides how much a stream may receive: what was consumed, and more for one that is used fast.

    A window is doubled when half of it was consumed in less than two round trips: then it, and not the application,
    is what slows the peer down. (In less than half a round trip, it was one burst of an application that had let data
    lie: no sign of anything.) The sum of what all windows grew by is bounded by the budget of the session.
    """

    __slots__ = ("_budget", "_initial", "_max_window", "rtt")

    def __init__(self, initial: int, limits: Limits) -> None:
        self._initial = initial
        self._max_window = max(limits.max_window, initial)
        self._budget = limits.growth_budget
        self.rtt = 0.05  # until the first PONG

    def grant(self, stream: StreamState, now: float) -> bytes:
        """The WINDOW frame that is due after `StreamState.consumed` returned True."""
        increment = stream.pending
        if self.rtt / 2 < now - stream.granted_at < 2 * max(self.rtt, 0.001):
            growth = min(stream.window, self._max_window - stream.window, self._budget)
            stream.window += growth
            self._budget -= growth
            increment += growth
        stream.left += increment
        stream.pending = 0
        stream.granted_at = now
        return frames.pack_window(stream.id, increment)

    def release(self, stream: StreamState) -> None:
        """The stream is over: what its window grew by is free for others."""
        self._budget += stream.window - self._initial
        stream.window = self._initial
