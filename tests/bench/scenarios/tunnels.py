# SPDX-License-Identifier: Apache-2.0
"""What a tunnel costs while nothing happens, and how agents come back when the server was restarted.

Memory is the proportional share (Pss) of all processes of the server, before and after, divided by the number of
tunnels. The kernel's socket buffers are not in it.
"""

from __future__ import annotations

import os
import time

from bench.context import Bench, wait_seconds
from bench.fleet import Fleet, start_fleet, start_registered
from bench.processes import Processes, cpu_seconds, memory

TUNNELS = int(os.environ.get("TUNNELS", "5000"))
AGENTS = 500
SETTLE = 20.0
"""Seconds after the last connection, so that both sides have pinged and what a handshake needed is freed."""
STEADY = 15.0
"""Seconds over which the steady CPU of a server with all agents is taken."""


LONGEST = 120.0
"""Seconds that a return may take before it is given up."""


def run(bench: Bench) -> None:
    """Idle tunnels. One process serves them, so that a tunnel is one session. Raises Failed."""
    with Processes(bench.folder) as processes:
        server, facts, identities = start_registered(bench, processes, bench.build, TUNNELS, {"workers": "1"})
        before = memory([server.pid])
        begin, cpu = time.monotonic(), cpu_seconds([server.pid])
        fleet = start_fleet(bench, processes, server, facts, identities, 64)
        fleet.wait(240, sessions=TUNNELS, clusters=TUNNELS)
        connected, connecting = time.monotonic() - begin, cpu_seconds([server.pid]) - cpu
        wait_seconds(SETTLE)
        begin, cpu = time.monotonic(), cpu_seconds([server.pid])
        wait_seconds(10)
        idle = (cpu_seconds([server.pid]) - cpu) / (time.monotonic() - begin)
        after = memory([server.pid])
        fleet.wait(1, sessions=TUNNELS)  # none was lost meanwhile
        fleet.end()
    each = (after["pss"] - before["pss"]) / TUNNELS / 1024
    bench.rows.append({
        "tunnels": TUNNELS, "connected_s": connected, "handshakes_per_s": TUNNELS / connected,
        "cpu_ms_per_handshake": connecting / TUNNELS * 1e3, "server_mb_before": before["pss"] / 2**20,
        "server_mb_after": after["pss"] / 2**20, "kb_per_tunnel": each, "idle_cpu_percent": idle * 100,
    })  # fmt: skip
    bench.values["idle_tunnel_kb"] = each


def run_reconnect(bench: Bench) -> None:
    """500 agents, a restart of the server, until all are back. With the default number of workers. Raises Failed."""
    with Processes(bench.folder) as processes:
        server, facts, identities = start_registered(bench, processes, bench.build, AGENTS, {})
        fleet = start_fleet(bench, processes, server, facts, identities, AGENTS)
        fleet.wait(120, clusters=AGENTS)
        sessions = settled(fleet)
        begin, cpu = time.monotonic(), cpu_seconds([server.pid])
        wait_seconds(STEADY)
        steady = (cpu_seconds([server.pid]) - cpu) / (time.monotonic() - begin)
        begin = time.monotonic()
        server.stop()
        stopping = time.monotonic() - begin
        begin = time.monotonic()
        server.start(wait=False)
        back: dict[str, float] = {}
        seconds: list[float] = []
        mark, cpu = begin, cpu_seconds([server.pid])
        while len(back) < 2 and time.monotonic() - begin < LONGEST:
            wait_seconds(0.05)
            now = time.monotonic()
            for name, wanted in (("clusters", AGENTS), ("sessions", sessions)):
                if fleet.said[name] == wanted:
                    back.setdefault(name, now - begin)
            if now - mark >= 1 or len(back) == 2:
                used = cpu_seconds([server.pid])
                seconds.append((used - cpu) / (now - mark))
                mark, cpu = now, used
        total = cpu_seconds([server.pid])
        fleet.wait(1, clusters=AGENTS)
        fleet.end()
    bench.rows.append({
        "agents": AGENTS, "sessions": sessions, "stopping_s": stopping, "all_back_s": back["clusters"],
        "all_sessions_s": back.get("sessions", LONGEST), "steady_cpu_percent": steady * 100,
        "highest_second_cpu_percent": max(seconds) * 100, "cpu_s_until_back": total,
    })  # fmt: skip
    bench.values["reconnect_500_s"] = back["clusters"]


def settled(fleet: Fleet) -> int:
    """How many sessions the agents have once that number stays the same for some seconds."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 5:
        if fleet.said["sessions"] != last:
            last, since = fleet.said["sessions"], time.monotonic()
        wait_seconds(0.2)
    return int(last)
