# SPDX-License-Identifier: Apache-2.0
"""A server that is 200 ms away, and the same call by it, straight with a token, and straight with a certificate.

The server is in a namespace behind a wire with that round trip. Bob, the cluster, its agent and kube-api-auth are here.
All roads ask the same API server for the same object as the same user, turn by turn on connections of their own, so
that what a road adds is the difference. `kubectl get` is the whole command, a process and a handshake each time.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from faults.link import Link
from support.apiauth import ApiAuth
from support.directbed import configure, issue
from support.road import Kubectl, until
from testbed import ControlPlane, Run, binaries
from testbed.errors import TestbedError

from bench import real
from bench.context import Bench
from bench.processes import Failed, Processes
from bench.roads import Mooring
from bench.stats import median, percentile

CLUSTER = "bench"
ROUND_TRIP = 0.2  # seconds
CALLS = 300
"""Of each direct road in a round; a tenth of it by the server, where each takes the round trip."""
COMMANDS = 7
"""`kubectl get` of each road in a round."""
WARM = 20
PATH = "/api/v1/namespaces/default/configmaps/small"
GET = ("-n", "default", "get", "configmap", "small", "-o", "name")


@dataclass
class Way:
    """A road of Bob's: where, with what, and a kubeconfig for it."""

    name: str
    url: str
    context: ssl.SSLContext
    headers: dict[str, str]
    kubeconfig: Path
    calls: int = CALLS

    def times(self, count: int) -> list[float]:
        """Milliseconds of calls, one after the other on one connection. Raises Failed."""
        host, slash, prefix = self.url.removeprefix("https://").partition("/")
        path = slash + prefix + PATH
        connection = http.client.HTTPSConnection(host, context=self.context, timeout=30)
        found = []
        try:
            for _unused in range(count):
                begin = time.perf_counter()
                connection.request("GET", path, headers=self.headers)
                answer = connection.getresponse()
                answer.read()
                found.append((time.perf_counter() - begin) * 1e3)
                if answer.status != 200:
                    raise Failed(f"{self.name}: status {answer.status}")
        finally:
            connection.close()
        return found


def run(bench: Bench) -> None:
    """Measure. Raises Failed."""
    run_ = Run.create()
    try:
        link = Link.create(run_)
        with Processes(bench.folder) as processes:
            ways = start(bench, processes, run_, link)
            measure(bench, ways)
    except (TestbedError, AssertionError) as error:
        raise Failed(str(error)) from error
    finally:
        run_.teardown()


def start(bench: Bench, processes: Processes, run_: Run, link: Link) -> list[Way]:
    """A joined cluster whose API server asks kube-api-auth, and Bob's three roads. Raises Failed."""
    plane = ControlPlane("direct", run=run_).up()
    admin = Kubectl(plane.bin / "kubectl", plane.kubeconfig)
    inside = ("nsenter", f"--net={link.netns}")
    server = Mooring(bench.folder / "server", link.site, port=8443, program=bench.build.program, inside=inside)
    server.init()
    processes.later(server.stop)
    server.start()
    server.mooring("cluster", "create", CLUSTER)
    server.api("PUT", f"/clusters/{CLUSTER}/endpoint", {"mode": "webhook"})
    admin("apply", "-f", "-", stdin=server.mooring("cluster", "manifest", CLUSTER, "--no-workload").stdout)
    agent: list[str | Path] = [bench.build.program, "agent", "--kubeconfig"]
    processes.start("agent", [*agent, real.agent_kubeconfig(admin, bench.folder / "agent.kubeconfig")])
    until("the cluster is connected", lambda: server.cluster_state(CLUSTER) == "connected", 60)
    auth = ApiAuth(bench.folder / "auth")
    auth.program = [str(bench.build.program)]
    configure(auth, admin, server.api("GET", f"/clusters/{CLUSTER}/endpoint"))
    auth.start()
    processes.later(auth.stop)
    plane.api_args += auth.flags()
    plane.kill_api()
    plane.start_api()
    bob = server.user("bob", clusters=[CLUSTER])
    # A role of its own: what `view` holds comes from the controller manager, which is not here.
    admin("create", "clusterrole", "reader", "--verb=get", "--resource=configmaps")
    admin("create", "clusterrolebinding", "bob", "--clusterrole=reader", "--user=mooring:bob")
    admin("-n", "default", "create", "configmap", "small", "--from-literal=a=b")
    token = issue(server, CLUSTER, token=bob.token)
    link.rule(link.server, delay=ROUND_TRIP / 2)

    certificate = plane.user_kubeconfig("bob", "mooring:bob")
    mine = ssl.create_default_context(cafile=str(plane.ca))
    mine.load_cert_chain(plane.dir / "pki" / "bob.crt", plane.dir / "pki" / "bob.key")
    here = ssl.create_default_context(cafile=str(plane.ca))
    there = ssl.create_default_context(cafile=str(server.ca))
    by_server = f"{server.url}/k8s/clusters/{CLUSTER}"
    tokens = bench.folder / "token.kubeconfig"
    config = json.loads(certificate.read_text())
    config["users"][0]["user"] = {"token": token}
    tokens.touch(mode=0o600)
    tokens.write_text(json.dumps(config))
    return [
        Way("certificate", plane.server, mine, {}, certificate),
        Way("token", plane.server, here, {"Authorization": f"Bearer {token}"}, tokens),
        Way("proxy", by_server, there, {"Authorization": f"Bearer {bob.token}"}, bob.kubeconfig, CALLS // 10),
    ]


def measure(bench: Bench, ways: list[Way]) -> None:
    """Rounds, the roads in turn."""
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    rounds: dict[str, list[float]] = {way.name: [] for way in ways}
    commands: dict[str, list[float]] = {way.name: [] for way in ways}
    for way in ways:
        way.times(WARM if way.calls == CALLS else 3)
    for _round in range(bench.options.rounds):
        for way in ways:
            found = way.times(way.calls)[1:]  # the first has the handshake in it
            times[way.name] += found
            rounds[way.name].append(median(found))
        for way in ways:
            commands[way.name] += [command(bench, way) for _unused in range(COMMANDS)]
    for way in ways:
        found, whole = times[way.name], commands[way.name]
        bench.rows.append({
            "path": way.name, "calls": len(found), "p50_ms": median(found), "p90_ms": percentile(found, 0.9),
            "p99_ms": percentile(found, 0.99), "kubectl_get_p50_ms": median(whole),
            "kubectl_get_max_ms": max(whole),
        })  # fmt: skip
    # Within a round, so that a machine whose speed drifts changes both alike.
    added = [token - own for token, own in zip(rounds["token"], rounds["certificate"], strict=True)]
    bench.values["direct_added_ms"] = median(added)


def command(bench: Bench, way: Way) -> float:
    """Milliseconds of a whole `kubectl get`. Raises Failed."""
    words = [str(binaries.ensure("api") / "kubectl"), "--kubeconfig", str(way.kubeconfig), *GET]
    cache = {"KUBECACHEDIR": str(bench.folder / f"cache-{way.name}"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    begin = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=cache)
    if done.returncode:
        raise Failed(f"kubectl by {way.name}: {done.stderr}")
    return (time.perf_counter() - begin) * 1e3
