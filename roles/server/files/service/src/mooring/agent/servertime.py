# SPDX-License-Identifier: Apache-2.0
"""What time it is at the server, by which the agent's JWTs are dated.

Why: the server takes a JWT only within 30 s of its own clock, and a node without NTP would lock its cluster out. A
refusal carries the server's `Date`, over the TLS connection that the pinned CA vouches for, so the agent can date the
next JWT by that.

It must not: correct without a bound. Whoever has a JWT that is dated ahead can use it later; a server that lies about
the time can have one for an hour from now, and no more. It must not change the agent's idea of time for anything else.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from mooring.lib.clock import Clock

NOTABLE: Final = 20.0
"""Seconds of difference that may be why a JWT was refused: the server allows 30, and a Date has whole seconds."""
MOST: Final = 3600.0
"""Seconds that are corrected at most."""


class Verdict(Enum):
    """What a server's Date says about our clock."""

    FINE = "the clocks agree"
    CORRECTED = "this machine's clock differs from the server's; the next JWT is dated by the server's"
    TOO_FAR = "this machine's clock differs from the server's by more than an hour; set it by NTP"


class ServerTime:
    """The clock, with the server's correction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset = 0.0
        """Seconds that the server is ahead of this machine."""

    def now(self) -> float:
        """Unix seconds at the server, as far as is known."""
        return self._clock.now() + self.offset

    def learn(self, date: float) -> Verdict:
        """The server refused a JWT at `date` by its own clock (Unix seconds)."""
        if abs(date - self.now()) <= NOTABLE:
            return Verdict.FINE
        offset = date - self._clock.now()
        if abs(offset) > MOST:
            self.offset = 0.0
            return Verdict.TOO_FAR
        self.offset = offset
        return Verdict.CORRECTED
