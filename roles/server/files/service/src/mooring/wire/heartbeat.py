# SPDX-License-Identifier: Apache-2.0
"""When to ask whether the peer is still there, and when to give it up.

Exists so that every wait of a session has a deadline in one place: for HELLO, and for any sign of life after it. It
must not read a clock: the time is an argument, in seconds of any clock that does not go back.
"""

from __future__ import annotations

from mooring.wire.flow import Limits
from mooring.wire.frames import PING_SIZE, Code, RemoteError

LATE = 1.0  # a tick that comes so much after its deadline means that this process stood still, not the peer


class Heartbeat:
    """The deadlines of one session."""

    __slots__ = ("_limits", "_ping_after", "_pings", "_started", "_waiting", "greeted", "heard")

    def __init__(self, limits: Limits, now: float, patience: float = 0.0) -> None:
        self._limits = limits
        self._ping_after = limits.ping_after + patience
        self._started = now
        self._pings = 0
        self._waiting: tuple[bytes, float] | None = None  # the PING that is not answered yet, and when it was made
        self.heard = now  # when the newest frame came; the owner sets it
        self.greeted = False  # whether HELLO came; the owner sets it

    def deadline(self) -> float:
        """When `due` wants to be asked next."""
        if not self.greeted:
            return self._started + self._limits.hello_timeout
        since = self.heard if self._waiting is None else max(self.heard, self._waiting[1])
        return min(since + self._ping_after, self.heard + self._limits.dead_after)

    def due(self, now: float) -> bool:
        """Whether a PING is due. Raises RemoteError(TIMEOUT) when the peer has been silent for too long."""
        late = now - self.deadline()
        if late < 0:
            return False
        if not self.greeted:
            raise RemoteError(Code.TIMEOUT, f"no HELLO within {self._limits.hello_timeout:g} s")
        if now - self.heard >= self._limits.dead_after:
            if late <= LATE:
                raise RemoteError(Code.TIMEOUT, f"nothing was received for {self._limits.dead_after:g} s")
            # What the peer sent meanwhile may wait in a buffer of ours. Ask once more.
            self.heard = now - self._limits.dead_after + 2 * LATE
        return True

    def ping(self, now: float) -> bytes:
        """The payload of a new PING; an older one that is not answered yet is forgotten."""
        self._pings += 1
        payload = self._pings.to_bytes(PING_SIZE, "big")
        self._waiting = (payload, now)
        return payload

    def pong(self, payload: bytes, now: float) -> float | None:
        """The round trip in seconds, or None for an answer to an older PING, or to none."""
        if self._waiting is None or self._waiting[0] != payload:
            return None
        rtt = now - self._waiting[1]
        self._waiting = None
        return rtt
