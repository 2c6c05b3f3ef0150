# SPDX-License-Identifier: Apache-2.0
"""Delays between attempts."""

from __future__ import annotations

from mooring.lib.backoff import Backoff


def test_delays_grow_are_random_and_stay_within_their_bounds() -> None:
    backoff = Backoff(0.5, 30.0)
    delays = [backoff.next() for _unused in range(200)]
    assert all(0.5 <= delay <= 30.0 for delay in delays)
    assert delays[0] <= 1.0
    assert max(delays) > 15.0
    assert len(set(delays)) == 200
    backoff.reset()
    assert backoff.next() <= 1.0


def test_after_a_long_outage_an_agent_is_back_within_ten_seconds() -> None:
    """A server that had been away for minutes was waited for another half a minute by some agents."""
    backoff = Backoff()
    assert max(backoff.next() for _unused in range(300)) <= 10.0
