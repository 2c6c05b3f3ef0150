# SPDX-License-Identifier: Apache-2.0
"""Roles, projects and bindings over REST: what is written, what is refused, and what attempts to get more meet."""

from __future__ import annotations

from typing import Any

import pytest

READ_PODS = {"verbs": ["get", "list"], "api_groups": [""], "resources": ["pods"]}
WRITE_PODS = {"verbs": ["create", "delete"], "api_groups": [""], "resources": ["pods"]}


def own(verbs: str, *resources: str) -> dict[str, Any]:
    return {"verbs": verbs.split(), "api_groups": ["mooring.fleet"], "resources": list(resources)}


async def bound(world: Any, who: str, role: str, **place: str) -> None:
    """Bind a user: globally, or in a cluster, or in a project (with its cluster)."""
    kind = "project" if "project" in place else "cluster" if place else "global"
    name = "-".join((who, role, *place.values()))[:60]
    await world.admin.ok("POST", f"/{kind}-bindings", {"name": name, "role": role, "users": [who], **place})


async def refused(call: Any, method: str, path: str, body: Any, status: int, *words: str) -> None:
    """The call is refused with this status, and the answer says all of these words."""
    answer = await call(method, path, body)
    assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
    for word in words:
        assert word in answer.text, answer.text


async def test_a_role_is_made_bound_changed_and_cannot_go_while_it_is_used(world: Any) -> None:
    admin = world.admin
    made = await admin.ok("POST", "/global-roles", {"name": "auditors", "rules": [own("get list", "audit")]})
    assert made["rules"][0]["resources"] == ["audit"]
    assert made["version"] == 1
    await world.user("ann")
    binding = await admin.ok("POST", "/global-bindings", {"name": "ann", "role": "auditors", "users": ["ann"]})
    assert (binding["role"], binding["users"], binding["created_by"]) == ("auditors", ["ann"], "admin")
    await refused(admin, "DELETE", "/global-roles/auditors", None, 409, "in_use", "'ann'")
    answer = await admin("PATCH", "/global-roles/auditors", {"description": "reads"}, If_Match='"1"')
    assert answer.status_code == 200
    assert answer.headers["ETag"] == '"2"'
    assert (await admin("PATCH", "/global-roles/auditors", {"description": "x"}, If_Match='"1"')).status_code == 412
    assert (await admin.ok("PATCH", "/global-roles/auditors", {"description": "reads"}))["version"] == 2
    await refused(admin, "POST", "/global-roles", {"name": "auditors"}, 409, "taken")
    await admin.ok("DELETE", "/global-bindings/ann")
    await admin.ok("DELETE", "/global-roles/auditors")
    await refused(admin, "GET", "/global-roles/auditors", None, 404)


async def test_what_is_built_in_stays(world: Any) -> None:
    admin = world.admin
    for method, path, body in (
        ("PATCH", "/global-roles/user", {"rules": []}),
        ("DELETE", "/global-roles/admin", None),
        ("PATCH", "/role-templates/cluster-owner", {"rules": []}),
        ("DELETE", "/role-templates/project-owner", None),
        ("PATCH", "/global-bindings/admins", {"groups": []}),
        ("DELETE", "/global-bindings/admins", None),
    ):
        await refused(admin, method, path, body, 409, "builtin" if method == "PATCH" else "is")


async def test_templates_inherit_within_their_context_and_in_no_circle(world: Any) -> None:
    admin = world.admin
    base = {"name": "base", "context": "project", "rules": [READ_PODS]}
    await admin.ok("POST", "/role-templates", base)
    made = await admin.ok("POST", "/role-templates", {"name": "more", "context": "project", "inherits": ["base"]})
    assert made["inherits"] == ["base"]
    await refused(admin, "PATCH", "/role-templates/base", {"inherits": ["more"]}, 422, "circle")
    wrong = {"name": "wrong", "context": "cluster", "inherits": ["base"]}
    await refused(admin, "POST", "/role-templates", wrong, 422, "inherits")
    await refused(admin, "DELETE", "/role-templates/base", None, 409, "'more'")
    names = [item["name"] for item in (await admin.ok("GET", "/role-templates?builtin=false"))["items"]]
    assert names == ["base", "more"]
    first = await admin.ok("GET", "/role-templates?limit=1&builtin=false")
    rest = await admin.ok("GET", f"/role-templates?limit=1&builtin=false&cursor={first['next']}")
    assert (first["total"], rest["items"][0]["name"], rest["next"]) == (2, "more", None)


