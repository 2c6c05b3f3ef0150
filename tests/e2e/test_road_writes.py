# SPDX-License-Identifier: Apache-2.0
"""Every kind of write through the server, and that it did in the cluster what it says."""

from __future__ import annotations

import json

import pytest
from support.road import until

from .conftest import Road

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}, labels: {{app: web}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - {{name: c, image: "{image}", imagePullPolicy: Never, command: [sleep, "100000"]}}
"""


def deployment(road: Road, namespace: str, replicas: int = 1) -> str:
    return DEPLOYMENT.format(namespace=namespace, image=road.image, replicas=replicas)


def test_create_apply_on_the_client_and_on_the_server(road: Road, namespace: str) -> None:
    road.admin("create", "-f", "-", stdin=deployment(road, namespace))
    assert "AlreadyExists" in road.admin.run("create", "-f", "-", stdin=deployment(road, namespace), check=False).stderr
    road.admin("-n", namespace, "delete", "deployment", "web")
    road.admin("apply", "-f", "-", stdin=deployment(road, namespace))
    out = road.admin("apply", "-f", "-", stdin=deployment(road, namespace, 2))
    assert "configured" in out
    assert road.direct.json("-n", namespace, "get", "deployment", "web")["spec"]["replicas"] == 2
    out = road.admin("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=deployment(road, namespace, 3))
    assert "serverside-applied" in out
    assert road.direct.json("-n", namespace, "get", "deployment", "web")["spec"]["replicas"] == 3
    assert road.admin("diff", "-f", "-", stdin=deployment(road, namespace, 3)) == ""


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("strategic", {"data": {"strategic": "yes"}}),
        ("merge", {"data": {"merge": "yes"}}),
        ("json", [{"op": "add", "path": "/data/json", "value": "yes"}]),
    ],
)
def test_a_patch_of_each_kind(road: Road, namespace: str, kind: str, patch: object) -> None:
    road.admin("-n", namespace, "create", "configmap", "c", "--from-literal=a=1")
    road.admin("-n", namespace, "patch", "configmap", "c", "--type", kind, "-p", json.dumps(patch))
    assert road.direct.json("-n", namespace, "get", "configmap", "c")["data"] == {"a": "1", kind: "yes"}


def test_label_annotate_scale_and_edit_a_status(road: Road, namespace: str) -> None:
    road.admin("apply", "-f", "-", stdin=deployment(road, namespace))
    road.admin("-n", namespace, "label", "deployment", "web", "tier=front")
    road.admin("-n", namespace, "annotate", "deployment", "web", "note=harbour")
    road.admin("-n", namespace, "scale", "deployment", "web", "--replicas=2")
    road.admin("-n", namespace, "rollout", "status", "deployment", "web", "--timeout=60s")
    found = road.direct.json("-n", namespace, "get", "deployment", "web")
    assert found["metadata"]["labels"]["tier"] == "front"
    assert found["metadata"]["annotations"]["note"] == "harbour"
    assert found["status"]["readyReplicas"] == 2


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
def test_delete_with_each_propagation(road: Road, namespace: str, cascade: str) -> None:
    road.admin("apply", "-f", "-", stdin=deployment(road, namespace))
    road.admin("-n", namespace, "rollout", "status", "deployment", "web", "--timeout=60s")
    road.admin("-n", namespace, "delete", "deployment", "web", f"--cascade={cascade}", "--timeout=60s")
    assert road.direct("-n", namespace, "get", "deployments", "-o", "name") == ""

    def replica_sets() -> list[str]:
        return road.direct("-n", namespace, "get", "replicasets", "-o", "name").split()

    if cascade == "orphan":
        assert replica_sets()
    else:
        until("the replica set is gone", lambda: not replica_sets(), 30)


def test_delete_a_collection(road: Road, namespace: str) -> None:
    for name in ("a", "b", "c"):
        road.admin("-n", namespace, "create", "configmap", name)
    road.admin("-n", namespace, "delete", "configmaps", "--all")
    names = road.direct("-n", namespace, "get", "configmaps", "-o", "name").split()
    assert not {"configmap/a", "configmap/b", "configmap/c"} & set(names)


def test_drain_and_uncordon_a_node(road: Road, namespace: str) -> None:
    road.admin("apply", "-f", "-", stdin=deployment(road, namespace, 2))
    road.admin("-n", namespace, "rollout", "status", "deployment", "web", "--timeout=60s")
    nodes = road.direct("get", "nodes", "-o", "name").split()
    busy = road.direct.json("-n", "mooring-system", "get", "pods")["items"][0]["spec"]["nodeName"]
    node = next(name.removeprefix("node/") for name in nodes if name != f"node/{busy}")
    try:
        out = road.admin(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s",
            "--pod-selector=app=web",
        )  # fmt: skip
        assert "drained" in out
        assert road.direct.json("get", "node", node)["spec"]["unschedulable"] is True
        until(
            "no pod of ours on the drained node",
            lambda: all(
                pod["spec"].get("nodeName") != node or pod["metadata"].get("deletionTimestamp")
                for pod in road.direct.json("-n", namespace, "get", "pods")["items"]
            ),
        )
    finally:
        road.admin("uncordon", node)


def test_a_body_of_one_megabyte_arrives_whole(road: Road, namespace: str) -> None:
    text = "x" * 900_000
    manifest = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big", "namespace": namespace},
                           "data": {"text": text}})  # fmt: skip
    road.admin("create", "-f", "-", stdin=manifest)
    assert road.admin.json("-n", namespace, "get", "configmap", "big")["data"]["text"] == text
