# SPDX-License-Identifier: Apache-2.0
"""What one agent costs that has nothing to do: resident memory, and bytes between it and the server.

The agent and its cluster are in a namespace of their own, so that only the tunnel crosses the link. Bytes are those
of IP packets both ways over an idle minute, times what a day is longer. All of an agent's sessions count.
"""

from __future__ import annotations

import os
import time

from bench.context import Bench, wait_seconds
from bench.link import Link
from bench.processes import Processes, cpu_seconds, memory
from bench.scenarios import beside

SECONDS = float(os.environ.get("IDLE_SECONDS", "120"))
"""A multiple of a minute, so that it holds as many signs of life of each session as any other such time."""
SETTLE = 10.0
DAY = 86400


def run(bench: Bench) -> None:
    """Measure an idle agent. Raises Failed."""
    with Link() as link, Processes(bench.folder) as processes:
        road = beside.start(bench, processes, link, bench.build.name)
        wait_seconds(SETTLE)
        begin, size, cpu = time.monotonic(), link.bytes(), cpu_seconds(road.agent)
        wait_seconds(SECONDS)
        spent, size, cpu = time.monotonic() - begin, link.bytes() - size, cpu_seconds(road.agent) - cpu
        found = memory(road.agent)
    bench.rows.append({
        "agent_rss_mb": found["rss"] / 2**20, "agent_pss_mb": found["pss"] / 2**20, "seconds": spent, "bytes": size,
        "mb_per_day": size / spent * DAY / 1e6, "cpu_ms_per_minute": cpu / spent * 60e3,
    })  # fmt: skip
    bench.values |= {
        "agent_idle_rss_mb": found["rss"] / 2**20,
        "agent_idle_mb_per_day": size / spent * DAY / 1e6,
    }
