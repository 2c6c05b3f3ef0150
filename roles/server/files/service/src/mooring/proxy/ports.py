# SPDX-License-Identifier: Apache-2.0
"""The two halves that an exchange joins, as the proxy sees them.

Why: the chain and the relay are written, and tested, against these few methods; the edge implements `Client`, the
tunnel and the HTTP/1.1 pool implement `Upstream`. It must not hold any behaviour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mooring.tunnel.hub import Lost
from mooring.tunnel.stream import APISERVER, StreamOpener
from mooring.wire.frames import Code
from mooring.wire.headers import ResponseHead
from mooring.wire.plainhead import PlainHead


class Client(Protocol):
    """The client's half of one exchange. No method blocks; after `finish` or `abort` none may be called."""

    source: str
    """The client's address, without its port."""
    request_id: str
    """Ours; the client's own is not trusted. Sent with every response."""

    def respond(self, head: ResponseHead | PlainHead, fin: bool) -> None:
        """Send the head, which must not hold hop-by-hop headers; `fin`: no body follows (call `finish` all the same).

        Raises FramingError when its Content-Length cannot be kept.
        """

    def write(self, data: bytes) -> bool:
        """Send a piece of body (after `switch`: raw bytes). It is always taken.

        False: the client reads slowly, write no more until `Handler.client_drained`. Raises FramingError for more than
        the head promised.
        """

    def finish(self) -> None:
        """The response is complete (after `switch`: we send no more). Raises FramingError for less than promised."""

    def switch(self, head: ResponseHead) -> None:
        """Send this 101; from here on both directions are raw."""

    def pause(self) -> None:
        """Stop reading the request until `resume`: upstream is full."""

    def resume(self) -> None:
        """Read on."""

    def belongs_to(self, user_id: str) -> bool:
        """Count the connection as this user's from now on. False: they have as many as they may."""

    def abort(self) -> None:
        """Cut the connection now; a response that is under way ends visibly incomplete."""


class Handler(Protocol):
    """What the client's half tells the exchange. Never called after `client_gone`."""

    def client_data(self, data: bytes) -> None:
        """A piece of the request body (after `switch`: raw bytes)."""

    def client_end(self) -> None:
        """The request body is complete (after `switch`: the client sends no more)."""

    def client_drained(self) -> None:
        """There is room again after a `write` that returned False."""

    def client_gone(self) -> None:
        """The client has disconnected."""


class Upstream(Protocol):
    """What a tunnel's `Stream` and the pool's `UpstreamRequest` have in common."""

    def write(self, data: bytes, fin: bool = False) -> bool:
        """Send a piece of body; False: no more until `on_writable`."""

    def end(self) -> None:
        """The body is complete."""

    def reset(self, code: Code, message: str = "") -> None:
        """Give up at once; nothing is heard from it any more."""

    def consumed(self, n: int) -> None:
        """`n` bytes that it delivered have been passed on."""


class Hub(Protocol):
    """Where live sessions are found; `tunnel.hub.Hub` is it."""

    def session_for(self, cluster_id: str, *, target: str = APISERVER) -> StreamOpener | None:
        """A session of the cluster's agent that takes streams to this target, or None."""

    def expected(self, cluster_id: str) -> bool:
        """Whether a session is to be expected within seconds: the agent is connected to another process."""

    def wait_for(
        self, cluster_id: str, callback: Callable[[StreamOpener | None], None], seconds: float
    ) -> Callable[[], None]:
        """Call back with the next session, or None when none came in time. Returns what ends the wait."""

    def last_lost(self, cluster_id: str) -> Lost | None:
        """When and why the last session went, since this process started."""
