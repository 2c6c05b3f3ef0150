# SPDX-License-Identifier: Apache-2.0
"""The whole way of a policy: written over REST, signed, fetched by a real agent, enforced by a real API server.

One road for all tests of this file: a server, a cluster of its own, its agent a process beside it. Bob asks through
the server, as people do.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.road import Kubectl, Server, User, agent_process, stop_process, until
from testbed.controlplane import ControlPlane
from testbed.state import Run

CLUSTER = "quay"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
SPACES, ROLES = 50, 20
PODS: dict[str, Any] = {"verbs": ["get", "list"], "api_groups": [""], "resources": ["pods"]}


@dataclass
class Road:
    server: Server
    direct: Kubectl
    folder: Path
    agent: subprocess.Popen[bytes]
    bob: User

    def code(self, path: str, method: str = "GET", body: Any = None) -> int:
        """What Bob gets for a call into the cluster."""
        return self.server.call(method, f"/k8s/clusters/{CLUSTER}{path}", body, token=self.bob.token).status

    def within(self, what: str, check: Callable[[], Any], seconds: float = 20) -> float:
        """Wait for it; the seconds that it took."""
        began = time.monotonic()
        until(what, check, seconds)
        return time.monotonic() - began

    def policy(self) -> dict[str, Any]:
        return dict(self.server.api("GET", f"/clusters/{CLUSTER}/policy"))

    def applied(self) -> bool:
        return bool(self.policy()["state"] == "applied")

    def revision(self, which: str) -> int:
        return int(self.policy()[f"{which}_revision"])

    def names(self, kind: str, role: str = "") -> list[str]:
        """The policy's objects of a kind in the cluster, of a role if it is named."""
        listed = self.direct("get", kind, "-A", "-l", "mooring.fleet/policy=true", "--no-headers", "-o", "name")
        return [name for name in listed.split() if f"/mooring:{role}" in name]

    def start_agent(self) -> None:
        self.agent = agent_process(self.direct, self.folder)

    def bind(self, name: str, role: str) -> None:
        body = {"name": name, "cluster": CLUSTER, "role": role, "users": ["bob"]}
        self.server.api("POST", "/cluster-bindings", body)


