# SPDX-License-Identifier: Apache-2.0
"""A small call while another connection reads without end, over a link of 2 MiB/s between server and agent.

The client stands at the server, the cluster (the stub) at the agent; only the tunnel crosses the slow link. What the
small call waits for is what the tunnel put on the link before it.
"""

from __future__ import annotations

from bench import roads
from bench.context import Bench
from bench.link import Link
from bench.processes import Processes
from bench.upstream import BULK, SMALL, Trust, stub

RATE = 2 * 1024 * 1024
"""Bytes per second of the link."""
SECONDS = 10.0
UID = "00000000-0000-4000-8000-000000000002"


def run(bench: Bench) -> None:
    """Measure the peer and Mooring, one after the other. Raises Failed."""
    for name in ("direct", "peer", bench.build.name):
        with Link(RATE) as link, Processes(bench.folder) as processes:
            road = start(bench, processes, link, name)
            found = bench.load(
                "beside", road.ca, bench.tokens(road.token), "-small", road.url + SMALL, "-bulk", road.url + BULK,
                seconds=SECONDS,
            )  # fmt: skip
        bench.rows.append({"path": name, **found})
    bench.values["small_beside_bulk_ms"] = bench.rows[-1]["p50"]


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
        road = roads.mooring(processes, folder, bench.build, upstream, address=link.near, inside=link.inside)
    return roads.ready(road, processes.logs)
