# SPDX-License-Identifier: Apache-2.0
"""Requests per second, latency and CPU per request for a 3 KB body, and bytes per second for 10 MB, on every road.

Rounds interleave the roads: within a round each is loaded for the same seconds, one after the other, at each number of
connections. CPU time is that of all processes of server and agent over the same seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import roads, stats, wrk
from bench.context import Bench
from bench.processes import Failed, Processes, cpu_seconds
from bench.roads import Road
from bench.upstream import BULK, SMALL, nginx, stub

CONNECTIONS = (1, 8, 32, 128)
QUICK_CONNECTIONS = (1, 32)
BULK_CONNECTIONS = 4
THEIRS = ("direct", "nginx", "peer")
PERCENTILES = ("50", "90", "99")


@dataclass(frozen=True, slots=True)
class Measured:
    """One road's load in one round, and the CPU seconds that it cost."""

    load: wrk.Load
    server: float
    agent: float


Runs = dict[tuple[str, int], list[Measured]]


def one(road: Road, path: str, connections: int, seconds: float) -> Measured:
    """Load a road once."""
    server, agent = cpu_seconds(road.server), cpu_seconds(road.agent)
    load = wrk.run(road.url + path, road.token, connections, seconds)
    return Measured(load, cpu_seconds(road.server) - server, cpu_seconds(road.agent) - agent)


def measure(ways: Sequence[Road], path: str, connections: Sequence[int], rounds: int, seconds: float) -> Runs:
    """All rounds."""
    runs: Runs = defaultdict(list)
    for road in ways:
        wrk.warm(road.url + path, road.token, min(8, max(connections)))
    for _unused in range(rounds):
        for count in connections:
            for road in ways:
                runs[road.name, count].append(one(road, path, count, seconds))
    return runs


def row(name: str, body: str, connections: int, runs: Sequence[Measured]) -> dict[str, object]:
    """A row of the table: medians over the rounds, CPU over all of them."""
    requests = sum(run.load.requests for run in runs)
    return {
        "path": name,
        "body": body,
        "connections": connections,
        "rate": stats.median([run.load.rate for run in runs]),
        "mb_per_s": stats.median([run.load.megabytes for run in runs]),
        **{f"p{p}": stats.median([run.load.latency[p] for run in runs]) for p in PERCENTILES},
        "cpu_server_us": sum(run.server for run in runs) / requests * 1e6,
        "cpu_agent_us": sum(run.agent for run in runs) / requests * 1e6,
        "errors": sum(run.load.errors for run in runs),
        "latency": {p: stats.median([run.load.latency[p] for run in runs]) for p in runs[0].load.latency},
    }


def cpu_per_request(runs: Sequence[Measured]) -> float:
    """CPU seconds of server and agent for each request."""
    return sum(run.server + run.agent for run in runs) / sum(run.load.requests for run in runs)


def ratio(ours: Sequence[Measured], theirs: Sequence[Measured], what: str) -> float:
    """A figure of ours over theirs, by rounds: "rate", or a percentile such as "99"."""

    def figure(run: Measured) -> float:
        return run.load.rate if what == "rate" else run.load.latency[what]

    return stats.paired_ratio([figure(run) for run in ours], [figure(run) for run in theirs])


def start(bench: Bench, processes: Processes) -> list[Road]:
    """All roads, each checked with a call. Raises Failed."""
    behind = stub(processes, bench.programs, bench.trust, "00000000-0000-4000-8000-000000000001")
    upstream = nginx(processes, bench.folder, bench.trust, behind)
    ways = [
        roads.direct(upstream),
        roads.nginx(processes, bench.folder, upstream),
        roads.peer(processes, bench.programs, upstream),
        roads.mooring(processes, bench.folder, bench.build, upstream),
    ]
    if bench.options.quick:
        ways = [way for way in ways if way.name not in ("nginx",)]
    elif roads.has_workers(bench.folder / bench.build.name):
        ways.append(
            roads.mooring(processes, bench.folder, bench.build, upstream, name="mooring-1", settings={"workers": "1"})
        )
    ways += [roads.mooring(processes, bench.folder, build, upstream) for build in bench.more]
    return [roads.ready(way, processes.logs) for way in ways]


def run(bench: Bench) -> None:
    """Measure rates. Raises Failed."""
    with Processes(bench.folder) as processes:
        small(bench, start(bench, processes), CONNECTIONS)


def run_bulk(bench: Bench) -> None:
    """Measure bulk. Raises Failed."""
    with Processes(bench.folder) as processes:
        bulk(bench, start(bench, processes))


def run_quick(bench: Bench) -> None:
    """Both, on the roads that a developer compares. Raises Failed."""
    with Processes(bench.folder) as processes:
        ways = start(bench, processes)
        small(bench, ways, QUICK_CONNECTIONS)
        bulk(bench, [way for way in ways if way.name != "direct"])


def small(bench: Bench, ways: Sequence[Road], counts: Sequence[int]) -> None:
    """The 3 KB body. Raises Failed."""
    runs = measure(ways, SMALL, counts, bench.options.rounds, bench.options.seconds)
    bench.rows += [row(way.name, "3 KB", count, runs[way.name, count]) for count in counts for way in ways]
    keep(bench, ways, lambda name: small_figures(runs, name))


def small_figures(runs: Runs, name: str) -> dict[str, float]:
    """The goals' figures of one road. Raises Failed."""
    ours1, ours32, theirs1, theirs32 = runs[name, 1], runs[name, 32], runs["peer", 1], runs["peer", 32]
    if cpu_per_request(theirs32) <= 0:
        raise Failed("the peer's CPU time could not be read")
    added = [a.load.latency["50"] - b.load.latency["50"] for a, b in zip(ours1, runs["direct", 1], strict=True)]
    return {
        "cpu_per_request_ratio": cpu_per_request(ours32) / cpu_per_request(theirs32),
        "p50_c1_ratio": ratio(ours1, theirs1, "50"),
        "added_latency_ms": stats.median(added),
        "throughput_c32_ratio": ratio(ours32, theirs32, "rate"),
        "p99_c32_ratio": ratio(ours32, theirs32, "99"),
    }


def bulk(bench: Bench, ways: Sequence[Road]) -> None:
    """The 10 MB body. Raises Failed."""
    count = BULK_CONNECTIONS
    runs = measure(ways, BULK, (count,), bench.options.rounds, bench.options.seconds)
    bench.rows += [row(way.name, "10 MB", count, runs[way.name, count]) for way in ways]
    theirs = [run.load.megabytes for run in runs["peer", count]]
    keep(
        bench,
        ways,
        lambda name: {"bulk_ratio": stats.paired_ratio([run.load.megabytes for run in runs[name, count]], theirs)},
    )


def keep(bench: Bench, ways: Sequence[Road], figures: Callable[[str], dict[str, float]]) -> None:
    """The figures of the road that the goals are for, and of our others. Raises what `figures` does."""
    bench.values |= figures(bench.build.name)
    for name in (way.name for way in ways):
        if name not in (*THEIRS, bench.build.name):
            bench.others.setdefault(name, {}).update(figures(name))
