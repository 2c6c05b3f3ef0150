# SPDX-License-Identifier: Apache-2.0
"""The goals, by name: what is wanted of each figure, and whether a run reached it.

The names are part of what results.json promises; scripts read them. A figure that was not measured is never "met".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal. `most`: the value may not exceed `bound`; else it may not be below it."""

    name: str
    scenario: str
    bound: float
    unit: str
    most: bool
    about: str

    def met(self, value: float | None) -> bool:
        """Whether a value reaches the goal; None (not measured) does not."""
        if value is None:
            return False
        return value <= self.bound if self.most else value >= self.bound

    @property
    def wanted(self) -> str:
        """The goal as people read it."""
        return f"{'<=' if self.most else '>='} {self.bound:g}"


GOALS = (
    Goal("cpu_per_request_ratio", "rates", 0.6, "x peer", True, "CPU per request of server and agent, 32 connections"),
    Goal("p50_c1_ratio", "rates", 0.6, "x peer", True, "median latency, 1 connection"),
    Goal("added_latency_ms", "rates", 0.5, "ms", True, "median latency over the direct call, 1 connection"),
    Goal("throughput_c32_ratio", "rates", 1.2, "x peer", False, "requests per second, 32 connections"),
    Goal("bulk_ratio", "bulk", 1.2, "x peer", False, "bytes per second, bodies of 10 MB"),
    Goal("p99_c32_ratio", "rates", 1.0, "x peer", True, "99th percentile of latency, 32 connections"),
    Goal("small_beside_bulk_ms", "beside", 20, "ms", True, "median of a small call beside a bulk reader on 2 MiB/s"),
    Goal("exec_per_s", "exec", 500, "1/s", False, "exec sessions set up and closed"),
    Goal("idle_tunnel_kb", "tunnels", 40, "KB", True, "memory of the server for each of 5,000 idle tunnels"),
    Goal("reconnect_500_s", "reconnect", 30, "s", True, "500 agents are back after a restart of the server"),
    Goal("agent_idle_rss_mb", "idle", 64, "MB", True, "resident memory of an idle agent"),
    Goal("agent_idle_mb_per_day", "idle", 1, "MB/day", True, "bytes on the wire of an idle agent, IP headers included"),
    Goal("watch_events_lost", "watches", 0, "events", True, "of 1,000 watches with 100 writes and events a second"),
    Goal("tokenreview_p99_ms", "tokenreview", 5, "ms", True, "reviews at 1,000 a second, 100,000 tokens, one core"),
    Goal("tokenreview_rss_mb", "tokenreview", 64, "MB", True, "resident memory of kube-api-auth with 10,000 tokens"),
    Goal("tokenreview_start_s", "tokenreview", 1, "s", True, "its start to its first answer, 100,000 tokens on disk"),
    Goal("direct_added_ms", "direct", 1, "ms", True, "median of a direct call, token over certificate"),
    Goal("soak_rss_growth_ratio", "soak", 1.1, "x", True, "memory, end over warm-up, worst of server and agents"),
)
BY_NAME = {goal.name: goal for goal in GOALS}


def assess(values: Mapping[str, float | None]) -> dict[str, dict[str, Any]]:
    """The `goals` object of results.json, with every goal in it. Raises KeyError for a name that is no goal."""
    for name in values:
        BY_NAME[name]
    return {
        goal.name: {
            "value": values.get(goal.name),
            "goal": goal.bound,
            "unit": goal.unit,
            "met": goal.met(values.get(goal.name)),
        }
        for goal in GOALS
    }
