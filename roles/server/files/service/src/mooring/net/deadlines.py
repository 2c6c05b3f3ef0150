# SPDX-License-Identifier: Apache-2.0
"""Deadlines for many short waits, with one timer of the event loop.

Why: a timer per request costs more than the request's own book-keeping, and nearly all are cancelled. Waits of the same
length end in the order in which they began, so each length has a queue, and the loop's timer is set for the first.

It must not: keep what was dropped, or be early or late by more than the resolution of the loop's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

RESOLUTION = 0.001
"""Seconds; a loop may call back so much before the time that was asked for (uvloop counts whole milliseconds)."""


class Waits(Protocol):
    """What waits for something."""

    def late(self) -> None:
        """It did not come in time."""


class Timer(Protocol):
    """What `call_at` of a loop gives."""

    def cancel(self) -> None:
        """Do not call."""


class Loop(Protocol):
    """What is used of the event loop."""

    def time(self) -> float:
        """Seconds from an arbitrary start."""

    def call_at(self, when: float, callback: Callable[[], Any], /) -> Timer:
        """Call back at that time."""


class Deadlines:
    """Tells what was not dropped in time. For `loop`, or else the one that runs at the first `add`."""

    def __init__(self, loop: Loop | None = None) -> None:
        # seconds -> who -> when it is due, in the order of `add`
        self._queues: dict[float, dict[Waits, float]] = {}
        self._loop = loop
        self._timer: Timer | None = None
        self._at = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, seconds: float, who: Waits) -> None:
        """Have `who` told in `seconds`, unless it is dropped before. A second time for one length starts it over."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = {}
        queue.pop(who, None)
        queue[who] = due
        if self._timer is None or due < self._at:
            self._arm(due)

    def drop(self, seconds: float, who: Waits) -> None:
        """It is not waited for any more. Does nothing when it was not."""
        queue = self._queues.get(seconds)
        if queue is not None:
            queue.pop(who, None)

    def clear(self) -> None:
        """Forget everything."""
        self._queues.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        assert self._loop is not None
        self._at = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """The timer: tells those who are due, and is set anew for the first of the rest."""
        assert self._loop is not None
        self._timer = None
        now = self._loop.time()
        for queue in list(self._queues.values()):
            while queue:
                who, due = next(iter(queue.items()))
                if due > now + RESOLUTION:
                    break
                del queue[who]
                who.late()
        firsts = [next(iter(queue.values())) for queue in self._queues.values() if queue]
        if firsts and (self._timer is None or min(firsts) < self._at):
            self._arm(min(firsts))
