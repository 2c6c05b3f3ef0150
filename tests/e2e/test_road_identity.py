# SPDX-License-Identifier: Apache-2.0
"""Who Bob is in the cluster, who is kept out and with what words, and that a revoked right ends what it opened."""

from __future__ import annotations

import json
import os

import pytest
from support.road import Kubectl, stop_process, until

from .conftest import CLUSTER, Road


def test_bob_is_himself_in_the_cluster(road: Road) -> None:
    info = json.loads(road.bob("auth", "whoami", "-o", "json"))["status"]["userInfo"]
    me = road.server.call("GET", "/api/v1/whoami", token=road.bob_user.token).json()
    assert info["username"] == "mooring:bob"
    assert info["uid"] == me["uid"]
    assert sorted(info["groups"]) == ["mooring:developers", "system:authenticated"]
    assert info["extra"]["mooring.fleet/token-id"] == [kubeconfig_token_id(road.bob)]
    assert len(info["extra"]["mooring.fleet/request-id"][0]) == 32


def test_can_i_says_what_the_cluster_says(road: Road) -> None:
    assert road.bob("auth", "can-i", "create", "pods", "-n", "bobs").strip() == "yes"
    assert road.bob("auth", "can-i", "create", "pods", "-n", "kube-system", check=False).strip() == "no"
    assert road.admin("auth", "can-i", "*", "*", "--all-namespaces").strip() == "yes"


def test_what_bob_may_not_do_the_cluster_forbids_in_his_name(road: Road) -> None:
    said = road.bob.refused("get", "secrets", "-n", "kube-system")
    assert 'User "mooring:bob" cannot list resource "secrets"' in said


@pytest.mark.parametrize("token", ["", "nonsense", "mrg_unknown_secret"])
def test_an_unknown_caller_gets_401_as_a_status(road: Road, token: str) -> None:
    answer = road.server.call("GET", f"/k8s/clusters/{CLUSTER}/version", token=token or None)
    assert answer.status == 401
    assert answer.json()["kind"] == "Status"
    assert answer.json()["reason"] == "Unauthorized"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_user_without_a_membership_gets_403_and_the_way_in(road: Road) -> None:
    carol = road.server.user("carol")
    answer = road.server.call("GET", f"/k8s/clusters/{CLUSTER}/version", token=carol.token)
    assert (answer.status, answer.json()["reason"]) == (403, "Forbidden")
    assert "carol" in answer.json()["message"]


def test_an_unknown_cluster_is_404(road: Road) -> None:
    answer = road.server.call("GET", "/k8s/clusters/atlantis/version", token=road.server.admin_token)
    assert (answer.status, answer.json()["reason"]) == (404, "NotFound")
    assert "atlantis" in answer.json()["message"]


def test_a_cluster_that_never_connected_is_503_and_kubectl_says_why(road: Road) -> None:
    road.server.mooring("cluster", "create", "ghost")
    answer = road.server.call("GET", "/k8s/clusters/ghost/version", token=road.server.admin_token)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["reason"] == "ServiceUnavailable"
    assert "never connected" in answer.json()["message"]
    kubeconfig = road.server.folder / "ghost.kubeconfig"
    road.server.mooring("kubeconfig", "--token", "--cluster", "ghost", "-o", kubeconfig)
    said = Kubectl(road.bob.binary, kubeconfig).refused("get", "--raw", "/version")
    assert "never connected" in said


@pytest.mark.parametrize("flags", [["--as=root"], ["--as=root", "--as-group=system:masters"], ["--as=x", "--as-uid=1"]])
def test_who_has_no_right_to_impersonate_is_refused_in_the_clusters_words(road: Road, flags: list[str]) -> None:
    """What they may with such a right is in test_road_as.py."""
    said = road.bob.refused("get", "pods", "-n", "bobs", *flags)
    assert 'is forbidden: User "mooring:bob" cannot impersonate resource "users"' in said


def test_the_cluster_is_found_by_its_id_too(road: Road) -> None:
    cluster = road.server.api("GET", f"/clusters/{CLUSTER}")
    answer = road.server.call("GET", f"/k8s/clusters/{cluster['id']}/version", token=road.server.admin_token)
    assert answer.status == 200


