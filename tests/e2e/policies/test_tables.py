# SPDX-License-Identifier: Apache-2.0
"""Tables: user x verb x resource x namespace, as the built-in roles say and as two real clusters answer.

The users come through the server's proxy with tokens of their own. What they may do is asked of the API server
(SelfSubjectAccessReview) for all of the table, by `kubectl auth can-i` and by the real call for a part of it. The
expectations are written by hand here, and not taken from the policy's own evaluator.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support import tables
from support.rawhttp import RawClient, bearer
from support.road import Kubectl, Server, agent_process, stop_process, until
from support.tables import GLOBAL, IN_CLUSTER, IN_PROJECT, MEMBER, words
from testbed.controlplane import ControlPlane
from testbed.state import Run

JSON = (b"Content-Type", b"application/json")


@dataclass
class Road:
    server: Server
    planes: dict[str, ControlPlane]
    client: RawClient
    tokens: dict[str, str] = field(default_factory=dict)
    names: Iterator[int] = field(default_factory=itertools.count)

    def user(self, name: str) -> str:
        """Make a user; returns the name. Without a password, since hashing one is slow."""
        self.server.api("POST", "/users", {"name": name})
        self.tokens[name] = self.server.api("POST", "/tokens", {"user": name, "ttl_seconds": 3600})["token"]
        return name

    def call(self, user: str, cluster: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A Kubernetes call of a user's, through the proxy."""
        data = b"" if body is None else json.dumps(body).encode()
        answer = self.client.request(method, f"/k8s/clusters/{cluster}{path}", bearer(self.tokens[user], JSON), data)
        return answer.status, answer.json() if answer.status < 300 else None

    def ask(self, user: str, cluster: str) -> tables.Ask:
        """The user's calls, as a table makes them."""
        return lambda method, path, body: self.call(user, cluster, method, path, body)

    def may(self, user: str, cluster: str, probe: str, namespace: str) -> bool | None:
        """What the API server says; None: the proxy does not let the user in."""
        return tables.may(self.ask(user, cluster), probe, namespace)

    def differences(self, user: str, cluster: str, namespace: str, expected: frozenset[str]) -> list[str]:
        """Where the API server says something else than the table."""
        found = tables.differences(self.ask(user, cluster), namespace, expected)
        return [f"{user} in {cluster}/{line}" for line in found]

    def settled(self) -> None:
        """Wait until each cluster has the policy that is wanted."""

        def applied() -> bool:
            items = self.server.api("GET", "/policy/status")["items"]
            return bool(items) and all(item["state"] == "applied" for item in items)

        until("the policy is applied in each cluster", applied, 30)


def join(server: Server, name: str, plane: ControlPlane, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    direct = Kubectl(plane.bin / "kubectl", Path(plane.kubeconfig))
    server.api("POST", "/clusters", {"name": name})
    body = {"workload": "none", "admin_binding": False}
    manifest = server.call("POST", f"/api/v1/clusters/{name}/manifest", body, token=server.admin_token)
    direct("apply", "-f", "-", stdin=manifest.body.decode())
    return agent_process(direct, folder)


@pytest.fixture(scope="module")
def road(testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """Two clusters; in `port` the projects shop (shop-web, shop-db) and bank (vault), and a user for each role."""
    planes = {name: ControlPlane(f"tables-{name}", run=testbed_run).up() for name in ("port", "quay")}
    folder = tmp_path_factory.mktemp("tables")
    server = Server(folder / "server")
    server.init()
    agents: list[subprocess.Popen[bytes]] = []
    try:
        server.start()
        agents += [join(server, name, plane, folder / name) for name, plane in planes.items()]
        it = Road(server, planes, RawClient(server.address, server.port, server.ca))
        it.tokens["admin"] = server.admin_token
        for project, spaces in (("shop", ("shop-web", "shop-db")), ("bank", ("vault",))):
            wish = {"name": project, "cluster": "port", "namespaces": [{"name": space} for space in spaces]}
            server.api("POST", "/projects", wish)
        for role in IN_PROJECT:
            who = it.user(f"p-{role}")
            place = {"project": "shop", "cluster": "port"}
            server.api("POST", "/project-bindings", {"name": who[:60], "role": role, "users": [who], **place})
        for role in IN_CLUSTER:
            who = it.user(f"c-{role}")
            server.api("POST", "/cluster-bindings", {"name": who[:60], "role": role, "users": [who], "cluster": "port"})
        for role in GLOBAL:
            who = it.user(f"g-{role}")
            server.api("POST", "/global-bindings", {"name": who, "role": role, "users": [who]})
        it.settled()
        yield it
        it.client.close()
    finally:
        for agent in agents:
            stop_process(agent)
        server.stop()


def test_each_role_of_a_project_gives_what_the_table_says_and_only_there(road: Road) -> None:
    found = []
    for role, expected in IN_PROJECT.items():
        found += road.differences(f"p-{role}", "port", "shop-web", expected)
        found += [
            f"{role} in vault: {probe}" for probe in sorted(expected) if road.may(f"p-{role}", "port", probe, "vault")
        ]
        assert road.may(f"p-{role}", "quay", "get pods", "default") is None
    assert found == []


def test_each_role_of_a_cluster_gives_what_the_table_says_and_only_there(road: Road) -> None:
    found = []
    for role, expected in IN_CLUSTER.items():
        found += road.differences(f"c-{role}", "port", "vault", expected)
        assert road.may(f"c-{role}", "quay", "get pods", "default") is None
    assert found == []


def test_each_global_role_gives_what_the_table_says(road: Road) -> None:
    for role, expected in GLOBAL.items():
        for cluster in road.planes:
            if expected is None:
                assert road.may(f"g-{role}", cluster, "get pods", "default") is None
            else:
                assert road.differences(f"g-{role}", cluster, "kube-system", expected) == []


def test_the_real_calls_agree_with_the_table(road: Road) -> None:
    for role, expected in IN_PROJECT.items():
        who = f"p-{role}"
        for space, held in (("shop-web", expected), ("vault", frozenset())):
            base = f"/api/v1/namespaces/{space}"
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"made-{next(road.names)}"}}
            seen = {
                "get configmaps": road.call(who, "port", "GET", f"{base}/configmaps/kube-root-ca.crt")[0] != 403,
                "create configmaps": road.call(who, "port", "POST", f"{base}/configmaps", made)[0] == 201,
                "get secrets": road.call(who, "port", "GET", f"{base}/secrets/nosuch")[0] != 403,
                "get nodes": road.call(who, "port", "GET", "/api/v1/nodes/nosuch")[0] != 403,
            }
            assert {probe for probe, allowed in seen.items() if allowed} == held & seen.keys(), (who, space)
    kubectl = road.planes["port"].bin / "kubectl"
    for who, words_, answer in (
        ("p-project-member", ("create", "deployments.apps", "-n", "shop-web"), "yes"),
        ("p-project-member", ("create", "pods", "--subresource=exec", "-n", "shop-web"), "no"),
        ("c-cluster-viewer", ("get", "secrets", "-A"), "no"),
    ):
        path = road.server.folder / f"{who}.kubeconfig"
        if not path.exists():
            road.server.mooring("kubeconfig", "--token", "-o", path, token=road.tokens[who])
        done = Kubectl(kubectl, path).run("auth", "can-i", *words_, check=False)
        assert done.stdout.strip() == answer, (who, words_, done.stdout, done.stderr)


