# SPDX-License-Identifier: Apache-2.0
"""What a stream through the tunnel looks like to those who use it: the proxy on one side, the agent on the other.

Exists so that both can be written, and tested, against these few methods. It must not know how a stream is carried:
`session` has the implementation, and nothing here imports it.

One exchange, seen from the side that opens (server):

    session.open(pack_open("apiserver", head), sink, fin=True)   OPEN|FIN ->
                                                                          <- OPENED    sink.on_head(head, fin=False)
                                                                          <- DATA|FIN  sink.on_data(...), sink.on_end()

and from the side that accepts (agent): the session calls `on_open(stream, payload, fin)`, which answers with the sink
of the new stream; then `stream.opened(head)`, `stream.write(data)`, `stream.end()`.
"""

from __future__ import annotations

from typing import Final, Protocol

from mooring.lib.errors import MooringError
from mooring.wire.frames import Code, OpenRequest, pack_open, unpack_open

__all__ = [
    "APISERVER",
    "Code",
    "OpenHandler",
    "OpenRequest",
    "SessionBusy",
    "SessionClosed",
    "Stream",
    "StreamOpener",
    "StreamSink",
    "pack_open",
    "unpack_open",
]


APISERVER: Final = "apiserver"
"""The target that every agent serves."""


class SessionClosed(MooringError):
    """The session cannot take a new stream: it is closed, or going away. Nothing was sent; use another session."""


class SessionBusy(MooringError):
    """The session has as many streams, or as many bytes waiting, as it may have. Nothing was sent; try again later."""


class StreamSink(Protocol):
    """Who listens to a stream.

    Called on the event loop, one after the other, never from within a call to the stream's own methods. Must not
    block, and must not raise (what it raises resets the stream with INTERNAL). After `on_reset` or `on_refused`, and
    after both halves have ended, nothing is called any more.
    """

    def on_head(self, head: bytes, fin: bool) -> None:
        """The peer answered with this head (OPENED). `fin`: nothing follows; `on_end` is NOT called on top of it."""

    def on_data(self, data: bytes) -> None:
        """Bytes from the peer. `stream.consumed(len(data))` must follow, now or later, or the stream stops."""

    def on_end(self) -> None:
        """The peer has ended its half. Our half stays open until `end`, `write(..., fin=True)` or `reset`."""

    def on_reset(self, code: Code, message: str) -> None:
        """The stream is over, both ways, and may have had effects: a RESET of the peer (its code), or the session was
        lost (UPSTREAM_UNREACHABLE, message begins with "tunnel lost")."""

    def on_refused(self, code: Code, message: str) -> None:
        """The stream is over and nothing was sent upstream: safe to try again on another session."""

    def on_writable(self) -> None:
        """There is room again after a `write` that returned False."""


class Stream(Protocol):
    """A stream as its user holds it. Every method may be called at any time; on a stream that is over, all of them do
    nothing (`write` returns True: there is nothing to wait for)."""

    @property
    def id(self) -> int:
        """The stream's number within its session, for logs."""

    @property
    def closed(self) -> bool:
        """True once both halves have ended, or the stream was refused or reset."""

    def write(self, data: bytes, fin: bool = False) -> bool:
        """Queue bytes; `fin` ends our half after them. All of `data` is always taken.

        Returns False when the stream's send buffer is full: stop (pause reading from the source) until `on_writable`.
        Going on regardless is bounded: a stream whose buffer passes four times its limit is reset with INTERNAL.
        """

    def end(self) -> None:
        """End our half (nothing more will be written). Same as `write(b"", fin=True)`."""

    def reset(self, code: Code, message: str = "") -> None:
        """Give the stream up, both ways, now. What is queued is dropped. The own sink is not called any more."""

    def consumed(self, n: int) -> None:
        """`n` bytes given by `on_data` have been dealt with: the peer may send as many more."""

    def opened(self, head: bytes, fin: bool = False) -> None:
        """Accepting side only, once, before any `write`: answer with a response head. `fin`: no body follows."""

    def respond(self, head: bytes, body: bytes) -> None:
        """Accepting side only, instead of `opened`: the whole answer is there. Same as `opened(head)`, then
        `write(body, fin=True)`; `opened(head, fin=True)` without a body."""

    def refuse(self, code: Code, message: str) -> None:
        """Accepting side only, instead of `opened`: nothing has been sent upstream, and nothing will be."""


class OpenHandler(Protocol):
    """What the accepting side does with a new stream."""

    def __call__(self, stream: Stream, payload: bytes, fin: bool, /) -> StreamSink | None:
        """`payload` as `unpack_open` reads it; `fin`: no body follows (`on_end` is NOT called on top of it). Returns
        the sink, or None after `stream.refuse`. What it raises refuses the stream with INTERNAL."""


class StreamOpener(Protocol):
    """The part of a session that the proxy needs."""

    def open(self, payload: bytes, sink: StreamSink, fin: bool = False) -> Stream:
        """Open a stream: `payload` from `pack_open`, `fin`: no body follows. Data may be written at once.

        Raises SessionClosed and SessionBusy; then nothing was sent, and the sink is not called.
        """