def test_a_token_for_one_cluster_is_no_good_elsewhere(road: Road) -> None:
    if road.server.call("GET", "/api/v1/clusters/other", token=road.server.admin_token).status == 404:
        road.server.mooring("cluster", "create", "other")
    token = road.server.api("POST", "/tokens", {"description": "scoped", "cluster": CLUSTER, "ttl_seconds": 600})[
        "token"
    ]
    assert road.server.call("GET", f"/k8s/clusters/{CLUSTER}/version", token=token).status == 200
    assert road.server.call("GET", "/k8s/clusters/other/version", token=token).status == 403
    assert road.server.call("GET", "/api/v1/users", token=token).status == 403


@pytest.mark.parametrize("how", ["revoke the token", "disable the user", "end the membership"])
def test_a_right_that_ends_ends_the_open_watch_and_exec_within_a_second(road: Road, pod: str, how: str) -> None:
    name = "dave-" + how.split()[0]
    user = road.server.user(name, clusters=[CLUSTER])
    road.admin("-n", "bobs", "create", "rolebinding", name, "--clusterrole=admin", f"--user=mooring:{name}")
    kubectl = Kubectl(road.bob.binary, user.kubeconfig)
    token_id = kubeconfig_token_id(kubectl)
    open_ones = [
        kubectl.start("-n", "bobs", "get", "configmaps", "--watch-only"),
        kubectl.start("-n", "bobs", "logs", pod, "-c", "talker", "--follow"),
        kubectl.start("-n", "bobs", "exec", pod, "-c", "main", "--", "sleep", "1000"),
    ]
    try:
        until(
            "three open requests in the audit log",
            lambda: "watch" in starts(road, name) and exec_and_log(road, name),
        )
        assert all(process.poll() is None for process in open_ones)
        if how == "revoke the token":
            road.server.api("DELETE", f"/tokens/{token_id}")
        elif how == "disable the user":
            road.server.api("PATCH", f"/users/{name}", {"enabled": False})
        else:
            for membership in road.server.api("GET", f"/memberships?user={name}")["items"]:
                road.server.api("DELETE", f"/memberships/{membership['id']}")
        assert kubectl.refused("get", "configmaps", "-n", "bobs")
        # the watch of kubectl tries anew and is refused; logs and exec end with their connection
        until("exec and logs ended", lambda: all(p.poll() is not None for p in open_ones[1:]), 5)
        ended = [line for line in road.server.audit() if line["user"] == name and line.get("stage") == "end"]
        assert {line["verb"] for line in ended} >= {"watch"}
    finally:
        for process in open_ones:
            stop_process(process)


def kubeconfig_token_id(kubectl: Kubectl) -> str:
    config = kubectl.json("config", "view", "--raw", "--minify")
    return str(config["users"][0]["user"]["token"].split("_")[1])


def starts(road: Road, name: str) -> set[str]:
    return {line["verb"] for line in road.server.audit() if line["user"] == name and line.get("stage") == "start"}


def exec_and_log(road: Road, name: str) -> bool:
    lines = [line for line in road.server.audit() if line["user"] == name and line.get("stage") == "start"]
    return {"exec", "log"} <= {line.get("subresource") for line in lines}


def test_the_audit_log_says_who_did_what(road: Road) -> None:
    name = f"audited-{os.getpid()}"
    road.bob("-n", "bobs", "create", "configmap", name)
    line = until(
        "the audit line",
        lambda: next(
            (a for a in road.server.audit() if a.get("verb") == "create" and a.get("resource") == "configmaps"), None
        ),
    )
    assert line["user"] == "bob"
    assert line["namespace"] == "bobs"
    assert line["cluster"] == CLUSTER
    assert line["code"] == 201
    assert line["bytes_out"] > 0
    assert line["duration_ms"] > 0
    assert line["source"]
    assert len(line["request_id"]) == 32


def test_no_secret_is_in_any_log(road: Road) -> None:
    logs = [(road.server.folder / "server.log").read_text(), (road.server.folder / "data" / "audit.log").read_text()]
    agent = road.direct("-n", "mooring-system", "logs", "deployment/mooring-agent")
    for secret in (road.bob_user.password, road.bob_user.token.split("_")[2], road.server.admin_token.split("_")[2]):
        assert all(secret not in log for log in (*logs, agent))
