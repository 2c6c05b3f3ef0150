# SPDX-License-Identifier: Apache-2.0
"""One fault from beginning to end: is all well, break it, heal it, wait until all is well again, judge.

This module must not know how a fault is made.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from faults import verdict
from faults.catalogue import Fault
from faults.probe import Probes

POLL = 0.25
PATIENCE = 90.0
"""Seconds that a drill waits for what should take a tenth of it: the machine may be busy."""


@dataclass
class Result:
    """What came out. `recovery`: seconds from the healing until every channel had worked; `longest`: how long a client
    waited for bad news; `seen`: outcomes by channel; `problems`: what should not have been; `noticed`: seconds until
    the server said that the cluster is away, where nobody asked."""

    name: str
    title: str
    hold: float
    bound: float
    recovery: float
    longest: float
    seen: dict[str, dict[str, int]]
    messages: list[str]
    problems: list[str]
    noticed: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def wait(probes: Probes, moment: float, when: str) -> dict[str, float]:
    """Wait until each channel has worked since a moment; when each did. Raises AssertionError after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while True:
        worked = probes.worked_since(moment)
        if None not in worked.values():
            return {name: at for name, at in worked.items() if at is not None}
        if time.monotonic() > end:
            last = {name: probes.channels[name].outcomes[-1:] for name, at in worked.items() if at is None}
            raise AssertionError(f"{when} these do not work: {last}")
        time.sleep(POLL)


def drill(probes: Probes, fault: Fault, hold: float | None = None) -> Result:
    """Run one fault. Raises AssertionError when it does not work again in PATIENCE seconds."""
    lasts = fault.hold if hold is None else hold
    wait(probes, time.monotonic(), f"before {fault.name}")
    start = verdict.mark(probes)
    probes.bed.noticed = None
    steps = fault.inject(probes.bed, lasts)
    next(steps)
    healed = time.monotonic()
    for _unused in steps:
        pass
    worked = wait(probes, healed, f"after {fault.name}")
    outcomes = verdict.since(probes, start)
    problems = verdict.check(probes, start)
    for name, some in outcomes.items():
        bad = [o for o in some if o.kind in ("status", "closed")]
        if name in fault.untouched and bad:
            problems.append(f"{name} should not notice: {bad[:3]}")
        odd = [o for o in bad if o.kind == "status" and o.code not in fault.codes]
        if odd:
            problems.append(f"{name} saw a status that is not foreseen: {odd[:3]}")
    messages = sorted({f"{o.code} {o.detail}" for some in outcomes.values() for o in some if o.kind == "status"})
    recovery = max(worked.values()) - healed
    return Result(
        fault.name,
        fault.title,
        lasts,
        fault.bound,
        round(recovery, 2),
        round(verdict.longest(outcomes), 2),
        verdict.summary(outcomes),
        messages[:12],
        problems,
        None if probes.bed.noticed is None else round(probes.bed.noticed, 1),
    )
