# SPDX-License-Identifier: Apache-2.0
"""Joins a client and an upstream for one exchange: bytes both ways, back-pressure both ways, one end.

Why: the proxy (tunnel stream upstream) and the REST route (HTTP/1.1 pool upstream) move bytes in the same way and
differ only in how an answer is rewritten, how a failure is said, and what is written down at the end. Subclasses say
that.

    client_data ->  upstream.write    False: client.pause   ... on_writable    -> client.resume
    client.write <- on_data           False: hold credit    ... client_drained -> upstream.consumed

It must not: buffer (what the client has not taken is not acknowledged upstream, so the window closes), retry, or leave
one side open when the other is gone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from mooring.proxy.ports import Client, Upstream
from mooring.wire.frames import Code
from mooring.wire.headers import ResponseHead
from mooring.wire.http1_writer import FramingError
from mooring.wire.plainhead import PlainHead


class Relay(ABC):
    """One exchange under way. Handler of the client's half and sink of the upstream's."""

    __slots__ = (
        "_client_ended",
        "_held",
        "_upstream",
        "_upstream_ended",
        "bytes_in",
        "bytes_out",
        "client",
        "code",
        "over",
        "raw",
    )

    def __init__(self, client: Client, *, client_ended: bool) -> None:
        self.client = client
        self.code = 0
        """Status that the client was given; 0 before."""
        self.over = False
        self.raw = False
        """After a 101."""
        self.bytes_in = 0
        self.bytes_out = 0
        self._upstream: Upstream | None = None
        self._client_ended = client_ended
        self._upstream_ended = False
        self._held = 0

    # -- what a subclass says --------------------------------------------------------------------------------------

    @abstractmethod
    def accept(self, head: ResponseHead) -> ResponseHead:
        """The head as the client may see it. For a 101, with `Connection` and `Upgrade`. Raises FramingError."""

    @abstractmethod
    def fail(self, code: Code, message: str, *, sent: bool) -> None:
        """Answer the client, which has no head yet. `sent`: the request may have had effects."""

    @abstractmethod
    def done(self, outcome: str) -> None:
        """The exchange is over; called once. `outcome` is empty when it ended by itself."""

    # -- from the client -------------------------------------------------------------------------------------------

    def client_data(self, data: bytes) -> None:
        self.bytes_in += len(data)
        if self._upstream is not None and not self._upstream.write(data):
            self.client.pause()

    def client_end(self) -> None:
        if self._client_ended:
            return  # there was no body, and upstream has been told so
        self._client_ended = True
        if self._upstream is not None:
            self._upstream.end()
        if self.raw and self._upstream_ended:
            self._finish("")

    def client_drained(self) -> None:
        held, self._held = self._held, 0
        if held and self._upstream is not None:
            self._upstream.consumed(held)

    def client_gone(self) -> None:
        if not self.over:
            self._finish("client gone")

    # -- from upstream ---------------------------------------------------------------------------------------------

    def answered(self, head: ResponseHead | PlainHead, fin: bool) -> None:
        """The head of the response (a subclass calls this from its `on_head`). A plain one holds nothing to filter."""
        if self.over:
            return
        if self.code:
            self.break_off("a second head")
            return
        try:
            if not isinstance(head, PlainHead):
                head = self.accept(head)
                if head.status == 101:
                    self.raw = True
                    self.code = 101
                    self.client.switch(head)
            if not self.raw:
                self.client.respond(head, fin)
                self.code = head.status
        except (FramingError, ValueError) as error:
            self.code = 0
            self.raw = False
            self._drop_upstream(Code.PROTOCOL, "bad response head")
            self.fail(Code.PROTOCOL, str(error), sent=True)
            return
        if fin:
            self.on_end()

    def on_data(self, data: bytes) -> None:
        if self.over:
            return
        if not self.code:
            self.break_off("data before a head")
            return
        self.bytes_out += len(data)
        try:
            room = self.client.write(data)
        except FramingError as error:
            self.break_off(str(error))
            return
        if room and self._upstream is not None:
            self._upstream.consumed(len(data))
        else:
            self._held += len(data)

    def on_end(self) -> None:
        if self.over:
            return
        self._upstream_ended = True
        if not self.code:
            self.break_off("an end before a head")
            return
        try:
            self.client.finish()
        except FramingError as error:
            self.break_off(str(error))
            return
        if not self.raw or self._client_ended:
            self._finish("")

    def on_reset(self, code: Code, message: str) -> None:
        self._lost(code, message, sent=True)

    def on_refused(self, code: Code, message: str) -> None:
        self._lost(code, message, sent=False)

    def on_writable(self) -> None:
        if not self.over:
            self.client.resume()

    # -- endings ---------------------------------------------------------------------------------------------------

    def break_off(self, why: str) -> None:
        """The upstream broke the rules: end both sides, so that the client sees that the answer is not whole."""
        if self.over:
            return
        if self.code:
            self.client.abort()
            self._finish(f"broken upstream: {why}")
        else:
            self._drop_upstream(Code.PROTOCOL, why)
            self.fail(Code.PROTOCOL, why, sent=True)

    def _lost(self, code: Code, message: str, *, sent: bool) -> None:
        if self.over:
            return
        self._upstream = None
        if self.code:
            self.client.abort()
            self._finish(f"upstream reset: {code.name} {message}"[:256])
        else:
            self.fail(code, message, sent=sent)

    def _drop_upstream(self, code: Code, why: str) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.reset(code, why)

    def _finish(self, outcome: str) -> None:
        self.over = True
        if not (self._upstream_ended and self._client_ended):
            self._drop_upstream(Code.CANCEL, outcome or "answered before the request was complete")
        self._upstream = None
        self.done(outcome)
