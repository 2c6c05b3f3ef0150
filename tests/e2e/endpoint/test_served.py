# SPDX-License-Identifier: Apache-2.0
"""Two agents serve the endpoint of a cluster whose API server nobody could give flags.

kubectl goes straight to each of them, server or no server, as the same user as through the proxy, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.rawhttp import RawClient, bearer
from support.road import BIN, Kubectl, Server, free_port, stop_process, until
from testbed import ControlPlane, Run

CLUSTER, ELSEWHERE = "buoy", "elsewhere"
MAPS = "/api/v1/namespaces/bobs/configmaps"
RULES = """
apiVersion: v1
kind: Namespace
metadata: {name: bobs}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: developers, namespace: bobs}
rules: [{apiGroups: [""], resources: [configmaps, pods], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: developers, namespace: bobs}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: developers}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "mooring:developers"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: as-alice}
rules: [{apiGroups: [""], resources: [users], resourceNames: [alice], verbs: [impersonate]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: as-alice}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: as-alice}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "mooring:bob"}]
"""


@dataclass
class Replica:
    """A process of the agent that serves the endpoint."""

    kubeconfig: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words: list[str | Path] = [
            "agent",
            "--kubeconfig",
            self.kubeconfig,
            "--endpoint-listen",
            f"127.0.0.1:{self.port}",
        ]
        words += ["--endpoint-names", "127.0.0.1,localhost", "--endpoint-dir", self.folder / "endpoint"]
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen([BIN / "mooring", *words], stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def serves(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def rss_mb(self) -> float:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@dataclass
class Buoy:
    folder: Path
    server: Server
    plane: ControlPlane
    admin: Kubectl
    replicas: list[Replica] = field(default_factory=list)
    ca: Path = Path()
    tokens: dict[str, str] = field(default_factory=dict)

    def issue(self, user: str, cluster: str = CLUSTER) -> str:
        """A token of the endpoint, which the cluster has."""
        body = {"endpoint": True, "cluster": cluster, "ttl_seconds": 3600}
        made = self.server.api("POST", "/tokens", body, token=self.tokens[user])
        assert made["delivered"] or cluster != CLUSTER, made
        return str(made["token"])

    def kubectl(self, token: str, replica: int = 0, *, server: bool = False) -> Kubectl:
        """A kubectl with a token, on a replica or on the server's proxy."""
        url = f"{self.server.url}/k8s/clusters/{CLUSTER}" if server else f"https://127.0.0.1:{self.ports[replica]}"
        path = self.folder / f"{token[:18]}-{'server' if server else replica}.kubeconfig"
        ca = str(self.server.ca if server else self.ca)
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": url, "certificate-authority": ca}}],
            "users": [{"name": "x", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        }  # fmt: skip
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return Kubectl(self.plane.bin / "kubectl", path)

    @property
    def ports(self) -> list[int]:
        return [replica.port for replica in self.replicas]

    def raw(self, replica: int = 0) -> RawClient:
        return RawClient("127.0.0.1", self.ports[replica], self.ca)

    def status(self, token: str, path: str = MAPS, replica: int = 0) -> int:
        with self.raw(replica) as client:
            return client.request("GET", path, bearer(token)).status

    def crash(self) -> None:
        """The server, as `kill -9` ends it: all of its processes."""
        for pid in self.server.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def buoy(testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buoy]:
    folder = tmp_path_factory.mktemp("buoy")
    plane = ControlPlane(CLUSTER, audit=True, run=testbed_run).up()
    server = Server(folder / "server")
    server.init()
    it = Buoy(folder, server, plane, Kubectl(plane.bin / "kubectl", plane.kubeconfig))
    try:
        server.start()
        for name in (CLUSTER, ELSEWHERE):
            server.api("POST", "/clusters", {"name": name})
            server.api("PUT", f"/clusters/{name}/endpoint", {"mode": "agent"})
        body = {"workload": "none", "admin_binding": False}
        manifest = server.call("POST", f"/api/v1/clusters/{CLUSTER}/manifest", body, token=server.admin_token)
        it.admin("apply", "-f", "-", stdin=manifest.body.decode() + "\n---" + RULES)
        account = it.admin("create", "token", "mooring-agent", "-n", "mooring-system", "--duration", "12h").strip()
        config = it.admin.json("config", "view", "--raw", "--minify", "--flatten")
        config["users"][0]["user"] = {"token": account}
        for number in range(2):
            own = folder / f"replica-{number}"
            own.mkdir()
            (own / "kubeconfig").write_text(json.dumps(config))
            it.replicas.append(Replica(own / "kubeconfig", own, free_port("127.0.0.1")))
            it.replicas[-1].start()
        until("both replicas serve", lambda: all(replica.serves() for replica in it.replicas), 60)

        def served() -> str:
            status = server.api("GET", f"/clusters/{CLUSTER}/endpoint")["status"] or {}
            return str(status.get("serving_ca_pem") or "")

        it.ca = folder / "endpoint-ca.crt"
        it.ca.write_text(until("the server knows the endpoint's CA", served, 60))
        server.api("POST", "/groups", {"name": "developers"})
        for user in ("bob", "eve"):
            server.api("POST", "/users", {"name": user, "groups": ["developers"]})
            for name in (CLUSTER, ELSEWHERE):
                server.api("POST", "/memberships", {"cluster": name, "user": user})
            it.tokens[user] = server.api("POST", "/tokens", {"user": user, "ttl_seconds": 36000})["token"]
        yield it
    finally:
        for replica in it.replicas:
            if replica.process is not None:
                stop_process(replica.process)
        server.stop()


def whoami(kubectl: Kubectl, *words: str) -> Any:
    """Who the API server says one is, without what differs from token to token."""
    info = kubectl.json("auth", "whoami", *words)["status"]["userInfo"]
    for name in ("mooring.fleet/token-id", "mooring.fleet/request-id"):
        info.get("extra", {}).pop(name, None)
    return info


@pytest.mark.timeout(300)
def test_straight_to_each_replica_one_is_who_one_is_through_the_proxy(buoy: Buoy) -> None:
    token = buoy.issue("bob")
    through = buoy.kubectl(buoy.tokens["bob"], server=True)
    expected, as_alice = whoami(through), whoami(through, "--as", "alice")
    assert (expected["username"], as_alice["username"]) == ("mooring:bob", "alice")
    said = through.refused("get", "configmaps", "-n", "bobs", "--as", "carol").splitlines()[-1]
    for number, replica in enumerate(buoy.replicas):
        direct = buoy.kubectl(token, number)
        assert whoami(direct) == expected
        assert whoami(direct, "--as", "alice") == as_alice
        assert direct.refused("get", "configmaps", "-n", "bobs", "--as", "carol").splitlines()[-1] == said
        direct("-n", "bobs", "create", "configmap", f"by-replica-{number}")
        assert "forbidden" in direct.refused("get", "secrets", "-n", "kube-system").lower()
        assert "Running" not in direct("-n", "bobs", "get", "pods", "-o", "wide")
        print(f"replica {number}: {replica.rss_mb():.0f} MB resident")
        assert replica.rss_mb() <= 80


@pytest.mark.timeout(300)
def test_each_token_is_good_at_its_own_door_only(buoy: Buoy) -> None:
    direct, elsewhere, servers = buoy.issue("bob"), buoy.issue("bob", ELSEWHERE), buoy.tokens["bob"]
    assert buoy.status(direct) == 200
    for token in (elsewhere, servers, "", direct[:-1], direct.upper(), direct.replace("mre_", "mrg_", 1)):
        assert buoy.status(token) == 401, token[:18]
    for path in (f"/k8s/clusters/{CLUSTER}/api", f"/k8s/clusters/{ELSEWHERE}/api", "/api/v1/whoami", "/metrics"):
        assert buoy.server.call("GET", path, token=direct).status == 401, path
    with buoy.raw() as client:
        for path in ("/metrics", "/healthz", "/version", "/readyz", "/api/v1/agents/audit", "/tunnel/connect", "/"):
            assert client.request("GET", path, ()).status == 401, path
        for name in (
            b"X-Remote-User",
            b"X-Remote-Group",
            b"Impersonate-Group",
            b"impersonate_user",
            b"Impersonate-Uid",
        ):
            answer = client.request("GET", "/apis", [*bearer(servers), (name, b"system:masters")])
            assert answer.status == 401, name
            answer = client.request("GET", "/api/v1/secrets", [*bearer(direct), (name, b"system:masters")])
            assert answer.status in (400, 403), name
    with socket.create_connection(("127.0.0.1", buoy.ports[0]), 10) as plain:
        plain.sendall(f"GET {MAPS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {direct}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            assert b"HTTP/1.1 200" not in plain.recv(4096)


@pytest.mark.timeout(300)
def test_a_revoked_token_is_refused_everywhere_within_two_seconds_and_its_watches_end(buoy: Buoy) -> None:
    token, other = buoy.issue("bob"), buoy.issue("eve")
    watches = [buoy.kubectl(token, number).start("get", "configmaps", "-n", "bobs", "-w") for number in (0, 1)]
    kept = buoy.kubectl(other, 0).start("get", "configmaps", "-n", "bobs", "-w")
    for watch in (*watches, kept):
        assert watch.stdout is not None
        assert watch.stdout.readline()
    ended: list[float] = []

    def wait(watch: subprocess.Popen[str]) -> None:
        watch.wait(30)
        ended.append(time.monotonic())

    threads = [threading.Thread(target=wait, args=(watch,)) for watch in watches]
    for thread in threads:
        thread.start()

    def refused(number: int) -> bool:
        return buoy.status(token, replica=number) == 401

    begun = time.monotonic()
    buoy.server.api("DELETE", f"/tokens/{token.split('_')[1]}")
    took = []
    for number in (0, 1):
        until("it is refused", partial(refused, number), 10)
        took.append(time.monotonic() - begun)
    for thread in threads:
        thread.join()
    cut = max(ended) - begun
    print(f"refused after {max(took):.2f} s, watches cut after {cut:.2f} s")
    assert max(took) < 2
    assert cut < 2
    assert kept.poll() is None
    kept.kill()
    kept.wait()
    assert buoy.status(other) == 200


@pytest.mark.timeout(300)
def test_what_was_done_without_the_server_is_in_its_audit_log_once_also_after_kill_9(buoy: Buoy) -> None:
    token = buoy.issue("bob")
    buoy.crash()
    begun = datetime.now(UTC)  # records of what was before may come as late
    for number in (0, 1):
        direct = buoy.kubectl(token, number)
        direct("-n", "bobs", "create", "configmap", f"meanwhile-{number}")
        direct("-n", "bobs", "get", "configmaps", "--as", "alice", check=False)
        assert "forbidden" in direct.refused("get", "nodes").lower()
    buoy.replicas[0].kill()
    buoy.replicas[0].start()
    until("the replica serves again", lambda: buoy.replicas[0].serves() and buoy.status(token) == 200, 30)
    buoy.kubectl(token, 0)("-n", "bobs", "create", "configmap", "meanwhile-2")
    buoy.server.start()

    def recorded() -> list[dict[str, Any]]:
        return [line for line in buoy.server.audit() if line.get("via") == "endpoint"]

    def created() -> int:
        lines = [line for line in recorded() if (line["verb"], line.get("resource")) == ("create", "configmaps")]
        lines = [line for line in lines if datetime.fromisoformat(line["time"]) >= begun]
        return sum(line["code"] == 201 and line["user"] == "bob" and line["uid"] != "" for line in lines)

    until("the records are there", lambda: created() >= 3, 60)
    time.sleep(3)
    lines = recorded()
    assert len({line["record_id"] for line in lines}) == len(lines), "each once"
    assert len({(line["request_id"], line["stage"]) for line in lines}) == len(lines)
    assert {line["cluster"] for line in lines} == {CLUSTER}
    assert any(line.get("impersonatedUser", {}).get("username") == "alice" and line["user"] == "bob" for line in lines)
    assert created() == 3
