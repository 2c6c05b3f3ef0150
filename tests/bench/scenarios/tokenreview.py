# SPDX-License-Identifier: Apache-2.0
"""kube-api-auth on one core: TokenReviews at 1,000 a second, what it takes to hold the tokens, how soon it answers.

The API server of its cluster is away: all that it knows is on disk, as after a restart of the node. The load is on
another core, if there is one. Time to the first answer is from the start of the program to the first "authenticated".
"""

from __future__ import annotations

import json
import os
import ssl
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mooring.webhook.disk import Disk
from mooring.wire.endpoint import SHARD
from mooring.wire.sealed import claimed
from support.endpoint import Sealer, person
from testbed import pki
from testbed.controlplane import free_port

from bench import reviews
from bench.context import Bench
from bench.options import ROOT
from bench.processes import Failed, Processes, cpu_seconds, memory, stop, until

RATE = 1_000
SECONDS = 10.0
MOST = 100_000
FEW = 10_000
STARTS = 5
TOKENS_OF_A_USER = 5


def run(bench: Bench) -> None:
    """Measure it with few tokens and with many. Raises Failed."""
    few = measure(bench, FEW)
    many = measure(bench, MOST)
    bench.rows += [few, many]
    bench.values |= {
        "tokenreview_p99_ms": many["p99_ms"],
        "tokenreview_rss_mb": few["rss_mb"],
        "tokenreview_start_s": many["start_s"],
    }


def measure(bench: Bench, number: int) -> dict[str, float]:
    """One row."""
    folder = bench.folder / f"tokens-{number}"
    folder.mkdir()
    config, port = prepare(folder, number)
    # Of several cores one, whose neighbour the load gets.
    cores = sorted(os.sched_getaffinity(0))
    own, other = str(cores[0]), str(cores[-1])
    words = ["taskset", "-c", own, str(bench.build.program), "kube-api-auth", "--config", str(config)]
    starts = []
    for _start in range(STARTS):
        with Processes(folder) as processes:
            begin = time.perf_counter()
            stop_after = processes.start("kube-api-auth", words)
            until("the first answer", lambda: answers(folder, port), log=folder / "kube-api-auth.log")
            starts.append(time.perf_counter() - begin)
            stop(stop_after)
    with Processes(folder) as processes:
        process = processes.start("kube-api-auth", words)
        until("the first answer", lambda: answers(folder, port), log=folder / "kube-api-auth.log")
        begun, cpu = memory([process.pid]), cpu_seconds([process.pid])
        found = load(folder, port, other)
        cpu = cpu_seconds([process.pid]) - cpu
        ended = memory([process.pid])
    if found["wrong"]:
        raise Failed(f"{found['wrong']:.0f} of {found['sent']:.0f} reviews were not answered with who it is")
    return {
        "tokens": number, "rate": RATE, "p50_ms": found["p50_ms"], "p99_ms": found["p99_ms"], "max_ms": found["max_ms"],
        "cpu_us_per_review": cpu / found["sent"] * 1e6, "rss_mb": ended["rss"] / 2**20,
        "rss_begin_mb": begun["rss"] / 2**20, "start_s": statistics.median(starts), "start_max_s": max(starts),
    }  # fmt: skip


def prepare(folder: Path, number: int) -> tuple[Path, int]:
    """Certificates, settings and a copy of so many tokens on disk; returns the settings' file and the port."""
    sealer, port = Sealer(), free_port()
    people = [person(f"person{n:06}", "everybody", f"team-{n % 50}") for n in range(number // TOKENS_OF_A_USER)]
    end = time.time() + 86_400
    tokens = [sealer.token(one, end) for one in people for _unused in range(TOKENS_OF_A_USER)]
    (folder / "tokens").write_text("\n".join(tokens[:: max(1, number // FEW)]))
    index, shards = sealer.documents(people)
    disk = Disk(folder / "state")
    disk.prepare()
    disk.save(index, shards, {n: claimed(SHARD, data) for n, data in shards.items()})
    authority, clients = pki.Authority(folder, "webhook-ca"), pki.Authority(folder, "client-ca")
    serving = authority.issue("serving", "kube-api-auth", names=["127.0.0.1"], server=True)
    client = clients.issue("client", "kube-apiserver", client=True)
    server = f"https://127.0.0.1:{free_port()}"
    pki.write_kubeconfig(folder / "kubeconfig", name="c", server=server, ca=authority.crt, user=client)
    settings = {
        "listen": f"127.0.0.1:{port}", "cluster_id": sealer.cluster_id, "cluster_uid": sealer.cluster_uid,
        "policy_key": sealer.policy_key, "kubeconfig": "kubeconfig", "state_dir": "state",
        "tls_cert": serving.crt.name, "tls_key": serving.key.name, "client_ca": clients.crt.name,
    }  # fmt: skip
    config = folder / "kube-api-auth.toml"
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return config, port


def answers(folder: Path, port: int) -> bool:
    """Whether a review is answered with who it is."""
    try:
        line = reviews.Line(port, reviews.client(folder))
    except (OSError, ssl.SSLError):
        return False
    with line.socket:
        with (folder / "tokens").open() as tokens:
            line.ask(reviews.request(tokens.readline().strip()), 0.0)
        line.socket.setblocking(True)
        return b'"authenticated":true' in line.socket.recv(65536)


def load(folder: Path, port: int, core: str) -> dict[str, float]:
    """Run the load for its seconds. Raises Failed."""
    words = ["taskset", "-c", core, sys.executable, "-m", "bench.reviews", str(folder), str(port)]
    done = subprocess.run(
        [*words, str(RATE), str(SECONDS)], capture_output=True, text=True, check=False, timeout=SECONDS * 3 + 120,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"the load ended with {done.returncode}: {done.stderr[-1500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found