@pytest.fixture(scope="module")
def road(testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    plane = ControlPlane("delivery", run=testbed_run).up()
    folder = tmp_path_factory.mktemp("delivery")
    server = Server(folder / "server")
    server.init()
    server.set("workers", "2")
    server.start()
    direct = Kubectl(plane.bin / "kubectl", Path(plane.kubeconfig))
    server.api("POST", "/clusters", {"name": CLUSTER, "profile": "admin"})
    answer = server.call("POST", f"/api/v1/clusters/{CLUSTER}/manifest", {"workload": "none"}, token=server.admin_token)
    direct("apply", "-f", "-", stdin=answer.body.decode())
    server.api("POST", "/role-templates", {"name": "pods", "context": "cluster", "rules": [PODS]})
    maps = {"verbs": ["get", "list"], "api_groups": [""], "resources": ["configmaps"]}
    server.api("POST", "/role-templates", {"name": "maps", "context": "cluster", "rules": [maps]})
    it = Road(server, direct, folder, agent_process(direct, folder), server.user("bob"))
    try:
        until("the agent has the policy", it.applied, 60)
        yield it
    finally:
        stop_process(it.agent)
        server.stop()


def test_a_binding_made_over_rest_is_enforced_and_one_that_is_deleted_too(
    road: Road, record_property: Callable[[str, object], None]
) -> None:
    pods, maps = "/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/configmaps"
    assert road.code(pods) == 403
    taken = []
    for _unused in range(5):
        road.bind("bob-reads-pods", "pods")
        taken.append(road.within("Bob may", lambda: road.code(pods) == 200))
        assert road.code(maps) == 403, "and no more than that"
        road.server.api("DELETE", "/cluster-bindings/bob-reads-pods")
        taken.append(road.within("Bob may not any more", lambda: road.code(pods) == 403))
    record_property("change_to_enforced_s", json.dumps([round(seconds, 3) for seconds in taken]))
    print("change to enforced, s:", [round(seconds, 3) for seconds in taken])
    until("the agent said so", lambda: road.applied() and road.revision("applied") == road.revision("desired"))
    status = road.policy()
    assert status["applied_revision"] > 0
    assert (status["profile"], status["errors"], status["lag_seconds"]) == ("admin", [], 0)
    assert road.server.api("GET", f"/clusters/{CLUSTER}")["policy"]["state"] == "applied"


def test_an_agent_that_was_away_gets_what_changed_meanwhile(road: Road) -> None:
    stop_process(road.agent)
    until("the server knows", lambda: road.server.api("GET", f"/clusters/{CLUSTER}")["state"] == "disconnected")
    road.bind("bob-reads-maps", "maps")
    until("it is wanted", lambda: road.policy()["state"] == "pending")
    assert road.policy()["desired_revision"] > road.policy()["applied_revision"]
    road.start_agent()
    until("Bob may", lambda: road.code("/api/v1/namespaces/default/configmaps") == 200)
    until("the agent said so", road.applied)


def test_what_was_committed_right_before_the_server_died_is_enforced_when_it_is_back(road: Road) -> None:
    road.server.api("DELETE", "/cluster-bindings/bob-reads-maps")
    for pid in reversed(road.server.pids()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert road.server.process is not None
    road.server.process.wait(20)
    road.server.start()
    until("the cluster is back", lambda: road.server.api("GET", f"/clusters/{CLUSTER}")["state"] == "connected", 40)
    until("it is gone", lambda: not road.names("clusterrolebindings", "maps:"))
    until("the agent said so", road.applied)


def test_somebody_deletes_a_binding_past_the_server_and_the_audit_log_says_so(road: Road) -> None:
    road.bind("bob-reads-pods", "pods")
    (name,) = until("it is there", lambda: road.names("clusterrolebindings", "pods:"))
    until("the agent said so", road.applied)
    road.direct("delete", name)
    until("it is back", lambda: road.names("clusterrolebindings", "pods:") == [name])

    def recorded() -> list[dict[str, Any]]:
        return [record for record in road.server.audit() if record["stage"] == "drift"]

    (record,) = until("it is recorded", recorded)
    assert (record["cluster"], record["verb"], record["source"]) == (CLUSTER, "heal", "agent")
    assert name.rpartition("/")[2] in record["name"]
    until("it is counted", lambda: road.policy()["healed"] >= 1)


def test_a_thousand_bindings_change_at_once(road: Road, record_property: Callable[[str, object], None]) -> None:
    """So many namespaces times so many roles: one commit makes them all, and one takes them all from a user."""
    project = road.server.api("POST", "/projects", {"name": "all", "cluster": CLUSTER})
    for number in range(ROLES):
        rule = {"verbs": ["get"], "api_groups": [f"g{number}.example.org"], "resources": ["things"]}
        road.server.api("POST", "/role-templates", {"name": f"r{number}", "context": "project", "rules": [rule]})
        binding = {"name": f"b{number}", "project": project["id"], "role": f"r{number}", "users": ["bob"]}
        road.server.api("POST", "/project-bindings", binding)
    assert not road.names("rolebindings")
    spaces = [f"space-{number:02d}" for number in range(SPACES)]
    road.server.api("PATCH", f"/projects/{project['id']}", {"namespaces": [{"name": name} for name in spaces]})
    made = road.within("all are made", lambda: len(road.names("rolebindings")) == SPACES * ROLES, 60)
    until("the agent said so", road.applied, 30)
    assert road.code(f"/apis/g7.example.org/v1/namespaces/{spaces[-1]}/things/x") == 404
    road.server.api("PATCH", "/users/bob", {"enabled": False})
    gone = road.within("all are gone", lambda: not road.names("rolebindings"), 60)
    until("the agent said so", road.applied, 30)
    record_property("thousand_bindings_s", json.dumps([round(made, 1), round(gone, 1)]))
    print("1,000 bindings made and gone, s:", round(made, 1), round(gone, 1))
