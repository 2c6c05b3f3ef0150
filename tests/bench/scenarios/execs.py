# SPDX-License-Identifier: Apache-2.0
"""Exec sessions set up and closed in a second, against the stub, which says Success and closes.

Each session is a new connection with its own TLS handshake, as each `kubectl exec` is: client to server, and agent to
cluster.
"""

from __future__ import annotations

from bench import roads, stats
from bench.context import Bench
from bench.processes import Failed, Processes, cpu_seconds
from bench.upstream import stub

PATH = "/api/v1/namespaces/default/pods/p/exec?command=true&stdout=true"
SIDE_BY_SIDE = 16
ROUNDS = 2


def run(bench: Bench) -> None:
    """Measure direct, peer and Mooring in turn. Raises Failed."""
    with Processes(bench.folder) as processes:
        upstream = stub(processes, bench.programs, bench.trust, "00000000-0000-4000-8000-000000000003")
        ways = [
            roads.direct(upstream),
            roads.peer(processes, bench.programs, upstream),
            roads.mooring(processes, bench.folder / "m", bench.build, upstream),
        ]
        ways = [roads.ready(way, processes.logs) for way in ways]
        runs: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
        for _unused in range(ROUNDS):
            for way in ways:
                runs[way.name].append(one(bench, way))
    for name, found in runs.items():
        keys = found[0]
        bench.rows.append({"path": name, **{key: stats.median([run[key] for run in found]) for key in keys}})
    bench.values["exec_per_s"] = stats.median([run["per_s"] for run in runs[bench.build.name]])


def one(bench: Bench, way: roads.Road) -> dict[str, float]:
    """One road's sessions for some seconds. Raises Failed when more than one in a thousand fails."""
    cpu = cpu_seconds([*way.server, *way.agent])
    found = bench.load(
        "exec", way.ca, bench.tokens(way.token), "-c", str(SIDE_BY_SIDE), "-url",
        way.url.replace("https://", "wss://") + PATH, seconds=bench.options.seconds,
    )  # fmt: skip
    cpu = cpu_seconds([*way.server, *way.agent]) - cpu
    if found["errors"] * 1000 > found["count"]:
        raise Failed(f"{way.name}: {found['errors']} sessions of {found['count'] + found['errors']} failed")
    return {
        "per_s": found["per_s"], "p50": found["p50"], "p99": found["p99"], "errors": found["errors"],
        "cpu_ms_per_session": cpu / found["count"] * 1e3,
    }  # fmt: skip
