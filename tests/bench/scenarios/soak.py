# SPDX-License-Identifier: Apache-2.0
"""Mixed load for SOAK minutes: is the memory of the server and of each agent bounded and flat?

At the same time: small calls on eight connections, a reader of 10 MB bodies, exec sessions, and 200 watches on a real
API server with 20 events a second, of which none may be lost. The figure is the memory over the last tenth of the time,
beside that after the first fifth: of all processes of the server or of one agent, whichever grew most.
"""

from __future__ import annotations

import subprocess
import time

from bench import real, roads, stats, wrk
from bench.context import Bench, said
from bench.processes import Failed, Processes, memory, stop, tail
from bench.upstream import BULK, SMALL, stub

WATCHES, RATE = 200, 20
SAMPLE = 5.0
"""Seconds between two looks at the memory."""


def run(bench: Bench) -> None:
    """Load and look. Raises Failed."""
    length = bench.options.soak_minutes * 60
    if length < 60:
        raise Failed("SOAK= says how many minutes; less than one says nothing")
    with Processes(bench.folder) as processes:
        cluster = real.control_plane(processes)
        server = roads.start_server(processes, bench.folder / "server", bench.build)
        agents = [real.join(processes, server, bench.build, cluster, "real")]
        watchers = real.people(server, cluster, "real", 1)
        upstream = stub(processes, bench.programs, bench.trust, "00000000-0000-4000-8000-000000000004")
        agents.append(roads.start_agent(processes, server, bench.build, upstream))
        loads = start_loads(bench, processes, server, watchers, length)
        roots = {"server": server.pid, "agent, real": agents[0], "agent, stub": agents[1]}
        samples: dict[str, list[float]] = {name: [] for name in roots}
        seconds, answered = 0.0, 0
        begin = time.monotonic()
        stubbed = f"{server.url}/k8s/clusters/bench"
        while (seconds := time.monotonic() - begin) < length:
            answered += wrk.run(stubbed + SMALL, server.admin_token, 8, SAMPLE).requests
            for name, pid in roots.items():
                samples[name].append(memory([pid])["pss"] / 2**20)
            for name, process in loads.items():
                if process.poll() and time.monotonic() - begin < length:
                    raise Failed(f"load {name} ended early{tail(processes.logs / f'load-{name}.log')}")
        found = {name: finish(name, process) for name, process in loads.items()}
    watch = found["watch"]
    grown = {name: stats.growth(taken) for name, taken in samples.items()}
    bench.rows += [
        {"memory_of": name, "growth": grown[name], "mb_warm": stats.median(taken[len(taken) // 5 :][:10]),
         "mb_end": stats.median(taken[-10:]), "mb_highest": max(taken)}
        for name, taken in samples.items()
    ]  # fmt: skip
    load = {
        "minutes": seconds / 60, "small_calls": answered, "exec_sessions": found["exec"]["count"],
        "exec_errors": found["exec"]["errors"], "bulk_mb_per_s": found["beside"]["bulk_mb_per_s"],
        "bulk_errors": found["beside"]["errors"], "watch_events": watch["events"],
        "watch_lost": watch["lost"] + watch["wrong"] + watch["ended"],
    }  # fmt: skip
    bench.rows[0] |= load
    wrong = {name: load[name] for name in ("watch_lost", "exec_errors", "bulk_errors")}
    if any(wrong.values()):
        raise Failed(f"the load was not served rightly: {wrong}")
    bench.values["soak_rss_growth_ratio"] = max(grown.values())


def start_loads(
    bench: Bench, processes: Processes, server: roads.Mooring, watchers: list[str], length: float
) -> dict[str, subprocess.Popen[str]]:
    """What runs beside wrk, each for the whole time."""
    stubbed, admin = f"{server.url}/k8s/clusters/bench", bench.tokens(server.admin_token)
    tokens = {"watch": bench.tokens(*watchers, name="watchers")}
    exec_url = f"{stubbed.replace('https://', 'wss://')}/api/v1/namespaces/default/pods/p/exec?command=true"
    flags = {
        "watch": ["-url", f"{server.url}/k8s/clusters/real", "-objects", str(WATCHES), "-rate", str(RATE)],
        "exec": ["-c", "2", "-url", exec_url],
        "beside": ["-small", stubbed + SMALL, "-bulk", stubbed + BULK],
    }
    return {
        name: processes.start(
            f"load-{name}",
            bench.load_command(name, server.ca, tokens.get(name, admin), *words, seconds=length),
            pipe=True,
        )
        for name, words in flags.items()
    }


def finish(name: str, process: subprocess.Popen[str]) -> dict[str, float]:
    """What a load measured. Raises Failed."""
    try:
        output, _unused = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        stop(process)
        raise Failed(f"load {name} did not end") from None
    return said(name, process.returncode, output)
