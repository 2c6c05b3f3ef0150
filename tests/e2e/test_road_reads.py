# SPDX-License-Identifier: Apache-2.0
"""What a person reads through the server is what the cluster says: each answer is compared with the direct one."""

from __future__ import annotations

import gzip
import http.client
import json
import ssl

import pytest

from .conftest import CLUSTER, Road


@pytest.mark.parametrize(
    "words",
    [
        ("get", "namespaces", "kube-system"),
        ("get", "nodes", "-o", "wide", "--no-headers=false", "--show-labels"),
        ("get", "clusterroles", "-o", "json"),
        ("get", "clusterroles", "-o", "yaml"),
        ("get", "clusterrole", "edit", "-o", "jsonpath={.rules[0].apiGroups}"),
        ("get", "clusterroles", "--chunk-size=10", "-o", "name"),
        ("explain", "deployment.spec.replicas"),
        ("explain", "pods", "--recursive"),
        ("api-resources", "--sort-by=name"),
        ("api-versions",),
        ("version",),
        ("get", "--raw", "/version"),
        ("get", "--raw", "/openapi/v2"),
        ("get", "--raw", "/api/v1/namespaces/kube-system"),
        ("describe", "clusterrole", "view"),
    ],
    ids=" ".join,
)
def test_a_read_prints_what_the_direct_read_prints(road: Road, words: tuple[str, ...]) -> None:
    assert road.same(*words)


def test_a_table_of_pods_in_the_wide_form(road: Road, pod: str) -> None:
    lines = road.admin("-n", "bobs", "get", "pods", "-o", "wide").splitlines()
    assert lines[0].split()[:3] == ["NAME", "READY", "STATUS"]
    assert "boat" in lines[1]


def test_ten_thousand_config_maps_arrive_complete_in_pages_and_at_once(road: Road, namespace: str) -> None:
    items = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"m{i:05d}"}, "data": {"k": "v" * 50}}
        for i in range(10_000)
    ]
    connect, headers = connection(road)
    path = f"/k8s/clusters/{CLUSTER}/api/v1/namespaces/{namespace}/configmaps"
    for item in items:
        connect.request("POST", path, json.dumps(item), {**headers, "Content-Type": "application/json"})
        answer = connect.getresponse()
        assert answer.status == 201, answer.read()
        answer.read()
    names = road.admin("-n", namespace, "get", "configmaps", "-o", "name", "--chunk-size=500").split()
    assert len([name for name in names if name.startswith("configmap/m")]) == 10_000
    connect.request("GET", path, headers=headers)
    whole = json.loads(connect.getresponse().read())
    assert len([item for item in whole["items"] if item["metadata"]["name"].startswith("m")]) == 10_000
    # the API server compresses what is over 128 KB, for clients that can read it
    connect.request("GET", path, headers={**headers, "Accept-Encoding": "gzip"})
    answer = connect.getresponse()
    body = answer.read()
    assert answer.headers["Content-Encoding"] == "gzip"
    # The list's own version goes on with every write anywhere in the cluster.
    assert json.loads(gzip.decompress(body))["items"] == whole["items"]


def connection(road: Road) -> tuple[http.client.HTTPSConnection, dict[str, str]]:
    context = ssl.create_default_context(cafile=str(road.server.ca))
    connect = http.client.HTTPSConnection(road.server.address, road.server.port, context=context, timeout=60)
    return connect, {"Authorization": f"Bearer {road.server.admin_token}"}


def test_errors_of_the_cluster_arrive_unchanged(road: Road) -> None:
    assert road.direct.refused("get", "pod", "nobody") == road.admin.refused("get", "pod", "nobody")
    assert road.direct.refused("get", "--raw", "/apis/nothing/v9") == road.admin.refused(
        "get", "--raw", "/apis/nothing/v9"
    )
    connect, headers = connection(road)
    connect.request("GET", f"/k8s/clusters/{CLUSTER}/api/v1/namespaces/none/pods/none", headers=headers)
    answer = connect.getresponse()
    assert answer.status == 404
    assert json.loads(answer.read())["reason"] == "NotFound"


def test_warnings_of_the_cluster_arrive(road: Road, namespace: str) -> None:
    manifest = json.dumps(
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "warned", "namespace": namespace},
            "spec": {"containers": [{"name": "a", "image": "x", "env": [{"name": "A", "value": v} for v in "12"]}]},
        }
    )  # fmt: skip
    through = road.admin.run("create", "--dry-run=server", "-f", "-", stdin=manifest)
    straight = road.direct.run("create", "--dry-run=server", "-f", "-", stdin=manifest)
    assert "Warning:" in through.stderr
    assert through.stderr == straight.stderr


def test_head_and_options_have_no_body_of_ours(road: Road) -> None:
    connect, headers = connection(road)
    connect.request("HEAD", f"/k8s/clusters/{CLUSTER}/version", headers=headers)
    answer = connect.getresponse()
    assert answer.read() == b""
    connect.request("GET", f"/k8s/clusters/{CLUSTER}/version", headers=headers)
    assert json.loads(connect.getresponse().read())["major"] == "1"
