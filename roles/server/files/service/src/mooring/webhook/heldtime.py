# SPDX-License-Identifier: Apache-2.0
"""What time it is, for tokens that end: a time that never goes back.

Why: whoever sets a node's clock back must not bring an expired token back to life. The time is at least what a signed
document says, what was seen before (also before a restart, if somebody keeps `now`), and what has passed since then by
the monotonic clock. A clock that was ahead once is therefore believed until it is made to forget: tokens end too early,
never too late.

It must not: be made to go back by anything that comes from outside.
"""

from __future__ import annotations

from typing import Final

from mooring.lib.clock import Clock

MOST_AHEAD: Final = 300.0
"""Seconds by which the server's clock may be said to be ahead of this machine's. Nobody signs for that number."""


class HeldTime:
    """A clock with a floor that rises with the time."""

    def __init__(self, clock: Clock, floor: float = 0.0) -> None:
        self._clock = clock
        self._floor = floor
        self._at = clock.monotonic()
        self._ahead = 0.0

    def now(self) -> float:
        """Unix seconds; never less than an answer before."""
        monotonic = self._clock.monotonic()
        passed = max(0.0, monotonic - self._at)
        self._floor = max(self._floor + passed, self._clock.now() + self._ahead)
        self._at = monotonic
        return self._floor

    @property
    def behind(self) -> float:
        """By how many seconds this machine's clock is behind the time that is held; 0 if it is not."""
        return max(0.0, self.now() - self._clock.now() - self._ahead)

    def at_least(self, time: float) -> None:
        """It is known to be so late (Unix seconds)."""
        self._floor = max(self.now(), time)

    def server_ahead(self, seconds: float) -> None:
        """By how much the server's clock is ahead of ours. What would make tokens last longer is not taken."""
        self._ahead = min(max(0.0, seconds), MOST_AHEAD)
