# SPDX-License-Identifier: Apache-2.0
"""The agent in its pod: how it joined, what it may do, what it reports, and the road without it."""

from __future__ import annotations

import json
import signal

from support.road import until

from .conftest import CLUSTER, Road

NAMESPACE = "mooring-system"


def cluster(road: Road) -> dict[str, object]:
    return dict(road.server.api("GET", f"/clusters/{CLUSTER}"))


def test_the_pod_of_the_agent_is_locked_down(road: Road) -> None:
    spec = road.direct.json("-n", NAMESPACE, "get", "deployment", "mooring-agent")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert container["resources"]["limits"]["memory"]
    labels = road.direct.json("get", "namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert road.direct("-n", NAMESPACE, "get", "poddisruptionbudgets", "-o", "name").strip()


def can(road: Road, account: str, *words: str) -> bool:
    done = road.direct.run(
        "auth", "can-i", *words, f"--as=system:serviceaccount:{NAMESPACE}:{account}",
        "--as-group=system:serviceaccounts", "--as-group=system:authenticated", check=False,
    )  # fmt: skip
    return done.stdout.strip() == "yes"


def test_the_impersonator_may_impersonate_and_nothing_else(road: Road) -> None:
    assert can(road, "mooring-impersonator", "impersonate", "users")
    assert can(road, "mooring-impersonator", "impersonate", "groups")
    assert can(road, "mooring-impersonator", "impersonate", "serviceaccounts")
    for words in (
        ("get", "pods"),
        ("list", "secrets", "-A"),
        ("get", "nodes"),
        ("create", "tokenreviews.authentication.k8s.io"),
        ("impersonate", "pods"),
        ("*", "*"),
    ):
        assert not can(road, "mooring-impersonator", *words), words


def test_the_agent_itself_may_not_read_what_it_does_not_need(road: Road) -> None:
    assert can(road, "mooring-agent", "list", "nodes")
    for words in (
        ("get", "secrets", "-n", "kube-system"),
        ("list", "secrets", "-n", NAMESPACE),
        ("create", "pods", "-n", NAMESPACE),
        ("impersonate", "users"),
        ("delete", "namespaces"),
        ("create", "roles.rbac.authorization.k8s.io", "-n", NAMESPACE),
        ("*", "*"),
    ):
        assert not can(road, "mooring-agent", *words), words
    # What policies take, by the cluster's profile.
    assert cluster(road)["profile"] == "admin"
    assert can(road, "mooring-agent", "create", "clusterrolebindings")


def test_the_server_shows_version_and_nodes_and_a_change_within_seconds(road: Road) -> None:
    seen = cluster(road)
    assert seen["kubernetes_version"] == "v1.36.3"
    assert seen["node_count"] == 2
    assert seen["api_server_healthy"] is True
    assert seen["agent_version"]
    fake = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "raft"}}
    road.direct("create", "-f", "-", stdin=json.dumps(fake))
    try:
        until("the third node is shown", lambda: cluster(road)["node_count"] == 3, 5)
    finally:
        road.direct("delete", "node", "raft")
    until("it is two again", lambda: cluster(road)["node_count"] == 2, 5)


def test_the_private_key_never_left_the_cluster(road: Road) -> None:
    secret = road.direct.json("-n", NAMESPACE, "get", "secret", "mooring-agent-identity")
    assert "private_key" in secret["data"]
    database = (road.server.folder / "data").glob("*.db*")
    import base64

    key = base64.b64decode(secret["data"]["private_key"]).decode().splitlines()[1]
    assert all(key.encode() not in path.read_bytes() for path in database)


def test_the_join_token_is_dead_after_its_use(road: Road) -> None:
    join = road.direct.json("-n", NAMESPACE, "get", "secret", "mooring-join")
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = base64.urlsafe_b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode().rstrip("=")
    token = next(base64.b64decode(value).decode() for key, value in join["data"].items() if "token" in key)
    answer = road.server.call(
        "POST", "/api/v1/agents/register",
        {"join_token": token, "public_key": key, "cluster_uid": "00000000-0000-0000-0000-000000000000",
         "agent_version": "0.1.0", "kubernetes_version": "v1.36.3"},
    )  # fmt: skip
    assert answer.status == 401
    assert "used" in answer.body.decode()


def test_a_pod_that_is_deleted_comes_back_to_the_same_cluster(road: Road) -> None:
    road.direct("-n", NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/name=mooring-agent", "--timeout=60s")
    road.direct("-n", NAMESPACE, "rollout", "status", "deployment/mooring-agent", "--timeout=60s")
    until("the road is open again", lambda: road.admin.run("get", "ns", "bobs", check=False).returncode == 0, 60)


def test_without_an_agent_the_answer_is_503_with_the_time_of_the_loss(road: Road) -> None:
    road.direct("-n", NAMESPACE, "scale", "deployment/mooring-agent", "--replicas=0")
    try:
        # An agent that was replaced a moment ago may still be leaving: what counts is that in the end there is none.
        path, token = f"/k8s/clusters/{CLUSTER}/version", road.server.admin_token
        until("no agent is left", lambda: road.server.call("GET", path, token=token).status == 503, 60)
        answer = road.server.call("GET", path, token=token)
        assert answer.status == 503
        until("the loss is shown", lambda: cluster(road)["state"] == "disconnected", 10)
        assert answer.headers["Retry-After"]
        assert "lost" in answer.json()["message"]
    finally:
        road.direct("-n", NAMESPACE, "scale", "deployment/mooring-agent", "--replicas=1")
    until("the road is open again", lambda: road.admin.run("get", "ns", "bobs", check=False).returncode == 0, 60)


def test_a_server_that_is_killed_and_comes_back_has_its_clusters_again(road: Road) -> None:
    road.server.stop(signal.SIGKILL)
    road.server.start()
    until("the road is open again", lambda: road.admin.run("get", "ns", "bobs", check=False).returncode == 0, 60)
    assert road.bob("auth", "can-i", "create", "pods", "-n", "bobs").strip() == "yes"


def test_the_doctor_finds_each_hop_well(road: Road) -> None:
    done = road.server.mooring("doctor", "--config", road.server.config, "--cluster", CLUSTER)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("FAIL")], done.stdout
    assert any(line.startswith("ok") and "through the tunnel" in line for line in lines)
