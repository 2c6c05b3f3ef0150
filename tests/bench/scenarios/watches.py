# SPDX-License-Identifier: Apache-2.0
"""1,000 open watches on the real API server, 100 writes a second up through the server and as many events down.

Each watch follows one object, and each write carries a number: what did not come, or came twice or in the wrong
order, is counted.
"""

from __future__ import annotations

import os

from bench import real
from bench.context import Bench
from bench.processes import Failed, Processes, cpu_seconds, memory
from bench.roads import start_server

WATCHES = 1000
RATE = 100
SECONDS = float(os.environ.get("WATCH_SECONDS", "40"))
PEOPLE = 4
"""Users that share the watches, as people do; each stays below the bound of one user."""


def run(bench: Bench) -> None:
    """Measure. Raises Failed."""
    with Processes(bench.folder) as processes:
        cluster = real.control_plane(processes)
        server = start_server(processes, bench.folder / "server", bench.build)
        agent = real.join(processes, server, bench.build, cluster, "bench")
        tokens = real.people(server, cluster, "bench", PEOPLE)
        cpu = cpu_seconds([server.pid, agent])
        found = bench.load(
            "watch", server.ca, bench.tokens(*tokens), "-url", f"{server.url}/k8s/clusters/bench",
            "-objects", str(WATCHES), "-rate", str(RATE), seconds=SECONDS,
        )  # fmt: skip
        cpu = cpu_seconds([server.pid, agent]) - cpu
        sizes = memory([server.pid])["pss"] / 2**20, memory([agent])["pss"] / 2**20
    bench.rows.append({
        "watches": found["open"], "writes": found["writes"], "writes_per_s": found["writes_per_s"],
        "events": found["events"], "events_per_s": found["events_per_s"], "lost": found["lost"],
        "wrong": found["wrong"], "ended": found["ended"], "p50_ms": found["p50"], "p99_ms": found["p99"],
        "cpu_s": cpu, "server_mb": sizes[0], "agent_mb": sizes[1],
    })  # fmt: skip
    if found["open"] != WATCHES or found["refused"]:
        raise Failed(f"{found['open']} of {WATCHES} watches opened: {found['reason']}")
    if found["writes"] < RATE * SECONDS * 0.9:
        raise Failed(
            f"{found['writes']} writes of {RATE * SECONDS:.0f} were made: {found['write_reason'] or 'too slow'}"
        )
    bench.values["watch_events_lost"] = found["lost"] + found["wrong"] + found["ended"]
