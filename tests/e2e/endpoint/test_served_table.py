# SPDX-License-Identifier: Apache-2.0
"""Where nobody can set the API server's flags: the agent serves the endpoint itself, and the table is the same there.

With the server dead; test_served.py has all else that such an endpoint does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import tables
from support.directbed import Direct, issue
from support.rawhttp import RawClient
from support.road import Kubectl, Server, agent_process, free_port, stop_process, until
from testbed import ControlPlane, Run

CLUSTER = "quay"
ROLES = ("project-owner", "project-member", "project-read-only", "secrets-view", "namespaces-create")


@dataclass
class Quay:
    folder: Path
    server: Server
    plane: ControlPlane
    admin: Kubectl
    port: int
    agent: subprocess.Popen[bytes] | None = None
    ca: Path = Path()
    tokens: dict[str, str] = field(default_factory=dict)

    def start_agent(self) -> None:
        words = ("--endpoint-listen", f"127.0.0.1:{self.port}", "--endpoint-names", "localhost,127.0.0.1")
        self.agent = agent_process(self.admin, self.folder, *words, "--endpoint-dir", self.folder / "endpoint")

    def issue(self, user: str) -> Direct:
        return Direct(RawClient("127.0.0.1", self.port, self.ca), issue(self.server, CLUSTER, token=self.tokens[user]))

    def crash(self) -> None:
        for pid in self.server.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.stop(signal.SIGKILL)

    def settled(self) -> None:
        def applied() -> bool:
            try:
                items = self.server.api("GET", "/policy/status")["items"]
            except OSError:
                return False
            return bool(items) and all(item["state"] == "applied" for item in items)

        until("the policy is applied", applied, 60)


@pytest.fixture(scope="module")
def quay(testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quay]:
    folder = tmp_path_factory.mktemp("quay")
    plane = ControlPlane(CLUSTER, audit=True, run=testbed_run).up()
    server = Server(folder / "server")
    server.init()
    it = Quay(folder, server, plane, Kubectl(plane.bin / "kubectl", plane.kubeconfig), free_port("127.0.0.1"))
    try:
        server.start()
        server.api("POST", "/clusters", {"name": CLUSTER})
        server.api("PUT", f"/clusters/{CLUSTER}/endpoint", {"mode": "agent"})
        body = {"workload": "none", "admin_binding": False}
        manifest = server.call("POST", f"/api/v1/clusters/{CLUSTER}/manifest", body, token=server.admin_token)
        it.admin("apply", "-f", "-", stdin=manifest.body.decode())
        it.start_agent()

        def served() -> str:
            status = server.api("GET", f"/clusters/{CLUSTER}/endpoint")["status"] or {}
            return str(status.get("serving_ca_pem") or "")

        it.ca = folder / "endpoint-ca.crt"
        it.ca.write_text(until("the agent says how it serves", served, 60))
        server.api("POST", "/projects", {"name": "shop", "cluster": CLUSTER, "namespaces": [{"name": "shop-web"}]})
        for role in ROLES:
            server.api("POST", "/users", {"name": role})
            it.tokens[role] = server.api("POST", "/tokens", {"user": role, "ttl_seconds": 36000})["token"]
            wish = {"name": role, "role": role, "users": [role], "project": "shop", "cluster": CLUSTER}
            server.api("POST", "/project-bindings", wish)
        it.settled()
        yield it
    finally:
        if it.agent is not None:
            stop_process(it.agent)
        server.stop(signal.SIGTERM)


@pytest.mark.timeout(300)
def test_without_the_server_the_table_is_the_same(quay: Quay) -> None:
    callers = {role: quay.issue(role) for role in ROLES}
    until("the endpoint lets them in", lambda: all(caller.status() in (200, 403) for caller in callers.values()), 30)
    quay.crash()
    found = []
    for role, caller in callers.items():
        found += [f"{role} {line}" for line in tables.differences(caller.call, "shop-web", tables.IN_PROJECT[role])]
    assert found == []
    owner = callers["project-owner"]
    path = "/api/v1/namespaces/shop-web/configmaps"
    for number in range(5):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"meanwhile-{number}"}}
        assert owner.call("POST", path, body)[0] == 201
    assert callers["secrets-view"].status(path) == 403
    # As himself in the cluster: the API server's own log names him, by the agent's right to impersonate.
    event = quay.plane.wait_for_audit(lambda event: event.get("objectRef", {}).get("name") == "meanwhile-0")
    assert event["impersonatedUser"]["username"] == "mooring:project-owner"
