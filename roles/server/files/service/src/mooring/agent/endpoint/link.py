# SPDX-License-Identifier: Apache-2.0
"""Whether this agent has a session to a server, and when that is to be written into the cluster.

Who reads it lets an expired token in for a while, where the settings say so, while the server cannot be reached. It is
written when it has been so for `STEADY` seconds: a server that restarts is not worth a write.
"""

from __future__ import annotations

import asyncio
from typing import Final

from mooring.agent.endpoint.vault import Link
from mooring.agent.policy.timekeeper import Timekeeper
from mooring.lib.clock import Clock

STEADY: Final = 2.0
"""Seconds after which a change is written."""
NEVER: Final = 3600.0
"""Seconds until the next look when nothing is to be written."""
NOTABLE: Final = 5.0
"""Seconds of difference between two offsets that are worth a write."""


class LinkState:
    """What is, and what was written."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._connected = False
        self._since = clock.now()
        self._changed = clock.monotonic()
        self._written: Link | None = None
        self.wake = asyncio.Event()
        """Set when it is time to ask `due` again."""

    def set(self, connected: bool) -> None:
        """The agent has a session, or has none any more."""
        if connected != self._connected:
            self._connected = connected
            self._since = self._clock.now()
            self._changed = self._clock.monotonic()
            self.wake.set()

    def now(self, time: Timekeeper) -> Link:
        """As it is to be written."""
        return Link(self._connected, round(self._since + time.offset, 3), round(time.offset, 3))

    def found(self, link: Link | None) -> None:
        """This is what stands in the cluster."""
        self._written = link

    def written(self, link: Link) -> None:
        """This was written."""
        self._written = link

    def due(self, time: Timekeeper) -> float:
        """Seconds until it is to be written."""
        was = self._written
        if was is not None and was.connected == self._connected and abs(was.offset - time.offset) < NOTABLE:
            return NEVER
        return max(0.0, self._changed + STEADY - self._clock.monotonic())
