# SPDX-License-Identifier: Apache-2.0
"""Many short waits on one timer, in a time of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mooring.net.deadlines import Deadlines


class Handle:
    def __init__(self, when: float, callback: Callable[[], Any]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    def __init__(self) -> None:
        self.now = 1000.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], Any]) -> Handle:
        self.handles.append(Handle(when, callback))
        return self.handles[-1]

    @property
    def live(self) -> list[Handle]:
        return [handle for handle in self.handles if not handle.cancelled]

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((h for h in self.live if h.when <= end), key=lambda h: h.when):
            self.now = max(self.now, due[0].when)
            self.handles.remove(due[0])
            due[0].callback()
        self.now = end


class Waiter:
    def __init__(self, loop: Loop, again: Callable[[], None] | None = None) -> None:
        self.at: list[float] = []
        self._loop = loop
        self._again = again

    def late(self) -> None:
        self.at.append(self._loop.now - 1000.0)
        if self._again is not None:
            self._again()


def test_each_length_ends_in_its_own_time() -> None:
    loop = Loop()
    deadlines, short, long, dropped = Deadlines(loop), Waiter(loop), Waiter(loop), Waiter(loop)
    deadlines.add(90.0, long)
    deadlines.add(5.0, dropped)
    loop.run(1)
    deadlines.add(5.0, short)
    deadlines.drop(5.0, dropped)
    loop.run(100)
    assert (short.at, long.at, dropped.at) == ([6.0], [90.0], [])
    assert not len(deadlines)
    assert not loop.live


def test_a_thousand_waits_need_one_timer() -> None:
    loop = Loop()
    deadlines = Deadlines(loop)
    waiters = [Waiter(loop) for _unused in range(1000)]
    for waiter in waiters:
        deadlines.add(5.0, waiter)
        loop.now += 0.001
    assert len(loop.handles) == 1
    loop.run(5)
    assert [len(waiter.at) for waiter in waiters] == [1] * 1000


def test_who_is_told_may_wait_again() -> None:
    loop = Loop()
    deadlines = Deadlines(loop)
    again = Waiter(loop, lambda: deadlines.add(2.0, again))
    deadlines.add(2.0, again)
    loop.run(7)
    assert again.at == [2.0, 4.0, 6.0]


def test_a_second_time_starts_it_over_and_cleared_is_silent() -> None:
    loop = Loop()
    deadlines, waiter, cleared = Deadlines(loop), Waiter(loop), Waiter(loop)
    deadlines.add(5.0, waiter)
    loop.run(3)
    deadlines.add(5.0, waiter)
    loop.run(20)
    assert waiter.at == [8.0]
    deadlines.add(5.0, cleared)
    deadlines.clear()
    loop.run(20)
    assert not cleared.at
