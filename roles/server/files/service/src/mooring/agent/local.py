# SPDX-License-Identifier: Apache-2.0
"""Streams to the agent's own dispatcher, opened in the same process: what a tunnel session is, without the tunnel.

Why: a cluster that serves its endpoint itself runs the proxy chain in its agent. The chain opens streams, the
dispatcher serves them; neither needs to know that there is no network in between.

    open -> on_open(near end, payload, fin)        what one end writes, the other end's sink hears a turn of the loop
                                                   later, in order; never from within a call to a stream

Back-pressure is by bytes that the other side has not said `consumed` to: at WINDOW `write` returns False, below half of
it the writer hears `on_writable`, and who goes on regardless past OVERRUN loses the stream.

It must not: copy, look at what passes, or hold anything of a stream that is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from mooring.lib import logging
from mooring.tunnel.stream import Code, OpenHandler, SessionBusy, SessionClosed, Stream, StreamSink

WINDOW: Final = 256 * 1024
"""Bytes on their way, or held by who got them, at which a writer is to stop."""
OVERRUN: Final = 4 * WINDOW
"""... and at which one that did not stop loses its stream."""
MAX_STREAMS: Final = 1024

_log = logging.get("mooring.agent.local")


class LocalSession:
    """A `tunnel.stream.StreamOpener` whose streams `on_open` serves. `close` ends all of them."""

    def __init__(self, on_open: OpenHandler, max_streams: int = MAX_STREAMS) -> None:
        self._on_open = on_open
        self._max = max_streams
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._open: set[_End] = set()
        self._closed = False

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def usable(self) -> bool:
        """Whether streams can be opened."""
        return not self._closed

    def open(self, payload: bytes, sink: StreamSink, fin: bool = False) -> Stream:
        """See `tunnel.stream.StreamOpener`. Raises SessionClosed, SessionBusy."""
        if self._closed:
            raise SessionClosed("the agent is shutting down")
        if len(self._open) >= self._max:
            raise SessionBusy(f"{self._max} requests are open")
        self._number += 1
        far, near = _End(self, self._number), _End(self, self._number)
        far.other, near.other = near, far
        far.sink, far.ended = sink, fin
        near.heard_end = fin
        self._open.add(far)
        try:
            near.sink = self._on_open(near, payload, fin)
        except Exception as error:
            _log.error("a stream could not be handled", error=repr(error), exc_info=error)
        if near.sink is None and not near.over:
            near.give_back("the stream was not handled")
        return far

    def close(self, message: str = "the agent is shutting down") -> None:
        """Take no more streams, and reset those that are open, at both ends."""
        self._closed = True
        for far in list(self._open):
            near = far.other
            if far.over or near is None:
                continue
            far.finish()
            near.finish()
            for end in (far, near):
                if end.sink is not None:
                    self._loop.call_soon(end.tell, end.sink.on_reset, Code.SHUTDOWN, message)

    def later(self, call: Callable[[], None]) -> None:
        """In the next turn of the loop."""
        self._loop.call_soon(call)

    def gone(self, end: _End) -> None:
        """A stream is over."""
        self._open.discard(end)


class _End:
    """One end of a stream: a `tunnel.stream.Stream` for who writes here, and the queue of what its sink is to hear."""

    __slots__ = ("_blocked", "_due", "_queue", "_session", "_unread", "answered", "ended", "heard_end", "id", "other",
                 "over", "sink")  # fmt: skip

    def __init__(self, session: LocalSession, number: int) -> None:
        self.id = number
        self.other: _End | None = None
        self.sink: StreamSink | None = None
        self.over = False
        """Nothing is heard any more, and nothing that is done here has an effect."""
        self.ended = False
        """We write nothing more."""
        self.heard_end = False
        """The sink knows that nothing more comes."""
        self.answered = False
        self._session = session
        self._queue: deque[tuple[str, Any, Any]] = deque()
        self._due = False
        self._unread = 0  # bytes that we wrote and the other side has not consumed
        self._blocked = False

    # -- Stream --------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self.over or (self.ended and self.heard_end)

    def write(self, data: bytes, fin: bool = False) -> bool:
        other = self.other
        if self.over or self.ended or other is None:
            return True
        if data:
            self._unread += len(data)
            if self._unread > OVERRUN:
                self.give_up("more was written than the stream holds")
                return False
            other.hear("data", data)
        if fin:
            self.ended = True
            other.hear("end")
        self._blocked = self._unread >= WINDOW
        return not self._blocked

    def end(self) -> None:
        self.write(b"", True)

    def reset(self, code: Code, message: str = "") -> None:
        other = self.other
        if self.over:
            return
        self.finish()
        if other is not None:
            other.hear_last("reset", code, message)

    def consumed(self, n: int) -> None:
        other = self.other
        if not self.over and other is not None:
            other.taken(n)

    def opened(self, head: bytes, fin: bool = False) -> None:
        other = self.other
        if self.over or self.answered or other is None:
            return
        self.answered = True
        if fin:
            self.ended = True
        other.hear("head", head, fin)

    def respond(self, head: bytes, body: bytes) -> None:
        self.opened(head, not body)
        if body:
            self.write(body, True)

    def refuse(self, code: Code, message: str) -> None:
        other = self.other
        if self.over or other is None:
            return
        self.finish()
        other.hear_last("reset" if self.answered else "refused", code, message)

    # -- between the two ends ------------------------------------------------------------------------------------------

    def hear(self, what: str, first: Any = None, second: Any = None) -> None:
        """The sink is to hear this, in its turn."""
        if self.over:
            return
        self._queue.append((what, first, second))
        if not self._due:
            self._due = True
            self._session.later(self._deliver)

    def hear_last(self, what: str, code: Code, message: str) -> None:
        """The sink is to hear of the end, and of nothing that was before it and not heard yet."""
        self._queue.clear()
        self.hear(what, code, message)

    def taken(self, n: int) -> None:
        """The other side has dealt with so many of our bytes."""
        self._unread = max(0, self._unread - n)
        if self._blocked and self._unread <= WINDOW // 2:
            self._blocked = False
            self.hear("writable")

    def finish(self) -> None:
        """Over, at this end."""
        self.over = True
        self._queue.clear()
        self._session.gone(self)

    def give_back(self, message: str) -> None:
        """The accepting side could not do anything with it."""
        self.refuse(Code.INTERNAL, message)

    def give_up(self, message: str) -> None:
        """A fault on this side: both hear of it."""
        other, sink = self.other, self.sink
        self.finish()
        if other is not None:
            other.hear_last("reset", Code.INTERNAL, message)
        if sink is not None:
            self._session.later(lambda: self.tell(sink.on_reset, Code.INTERNAL, message))

    def tell(self, call: Callable[..., None], *arguments: Any) -> None:
        """A last word to the sink, which may fail without harm."""
        try:
            call(*arguments)
        except Exception as error:
            _log.error("a stream's sink failed", stream=self.id, error=repr(error), exc_info=error)

    def _deliver(self) -> None:
        self._due = False
        for _unused in range(len(self._queue)):  # what is queued meanwhile has a turn of its own
            if not self._queue or self.over:
                break
            what, first, second = self._queue.popleft()
            if what in ("reset", "refused"):
                self._last(what, first, second)
                return
            if not self._heard(what, first, second):
                return
        if self._queue and not (self._due or self.over):
            self._due = True
            self._session.later(self._deliver)

    def _last(self, what: str, code: Code, message: str) -> None:
        sink = self.sink
        self.finish()
        if sink is not None:
            self.tell(sink.on_reset if what == "reset" else sink.on_refused, code, message)

    def _heard(self, what: str, first: Any, second: Any) -> bool:
        sink = self.sink
        if sink is None:
            return False
        try:
            match what:
                case "data":
                    sink.on_data(first)
                case "head":
                    self.heard_end = self.heard_end or second
                    sink.on_head(first, second)
                case "end":
                    self.heard_end = True
                    sink.on_end()
                case _:
                    sink.on_writable()
        except Exception as error:
            _log.error("a stream's sink failed", stream=self.id, error=repr(error), exc_info=error)
            if not self.over:
                self.give_up("internal error")
            return False
        self._done()
        return True

    def _done(self) -> None:
        """Both halves have ended, and both sides know: nothing is kept."""
        other = self.other
        if other is not None and self.closed and other.closed and not (self._queue or other._queue):
            self.finish()
            other.finish()