async def test_a_project_has_namespaces_that_are_in_no_other(world: Any) -> None:
    admin = world.admin
    await world.cluster("prod")
    shop = {"name": "shop", "cluster": "prod", "namespaces": [{"name": "shop-web"}], "quota": {"pods": "10"}}
    shop["namespace_quota"] = {"pods": "5"}
    made = await admin.ok("POST", "/projects", shop)
    assert made["namespaces"] == [{"name": "shop-web", "create": True, "quota": {}}]
    await admin.ok("POST", "/projects/shop/namespaces", {"name": "shop-db"})
    await admin.ok("POST", "/projects", {"name": "bank", "cluster": "prod"})
    await refused(admin, "POST", "/projects/bank/namespaces", {"name": "shop-db"}, 422, "'shop'")
    moved = await admin.ok("POST", "/projects/bank/namespaces", {"name": "shop-db", "move": True})
    assert [space["name"] for space in moved["namespaces"]] == ["shop-db"]
    spaces = await admin.ok("GET", "/projects/shop/namespaces?cluster=prod")
    assert [space["name"] for space in spaces["items"]] == ["shop-web"]
    too_much = {"name": "shop-web", "quota": {"pods": "11"}}
    await refused(admin, "PATCH", "/projects/shop", {"namespaces": [too_much]}, 422, "quota")
    await admin.ok("DELETE", "/projects/bank/namespaces/shop-db")
    await admin.ok("DELETE", "/projects/bank")


async def test_a_binding_ends_and_its_subjects_change(world: Any) -> None:
    admin = world.admin
    await world.cluster("prod")
    await world.user("ann")
    bob = await world.user("bob")
    wish = {"name": "view", "role": "cluster-viewer", "cluster": "prod", "users": ["ann"], "reason": "on call"}
    await refused(admin, "POST", "/cluster-bindings", {**wish, "expires_at": "2020-01-01T00:00:00Z"}, 422, "past")
    await refused(admin, "POST", "/cluster-bindings", {**wish, "expires_at": "2030-01-01T00:00:00"}, 422, "zone")
    made = await admin.ok("POST", "/cluster-bindings", {**wish, "expires_at": "2023-11-15T00:00:00+00:00"})
    assert made["expires_at"] == "2023-11-15T00:00:00.000Z"
    edited = await admin.ok("PATCH", "/cluster-bindings/view", {"add_users": ["bob"], "remove_users": ["ann"]})
    assert (edited["users"], edited["version"]) == (["bob"], 2)
    await refused(admin, "PATCH", "/cluster-bindings/view", {"users": [], "add_users": ["ann"]}, 422, "add_users")
    await refused(admin, "PATCH", "/cluster-bindings/view", {"add_users": ["nobody"]}, 422, "add_users")
    assert (await bob("GET", "/clusters/prod")).status_code == 200
    assert (await admin.ok("GET", "/cluster-bindings?user=bob&cluster=prod"))["total"] == 1
    world.clock.advance(86400)
    fresh = await world.login("bob", "a long enough one")
    assert (await fresh("GET", "/clusters/prod")).status_code == 404, "the binding has ended"


async def test_who_makes_a_cluster_owns_it(world: Any) -> None:
    bob = await world.user("bob")
    await refused(bob, "POST", "/clusters", {"name": "bobs"}, 403, "create clusters")
    await bound(world, "bob", "clusters-create")
    await bob.ok("POST", "/clusters", {"name": "bobs"})
    await bob.ok("PATCH", "/clusters/bobs", {"description": "mine"})
    await world.cluster("prod")
    await refused(bob, "PATCH", "/clusters/prod", {"description": "mine"}, 403)
    await bob.ok("POST", "/projects", {"name": "web", "cluster": "bobs", "namespaces": [{"name": "web"}]})
    assert (await world.admin.ok("GET", "/cluster-bindings"))["total"] == 1, "who holds it anyway is not bound"


