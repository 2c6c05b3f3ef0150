# SPDX-License-Identifier: Apache-2.0
"""A small call while another connection reads without end, over a link of 2 MiB/s between server and agent.

The client stands at the server, the cluster (the stub) at the agent; only the tunnel crosses the slow link. What the
small call waits for is what the tunnel put on the link before it.
"""

from __future__ import annotations

from bench import roads
from bench.context import Bench
from bench.link import Link
from bench.processes import Failed, Processes
from bench.upstream import BULK, SMALL, Trust, stub

RATE = 2 * 1024 * 1024
"""Bytes per second of the link."""
SECONDS = 10.0
ONE = "mooring-1"
"""Mooring with one worker: both calls are then on one session of the tunnel."""
UID = "00000000-0000-4000-8000-000000000002"


def run(bench: Bench) -> None:
    """Measure each road, one after the other. Raises Failed."""
    for name in ("direct", "peer", bench.build.name, ONE):
        with Link(RATE) as link, Processes(bench.folder) as processes:
            road = start(bench, processes, link, name)
            found = bench.load(
                "beside", road.ca, bench.tokens(road.token), "-small", road.url + SMALL, "-bulk", road.url + BULK,
                seconds=SECONDS,
            )  # fmt: skip
        bench.rows.append({
            "path": name, "calls": found["count"], "errors": found["errors"], "p50_ms": found["p50"],
            "p90_ms": found["p90"], "max_ms": found["max"], "bulk_mb_per_s": found["bulk_mb_per_s"],
        })  # fmt: skip
        if found["errors"] or not found["count"]:
            raise Failed(f"{name}: {found['errors']} calls failed, {found['count']} did not")
    # With several workers the two may use different sessions; the goal is for the harder case, whichever it is.
    ours = [row["p50_ms"] for row in bench.rows if row["path"] in (bench.build.name, ONE)]
    bench.values["small_beside_bulk_ms"] = max(ours)


def start(bench: Bench, processes: Processes, link: Link, name: str) -> roads.Road:
    """One road whose agent and cluster are behind the link. Raises Failed."""
    trust = Trust.make(bench.folder / f"link-{name}", link.near, link.far)
    upstream = stub(processes, bench.programs, trust, UID, address=link.far, inside=link.inside)
    if name == "direct":
        road = roads.direct(upstream)
    elif name == "peer":
        road = roads.peer(processes, bench.programs, upstream, address=link.near, inside=link.inside)
    else:
        folder = bench.folder / name
        road = roads.mooring(
            processes, folder, bench.build, upstream, address=link.near, inside=link.inside,
            settings={"workers": "1"} if name == ONE else {},
        )  # fmt: skip
    return roads.ready(road, processes.logs)
