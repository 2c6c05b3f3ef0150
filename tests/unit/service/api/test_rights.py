# SPDX-License-Identifier: Apache-2.0
"""Tokens, memberships and kubeconfigs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from mooring.authn.index import MembershipChanged, TokenRevoked

DAY = 86400


async def test_a_token_is_made_listed_and_revoked(world: Any) -> None:
    bob = await world.user("bob")
    made = await bob.ok("POST", "/tokens", {"description": "ci", "ttl_seconds": 600})
    fresh = type(bob)(world.http, made.pop("token"))
    await fresh.ok("GET", "/whoami")
    assert made["expires_at"] == "2023-11-14T22:23:20.000Z"
    assert (made["user"], made["cluster"], made["revoked_at"]) == ("bob", None, None)
    assert (made.pop("delivered"), made.pop("grace_seconds"), made["audience"]) == (None, None, "server")
    assert await bob.ok("GET", f"/tokens/{made['id']}") == made
    heard: list[object] = []
    world.services.index.subscribe(heard.append)
    await bob.ok("DELETE", f"/tokens/{made['id']}")
    assert heard == [TokenRevoked(made["id"])]
    assert (await fresh("GET", "/whoami")).status_code == 401
    await bob.ok("DELETE", f"/tokens/{made['id']}")
    assert (await bob.ok("GET", f"/tokens/{made['id']}"))["revoked_at"] is not None
    active = (await bob.ok("GET", "/tokens?active=true"))["items"]
    assert made["id"] not in [token["id"] for token in active]


async def test_a_token_does_not_outlive_the_token_that_made_it(world: Any) -> None:
    await world.user("bob")
    short = await world.login("bob", "a long enough one", ttl_seconds=600)
    answer = await short("POST", "/tokens", {"ttl_seconds": 601})
    assert answer.json()["errors"][0]["field"] == "ttl_seconds"
    assert (await short.ok("POST", "/tokens", {}))["expires_at"] == "2023-11-14T22:23:20.000Z"
    long = await world.login("bob", "a long enough one", ttl_seconds=90 * DAY)
    await long.ok("POST", "/tokens", {"ttl_seconds": 80 * DAY})


async def test_administrators_make_tokens_for_others(world: Any) -> None:
    await world.admin.ok("POST", "/users", {"name": "robot"})
    made = await world.admin.ok("POST", "/tokens", {"user": "robot", "ttl_seconds": 365 * DAY})
    robot = type(world.admin)(world.http, made["token"])
    assert (await robot.ok("GET", "/whoami"))["user"] == "robot"
    too_long = await world.admin("POST", "/tokens", {"user": "robot", "ttl_seconds": 366 * DAY})
    assert too_long.json()["errors"][0]["field"] == "ttl_seconds"
    await world.admin.ok("PATCH", "/users/robot", {"enabled": False})
    assert (await world.admin("POST", "/tokens", {"user": "robot"})).json()["code"] == "user_disabled"
    missing = await world.admin("POST", "/tokens", {"user": "nosuch"})
    assert missing.json()["errors"][0]["field"] == "user"


async def test_nobody_else_makes_sees_or_revokes_anothers_tokens(world: Any) -> None:
    bob, ann = await world.user("bob"), await world.user("ann")
    mine = (await ann.ok("GET", "/whoami"))["token"]["id"]
    assert (await bob("POST", "/tokens", {"user": "ann"})).status_code == 403
    assert (await bob("GET", "/tokens?user=ann")).status_code == 403
    assert (await bob("GET", f"/tokens/{mine}")).status_code == 404
    assert (await bob("DELETE", f"/tokens/{mine}")).status_code == 404
    await ann.ok("GET", "/whoami")
    for query in ("", "?user=me", "?user=bob"):
        assert {token["user"] for token in (await bob.ok("GET", f"/tokens{query}"))["items"]} == {"bob"}
    assert {token["user"] for token in (await world.admin.ok("GET", "/tokens"))["items"]} == {"admin", "ann", "bob"}
    await world.admin.ok("DELETE", f"/tokens/{mine}")
    assert (await ann("GET", "/whoami")).status_code == 401


async def test_a_token_is_scoped_to_a_cluster_that_one_may_enter(world: Any) -> None:
    await world.cluster("prod")
    bob = await world.user("bob")
    hidden, missing = [await bob("POST", "/tokens", {"cluster": name}) for name in ("prod", "nosuch")]
    assert hidden.status_code == missing.status_code == 422
    assert hidden.text.replace("prod", "nosuch") == missing.text
    await world.admin.ok("POST", "/memberships", {"cluster": "prod", "user": "bob"})
    made = await bob.ok("POST", "/tokens", {"cluster": "prod"})
    assert made["cluster"] == "prod"
    identity = world.services.index.authenticate(made["token"], world.clock.now())
    assert identity.token_cluster == (await world.admin.ok("GET", "/clusters/prod"))["id"]


async def test_the_tokens_of_a_user_are_bounded(world: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("mooring.api.issue.MAX_TOKENS_PER_USER", 2)
    bob = await world.user("bob")
    await bob.ok("POST", "/tokens", {})
    answer = await bob("POST", "/tokens", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_tokens")


async def test_a_membership_is_given_and_taken(world: Any) -> None:
    cluster = await world.cluster("prod")
    bob = await world.user("bob")
    identity = world.services.index.authenticate(bob.token, world.clock.now())
    heard: list[object] = []
    world.services.index.subscribe(heard.append)
    made = await world.admin.ok("POST", "/memberships", {"cluster": "prod", "user": "bob"})
    assert (made["cluster"], made["user"], made["group"]) == ("prod", "bob", None)
    assert world.services.index.may_enter_facts(identity, cluster["id"], world.services.clock.now()) == {made["id"]}
    again = await world.admin("POST", "/memberships", {"cluster": cluster["id"], "user": made["user_id"]})
    assert (again.status_code, again.json()["errors"][0]["field"]) == (409, "user")
    await world.admin.ok("DELETE", f"/memberships/{made['id']}")
    assert world.services.index.may_enter_facts(identity, cluster["id"], world.services.clock.now()) == set()
    assert heard == [MembershipChanged(cluster["id"])] * 2
    assert (await world.admin("GET", f"/memberships/{made['id']}")).status_code == 404


async def test_a_deleted_group_takes_its_memberships_along(world: Any) -> None:
    cluster = await world.cluster("prod")
    await world.admin.ok("POST", "/groups", {"name": "ops"})
    bob = await world.user("bob", groups=("ops",))
    made = await world.admin.ok("POST", "/memberships", {"cluster": "prod", "group": "ops"})
    identity = world.services.index.authenticate(bob.token, world.clock.now())
    assert world.services.index.may_enter_facts(identity, cluster["id"], world.services.clock.now()) == {made["id"]}
    await world.admin.ok("DELETE", "/groups/ops")
    assert world.services.index.may_enter_facts(identity, cluster["id"], world.services.clock.now()) == set()
    assert (await bob.ok("GET", "/whoami"))["groups"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"cluster": "prod"}, "user"),
        ({"cluster": "prod", "user": "admin", "group": "admins"}, "user"),
        ({"cluster": "nosuch", "user": "admin"}, "cluster"),
        ({"cluster": "prod", "user": "nosuch"}, "user"),
        ({"cluster": "prod", "group": "nosuch"}, "group"),
        ({"user": "admin"}, "cluster"),
    ],
)
async def test_a_membership_that_makes_no_sense_is_refused(world: Any, body: dict[str, str], field: str) -> None:
    await world.cluster("prod")
    answer = await world.admin("POST", "/memberships", body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


async def test_memberships_are_selected_and_paged(world: Any) -> None:
    for name in ("one", "two"):
        await world.cluster(name)
        await world.admin.ok("POST", "/memberships", {"cluster": name, "user": "admin"})
        await world.admin.ok("POST", "/memberships", {"cluster": name, "group": "admins"})
    assert (await world.admin.ok("GET", "/memberships?cluster=one"))["total"] == 2
    assert (await world.admin.ok("GET", "/memberships?user=admin&cluster=two"))["total"] == 1
    assert (await world.admin.ok("GET", "/memberships?group=admins"))["total"] == 2
    first = await world.admin.ok("GET", "/memberships?limit=3")
    rest = await world.admin.ok("GET", f"/memberships?limit=3&cursor={first['next']}")
    assert len({item["id"] for item in first["items"] + rest["items"]}) == 4
    assert rest["next"] is None


async def test_a_kubeconfig_has_a_scoped_token_per_cluster(world: Any) -> None:
    for name in ("one", "two", "three"):
        await world.cluster(name)
    bob = await world.user("bob")
    for name in ("one", "two"):
        await world.admin.ok("POST", "/memberships", {"cluster": name, "user": "bob"})
    answer = await bob.ok("POST", "/kubeconfig", {"current_context": "two", "ttl_seconds": 600})
    assert (answer["contexts"], answer["current_context"]) == (["one", "two"], "two")
    assert answer["expires_at"] == "2023-11-14T22:23:20.000Z"
    config = yaml.safe_load(answer["kubeconfig"])
    assert config["current-context"] == "two"
    tokens = {user["name"]: user["user"]["token"] for user in config["users"]}
    for context in config["contexts"]:
        identity = world.services.index.authenticate(tokens[context["context"]["user"]], world.clock.now())
        assert world.services.index.cluster(identity.token_cluster).name == context["name"]
    servers = {cluster["name"]: cluster["cluster"]["server"] for cluster in config["clusters"]}
    assert servers["one"] == "https://mooring.example:8443/k8s/clusters/one"


async def test_an_exec_kubeconfig_holds_no_secret(world: Any) -> None:
    await world.cluster("prod")
    answer = await world.admin.ok("POST", "/kubeconfig", {"mode": "exec", "clusters": ["prod", "prod"]})
    assert answer["expires_at"] is None
    assert "mrg_" not in answer["kubeconfig"]
    (user,) = yaml.safe_load(answer["kubeconfig"])["users"]
    assert user["user"]["exec"]["args"] == [
        "credential",
        "--server",
        "https://mooring.example:8443",
        "--cluster",
        "prod",
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"clusters": ["hidden"]}, "clusters"),
        ({"clusters": ["nosuch"]}, "clusters"),
        ({"current_context": "hidden"}, "current_context"),
        ({"mode": "exec", "ttl_seconds": 600}, "ttl_seconds"),
        ({"ttl_seconds": 13 * 3600}, "ttl_seconds"),
        ({"mode": "basic"}, "mode"),
    ],
)
async def test_a_kubeconfig_option_that_is_wrong_is_named(world: Any, body: dict[str, Any], field: str) -> None:
    await world.cluster("hidden")
    bob = await world.user("bob")
    answer = await bob("POST", "/kubeconfig", body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


async def test_without_a_cluster_to_enter_the_kubeconfig_is_empty(world: Any) -> None:
    bob = await world.user("bob")
    answer = await bob.ok("POST", "/kubeconfig", {})
    assert (answer["contexts"], answer["current_context"]) == ([], None)
    assert yaml.safe_load(answer["kubeconfig"])["current-context"] == ""
