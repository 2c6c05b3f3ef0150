# SPDX-License-Identifier: Apache-2.0
"""A cluster with a real node whose API server asks kube-api-auth, a server that it can do without, and users.

`harbour` is made once. A test that stops the server, the agent or kube-api-auth starts them again: `whole` says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import tables
from support.apiauth import ApiAuth
from support.directbed import Direct, configure, issue
from support.rawhttp import RawClient, bearer
from support.road import Kubectl, Server, agent_process, stop_process, until
from testbed import ControlPlane, Run

CLUSTER = "harbour"


@dataclass
class Harbour:
    """`admin` goes straight to the cluster, as its administrator. `tokens` and `direct` are by the name of a user."""

    folder: Path
    server: Server
    plane: ControlPlane
    admin: Kubectl
    auth: ApiAuth
    agent: subprocess.Popen[bytes] | None = None
    tokens: dict[str, str] = field(default_factory=dict)
    direct: dict[str, Direct] = field(default_factory=dict)

    # -- people

    def user(self, name: str, groups: tuple[str, ...] = ()) -> str:
        """Make a user with a token of the server; without a password, since hashing one is slow."""
        for group in groups:
            if self.server.call("GET", f"/api/v1/groups/{group}", token=self.server.admin_token).status == 404:
                self.server.api("POST", "/groups", {"name": group})
        self.server.api("POST", "/users", {"name": name, "groups": list(groups)})
        self.tokens[name] = self.server.api("POST", "/tokens", {"user": name, "ttl_seconds": 36000})["token"]
        return name

    def bind(self, kind: str, name: str, role: str, user: str, **place: Any) -> None:
        self.server.api("POST", f"/{kind}-bindings", {"name": name[:60], "role": role, "users": [user], **place})

    def caller(self, token: str) -> Direct:
        """Whoever holds a token of the endpoint, on a connection of his own."""
        host, _colon, port = self.plane.server.removeprefix("https://").partition(":")
        return Direct(RawClient(host, int(port), self.plane.ca), token)

    def issue(self, user: str, ttl: int = 3600) -> Direct:
        """A new token of a user's for the endpoint, which kube-api-auth knows."""
        caller = self.caller(issue(self.server, CLUSTER, ttl=ttl, token=self.tokens[user]))
        # What the agent has written is delivered; kube-api-auth hears of it by its watch.
        until("kube-api-auth knows the token", lambda: caller.status() != 401, 10)
        return caller

    def proxied(self, user: str) -> tables.Ask:
        """The user's calls through the server."""
        client = RawClient(self.server.address, self.server.port, self.server.ca)

        def ask(method: str, path: str, body: Any) -> tuple[int, Any]:
            headers = bearer(self.tokens[user], (b"Content-Type", b"application/json"))
            answer = client.request(method, f"/k8s/clusters/{CLUSTER}{path}", headers, json.dumps(body).encode())
            return answer.status, answer.json() if answer.status < 300 else None

        return ask

    def kubeconfig(self, user: str) -> Path:
        """A kubeconfig of `mooring kubeconfig` with static tokens; the direct context is the current one."""
        path = self.folder / f"{user}.kubeconfig"
        words = ["kubeconfig", "--token", "--contexts", "proxy,fqdn", "--current", f"{CLUSTER}-fqdn"]
        self.server.mooring(*words, "-o", path, token=self.tokens[user])
        return path

    def kubectl(self, user: str) -> Kubectl:
        """The user's kubectl on the direct context."""
        return Kubectl(self.plane.bin / "kubectl", self.kubeconfig(user))

    # -- what breaks

    def cut(self) -> None:
        """The server dies (kill -9, all its processes), and the agent ends: nothing is left of the tunnel."""
        for pid in self.server.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.stop(signal.SIGKILL)
        if self.agent is not None:
            stop_process(self.agent)

    def whole(self) -> None:
        """Start what does not run, and wait until the cluster has what the server says."""
        assert self.server.process is not None
        if self.server.process.poll() is not None:
            self.server.start()
        if self.agent is None or self.agent.poll() is not None:
            self.agent = agent_process(self.admin, self.folder)
        if self.auth.process is None:
            self.auth.start()
        if not self.plane.healthy():
            self.plane.start_api()
        until("the cluster is connected", self.connected, 60)
        self.settled()
        # An agent that was killed leaves its Lease behind, and the next one waits until that has run out.
        until("a new token gets there", lambda: issue(self.server, CLUSTER, must=False), 60)

    def connected(self) -> bool:
        try:
            return bool(self.server.api("GET", f"/clusters/{CLUSTER}")["state"] == "connected")
        except OSError:
            return False

    def settled(self) -> None:
        """Wait until the cluster has the policy that is wanted."""

        def applied() -> bool:
            items = self.server.api("GET", "/policy/status")["items"]
            return bool(items) and all(item["state"] == "applied" for item in items)

        until("the policy is applied", applied, 60)


