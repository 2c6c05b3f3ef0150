# SPDX-License-Identifier: Apache-2.0
"""When to give a sign of life, when to ask for one, and when to give the peer up.

Exists so that every wait of a session has a deadline in one place: for HELLO, and for any sign of life after it. It
must not read a clock: the time is an argument, in seconds of any clock that does not go back.

A session is *in use* while it has streams, and for `ping_after` seconds of silence after them: silence is answered with
a PING, and `dead_after` seconds of it end the session. Otherwise it is *at rest*: nothing waits for the peer, and bytes
are what counts. Then only the server speaks, a PULSE every `interval` seconds that nobody answers. The agent hears it.
The server sees that TCP has delivered it, and asks with a PING now and then, since TCP speaks for the machine only.
"""

from __future__ import annotations

from typing import Final

from mooring.wire.flow import Limits
from mooring.wire.frames import PING, PING_SIZE, PULSE, Code, RemoteError

LATE: Final = 1.0  # a tick that comes so much after its deadline means that this process stood still, not the peer
INTERVAL: Final = 15.0  # between two PULSEs, unless the agent wants another (message `pulse`)
SHORTEST, LONGEST = 5.0, 300.0  # ... which is within these
GRACE: Final = 5.0  # after the interval: the peer is dead
DELIVERY: Final = 3.0  # for TCP to deliver a PULSE, before it is asked for
DOUBT: Final = 1.0  # after the interval: the agent asks
ASK_EVERY: Final = 600.0  # without a frame of the agent, after which a PING goes instead of a PULSE


class Heartbeat:
    """The deadlines of one session. `pulses`: this side gives the PULSEs."""

    __slots__ = (
        "_asked",
        "_final",
        "_interval",
        "_limits",
        "_ping_after",
        "_pings",
        "_proof",
        "_proved",
        "_pulsed",
        "_pulses",
        "_started",
        "_waiting",
        "greeted",
        "heard",
        "resting",
    )

    def __init__(self, limits: Limits, now: float, pulses: bool) -> None:
        self._limits = limits
        self._pulses = pulses
        self._ping_after = limits.ping_after + (0.0 if pulses else 0.5)  # so that one side asks, not both
        self._interval = INTERVAL
        self._started = now
        self._pings = 0
        self._waiting: bytes | None = None  # the PING that is not answered yet
        self._asked = now  # when the newest PING was made
        self._pulsed = now  # when the newest PULSE was made, or the PING in its place
        self._proved = True  # whether TCP has delivered it
        self._proof = now  # when the newest one was made of which that is known
        self._final: float | None = None  # when a peer in doubt is given up, unless it is heard
        self.heard = now  # when the newest frame came; the owner sets it
        self.greeted = False  # whether HELLO came; the owner sets it
        self.resting = False

    def deadline(self) -> float:
        """When `due` wants to be asked next."""
        if not self.greeted:
            return self._started + self._limits.hello_timeout
        alive = max(self.heard, self._proof)
        if not self.resting:
            since = self.heard if self._waiting is None else max(self.heard, self._asked)
            return min(since + self._ping_after, alive + self._limits.dead_after)
        last = alive + self._interval + GRACE
        if self._final is not None and self.heard <= self._final - GRACE:
            last = min(last, self._final)
        if not self._pulses:
            since = self.heard if self._waiting is None else max(self.heard, self._asked)
            return min(since + self._interval + DOUBT, last)
        if self._proved or self.heard > self._pulsed:
            return min(self._pulsed + self._interval, last)
        return min(max(self._pulsed, self._asked) + DELIVERY, last)

    def due(self, now: float, busy: bool, delivered: bool) -> int | None:
        """What is to be sent now: PING, PULSE or nothing. Raises RemoteError(TIMEOUT) when the peer is given up.

        `busy`: there are streams. `delivered`: TCP has brought everything that was sent to the peer's machine.
        """
        late = now - self.deadline()
        if late < 0:
            return None
        if not self.greeted:
            raise RemoteError(Code.TIMEOUT, f"no HELLO within {self._limits.hello_timeout:g} s")
        if self._pulses and delivered and self.resting and not self._proved:
            self._proved, self._proof = True, self._pulsed
            if self.deadline() > now:
                return None
        patience = self._interval + GRACE if self.resting else self._limits.dead_after
        alive = max(self.heard, self._proof)
        final = self._final if self._final is not None and self.heard <= self._final - GRACE else None
        if now - alive >= patience or (final is not None and now >= final):
            if late <= LATE:
                raise RemoteError(Code.TIMEOUT, f"nothing was received for {now - alive:.0f} s")
            # What the peer sent meanwhile may wait in a buffer of ours. Ask once more.
            self.heard = now - patience + 2 * LATE
            self._final = None
            return PING
        if not self.resting:
            if busy:
                return PING
            self.resting = True
            return self._pulse(now) if self._pulses else None
        if busy:
            self.stir(now)
            return PING
        if self._pulses and (self._proved or self.heard > self._pulsed):
            return self._pulse(now)
        return PING

    def _pulse(self, now: float) -> int:
        unanswered = self._waiting is not None and self.heard < self._asked
        if unanswered and now - self._asked >= self._limits.dead_after:
            raise RemoteError(Code.TIMEOUT, f"a PING was not answered for {now - self._asked:.0f} s")
        self._pulsed, self._proved = now, False
        return PING if now - self.heard >= ASK_EVERY and not unanswered else PULSE

    def stir(self, now: float) -> None:
        """Streams begin on a session at rest: their deadlines begin now."""
        self.resting = False
        self.heard = max(self.heard, now)

    def rest(self, interval: float, now: float) -> None:
        """The interval of PULSEs is another one from now on."""
        self._interval = min(max(interval, SHORTEST), LONGEST)
        if self.resting and not self._pulses:
            self.heard = max(self.heard, now)  # the one before may have been longer

    def doubt(self, now: float) -> bool:
        """There is reason to think that the peer is dead: give it up unless it answers soon. False: it is asked often
        enough anyway."""
        if not self.resting or not self.greeted:
            return False
        if self._final is None or self.heard > self._final - GRACE:
            self._final = now + GRACE
        return True

    def ping(self, now: float) -> bytes:
        """The payload of a new PING; an older one that is not answered yet is forgotten."""
        self._pings += 1
        self._waiting = self._pings.to_bytes(PING_SIZE, "big")
        self._asked = now
        return self._waiting

    def pong(self, payload: bytes, now: float) -> float | None:
        """The round trip in seconds, or None for an answer to an older PING, or to none."""
        if self._waiting is None or self._waiting != payload:
            return None
        self._waiting = None
        return now - self._asked
