# SPDX-License-Identifier: Apache-2.0
"""Clusters: made, listed in pages, changed under an ETag, removed; join tokens and manifests."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from mooring.store.records import EndpointSettings


async def test_a_new_cluster_waits_for_its_agent(world: Any) -> None:
    answer = await world.admin("POST", "/clusters", {"name": "prod", "description": "Größe", "labels": {"env": "prod"}})
    assert answer.status_code == 201
    assert answer.headers["ETag"] == '"1"'
    made = answer.json()
    assert (made["state"], made["state_reason"]) == ("pending", "no agent has registered yet")
    assert made["proxy_url"] == "https://mooring.example:8443/k8s/clusters/prod"
    assert made == await world.admin.ok("GET", "/clusters/prod")
    assert made == await world.admin.ok("GET", f"/clusters/{made['id']}")


@pytest.mark.parametrize("name", ["", "Prod", "a" * 64, "a_b", "-a", "a.b", "c-aaaaaaaaaaaa", "system:x", "a\nb"])
async def test_a_name_that_is_no_dns_label_is_refused(world: Any, name: str) -> None:
    answer = await world.admin("POST", "/clusters", {"name": name})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "name"


async def test_a_name_is_taken_once(world: Any) -> None:
    await world.cluster("prod")
    answer = await world.admin("POST", "/clusters", {"name": "prod"})
    assert answer.status_code == 409
    assert answer.json()["errors"] == [{"field": "name", "message": "there is a cluster 'prod' already"}]


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({"": "x"}, "labels"),
        ({"a b": "x"}, "labels"),
        ({"-a": "x"}, "labels"),
        ({"a" * 64: "x"}, "labels"),
        ({"/a": "x"}, "labels"),
        ({"Up.example/a": "x"}, "labels"),
        ({"a": "b c"}, "labels.a"),
        ({"a": "x" * 64}, "labels.a"),
        ({f"k{n}": "v" for n in range(65)}, "labels"),
    ],
)
async def test_labels_are_kubernetes_labels(world: Any, labels: dict[str, str], field: str) -> None:
    answer = await world.admin("POST", "/clusters", {"name": "prod", "labels": labels})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_pages_hold_every_cluster_once(world: Any) -> None:
    names = [f"c{number}" for number in range(7)]
    for name in reversed(names):
        await world.cluster(name)
    seen: list[str] = []
    path = "/clusters?limit=3"
    while True:
        page = await world.admin.ok("GET", path)
        assert page["total"] == 7
        seen += [cluster["name"] for cluster in page["items"]]
        if page["next"] is None:
            break
        path = f"/clusters?limit=3&cursor={page['next']}"
    assert seen == names


async def test_clusters_are_found_by_name_state_and_labels(world: Any) -> None:
    await world.cluster("one", labels={"env": "prod", "team": "a"})
    await world.cluster("two", labels={"env": "prod", "empty": ""})

    async def names(query: str) -> list[str]:
        return [cluster["name"] for cluster in (await world.admin.ok("GET", f"/clusters?{query}"))["items"]]

    assert await names("name=two") == ["two"]
    assert await names("state=pending") == ["one", "two"]
    assert await names("state=connected") == []
    assert await names("label=env=prod") == ["one", "two"]
    assert await names("label=env=prod&label=team=a") == ["one"]
    assert await names("label=empty=") == ["two"]
    for query in ("label=env", "label=env=prod&label=env=test", "label==x"):
        answer = await world.admin("GET", f"/clusters?{query}")
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "label"


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=%FF", "cursor=e30", "state=bad", "nme=x"])
async def test_a_parameter_that_is_wrong_is_named(world: Any, query: str) -> None:
    answer = await world.admin("GET", f"/clusters?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.split("=")[0]


async def test_a_change_that_somebody_else_overtook_is_refused(world: Any) -> None:
    await world.cluster("prod")
    first = await world.admin("PATCH", "/clusters/prod", {"description": "a"}, If_Match='"1"')
    assert first.headers["ETag"] == '"2"'
    for headers in ({"If_Match": '"1"'}, {"If_Match": "nonsense"}, {"If_Match": 'W/"2"'}):
        late = await world.admin("PATCH", "/clusters/prod", {"description": "b"}, **headers)
        assert late.status_code == 412
        assert (await world.admin("DELETE", "/clusters/prod", **headers)).status_code == 412
    assert (await world.admin.ok("GET", "/clusters/prod"))["description"] == "a"
    await world.admin.ok("PATCH", "/clusters/prod", {"description": "c"}, If_Match='"1", "2"')
    await world.admin.ok("DELETE", "/clusters/prod", If_Match="*")


async def test_a_change_to_the_same_is_no_change(world: Any) -> None:
    await world.cluster("prod", labels={"a": "b"}, description="d")
    answer = await world.admin("PATCH", "/clusters/prod", {"description": "d", "labels": {"a": "b"}})
    assert answer.headers["ETag"] == '"1"'
    answer = await world.admin("PATCH", "/clusters/prod", {})
    assert answer.headers["ETag"] == '"1"'
    answer = await world.admin("PATCH", "/clusters/prod", {"labels": {}})
    assert answer.json()["labels"] == {}


async def test_a_name_cannot_change(world: Any) -> None:
    await world.cluster("prod")
    answer = await world.admin("PATCH", "/clusters/prod", {"name": "other"})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "name", "message": "is not known here"}]


async def test_others_see_the_clusters_that_they_may_enter_and_no_others(world: Any) -> None:
    for name in ("one", "two", "three"):
        await world.cluster(name)
    await world.admin.ok("POST", "/groups", {"name": "ops"})
    bob = await world.user("bob", groups=("ops",))
    assert (await bob.ok("GET", "/clusters"))["items"] == []
    await world.admin.ok("POST", "/memberships", {"cluster": "one", "user": "bob"})
    entry = await world.admin.ok("POST", "/memberships", {"cluster": "two", "group": "ops"})
    page = await bob.ok("GET", "/clusters")
    assert ([cluster["name"] for cluster in page["items"]], page["total"]) == (["one", "two"], 2)
    assert (await bob("GET", "/clusters/two")).status_code == 200
    hidden, missing = await bob("GET", "/clusters/three"), await bob("GET", "/clusters/nosuch")
    assert (hidden.status_code, missing.status_code) == (404, 404)
    assert hidden.text.replace("three", "nosuch") == missing.text
    await world.admin.ok("DELETE", f"/memberships/{entry['id']}")
    assert (await bob("GET", "/clusters/two")).status_code == 404


async def test_a_removed_cluster_ends_its_tokens_at_once(world: Any) -> None:
    await world.cluster("prod")
    scoped = await world.login("admin", "correct horse battery", cluster="prod")
    await scoped.ok("GET", "/whoami")
    await world.admin.ok("DELETE", "/clusters/prod")
    assert (await scoped("GET", "/whoami")).status_code == 401
    assert (await world.admin("GET", "/clusters/prod")).status_code == 404


async def test_a_join_token_has_a_bounded_life(world: Any) -> None:
    await world.cluster("prod")
    made = await world.admin.ok("POST", "/clusters/prod/join-tokens")
    assert made["join_token"].startswith(f"mrj_{made['id']}_")
    assert made["expires_at"] == "2023-11-15T22:13:20.000Z"
    short = await world.admin.ok("POST", "/clusters/prod/join-tokens", {"ttl_seconds": 60})
    assert short["expires_at"] == "2023-11-14T22:14:20.000Z"
    for ttl in (59, 7 * 86400 + 1, "x"):
        answer = await world.admin("POST", "/clusters/prod/join-tokens", {"ttl_seconds": ttl})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "ttl_seconds"
    assert (await world.admin("POST", "/clusters/nosuch/join-tokens")).status_code == 404


async def test_the_manifest_holds_a_join_token_and_the_ca(world: Any) -> None:
    await world.cluster("prod")
    answer = await world.admin("POST", "/clusters/prod/manifest", {"image": "registry.example/agent:1", "replicas": 2})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/yaml")
    assert answer.headers["Cache-Control"] == "no-store"
    objects = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(answer.text)}
    deployment = objects["Deployment", "mooring-agent"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/agent:1"
    assert ("ClusterRoleBinding", "mooring-admins") in objects
    assert ("Secret", "mooring-join") in objects
    bare = await world.admin("POST", "/clusters/prod/manifest", {"workload": "none", "admin_binding": False})
    kinds = {(item["kind"], item["metadata"]["name"]) for item in yaml.safe_load_all(bare.text)}
    assert ("Deployment", "mooring-agent") not in kinds
    assert ("ClusterRoleBinding", "mooring-admins") not in kinds


async def test_the_manifest_of_an_agent_that_serves_the_endpoint_has_a_service(world: Any) -> None:
    made = await world.cluster("prod")
    async with world.services.store.write() as tx:
        settings = EndpointSettings(mode="agent", fqdn="prod.example.com:8443")
        await tx.clusters.set_endpoint(made["id"], world.clock.now(), settings)
    wanted = {
        "endpoint_service": "NodePort",
        "endpoint_node_port": 30443,
        "endpoint_names": ["192.0.2.1", "2001:db8::1"],
    }
    answer = await world.admin("POST", "/clusters/prod/manifest", wanted)
    objects = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(answer.text)}
    service = objects["Service", "mooring-endpoint"]["spec"]
    assert (service["type"], service["ports"][0]["nodePort"]) == ("NodePort", 30443)
    args = objects["Deployment", "mooring-agent"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "prod.example.com,192.0.2.1,2001:db8::1" in args
    assert "https://prod.example.com:8443" in args
    for wrong in ("a,b", "--x", "a b", ""):
        answer = await world.admin("POST", "/clusters/prod/manifest", {"endpoint_names": [wrong]})
        assert answer.status_code == 422, wrong


async def test_the_manifest_lets_the_agent_do_what_the_clusters_profile_says(world: Any) -> None:
    made = await world.admin.ok("POST", "/clusters", {"name": "prod"})
    assert made["profile"] == "admin"

    async def verbs() -> set[str]:
        answer = await world.admin("POST", "/clusters/prod/manifest", {"join_token": False})
        roles = [item for item in yaml.safe_load_all(answer.text) if item["kind"] == "ClusterRole"]
        (agent,) = [item for item in roles if item["metadata"]["name"] == "mooring-agent"]
        return {verb for rule in agent["rules"] for verb in rule["verbs"]}

    assert {"escalate", "bind"} <= await verbs()
    changed = await world.admin.ok("PATCH", "/clusters/prod", {"profile": "read-only"})
    assert (changed["profile"], changed["version"]) == ("read-only", made["version"] + 1)
    assert not {"escalate", "bind"} & await verbs()
    again = await world.admin.ok("PATCH", "/clusters/prod", {"profile": "read-only"})
    assert again["version"] == changed["version"]
    answer = await world.admin("PATCH", "/clusters/prod", {"profile": "root"})
    assert answer.json()["errors"][0]["field"] == "profile"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("namespace", "Kube"),
        ("namespace", "kube-system"),
        ("namespace", "a\nb"),
        ("image", "a b"),
        ("image", "x\n- evil"),
        ("replicas", 0),
        ("replicas", 6),
        ("workload", "pod"),
        ("image_pull_policy", "Sometimes"),
    ],
)
async def test_a_manifest_option_that_is_wrong_is_named(world: Any, field: str, value: object) -> None:
    await world.cluster("prod")
    answer = await world.admin("POST", "/clusters/prod/manifest", {field: value})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_open_join_tokens_of_a_cluster_are_bounded(world: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("mooring.api.clusters.MAX_JOIN_TOKENS", 2)
    await world.cluster("prod")
    for _unused in range(2):
        await world.admin.ok("POST", "/clusters/prod/join-tokens")
    answer = await world.admin("POST", "/clusters/prod/join-tokens")
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_join_tokens")
