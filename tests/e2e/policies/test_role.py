# SPDX-License-Identifier: Apache-2.0
"""The sample policy of docs/examples on two real clusters, by the playbook that users run.

Check mode shows the objects that the play then makes, a second run changes nothing but what was taken out of the tree,
and each cluster's own authoriser is asked who may do what.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.plays import Play, changes, install, player, said
from support.road import Kubectl, Server, agent_process, stop_process, until
from testbed import ControlPlane, Run

ROOT = Path(__file__).resolve().parents[3]
COMPANY = yaml.safe_load((ROOT / "docs" / "examples" / "company.yml").read_text())["mooring_policy"]
TEAMS = {"ann": "shop-team", "ben": "bank-team", "pat": "platform-team"}
LABELS = {"paris": "tier=production", "lyon": "tier=test"}
PLAYBOOK = "mooring.fleet.apply_policies"

# user, cluster, verb, resource, namespace, may
TABLE = [
    ("ann", "paris", "create", "pods", "shop-front", True),
    ("ann", "paris", "create", "pods", "shop-db", True),
    ("ann", "paris", "get", "pods", "bank", True),  # the audit
    ("ann", "paris", "create", "pods", "bank", False),
    ("ann", "paris", "get", "pods", "default", False),
    ("ann", "lyon", "create", "pods", "playground", True),
    ("ann", "lyon", "get", "pods", "default", True),  # a test cluster
    ("ann", "lyon", "delete", "pods", "default", False),
    ("ben", "paris", "get", "pods", "shop-front", False),
    ("ben", "paris", "create", "deployments.apps", "bank", True),
    ("ben", "paris", "create", "rolebindings.rbac.authorization.k8s.io", "bank", False),
    ("ben", "lyon", "get", "deployments.apps", "kube-system", True),
    ("ben", "lyon", "get", "secrets", "kube-system", False),
    ("pat", "paris", "delete", "nodes", "", True),
    ("pat", "lyon", "delete", "nodes", "", True),
]


@dataclass
class Site:
    name: str
    direct: Kubectl
    server: Server

    def may(self, user: str, verb: str, resource: str, namespace: str) -> bool:
        plain, _dot, group = resource.partition(".")
        asked = {"verb": verb, "resource": plain, "group": group, "namespace": namespace}
        spec = {
            "user": f"mooring:{user}",
            "groups": [f"mooring:{TEAMS[user]}"] if user in TEAMS else [],
            "resourceAttributes": {name: value for name, value in asked.items() if value},
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        done = self.direct("create", "-f", "-", "-o", "json", stdin=json.dumps(review))
        return bool(json.loads(done)["status"]["allowed"])

    def objects(self) -> set[str]:
        """What the policy made here, as lines of the play say it."""
        kinds = "clusterroles,clusterrolebindings,rolebindings,resourcequotas,limitranges,networkpolicies"
        items = self.direct.json("get", kinds, "-A", "-l", "mooring.fleet/policy=true")["items"]
        return {
            " ".join(
                [item["kind"], "/".join(filter(None, [item["metadata"].get("namespace"), item["metadata"]["name"]]))]
            )
            for item in items
        }

    def settled(self) -> bool:
        status = self.server.api("GET", f"/clusters/{self.name}/policy")
        return bool(status["state"] == "applied")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    it = Server(tmp_path_factory.mktemp("company"))
    it.init()
    it.start()
    for user, team in TEAMS.items():
        it.api("POST", "/groups", {"name": team})
        it.api("POST", "/users", {"name": user, "password": f"{user} is one of the three", "groups": [team]})
    yield it
    it.stop()


@pytest.fixture(scope="module")
def sites(server: Server, testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    found: dict[str, Site] = {}
    planes: list[ControlPlane] = []
    agents: list[subprocess.Popen[bytes]] = []
    try:
        for name, label in LABELS.items():
            plane = ControlPlane(name, run=testbed_run)
            planes.append(plane)
            plane.up()
            direct = Kubectl(plane.bin / "kubectl", Path(plane.kubeconfig))
            server.mooring("cluster", "create", name, "--label", label)
            direct("apply", "-f", "-", stdin=server.mooring("cluster", "manifest", name, "--no-workload").stdout)
            agents.append(agent_process(direct, tmp_path_factory.mktemp(name)))
            found[name] = Site(name, direct, server)
        for name in found:
            until("connected", partial(connected, server, name), 60)
        yield found
    finally:
        for agent in agents:
            stop_process(agent)
        for plane in planes:
            plane.down()


@pytest.fixture(scope="module")
def play(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Play:
    collections = install(tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("collections"))
    return player(collections, server, tmp_path_factory.mktemp("plays"))


def connected(server: Server, name: str) -> bool:
    return bool(server.api("GET", f"/clusters/{name}")["state"] == "connected")


def answers(site: Site, question: tuple[str, str, str, str], may: bool) -> bool:
    return site.may(*question) == may


def lines(runner: Any, sign: str) -> set[str]:
    """What the play said of the clusters: `<cluster>: <sign> <kind> <namespace>/<name>`."""
    [told] = [
        event["event_data"]["res"]["msg"]
        for event in runner.events
        if event["event"] == "runner_on_ok" and event["event_data"]["task"] == "Show the objects of each cluster"
    ]
    return {line.replace(f": {sign} ", ": ") for line in told if f": {sign} " in line}


def changed(runner: Any) -> set[str]:
    """The names of the tasks that changed something."""
    events = (event["event_data"] for event in runner.events if event["event"] == "runner_on_ok")
    return {data["task"] for data in events if data["res"].get("changed")}


def without_audit() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(json.dumps(COMPANY))
    bank = tree["clusters"][0]["projects"][1]
    bank["bindings"] = [binding for binding in bank["bindings"] if binding["name"] != "audit-of-the-bank"]
    tree["global_bindings"] = tree["global_roles"] = []
    return tree


def test_a_company_has_its_policy_from_one_tree(play: Play, server: Server, sites: dict[str, Site]) -> None:
    checked = play(PLAYBOOK, cmdline="--check", mooring_policy=COMPANY)
    assert changes(checked) > 0
    assert server.api("GET", "/projects")["items"] == []
    before = {name: site.objects() for name, site in sites.items()}

    assert changes(play(PLAYBOOK, mooring_policy=COMPANY)) > 0
    for user, cluster, verb, resource, namespace, may in TABLE:
        question = (user, verb, resource, namespace)
        until(f"{question} in {cluster}: {may}", partial(answers, sites[cluster], question, may), 20)
    for site in sites.values():
        until(f"{site.name} is settled", site.settled, 20)
    made = {f"{name}: {one}" for name, site in sites.items() for one in site.objects() - before[name]}
    assert made == {line for line in lines(checked, "+") if ": Namespace " not in line}
    spaces = sites["paris"].direct.json("get", "namespaces", "-l", "mooring.fleet/project")["items"]
    assert {item["metadata"]["name"] for item in spaces} == {"shop-front", "shop-db", "bank"}

    # What the tree still names is not touched again.
    pruned = play(PLAYBOOK, mooring_policy=without_audit(), mooring_policy_prune=True)
    assert changes(pruned) > 0
    assert {task.split(" ")[0] for task in changed(pruned)} == {"Remove"}, said(pruned)
    for cluster, resource, namespace in (("paris", "pods", "bank"), ("lyon", "pods", "default")):
        until("the right is gone", partial(answers, sites[cluster], ("ann", "get", resource, namespace), False), 20)
    assert sites["paris"].may("ann", "create", "pods", "shop-front")
    names = {binding["name"]: binding for binding in server.api("GET", "/global-bindings")["items"]}
    assert "developers-look-at-tests" not in names
    assert [binding for binding in names.values() if binding["builtin"]]