async def test_a_profile_refuses_what_the_agent_cannot_do(world: Any) -> None:
    admin = world.admin
    await world.user("ann")
    await world.cluster("edge", profile="proxy-only")
    await world.cluster("read", profile="read-only")
    reader = {"name": "reader", "context": "cluster", "rules": [READ_PODS]}
    await admin.ok("POST", "/role-templates", reader)
    await admin.ok("POST", "/role-templates", {"name": "writer", "context": "cluster", "rules": [WRITE_PODS]})
    ann = {"name": "a", "users": ["ann"]}
    await refused(admin, "POST", "/cluster-bindings", {**ann, "role": "reader", "cluster": "edge"}, 409, "profile")
    await refused(admin, "POST", "/cluster-bindings", {**ann, "role": "writer", "cluster": "read"}, 409, "create")
    await admin.ok("POST", "/cluster-bindings", {**ann, "role": "reader", "cluster": "read"})
    await refused(admin, "PATCH", "/role-templates/reader", {"rules": [WRITE_PODS]}, 409, "profile")
    wish = {"name": "p", "cluster": "edge", "namespaces": [{"name": "p"}]}
    await refused(admin, "POST", "/projects", wish, 409, "profile")
    await admin.ok("PATCH", "/clusters/edge", {"profile": "admin"})
    await admin.ok("POST", "/projects", wish)


async def test_why_and_what_would_happen(world: Any) -> None:
    admin = world.admin
    await world.cluster("prod")
    ann = await world.user("ann")
    await bound(world, "ann", "cluster-viewer", cluster="prod")
    found = await admin.ok("GET", "/policy/explain?cluster=prod&verb=list&resource=pods")
    by = {item["binding"]: item for item in found["items"]}
    assert by["ann-cluster-viewer-prod"]["users"] == ["ann"]
    assert "admins" in by
    mine = await ann.ok("GET", "/policy/access?cluster=prod")
    assert "cluster-viewer" in [item["role"] for item in mine["items"]]
    await refused(ann, "GET", "/policy/access?user=admin", None, 403)
    assert (await ann("GET", "/policy/explain?cluster=prod&verb=list&resource=pods")).status_code == 200
    assert (await ann("GET", "/policy/explain?verb=list&resource=users&group=mooring.fleet")).status_code == 403
    wish = {"name": "more", "role": "nodes-view", "cluster": "prod", "users": ["ann"]}
    create = {"changes": [{"kind": "cluster_binding", "op": "create", "body": wish}]}
    shown = await admin.ok("POST", "/policy/simulate", create)
    assert [one["cluster"] for one in shown["clusters"]] == ["prod"]
    assert {item["kind"] for item in shown["clusters"][0]["added"]} == {"ClusterRole", "ClusterRoleBinding"}
    assert (await admin("GET", "/cluster-bindings/more")).status_code == 404, "nothing is written"
    await refused(ann, "POST", "/policy/simulate", create, 403)
    gone = {"changes": [{"kind": "cluster_binding", "op": "delete", "name": "ann-cluster-viewer-prod"}]}
    assert (await admin.ok("POST", "/policy/simulate", gone))["clusters"][0]["counts"]["removed"] == 2
    bad = {"changes": [{"kind": "project", "op": "create", "body": {"nosuch": 1}}]}
    await refused(admin, "POST", "/policy/simulate", bad, 422, "changes[0].body")


# --- nobody gets more than they were given (attack class 12) ----------------------------------------------------------


@pytest.fixture
async def bea(world: Any) -> Any:
    """She manages the bindings of the cluster prod, and is a member of the project shop there."""
    await world.cluster("prod")
    await world.admin.ok("POST", "/projects", {"name": "shop", "cluster": "prod", "namespaces": [{"name": "shop"}]})
    bea = await world.user("bea")
    await bound(world, "bea", "cluster-bindings-manage", cluster="prod")
    return bea


async def test_a_manager_of_bindings_cannot_grant_owner(world: Any, bea: Any) -> None:
    owner = {"name": "x", "role": "cluster-owner", "cluster": "prod", "users": ["bea"]}
    await refused(bea, "POST", "/cluster-bindings", owner, 403, "not_held")
    wish = {"name": "x", "role": "project-owner", "project": "shop", "cluster": "prod", "users": ["bea"]}
    await refused(bea, "POST", "/project-bindings", wish, 403, "not_held")
    await world.admin.ok("POST", "/cluster-bindings", {**owner, "users": []})
    await refused(bea, "PATCH", "/cluster-bindings/x", {"add_users": ["bea"]}, 403, "not_held")
    view = {"name": "y", "role": "cluster-bindings-view", "cluster": "prod", "users": ["bea"]}
    await bea.ok("POST", "/cluster-bindings", view)
    await world.cluster("other")
    await refused(bea, "POST", "/cluster-bindings", {**view, "name": "z", "cluster": "other"}, 403)
    await refused(bea, "POST", "/global-bindings", {"name": "g", "role": "admin", "users": ["bea"]}, 403)


