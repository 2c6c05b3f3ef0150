# SPDX-License-Identifier: Apache-2.0
"""How far a bulk transfer may run ahead of its link: a simulated link with a rate, in virtual time."""

from __future__ import annotations

import math

import pytest
from mooring.tunnel.pace import DELAY, LONGEST, MAX_BATCH, MIN_BATCH, SHORTEST, Pace


class Link:
    """Drains what was written at `rate` bytes per second, while a writer with endless data obeys the pace."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.pace = Pace()
        self.now = 0.0
        self.unsent = 0.0
        self.sent = 0.0
        self.most = 0.0
        self.looks = 0

    def wait(self, seconds: float) -> None:
        drained = min(self.unsent, self.rate * seconds)
        self.unsent -= drained
        self.sent += drained
        self.now += seconds

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.unsent += self.pace.batch
            if self.rate == math.inf:
                self.wait(0.0001)
            self.most = max(self.most, self.unsent)
            delay = self.pace.wrote(int(self.unsent), self.now)
            if delay is None:
                self.wait(0.0001)  # one turn of the loop
            while delay is not None:
                assert SHORTEST <= delay <= LONGEST
                self.wait(delay)
                self.looks += 1
                delay = self.pace.look(int(self.unsent), self.now)


@pytest.mark.parametrize("rate", [200e3, 2e6, 10e6, 50e6, 120e6])
def test_a_link_is_kept_busy_and_holds_little(rate: float) -> None:
    link = Link(rate)
    link.run(2)
    link.most = link.sent = 0
    link.run(2)
    assert link.sent > 0.9 * 2 * rate
    # What may be unsent is what the link carries in DELAY, or the first batch; and one batch went on top of half.
    assert link.most <= max(2 * rate * DELAY, MIN_BATCH) * 1.5 + 1


def test_a_link_that_takes_everything_gets_large_batches_and_no_waits() -> None:
    link = Link(math.inf)
    link.run(0.1)
    assert link.pace.batch == MAX_BATCH
    assert link.looks == 0


def test_a_slow_link_is_not_asked_often() -> None:
    link = Link(2e6)
    link.run(2)
    link.looks = 0
    link.run(1)
    assert link.looks < 500


def test_a_link_that_becomes_slow_is_not_flooded_again() -> None:
    link = Link(math.inf)
    link.run(0.1)
    link.rate = 2e6
    link.run(2)
    link.most = 0
    link.run(1)
    assert link.most < 4 * MIN_BATCH


def test_a_link_that_becomes_fast_is_used() -> None:
    link = Link(2e6)
    link.run(2)
    link.rate = 100e6
    link.run(1)
    link.sent = 0
    link.run(1)
    assert link.sent > 90e6


def test_a_link_that_stands_still_is_waited_for() -> None:
    link = Link(2e6)
    link.run(1)
    delay = link.pace.wrote(50_000, link.now)
    for _unused in range(1000):
        assert delay is not None
        link.now += delay
        delay = link.pace.look(50_000, link.now)
    assert link.pace.held
    assert delay == LONGEST
