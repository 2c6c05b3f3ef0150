# SPDX-License-Identifier: Apache-2.0
"""`make bench`: one cluster, one server, one agent as processes; the same GET straight and through the server, in turn.

The load comes from wrk over TLS with keep-alive. The direct call carries a bearer token too, so that both pay for one.
Rounds alternate between the two, so that a machine whose speed drifts slows both. CPU time per request is that of the
server's and the agent's process, from /proc. Writes build/bench/results.json.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.road import Kubectl, Server, agent_process, stop_process, until
from testbed import ControlPlane

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = int(os.environ.get("SECONDS_EACH", "5"))
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
OUT = Path("build/bench/results.json")
OBJECT = "/api/v1/namespaces/default/configmaps/ballast"


@dataclass
class Load:
    """What one run of wrk said: requests per second, latencies in ms, and how many answers were not 2xx."""

    rate: float
    p50: float
    p99: float
    requests: int
    bad: int


def load(url: str, token: str, connections: int) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "10s", "--latency"]
    done = subprocess.run(
        [*command, "-H", f"Authorization: Bearer {token}", url], capture_output=True, text=True, check=True, timeout=120
    )
    text = done.stdout

    def percentile(name: str) -> float:
        found = re.search(rf"^\s+{name}%\s+([0-9.]+)(us|ms|s)$", text, re.MULTILINE)
        assert found, text
        return float(found[1]) * UNITS[found[2]]

    rate = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    assert rate, text
    assert requests, text
    bad = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)|Socket errors: .*", text) if n)
    return Load(float(rate[1]), percentile("50"), percentile("99"), int(requests[1]), bad)


def cpu_seconds(*pids: int) -> float:
    """User and system time of processes so far (proc(5))."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(direct: tuple[str, str], proxy: tuple[str, str], pids: list[int]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for connections in (1, 32):
        runs: dict[str, list[Load]] = {"direct": [], "mooring": []}
        cpu = requests = 0.0
        for _unused in range(ROUNDS):
            runs["direct"].append(load(*direct, connections))
            before = cpu_seconds(*pids)
            runs["mooring"].append(load(*proxy, connections))
            cpu += cpu_seconds(*pids) - before
            requests += runs["mooring"][-1].requests
        for name, loads in runs.items():
            assert not sum(one.bad for one in loads), f"{name}: answers that were not 2xx"
            row: dict[str, object] = {"path": name, "connections": connections}
            for key in ("rate", "p50", "p99"):
                row[key] = statistics.median(getattr(one, key) for one in loads)
            row["cpu_us_per_request"] = cpu / requests * 1e6 if name == "mooring" else None
            rows.append(row)
    return rows


def main() -> None:
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    folder = Path(tempfile.mkdtemp(prefix="mooring-bench-"))
    server = Server(folder)
    try:
        with ControlPlane("bench") as cluster:
            kubectl = Kubectl(cluster.bin / "kubectl", cluster.kubeconfig)
            server.init()
            server.start()
            server.mooring("cluster", "create", "bench")
            kubectl("apply", "-f", "-", stdin=server.mooring("cluster", "manifest", "bench", "--no-workload").stdout)
            agent = agent_process(kubectl, folder)
            try:
                until("connected", lambda: server.api("GET", "/clusters/bench")["state"] == "connected", 60)
                kubectl("create", "configmap", "ballast", f"--from-literal=text={'x' * 3000}")
                kubectl("create", "serviceaccount", "bench")
                kubectl("create", "clusterrole", "bench", "--verb=get", "--resource=configmaps")
                kubectl(
                    "create", "clusterrolebinding", "bench", "--clusterrole=bench", "--serviceaccount=default:bench"
                )
                token = kubectl("create", "token", "bench", "--duration=2h").strip()
                assert server.process is not None
                rows = measure(
                    (cluster.server + OBJECT, token),
                    (f"{server.url}/k8s/clusters/bench{OBJECT}", server.admin_token),
                    [server.process.pid, agent.pid],
                )
            finally:
                stop_process(agent)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    OUT.write_text(json.dumps({"machine": machine, "seconds": SECONDS, "rounds": ROUNDS, "rows": rows}, indent=1))
    print(f"GET of a 3 KB object from a real kube-apiserver, {ROUNDS} rounds of {SECONDS} s, {machine['cpus']} CPUs")
    print(f"{'path':9} {'conns':>5} {'req/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'CPU us/req (server+agent)':>26}")
    for row in rows:
        cpu = f"{row['cpu_us_per_request']:26.0f}" if row["cpu_us_per_request"] else ""
        print(f"{row['path']:9} {row['connections']:5} {row['rate']:9.0f} {row['p50']:8.2f} {row['p99']:8.2f} {cpu}")


if __name__ == "__main__":
    main()
