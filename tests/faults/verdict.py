# SPDX-License-Identifier: Apache-2.0
"""What must hold of the notes that the probes made, whatever broke meanwhile.

    no hang, nothing wrong     each operation had an answer or a visible end, and what looked whole was right
    nothing lost               a write that was acknowledged is in the cluster, a group in the store
    watches are whole          each object once, in order, none left out, over all the times it was cut and resumed
    the audit log knows it     each request that was answered, and each stream that was opened, has its record

This module must not know which fault it was.
"""

from __future__ import annotations

import itertools
import json
import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import Any

from support.road import until

from faults.bed import NAMESPACE, Bed
from faults.probe import Outcome, Probes, right

STREAMS = ("watch", "talk")


@dataclass
class Mark:
    """How far the probes were at a moment, so that a row judges only its own."""

    outcomes: dict[str, int]
    writes: int
    groups: int
    streams: dict[str, int]


def mark(probes: Probes) -> Mark:
    return Mark(
        {name: len(channel.outcomes) for name, channel in probes.channels.items()},
        len(probes.write.acknowledged),
        len(probes.rest.acknowledged),
        {"watch": len(probes.watch.request_ids), "talk": len(probes.talk.request_ids)},
    )


def since(probes: Probes, start: Mark) -> dict[str, list[Outcome]]:
    """The outcomes of each channel since a mark."""
    return {name: channel.outcomes[start.outcomes[name] :] for name, channel in probes.channels.items()}


def check(probes: Probes, start: Mark) -> list[str]:
    """All that must hold, for what happened since the mark: what does not, in words."""
    outcomes = since(probes, start)
    found = []
    for name, some in outcomes.items():
        for outcome in some:
            if outcome.kind in ("hang", "wrong"):
                found.append(f"{name}: {outcome.kind} after {outcome.seconds:.1f} s: {outcome.detail}")
    bed, write = probes.bed, probes.write
    numbers = write.acknowledged[start.writes :]
    found += lost_writes(bed, numbers)
    found += lost_groups(bed, probes.rest.acknowledged[start.groups :])
    found += watch_gaps(probes, numbers)
    found += unrecorded(probes, outcomes, start)
    return found


def lost_writes(bed: Bed, numbers: list[int]) -> list[str]:
    """Acknowledged objects that the API server, asked directly, does not have as they were sent."""
    path = f"{bed.cluster.server}/api/v1/namespaces/{NAMESPACE}/configmaps"
    with urllib.request.urlopen(path, context=bed.cluster.ssl_context(), timeout=30) as answer:
        have = {item["metadata"]["name"]: item for item in json.load(answer)["items"]}
    return [f"write: object {n} was acknowledged and is lost" for n in numbers if not right(have.get(f"p-{n:07d}"), n)]


def lost_groups(bed: Bed, names: list[str]) -> list[str]:
    """Acknowledged groups that the server does not have."""
    have: set[str] = set()
    cursor = ""
    while True:
        page = bed.server.api("GET", f"/groups?limit=500{cursor}")
        have.update(item["name"] for item in page["items"])
        if not page["next"]:
            return [f"rest: group {name} was acknowledged and is lost" for name in names if name not in have]
        cursor = f"&cursor={page['next']}"


def watch_gaps(probes: Probes, numbers: list[int]) -> list[str]:
    """What the watch missed, or saw twice or in another order than it was made."""
    watch = probes.watch
    last = max(numbers, default=0)
    until("the watch has seen the last write", lambda: not numbers or last in watch.seen_at, 60)
    seen = list(watch.seen)
    found = [f"watch: object {n} was never shown" for n in numbers if n not in watch.seen_at]
    found += [f"watch: object {n} was shown {times} times" for n, times in Counter(seen).items() if times > 1]
    # One writer, one request at a time: the order of the numbers is the order in which they were made, but for a
    # request whose client was sent away while the API server still worked on it.
    backwards = [n for before, n in itertools.pairwise(seen) if n < before and n in numbers]
    return found + [f"watch: object {n} came after a later one" for n in backwards]


def unrecorded(probes: Probes, outcomes: dict[str, list[Outcome]], start: Mark, patience: float = 15) -> list[str]:
    """Answered requests without an audit record of their code, and streams without a record of their start."""
    wanted: dict[tuple[str, str], int] = {}
    for name in ("write", "read"):
        for outcome in outcomes[name]:
            if outcome.kind == "ok":
                wanted[outcome.request_id, "complete"] = outcome.code
    for request_id in probes.watch.request_ids[start.streams["watch"] :]:
        wanted[request_id, "start"] = 200
    for request_id in probes.talk.request_ids[start.streams["talk"] :]:
        wanted[request_id, "start"] = 101
    missing: list[Any] = []

    def complete() -> bool:
        have = {(r.get("request_id"), r.get("stage")): r.get("code") for r in probes.bed.audit()}
        missing[:] = [key for key, code in wanted.items() if have.get(key) != code]
        return not missing

    try:
        until("the audit log has them all", complete, patience)
    except AssertionError:
        pass  # said below, with the names
    return [f"audit: no record of request {request_id} ({stage})" for request_id, stage in missing]


def summary(outcomes: dict[str, list[Outcome]]) -> dict[str, dict[str, int]]:
    """How often each channel saw what: {"write": {"ok": 90, "503": 3, "closed": 1}}."""
    return {
        name: dict(Counter(str(o.code) if o.kind == "status" else o.kind for o in some).most_common())
        for name, some in outcomes.items()
    }


def longest(outcomes: dict[str, list[Outcome]]) -> float:
    """Seconds of the longest operation that did not work: how long a client waited for bad news."""
    return max((o.seconds for name, some in outcomes.items() for o in some if o.kind in ("status", "closed")
                and name not in STREAMS), default=0.0)  # fmt: skip