@pytest.fixture(scope="session")
def harbour(testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harbour]:
    """In it the projects shop (shop-web, shop-db) and bank (vault), and a user for each role who enters directly."""
    folder = tmp_path_factory.mktemp("harbour")
    plane = ControlPlane(CLUSTER, nodes=1, audit=True, run=testbed_run).up()
    server = Server(folder / "server")
    server.init()
    admin = Kubectl(plane.bin / "kubectl", Path(plane.kubeconfig))
    it = Harbour(folder, server, plane, admin, ApiAuth(folder / "auth"))
    try:
        server.start()
        server.api("POST", "/clusters", {"name": CLUSTER})
        address = plane.server.removeprefix("https://")
        wish = {"mode": "webhook", "fqdn": address, "ca_pem": plane.ca.read_text()}
        server.api("PUT", f"/clusters/{CLUSTER}/endpoint", wish)
        body = {"workload": "none", "admin_binding": False}
        manifest = server.call("POST", f"/api/v1/clusters/{CLUSTER}/manifest", body, token=server.admin_token)
        admin("apply", "-f", "-", stdin=manifest.body.decode())
        it.agent = agent_process(admin, folder)
        until("the cluster is connected", it.connected, 60)
        configure(it.auth, admin, server.api("GET", f"/clusters/{CLUSTER}/endpoint"))
        it.auth.start()
        plane.api_args += it.auth.flags()
        plane.kill_api()
        plane.start_api()
        people(it)
        yield it
    finally:
        it.auth.stop()
        if it.agent is not None:
            stop_process(it.agent)
        server.stop(signal.SIGKILL if server.process and server.process.poll() is not None else signal.SIGTERM)


def people(it: Harbour) -> None:
    """Projects, users, bindings, tokens."""
    for project, spaces in (("shop", ("shop-web", "shop-db")), ("bank", ("vault",))):
        wish = {"name": project, "cluster": CLUSTER, "namespaces": [{"name": space} for space in spaces]}
        it.server.api("POST", "/projects", wish)
    for role in tables.IN_PROJECT:
        it.bind("project", f"p-{role}", role, it.user(f"p-{role}"), project="shop", cluster=CLUSTER)
    for role in tables.IN_CLUSTER:
        it.bind("cluster", f"c-{role}", role, it.user(f"c-{role}"), cluster=CLUSTER)
    for role in tables.GLOBAL:
        it.bind("global", f"g-{role}", role, it.user(f"g-{role}"))
    it.bind("project", "bob", "project-owner", it.user("bob", ("developers",)), project="shop", cluster=CLUSTER)
    it.settled()
    for name in it.tokens:
        role = name.removeprefix("g-")
        if not name.startswith("g-") or tables.GLOBAL[role] is not None:
            it.direct[name] = it.issue(name, ttl=7200)


@pytest.fixture
def whole(harbour: Harbour) -> Iterator[Harbour]:
    """The harbour, whole before and after."""
    harbour.whole()
    yield harbour
    harbour.whole()
