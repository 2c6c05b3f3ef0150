# SPDX-License-Identifier: Apache-2.0
"""The collection as users get it: installed from its tarball, run by ansible-runner, against a real cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.plays import Play, changes, install, player, said
from support.road import Kubectl, Server, agent_process, stop_process, until
from testbed import ControlPlane, Run

NAME = "quay"


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the built tarball is installed."""
    return install(tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def cluster(testbed_run: Run) -> Iterator[ControlPlane]:
    """Of its own: namespaces are removed here, which needs the controllers."""
    with ControlPlane("runner", controllers=True, run=testbed_run) as plane:
        yield plane


@pytest.fixture(scope="module")
def quay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    it = Server(tmp_path_factory.mktemp("quay"))
    it.init()
    it.start()
    yield it
    it.stop()


@pytest.fixture
def play(collections: Path, quay: Server, tmp_path: Path) -> Play:
    return player(collections, quay, tmp_path)


def test_import_use_and_remove(
    play: Play, quay: Server, cluster: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    direct = Kubectl(cluster.bin / "kubectl", Path(cluster.kubeconfig))
    wanted = {
        "mooring_cluster_name": NAME,
        "mooring_cluster_kubeconfig": str(cluster.kubeconfig),
        "mooring_cluster_labels": {"site": "coast"},
        "mooring_agent_workload": "none",
    }

    # The manifest is applied, and the role can be told not to wait for an agent that is started afterwards.
    first = play("mooring.fleet.import_cluster", **wanted, mooring_agent_wait=False)
    assert changes(first) > 0
    direct("-n", "mooring-system", "get", "secret", "mooring-join")
    agent: subprocess.Popen[bytes] = agent_process(direct, tmp_path)
    request.addfinalizer(lambda: stop_process(agent))

    # A run that waits ends when it is connected.
    second = play("mooring.fleet.import_cluster", **wanted)
    assert second.status == "successful", said(second)
    assert quay.api("GET", f"/clusters/{NAME}")["state"] == "connected"
    assert "is connected, Kubernetes v1.36" in said(second)

    # Once the agent has registered there is nothing left to change, and nothing secret in what a run leaves behind.
    assert changes(play("mooring.fleet.import_cluster", **wanted)) == 0
    token = quay.admin_token.rsplit("_", 1)[1]
    left = [path for path in (tmp_path / "runs").glob("*/artifacts/**/*") if path.is_file() and path.name != "command"]
    assert left
    assert [path for path in left if token in path.read_text() or "mrj_" in path.read_text()] == []

    # Each cluster is a host of the inventory plugin; kubernetes.core goes through the server with no more said.
    source = tmp_path / "fleet.mooring.yml"
    source.write_text(
        json.dumps(
            {
                "plugin": "mooring.fleet.clusters",
                "strict": True,
                "keyed_groups": [{"key": "mooring_labels", "prefix": "label"}],
            }
        )
    )
    ship = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ship", "namespace": "default"}}
    through: list[dict[str, Any]] = [
        {
            "name": "Through the server",
            "hosts": "label_site_coast",
            "gather_facts": False,
            "environment": "{{ mooring_k8s_environment }}",
            "tasks": [
                {"name": "Make", "kubernetes.core.k8s": {"definition": {**ship, "data": {"name": "Argo"}}}},
                {
                    "name": "Read",
                    "kubernetes.core.k8s_info": {"kind": "ConfigMap", "name": "ship", "namespace": "default"},
                    "register": "found",
                },
                {"name": "Check", "ansible.builtin.assert": {"that": "found.resources[0].data.name == 'Argo'"}},
            ],
        }
    ]
    assert changes(play(through, inventory=str(source))) == 1
    assert direct.json("get", "configmap", "ship")["data"] == {"name": "Argo"}
    calls = [line for line in quay.audit() if line.get("resource") == "configmaps"]
    assert {line["user"] for line in calls} == {"admin"}

    # Removed: nothing of ours is left in the cluster or on the server, and a second run has nothing to do.
    gone = {key: wanted[key] for key in ("mooring_cluster_name", "mooring_cluster_kubeconfig")}
    assert changes(play("mooring.fleet.remove_cluster", **gone)) > 0
    kinds = "namespaces,clusterroles,clusterrolebindings"
    until(
        "the namespace is gone",
        lambda: not direct.json("get", kinds, "-l", "app.kubernetes.io/part-of=mooring")["items"],
        60,
    )
    assert quay.api("GET", "/clusters")["items"] == []
    assert changes(play("mooring.fleet.remove_cluster", **gone)) == 0


def test_an_error_names_the_field_and_what_to_do(play: Play) -> None:
    runner = play(
        [
            {
                "name": "A wrong name",
                "hosts": "localhost",
                "gather_facts": False,
                "tasks": [{"name": "Make it", "mooring.fleet.user": {"name": "system:bob"}}],
            }
        ]
    )
    assert runner.status == "failed"
    assert "422" in said(runner)
    assert "name: " in said(runner)
    assert "system:" in said(runner)
