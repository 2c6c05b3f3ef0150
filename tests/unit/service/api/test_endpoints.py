# SPDX-License-Identifier: Apache-2.0
"""Endpoints of clusters: who sets them up, who gets a token for one, and the ways that a kubeconfig has."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
import yaml
from mooring.authn.index import Unauthenticated
from mooring.lib import pki
from mooring.store.records import EndpointNode, EndpointStatus
from mooring.wire.endpoint import parse_token, token_hash

from .test_access import hold, rule

MINUTE, HOUR, DAY = 60, 3600, 86400
WEBHOOK = {"mode": "webhook"}
SERVER = "https://mooring.example:8443"


@pytest.fixture(scope="module")
def ca() -> str:
    return pki.make_ca("Endpoint CA", time.time())[0]


async def endpoint(world: Any, name: str = "prod", **settings: Any) -> str:
    """Make a cluster with an endpoint; its id."""
    made = await world.cluster(name)
    await world.admin.ok("PUT", f"/clusters/{name}/endpoint", {**WEBHOOK, **settings})
    return str(made["id"])


async def report(world: Any, cluster_id: str, **more: Any) -> None:
    async with world.services.store.write() as tx:
        await tx.clusters.set_endpoint_statuses({cluster_id: EndpointStatus(at=world.clock.now(), **more)})


async def bob_in(world: Any, *clusters: str, **login: Any) -> Any:
    """Bob, who may enter these clusters."""
    await world.user("bob")
    for name in clusters:
        await world.admin.ok("POST", "/memberships", {"cluster": name, "user": "bob"})
    return await world.login("bob", "a long enough one", **login)


# --- settings ------------------------------------------------------------------------------------------------------


async def test_an_endpoint_is_set_shown_and_turned_off(world: Any, ca: str) -> None:
    cluster = await world.cluster("prod")
    shown = await world.admin.ok("GET", "/clusters/prod/endpoint")
    assert shown == {
        "cluster": "prod", "cluster_id": cluster["id"], "cluster_uid": None, "policy_key": "cG9saWN5IGtleQ",
        "enabled": False, "mode": None, "fqdn": "", "ca_pem": "", "ttl_seconds": None, "grace_seconds": None,
        "status": None, "version": 1,
    }  # fmt: skip
    made = await world.admin.ok("PUT", "/clusters/prod/endpoint", {**WEBHOOK, "fqdn": "K8s.Example:6443", "ca_pem": ca})
    assert (made["enabled"], made["mode"], made["fqdn"], made["ca_pem"]) == (True, "webhook", "k8s.example:6443", ca)
    assert (made["ttl_seconds"], made["grace_seconds"], made["version"]) == (3600, 0, 2)
    assert await world.admin.ok("GET", "/clusters/prod/endpoint") == made
    again = await world.admin("PUT", "/clusters/prod/endpoint", {**WEBHOOK, "fqdn": "k8s.example:6443", "ca_pem": ca})
    assert (again.json()["version"], again.headers["ETag"]) == (2, '"2"')
    whole = await world.admin.ok("PUT", "/clusters/prod/endpoint", {"mode": "agent", "ttl_seconds": 60})
    assert (whole["fqdn"], whole["ca_pem"], whole["mode"], whole["ttl_seconds"]) == ("", "", "agent", 60)
    assert (await world.admin("DELETE", "/clusters/prod/endpoint")).status_code == 204
    assert (await world.admin.ok("GET", "/clusters/prod/endpoint"))["enabled"] is False
    assert (await world.admin("DELETE", "/clusters/prod/endpoint")).status_code == 204


async def test_what_the_agent_says_is_shown(world: Any) -> None:
    cluster_id = await endpoint(world)
    await report(world, cluster_id, nodes=(EndpointNode("m1", "10.0.0.1", 6443),), ca_pem="ca", revision=3, digest="d")
    assert (await world.admin.ok("GET", "/clusters/prod/endpoint"))["status"] == {
        "nodes": [{"name": "m1", "host": "10.0.0.1", "port": 6443}], "ca_pem": "ca", "serving_url": "",
        "serving_ca_pem": "", "revision": 3, "digest": "d", "problem": "", "reported_at": "2023-11-14T22:13:20.000Z",
    }  # fmt: skip


async def test_who_enters_a_cluster_sees_its_endpoint_and_nobody_else(world: Any) -> None:
    await endpoint(world)
    ann, bob = await world.user("ann"), await bob_in(world, "prod")
    await bob.ok("GET", "/clusters/prod/endpoint")
    hidden, missing = [await ann("GET", f"/clusters/{name}/endpoint") for name in ("prod", "nosuch")]
    assert hidden.status_code == missing.status_code == 404
    assert hidden.text.replace("prod", "nosuch") == missing.text
    for method in ("PUT", "DELETE"):
        assert (await bob(method, "/clusters/prod/endpoint", WEBHOOK if method == "PUT" else None)).status_code == 403


async def test_a_right_to_update_one_cluster_sets_up_its_endpoint(world: Any) -> None:
    prod = (await world.cluster("prod"))["id"]
    await world.cluster("dev")
    bob = await world.user("bob")
    hold(world, "bob", [rule("update", "clusters")], cluster=prod)
    assert (await bob("PUT", "/clusters/prod/endpoint", WEBHOOK)).status_code == 200
    assert (await bob("PUT", "/clusters/dev/endpoint", WEBHOOK)).status_code == 403
    assert (await bob("DELETE", "/clusters/prod/endpoint")).status_code == 204
    hold(world, "bob", [rule("get", "clusters"), rule("delete", "clusters")])
    assert (await bob("DELETE", "/clusters/prod/endpoint")).status_code == 403


async def test_an_older_version_is_not_written_over(world: Any) -> None:
    await endpoint(world)
    for method, body in (("PUT", {"mode": "agent"}), ("DELETE", None)):
        answer = await world.admin(method, "/clusters/prod/endpoint", body, If_Match='"1"')
        assert (answer.status_code, answer.json()["code"]) == (412, "changed_meanwhile")
    assert (await world.admin.ok("GET", "/clusters/prod/endpoint"))["mode"] == "webhook"
    await world.admin.ok("PUT", "/clusters/prod/endpoint", {"mode": "agent"}, If_Match='"2"')


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mode": "off"}, "mode"),
        ({"fqdn": "https://k8s.example"}, "fqdn"),
        ({"fqdn": "k8s.example/path"}, "fqdn"),
        ({"fqdn": "bob@k8s.example"}, "fqdn"),
        ({"fqdn": "a b"}, "fqdn"),
        ({"fqdn": "k8s.example\n"}, "fqdn"),
        ({"fqdn": "a", "ca_pem": "x"}, "ca_pem"),
        ({"ca_pem": "CA"}, "ca_pem"),
        ({"fqdn": "a", "ca_pem": "-----BEGIN PRIVATE KEY-----"}, "ca_pem"),
        ({"fqdn": "a", "ca_pem": "x" * 65537}, "ca_pem"),
        ({"ttl_seconds": 59}, "ttl_seconds"),
        ({"ttl_seconds": 2592001}, "ttl_seconds"),
        ({"grace_seconds": -1}, "grace_seconds"),
        ({"grace_seconds": 86401}, "grace_seconds"),
        ({"fqnd": "a"}, "fqnd"),
    ],
)
async def test_a_setting_that_is_wrong_is_named(world: Any, ca: str, change: dict[str, Any], field: str) -> None:
    await world.cluster("prod")
    change = {key: ca if value == "CA" else value for key, value in change.items()}
    answer = await world.admin("PUT", "/clusters/prod/endpoint", {**WEBHOOK, **change})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert (await world.admin.ok("GET", "/clusters/prod/endpoint"))["enabled"] is False


async def test_tokens_do_not_come_back_with_the_endpoint(world: Any) -> None:
    await endpoint(world)
    bob = await bob_in(world, "prod")
    made = await bob.ok("POST", "/tokens", {"endpoint": True, "cluster": "prod"})
    other = await bob.ok("POST", "/tokens", {"cluster": "prod"})
    await world.admin.ok("DELETE", "/clusters/prod/endpoint")
    await world.admin.ok("PUT", "/clusters/prod/endpoint", WEBHOOK)
    assert (await bob.ok("GET", f"/tokens/{made['id']}"))["revoked_at"] is not None
    assert (await bob.ok("GET", f"/tokens/{other['id']}"))["revoked_at"] is None


async def test_the_tokens_leave_a_cluster_before_it_is_deleted(world: Any) -> None:
    """Afterwards there is nobody to tell its agent that they are revoked."""
    cluster_id = await endpoint(world)
    bob = await bob_in(world, "prod")
    made = await bob.ok("POST", "/tokens", {"endpoint": True, "cluster": "prod"})
    changes: list[tuple[bool, bool]] = []

    def hear(delta: Any) -> None:
        token = delta.tokens.get(made["id"])
        cluster = delta.clusters.get(cluster_id, world)
        changes.append((token is not None and token.revoked_at is not None, cluster is None))

    world.services.store.on_commit(hear)
    answer = await world.admin("DELETE", "/clusters/prod", If_Match='"1"')
    assert (answer.status_code, changes) == (412, [])
    await world.admin.ok("DELETE", "/clusters/prod", If_Match='"2"')
    assert changes == [(True, False), (False, True)]
    assert world.endpoints.waited[-1] == (cluster_id, "", 5)
    await world.cluster("plain")
    await world.admin.ok("DELETE", "/clusters/plain")
    assert len(world.endpoints.waited) == 2, "nothing to wait for"


async def test_a_cluster_whose_agent_is_away_is_deleted_all_the_same(world: Any) -> None:
    world.endpoints.away.add(await endpoint(world))
    await world.admin.ok("DELETE", "/clusters/prod")
    assert (await world.admin("GET", "/clusters/prod")).status_code == 404


async def test_a_manifest_is_made_for_the_endpoint(world: Any) -> None:
    await endpoint(world)
    text = (await world.admin("POST", "/clusters/prod/manifest", {})).text
    assert "mooring-kube-api-auth" in text
    await world.admin.ok("DELETE", "/clusters/prod/endpoint")
    assert "mooring-kube-api-auth" not in (await world.admin("POST", "/clusters/prod/manifest", {})).text


# --- tokens --------------------------------------------------------------------------------------------------------


async def test_a_token_for_an_endpoint_is_good_there_and_nowhere_else(world: Any) -> None:
    cluster_id = await endpoint(world, grace_seconds=600)
    bob = await bob_in(world, "prod")
    made = await bob.ok("POST", "/tokens", {"endpoint": True, "cluster": "prod", "description": "laptop"})
    token_id, secret = parse_token(made["token"]) or ("", "")
    assert (made["id"], made["audience"], made["cluster"]) == (token_id, "endpoint", "prod")
    assert (made["delivered"], made["grace_seconds"]) == (True, 600)
    assert world.endpoints.waited == [(cluster_id, token_id, 5)]
    async with world.services.store.read() as tx:
        stored = await tx.tokens.get(token_id)
    assert stored.hash == token_hash(cluster_id, secret)
    assert secret not in repr(stored)
    with pytest.raises(Unauthenticated, match="endpoint"):
        world.services.index.authenticate(made["token"], world.clock.now())
    assert (await type(bob)(world.http, made["token"])("GET", "/whoami")).status_code == 401


async def test_tokens_show_who_takes_them_and_are_listed_and_revoked_alike(world: Any) -> None:
    await endpoint(world)
    bob = await bob_in(world, "prod")
    made = await bob.ok("POST", "/tokens", {"endpoint": True, "cluster": "prod"})
    listed = {token["id"]: token["audience"] for token in (await bob.ok("GET", "/tokens"))["items"]}
    assert set(listed.values()) == {"server", "endpoint"}
    assert listed[made["id"]] == "endpoint"
    for audience in ("server", "endpoint"):
        found = (await bob.ok("GET", f"/tokens?audience={audience}"))["items"]
        assert {token["audience"] for token in found} == {audience}
    await bob.ok("DELETE", f"/tokens/{made['id']}")
    assert (await bob.ok("GET", f"/tokens/{made['id']}"))["revoked_at"] is not None


async def test_it_is_said_when_the_cluster_does_not_have_it_yet(world: Any) -> None:
    world.endpoints.away.add(await endpoint(world))
    body = {"endpoint": True, "cluster": "prod", "wait_seconds": 0}
    assert (await world.admin.ok("POST", "/tokens", body))["delivered"] is False
    assert world.endpoints.waited[-1][2] == 0
    server = await world.admin.ok("POST", "/tokens", {"cluster": "prod"})
    assert (server["delivered"], server["grace_seconds"]) == (None, None)


async def test_it_lives_as_long_as_the_settings_say_and_never_longer_than_its_maker(world: Any) -> None:
    await endpoint(world, ttl_seconds=2 * HOUR)
    bob = await bob_in(world, "prod", ttl_seconds=3 * HOUR)
    body = {"endpoint": True, "cluster": "prod"}
    assert (await bob.ok("POST", "/tokens", body))["expires_at"] == "2023-11-15T00:13:20.000Z"
    too_long = await bob("POST", "/tokens", {**body, "ttl_seconds": 3 * HOUR + 1})
    assert too_long.json()["errors"][0]["field"] == "ttl_seconds"
    short = await world.login("bob", "a long enough one", ttl_seconds=10 * MINUTE)
    assert (await short.ok("POST", "/tokens", body))["expires_at"] == "2023-11-14T22:23:20.000Z"
    for ttl, status in ((30 * DAY, 201), (30 * DAY + 1, 422)):
        assert (await world.admin("POST", "/tokens", {**body, "ttl_seconds": ttl})).status_code == status


async def test_only_who_may_enter_gets_one(world: Any) -> None:
    await endpoint(world)
    ann = await world.user("ann")
    hidden, missing = [await ann("POST", "/tokens", {"endpoint": True, "cluster": name}) for name in ("prod", "nosuch")]
    assert hidden.status_code == missing.status_code == 422
    assert hidden.text.replace("prod", "nosuch") == missing.text
    others = await world.admin("POST", "/tokens", {"endpoint": True, "cluster": "prod", "user": "ann"})
    assert (others.status_code, others.json()["errors"][0]["field"]) == (422, "user")
    assert world.endpoints.waited == []


async def test_a_token_that_is_limited_to_the_cluster_makes_none(world: Any) -> None:
    await endpoint(world)
    bob = await bob_in(world, "prod", cluster="prod")
    for path in ("/tokens", "/kubeconfig"):
        body = {"endpoint": True, "cluster": "prod"} if path == "/tokens" else {}
        assert (await bob("POST", path, body)).status_code == 403


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"endpoint": True}, 422, "cluster"),
        ({"endpoint": True, "cluster": "plain"}, 409, "no_endpoint"),
        ({"cluster": "prod", "wait_seconds": 1}, 422, "wait_seconds"),
        ({"endpoint": True, "cluster": "prod", "wait_seconds": 6}, 422, "wait_seconds"),
    ],
)
async def test_what_makes_no_sense_is_refused(world: Any, body: dict[str, Any], status: int, word: str) -> None:
    await endpoint(world)
    await world.cluster("plain")
    answer = await world.admin("POST", "/tokens", body)
    problem = answer.json()
    assert answer.status_code == status
    assert word in (problem["code"], problem["errors"][0]["field"])


# --- kubeconfigs ---------------------------------------------------------------------------------------------------


def entries(config: dict[str, Any], section: str) -> dict[str, Any]:
    kind = section.removesuffix("s")
    return {entry["name"]: entry[kind] for entry in config[section]}


def ca_of(cluster: dict[str, Any]) -> str:
    return base64.b64decode(cluster.get("certificate-authority-data", "")).decode()


async def with_nodes(world: Any, ca: str, name: str = "prod", **settings: Any) -> str:
    cluster_id = await endpoint(world, name, fqdn="k8s.example:6443", ca_pem=ca, **settings)
    nodes = tuple(EndpointNode(f"m{n}", f"10.0.0.{n}", 6443) for n in (2, 1))
    await report(world, cluster_id, nodes=nodes, ca_pem="node ca")
    return cluster_id


async def test_a_file_has_every_way_to_a_cluster_with_the_ca_of_each(world: Any, ca: str) -> None:
    cluster_id = await with_nodes(world, ca)
    bob = await bob_in(world, "prod")
    answer = await bob.ok("POST", "/kubeconfig", {})
    assert answer["contexts"] == ["prod", "prod-fqdn", "prod-m1", "prod-m2"]
    assert [(item["kind"], item["server"]) for item in answer["details"]] == [
        ("proxy", f"{SERVER}/k8s/clusters/prod"),
        ("fqdn", "https://k8s.example:6443"),
        ("node", "https://10.0.0.1:6443"),
        ("node", "https://10.0.0.2:6443"),
    ]
    config = yaml.safe_load(answer["kubeconfig"])
    clusters, users, contexts = (entries(config, section) for section in ("clusters", "users", "contexts"))
    assert [ca_of(cluster) for cluster in clusters.values()] == [
        world.services.settings.ca_pem, ca, "node ca", "node ca",
    ]  # fmt: skip
    assert {name: context["user"] for name, context in contexts.items()} == {
        "prod": "mooring-prod",
        "prod-fqdn": "mooring-prod-endpoint",
        "prod-m1": "mooring-prod-endpoint",
        "prod-m2": "mooring-prod-endpoint",
    }
    assert answer["current_context"] == config["current-context"] == "prod"
    assert list(users) == ["mooring-prod", "mooring-prod-endpoint"], "one token of each kind, however many contexts"
    token_id, _unused = parse_token(users["mooring-prod-endpoint"]["token"]) or ("", "")
    assert world.endpoints.waited == [(cluster_id, token_id, 5)]
    identity = world.services.index.authenticate(users["mooring-prod"]["token"], world.clock.now())
    assert identity.token_cluster == cluster_id


async def test_all_tokens_of_a_file_end_together(world: Any, ca: str) -> None:
    await with_nodes(world, ca, ttl_seconds=2 * HOUR)
    await with_nodes(world, ca, "lab", ttl_seconds=HOUR)
    bob = await bob_in(world, "prod", "lab")

    async def ends(**body: Any) -> str:
        answer = await bob.ok("POST", "/kubeconfig", body)
        active = (await bob.ok("GET", "/tokens?active=true"))["items"]
        made = {token["expires_at"] for token in active if "kubeconfig" in token["description"]}
        assert answer["expires_at"] in made
        for token in active:
            if "kubeconfig" in token["description"]:
                await bob.ok("DELETE", f"/tokens/{token['id']}")
        assert len(made) == 1
        return str(answer["expires_at"])

    assert await ends() == "2023-11-14T23:13:20.000Z"
    assert await ends(clusters=["prod"]) == "2023-11-15T00:13:20.000Z"
    assert await ends(contexts=["proxy"]) == "2023-11-15T10:13:20.000Z"
    assert await ends(ttl_seconds=3 * HOUR) == "2023-11-15T01:13:20.000Z"
    too_long = await world.admin("POST", "/kubeconfig", {"ttl_seconds": 31 * DAY})
    assert too_long.json()["errors"][0]["field"] == "ttl_seconds"
    await world.admin.ok("POST", "/kubeconfig", {"ttl_seconds": 31 * DAY, "contexts": ["proxy"]})


async def test_only_the_contexts_that_were_asked_for_and_only_their_tokens(world: Any, ca: str) -> None:
    await with_nodes(world, ca)
    await world.cluster("plain")
    answer = await world.admin.ok("POST", "/kubeconfig", {"contexts": ["nodes"]})
    assert answer["contexts"] == ["prod-m1", "prod-m2"]
    assert "mrg_" not in answer["kubeconfig"]
    answer = await world.admin.ok("POST", "/kubeconfig", {"contexts": ["proxy"]})
    assert answer["contexts"] == ["plain", "prod"]
    assert "mre_" not in answer["kubeconfig"]
    named = await world.admin("POST", "/kubeconfig", {"contexts": ["fqdn", "nodes"], "clusters": ["plain", "prod"]})
    assert (named.status_code, named.json()["errors"][0]["field"]) == (422, "contexts")


async def test_a_cluster_that_did_not_get_its_token_is_named(world: Any, ca: str) -> None:
    world.endpoints.away.add(await with_nodes(world, ca))
    await with_nodes(world, ca, "lab")
    assert (await world.admin.ok("POST", "/kubeconfig", {}))["undelivered"] == ["prod"]


async def test_an_exec_file_asks_for_the_right_kind_of_token(world: Any, ca: str) -> None:
    await with_nodes(world, ca)
    await world.cluster("plain")
    answer = await world.admin.ok("POST", "/kubeconfig", {"mode": "exec"})
    users = entries(yaml.safe_load(answer["kubeconfig"]), "users")
    head = ["credential", "--server", SERVER, "--cluster"]
    assert {name: user["exec"]["args"] for name, user in users.items()} == {
        "mooring-plain": [*head, "plain"],
        "mooring-prod": [*head, "prod", "--keep-endpoint"],
        "mooring-prod-endpoint": [*head, "prod", "--endpoint"],
    }
    assert not any(user["exec"]["provideClusterInfo"] for user in users.values())
    assert "mre_" not in answer["kubeconfig"]
    assert (answer["expires_at"], answer["undelivered"]) == (None, [])


async def test_who_prefers_direct_gets_a_direct_current_context_and_a_plugin_that_falls_back(
    world: Any, ca: str
) -> None:
    await with_nodes(world, ca)
    await world.cluster("plain")
    body = {"mode": "exec", "prefer_direct": True, "path": "/home/bob/.kube/config"}
    answer = await world.admin.ok("POST", "/kubeconfig", {**body, "current_context": "prod"})
    assert answer["current_context"] == "prod-fqdn"
    users = entries(yaml.safe_load(answer["kubeconfig"]), "users")
    tail = ["--prefer-direct", "--kubeconfig", "/home/bob/.kube/config"]
    assert users["mooring-prod"]["exec"]["args"][-4:] == ["--keep-endpoint", *tail]
    assert users["mooring-prod-endpoint"]["exec"]["args"][-4:] == ["--endpoint", *tail]
    assert users["mooring-prod-endpoint"]["exec"]["provideClusterInfo"] is True
    assert "--prefer-direct" not in users["mooring-plain"]["exec"]["args"]
    for wished, current in (("prod-m2", "prod-m2"), ("plain", "plain")):
        answer = await world.admin.ok("POST", "/kubeconfig", {**body, "current_context": wished})
        assert answer["current_context"] == current


async def test_a_prefix_is_before_all_names_and_clusters_are_named_as_they_are(world: Any, ca: str) -> None:
    await with_nodes(world, ca)
    body = {"prefix": "work-", "current_context": "prod", "contexts": ["proxy", "fqdn"]}
    answer = await world.admin.ok("POST", "/kubeconfig", body)
    assert (answer["contexts"], answer["current_context"]) == (["work-prod", "work-prod-fqdn"], "work-prod")


async def test_the_endpoint_that_an_agent_serves_has_its_address_and_its_ca(world: Any, ca: str) -> None:
    cluster_id = await endpoint(world, mode="agent")
    nodes = (EndpointNode("m1", "10.0.0.1", 6443),)
    await report(
        world, cluster_id, nodes=nodes, ca_pem="api", serving_url="https://10.9.9.9:8443", serving_ca_pem="own"
    )
    answer = await world.admin.ok("POST", "/kubeconfig", {})
    assert answer["contexts"] == ["prod", "prod-fqdn"], "the API server does not know our tokens"
    cluster = entries(yaml.safe_load(answer["kubeconfig"]), "clusters")["prod-fqdn"]
    assert (cluster["server"], ca_of(cluster)) == ("https://10.9.9.9:8443", "own")
    await world.admin.ok("PUT", "/clusters/prod/endpoint", {"mode": "agent", "fqdn": "k8s.example", "ca_pem": ca})
    cluster = entries(yaml.safe_load((await world.admin.ok("POST", "/kubeconfig", {}))["kubeconfig"]), "clusters")
    assert (cluster["prod-fqdn"]["server"], ca_of(cluster["prod-fqdn"])) == ("https://k8s.example", ca)


async def test_what_a_cluster_reports_cannot_take_the_name_of_another_or_lead_astray(world: Any) -> None:
    """Nodes are named by whoever rules the cluster, which may be nobody to trust with the contexts of others."""
    cluster_id = await endpoint(world, "prod")
    await endpoint(world, "prod-eu")
    nodes = (
        EndpointNode("eu", "10.0.0.1", 6443),
        EndpointNode("a b", "10.0.0.2", 6443),
        EndpointNode("c", "10.0.0.3/x", 6443),
        EndpointNode("d", "10.0.0.4", 0),
    )
    await report(world, cluster_id, nodes=nodes, ca_pem="ca", serving_url="https://evil")
    for body in ({}, {"clusters": ["prod"]}):
        answer = await world.admin.ok("POST", "/kubeconfig", body)
        names = {item["name"]: item["server"] for item in answer["details"]}
        assert names["prod-eu-direct"] == "https://10.0.0.1:6443"
        assert names.get("prod-eu", f"{SERVER}/k8s/clusters/prod-eu") == f"{SERVER}/k8s/clusters/prod-eu"
        assert len([name for name in names if not name.startswith("prod-eu")]) == 1


async def test_without_a_ca_there_are_no_nodes(world: Any) -> None:
    cluster_id = await endpoint(world, fqdn="k8s.example")
    await report(world, cluster_id, nodes=(EndpointNode("m1", "10.0.0.1", 6443),))
    answer = await world.admin.ok("POST", "/kubeconfig", {})
    assert answer["contexts"] == ["prod", "prod-fqdn"]
    cluster = entries(yaml.safe_load(answer["kubeconfig"]), "clusters")["prod-fqdn"]
    assert "certificate-authority-data" not in cluster, "the system's CAs"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"contexts": []}, "contexts"),
        ({"contexts": ["direct"]}, "contexts[0]"),
        ({"prefix": "a b"}, "prefix"),
        ({"prefix": "a\n"}, "prefix"),
        ({"path": "config"}, "path"),
        ({"path": "/a\nb"}, "path"),
        ({"current_context": "prod-m9"}, "current_context"),
    ],
)
async def test_an_option_that_is_wrong_is_named(world: Any, ca: str, body: dict[str, Any], field: str) -> None:
    await with_nodes(world, ca)
    answer = await world.admin("POST", "/kubeconfig", body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
