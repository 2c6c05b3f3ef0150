# SPDX-License-Identifier: Apache-2.0
"""The time at which rights end: the server's, as far as it is known, also while the server is away.

It goes by the monotonic clock from one word of the server to the next, and never behind this machine's clock as it was
corrected then: a clock that is set back, and a machine that slept, lengthen no right.

It must not: correct without a bound. A server that is wrong about the time can shorten or lengthen a right by an hour.
"""

from __future__ import annotations

from typing import Final

from mooring.agent.servertime import MOST
from mooring.lib.clock import Clock

PRECISION: Final = 1.5
"""Seconds that a `Date` is wrong by at most: it has whole seconds, and took its way."""


class Timekeeper:
    """Says what time it is at the server."""

    def __init__(self, clock: Clock, offset: float = 0.0) -> None:
        self._clock = clock
        self.offset = max(-MOST, min(MOST, offset))
        """Seconds that the server is ahead of this machine."""
        self._start()

    def now(self) -> float:
        """Unix seconds at the server."""
        return max(self._base + self._clock.monotonic() - self._since, self._clock.now() + self.offset)

    def learn(self, date: float) -> None:
        """The server answered at `date` by its own clock (Unix seconds)."""
        ahead = date + 0.5 - self._clock.now()
        self.offset = 0.0 if abs(ahead) <= PRECISION or abs(ahead) > MOST else ahead
        self._start()

    def _start(self) -> None:
        self._base = self._clock.now() + self.offset
        self._since = self._clock.monotonic()