def test_who_joins_a_group_has_its_roles_and_who_leaves_it_has_not(road: Road) -> None:
    ann = road.user("ann")
    api = road.server.api
    api("POST", "/groups", {"name": "crew"})
    wish = {"name": "crew", "role": "project-member", "project": "shop", "cluster": "port", "groups": ["crew"]}
    api("POST", "/project-bindings", wish)
    road.settled()
    assert road.may(ann, "port", "create pods", "shop-web") is None
    api("PATCH", "/groups/crew", {"add_members": ["ann"]})
    assert road.differences(ann, "port", "shop-web", MEMBER) == []
    api("PATCH", "/groups/crew", {"remove_members": ["ann"]})
    assert road.may(ann, "port", "create pods", "shop-web") is None


def test_a_binding_ends_in_its_second_and_not_before(road: Road) -> None:
    eve = road.user("eve")
    end = int(time.time()) + 9
    when = datetime.fromtimestamp(end, UTC).isoformat()
    place = {"project": "shop", "cluster": "port", "users": ["eve"]}
    road.server.api("POST", "/project-bindings", {"name": "lasting", "role": "services-view", **place})
    wish = {"name": "ending", "role": "secrets-view", "expires_at": when, **place}
    road.server.api("POST", "/project-bindings", wish)
    until("the binding holds", lambda: road.may(eve, "port", "get secrets", "shop-web"), 8)
    until("the binding has ended", lambda: road.may(eve, "port", "get secrets", "shop-web") is False, 15)
    assert time.time() >= end, "it ended before its time"
    assert road.may(eve, "port", "get services", "shop-web"), "what has no end stays"


def test_a_namespace_that_moves_takes_the_rights_of_its_new_project(road: Road) -> None:
    dora = road.user("dora")
    place = {"project": "bank", "cluster": "port", "users": ["dora"]}
    road.server.api("POST", "/project-bindings", {"name": "dora", "role": "project-member", **place})
    road.settled()
    assert road.differences("p-project-member", "port", "shop-db", MEMBER) == []
    assert road.differences(dora, "port", "shop-db", frozenset()) == []
    road.server.api("POST", "/projects/bank/namespaces?cluster=port", {"name": "shop-db", "move": True})
    until("the new project's people are in", lambda: road.may(dora, "port", "create pods", "shop-db"), 15)
    road.settled()
    assert road.differences("p-project-member", "port", "shop-db", frozenset()) == []
    assert road.differences(dora, "port", "shop-db", MEMBER) == []


def test_a_role_that_is_edited_gives_what_it_says_now(road: Road) -> None:
    fay = road.user("fay")
    api = road.server.api

    def rules(*resources: str) -> list[dict[str, list[str]]]:
        return [{"verbs": ["get"], "api_groups": [""], "resources": list(resources)}]

    api("POST", "/role-templates", {"name": "mine", "context": "project", "rules": rules("pods", "services")})
    place = {"project": "shop", "cluster": "port", "users": ["fay"]}
    api("POST", "/project-bindings", {"name": "fay", "role": "mine", **place})
    road.settled()
    assert road.differences(fay, "port", "shop-web", words("get pods, get services")) == []
    api("PATCH", "/role-templates/mine", {"rules": rules("services", "configmaps")})
    until("the new rule holds", lambda: road.may(fay, "port", "get configmaps", "shop-web"), 15)
    road.settled()
    assert road.differences(fay, "port", "shop-web", words("get services, get configmaps")) == []