async def test_a_bound_role_cannot_be_widened_by_who_does_not_hold_it(world: Any) -> None:
    rita = await world.user("rita")
    await bound(world, "rita", "roles-manage")
    mine = {"name": "mine", "rules": [own("get list", "globalroles")]}
    await rita.ok("POST", "/global-roles", mine)
    await world.admin.ok("POST", "/global-bindings", {"name": "r", "role": "mine", "users": ["rita"]})
    await refused(rita, "PATCH", "/global-roles/mine", {"rules": [own("list", "users")]}, 403, "list users")
    everything = {"verbs": ["*"], "api_groups": ["*"], "resources": ["*"]}
    await refused(rita, "PATCH", "/global-roles/mine", {"cluster_rules": [everything]}, 403, "not_held")
    for verb in ("escalate", "bind"):
        await refused(rita, "PATCH", "/global-roles/mine", {"rules": [own(verb, "globalroles")]}, 403, verb)
    named = {**own("update", "globalroles"), "resource_names": ["admin"]}
    await rita.ok("PATCH", "/global-roles/mine", {"rules": [named]})
    wide = {"verbs": ["get"], "api_groups": [""], "resources": ["secrets"], "resource_names": ["*"]}
    await refused(rita, "PATCH", "/global-roles/mine", {"cluster_rules": [wide]}, 422, "wildcards")


async def test_inheritance_that_comes_later_has_to_be_held(world: Any) -> None:
    rita = await world.user("rita")
    await bound(world, "rita", "roles-manage")
    await rita.ok("POST", "/role-templates", {"name": "small", "context": "cluster"})
    await refused(rita, "PATCH", "/role-templates/small", {"inherits": ["cluster-owner"]}, 403, "not_held")
    await refused(rita, "PATCH", "/role-templates/small", {"external": "cluster-admin"}, 403, "not_held")
    await world.admin.ok("PATCH", "/role-templates/small", {"locked": True})
    await world.cluster("prod")
    await world.user("ann")
    locked = {"name": "l", "role": "small", "cluster": "prod", "users": ["ann"]}
    await refused(world.admin, "POST", "/cluster-bindings", locked, 422, "locked")


async def test_an_owner_of_a_project_cannot_pull_a_namespace_in(world: Any, bea: Any) -> None:
    owen = await world.user("owen")
    await bound(world, "owen", "project-owner", project="shop", cluster="prod")
    await owen.ok("POST", "/projects/shop/namespaces", {"name": "shop-2"})
    await refused(owen, "POST", "/projects/shop/namespaces", {"name": "other", "create": False}, 403, "other")
    for name in ("kube-system", "mooring-system", "default"):
        body = {"name": name, "create": True}
        await refused(owen, "POST", "/projects/shop/namespaces", body, 422, name)
        await refused(world.admin, "POST", "/projects/shop/namespaces", body, 422, name)
    spaces = [{"name": "shop"}, {"name": "shop-2"}, {"name": "other", "create": False}]
    await refused(owen, "PATCH", "/projects/shop", {"namespaces": spaces}, 403)
    await world.admin.ok("POST", "/projects", {"name": "bank", "cluster": "prod", "namespaces": [{"name": "vault"}]})
    await refused(owen, "POST", "/projects/shop/namespaces", {"name": "vault", "move": True}, 403)
    await world.admin.ok("PATCH", "/projects/shop", {"quota": {"pods": "9"}, "namespace_quota": {"pods": "3"}})
    for field, value in (("quota", {}), ("isolated", True), ("pod_security", "privileged")):
        await refused(owen, "PATCH", "/projects/shop", {field: value}, 403)
    await refused(owen, "PATCH", "/projects/shop/namespaces/shop", {"quota": {"pods": "9"}}, 403)


async def test_names_that_look_like_others_are_refused(world: Any) -> None:
    una = await world.user("una")
    await bound(world, "una", "users-manage")
    for name in ("system:masters", "System:Masters", "SYSTEM:MASTERS", "ｓystem:masters", "ѕystem:masters", "ſystem:m"):
        await refused(una, "POST", "/groups", {"name": name}, 422, "name")
    for name in ("Admins", "ADMINS", "аdmins", "ａdmins", "admins\u200b"):
        await refused(una, "POST", "/groups", {"name": name}, 422, "name")


async def test_service_accounts_of_elsewhere_are_not_bound(world: Any, bea: Any) -> None:
    wish = {"name": "sa", "role": "project-member", "project": "shop", "cluster": "prod"}
    for account in ("kube-system/default", "mooring-system/mooring-agent", "bank/default"):
        body = {**wish, "service_accounts": [account]}
        await refused(world.admin, "POST", "/project-bindings", body, 422, "service_accounts")
    body = {"name": "sa", "role": "cluster-viewer", "cluster": "prod", "service_accounts": ["mooring-system/x"]}
    await refused(world.admin, "POST", "/cluster-bindings", body, 422)
    await world.admin.ok("POST", "/project-bindings", {**wish, "service_accounts": ["shop/default"]})
    await refused(world.admin, "DELETE", "/projects/shop/namespaces/shop", None, 422, "shop/default")


async def test_a_manager_of_users_cannot_become_more(world: Any) -> None:
    una = await world.user("una")
    await bound(world, "una", "users-manage")
    await world.user("ann")
    await world.user("root2", groups=("admins",))
    await una.ok("POST", "/users", {"name": "new", "password": "a long enough one"})
    for method, path, body in (
        ("PATCH", "/users/admin", {"password": "another long one"}),
        ("PATCH", "/users/una", {"groups": ["admins"]}),
        ("POST", "/users", {"name": "x", "groups": ["admins"]}),
        ("PATCH", "/groups/admins", {"add_members": ["una"]}),
        ("POST", "/tokens", {"user": "admin"}),
        ("POST", "/global-bindings", {"name": "u", "role": "admin", "users": ["una"]}),
    ):
        await refused(una, method, path, body, 403)
    await una.ok("PATCH", "/users/root2", {"enabled": False})
    await refused(una, "PATCH", "/users/root2", {"enabled": True}, 403, "not_held")
    await refused(una, "PATCH", "/users/admin", {"enabled": False}, 409, "last_admin")
    await una.ok("PATCH", "/users/ann", {"password": "another long one"})
    await world.cluster("prod")
    await world.admin.ok("POST", "/memberships", {"cluster": "prod", "user": "ann"})
    await refused(una, "PATCH", "/users/ann", {"password": "yet another long one"}, 403, "enter")


async def test_labels_do_not_give_what_is_not_held(world: Any) -> None:
    tier = {"name": "tier", "cluster_rules": [WRITE_PODS], "cluster_selector": {"tier": "one"}}
    await world.admin.ok("POST", "/global-roles", tier)
    bob = await world.user("bob")
    await bound(world, "bob", "tier")
    edit = {"name": "edits", "context": "cluster", "rules": [own("get update", "clusters")]}
    await world.admin.ok("POST", "/role-templates", edit)
    await world.cluster("prod")
    await bound(world, "bob", "edits", cluster="prod")
    await refused(bob, "PATCH", "/clusters/prod", {"labels": {"tier": "one"}}, 403, "labels")
    await bob.ok("PATCH", "/clusters/prod", {"labels": {"tier": "two"}})


async def test_a_namespace_is_not_moved_to_whom_it_would_be_more(world: Any) -> None:
    """Who may update projects could otherwise move what others have into a project of their own."""
    admin = world.admin
    await world.cluster("prod")
    ann = await world.user("ann")
    ours = {"api_groups": ["mooring.fleet"]}
    rules = [{"verbs": ["get", "update"], "resources": ["projects"], **ours}]
    rules.append({"verbs": ["create"], "resources": ["namespaces"], **ours})
    await admin.ok("POST", "/role-templates", {"name": "mover", "context": "cluster", "rules": rules})
    await bound(world, "ann", "mover", cluster="prod")
    await admin.ok("POST", "/projects", {"name": "shop", "cluster": "prod", "namespaces": [{"name": "shop-db"}]})
    await admin.ok("POST", "/projects", {"name": "bank", "cluster": "prod"})
    wish = {"name": "shop-db", "move": True}
    await refused(ann, "POST", "/projects/bank/namespaces", wish, 403, "whole cluster")
    await bound(world, "ann", "cluster-owner", cluster="prod")
    moved = await ann.ok("POST", "/projects/bank/namespaces", wish)
    assert [space["name"] for space in moved["namespaces"]] == ["shop-db"]
