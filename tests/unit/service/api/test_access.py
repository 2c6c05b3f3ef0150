# SPDX-License-Identifier: Apache-2.0
"""Every route, called by everybody: a route that is added without a line in this table fails the first test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mooring.api.openapi import document
from mooring.policy import builtin
from mooring.store.policies import OWN_GROUP, Binding, GlobalRole, Policy, RoleTemplate, Rule, Subject

DOCS = Path(__file__).parents[4] / "docs" / "api.md"

TABLE: dict[tuple[str, str], str] = {
    ("POST", "/login"): "public",
    ("POST", "/logout"): "user",
    ("GET", "/whoami"): "token",
    ("GET", "/server"): "user",
    ("POST", "/agents/register"): "public",
    ("GET", "/agents/policy"): "public",
    ("POST", "/agents/endpoint"): "public",
    ("POST", "/agents/audit"): "public",
    ("GET", "/clusters"): "user",
    ("POST", "/clusters"): "create clusters",
    ("GET", "/clusters/{ref}"): "user",
    ("PATCH", "/clusters/{ref}"): "update clusters (cluster)",
    ("DELETE", "/clusters/{ref}"): "delete clusters (cluster)",
    ("GET", "/clusters/{ref}/policy"): "user",
    ("GET", "/clusters/{ref}/endpoint"): "user",
    ("PUT", "/clusters/{ref}/endpoint"): "update clusters (cluster)",
    ("DELETE", "/clusters/{ref}/endpoint"): "update clusters (cluster)",
    ("GET", "/policy/status"): "list policystatus",
    ("POST", "/clusters/{ref}/join-tokens"): "create jointokens (cluster)",
    ("POST", "/clusters/{ref}/manifest"): "create jointokens (cluster)",
    ("GET", "/users"): "list users",
    ("POST", "/users"): "create users",
    ("GET", "/users/{ref}"): "user",
    ("PATCH", "/users/{ref}"): "update users",
    ("DELETE", "/users/{ref}"): "delete users",
    ("POST", "/users/me/password"): "user",
    ("GET", "/groups"): "list groups",
    ("POST", "/groups"): "create groups",
    ("GET", "/groups/{ref}"): "get groups",
    ("PATCH", "/groups/{ref}"): "update groups",
    ("DELETE", "/groups/{ref}"): "delete groups",
    ("GET", "/tokens"): "user",
    ("POST", "/tokens"): "user",
    ("GET", "/tokens/{token_id}"): "user",
    ("DELETE", "/tokens/{token_id}"): "user",
    ("GET", "/memberships"): "list memberships (scoped)",
    ("POST", "/memberships"): "create memberships (scoped)",
    ("GET", "/memberships/{membership_id}"): "get memberships (scoped)",
    ("DELETE", "/memberships/{membership_id}"): "delete memberships (scoped)",
    ("POST", "/kubeconfig"): "user",
    ("GET", "/global-roles"): "list globalroles",
    ("POST", "/global-roles"): "create globalroles",
    ("GET", "/global-roles/{ref}"): "get globalroles",
    ("PATCH", "/global-roles/{ref}"): "update globalroles",
    ("DELETE", "/global-roles/{ref}"): "delete globalroles",
    ("GET", "/role-templates"): "list roletemplates (scoped)",
    ("POST", "/role-templates"): "create roletemplates",
    ("GET", "/role-templates/{ref}"): "get roletemplates (scoped)",
    ("PATCH", "/role-templates/{ref}"): "update roletemplates",
    ("DELETE", "/role-templates/{ref}"): "delete roletemplates",
    ("GET", "/projects"): "list projects (scoped)",
    ("POST", "/projects"): "create projects (scoped)",
    ("GET", "/projects/{ref}"): "get projects (scoped)",
    ("PATCH", "/projects/{ref}"): "update projects (scoped)",
    ("DELETE", "/projects/{ref}"): "delete projects (scoped)",
    ("GET", "/projects/{ref}/namespaces"): "list namespaces (scoped)",
    ("POST", "/projects/{ref}/namespaces"): "create namespaces (scoped)",
    ("PATCH", "/projects/{ref}/namespaces/{name}"): "update namespaces (scoped)",
    ("DELETE", "/projects/{ref}/namespaces/{name}"): "delete namespaces (scoped)",
    ("GET", "/global-bindings"): "list globalbindings",
    ("POST", "/global-bindings"): "create globalbindings",
    ("GET", "/global-bindings/{ref}"): "get globalbindings",
    ("PATCH", "/global-bindings/{ref}"): "update globalbindings",
    ("DELETE", "/global-bindings/{ref}"): "delete globalbindings",
    ("GET", "/cluster-bindings"): "list clusterbindings (scoped)",
    ("POST", "/cluster-bindings"): "create clusterbindings (scoped)",
    ("GET", "/cluster-bindings/{ref}"): "get clusterbindings (scoped)",
    ("PATCH", "/cluster-bindings/{ref}"): "update clusterbindings (scoped)",
    ("DELETE", "/cluster-bindings/{ref}"): "delete clusterbindings (scoped)",
    ("GET", "/project-bindings"): "list projectbindings (scoped)",
    ("POST", "/project-bindings"): "create projectbindings (scoped)",
    ("GET", "/project-bindings/{ref}"): "get projectbindings (scoped)",
    ("PATCH", "/project-bindings/{ref}"): "update projectbindings (scoped)",
    ("DELETE", "/project-bindings/{ref}"): "delete projectbindings (scoped)",
    ("GET", "/policy/explain"): "list clusterbindings (scoped)",
    ("GET", "/policy/access"): "user",
    ("POST", "/policy/simulate"): "user",
}

RANK: dict[str, int] = {"public": 0, "token": 1, "user": 2}
RESOURCES = sorted({word.split()[1] for word in TABLE.values() if " " in word} | {"tokens", "settings", "audit"})
VERBS = ("bind", "create", "delete", "enter", "escalate", "get", "list", "update")
REFUSED, LET_IN = (403,), (200, 204, 404, 422)


def test_the_table_has_every_route(world: Any) -> None:
    served = {
        (method.upper(), path.removeprefix("/api/v1")): operation["x-access"]
        for path, item in document(world.http._transport.app)["paths"].items()
        for method, operation in item.items()
    }
    assert served == TABLE


def request(method: str, template: str, ref: str = "nosuch") -> tuple[str, str, dict[str, int] | None]:
    """A call with a body that no route takes: who is let in gets as far as the check of the body, or a 404."""
    path = template.replace("{ref}", ref)
    for name in ("{token_id}", "{membership_id}", "{name}"):
        path = path.replace(name, "x")
    return method, path, {"no such field": 1} if method in ("POST", "PUT", "PATCH") else None


async def test_who_may_call_what(world: Any) -> None:
    await world.cluster("prod")
    callers = {
        "public": world.anonymous,
        "token": await world.login("admin", "correct horse battery", cluster="prod"),
        "user": await world.user("bob"),
        "admin": world.admin,
    }
    hold(world, "bob", [])
    for (method, template), word in TABLE.items():
        if template in ("/logout", "/agents/policy", "/agents/endpoint", "/agents/audit"):
            continue  # the first would end the callers, the others take no token; all are tested by themselves
        for who, caller in callers.items():
            status = (await caller(*request(method, template))).status_code
            if {**RANK, "admin": 3}[who] >= RANK.get(word, 3):
                assert status in LET_IN, f"{who} {method} {template}: {status}"
            else:
                assert status == (401 if who == "public" else 403), f"{who} {method} {template}: {status}"


def hold(world: Any, name: str, rules: list[Rule], cluster: str = "") -> None:
    """Let the policy give the user these rules and nothing else: everywhere, or in a cluster (an id)."""
    policy = builtin.policy()
    user = next(user for user in world.services.index.snapshot().users if user.name == name)
    times: Any = {"created_at": 0.0, "updated_at": 0.0}
    role = GlobalRole(id="gr-test", name="test", rules=tuple(rules), **times)
    template = RoleTemplate(id="rt-test", name="test", context="cluster", rules=tuple(rules), **times)
    binding = Binding(
        id="b-test",
        kind="cluster" if cluster else "global",
        name="test",
        role_id="rt-test" if cluster else "gr-test",
        role_name="test",
        cluster_id=cluster or None,
        subjects=(Subject(kind="user", id=user.id, name=name),),
        **times,
    )
    held = Policy(
        global_roles={**policy.global_roles, role.id: role},
        templates={**policy.templates, template.id: template},
        bindings={**policy.bindings, binding.id: binding},
    )
    world.services.book.load(held, world.services.book.labels)


def rule(verb: str, resource: str) -> Rule:
    return Rule(verbs=(verb,), api_groups=(OWN_GROUP,), resources=(resource,))


async def test_each_route_is_opened_by_its_right_and_by_no_other(world: Any) -> None:
    prod, dev = (await world.cluster("prod"))["id"], (await world.cluster("dev"))["id"]
    bob = await world.user("bob")
    deletions_last = sorted(TABLE.items(), key=lambda item: item[0] == ("DELETE", "/clusters/{ref}"))
    for (method, template), word in deletions_last:
        if " " not in word:
            continue
        verb, resource, *where = word.split()
        all_but_it = [rule(v, r) for v in VERBS for r in RESOURCES if (v, r) != (verb, resource)]

        async def status(ref: str = "nosuch", route: tuple[str, str] = (method, template)) -> int:
            return int((await bob(*request(*route, ref))).status_code)

        hold(world, "bob", all_but_it)
        assert await status() in REFUSED, f"{method} {template} with all other rights"
        hold(world, "bob", [rule(verb, resource)])
        # The list of memberships is refused until it says for which cluster, if the right is in a cluster only.
        assert await status() in LET_IN, f"{method} {template} with its right"
        hold(world, "bob", [rule(verb, resource)], cluster=prod)
        if where == ["(cluster)"]:
            assert await status(prod) in LET_IN, f"{method} {template} with its right in the cluster"
            if (method, template) == ("DELETE", "/clusters/{ref}"):
                prod = (await world.cluster("prod"))["id"]
                hold(world, "bob", [rule(verb, resource)], cluster=prod)
            assert await status("prod") in LET_IN
            assert await status(dev) in REFUSED, f"{method} {template} in another cluster"
            assert await status() in REFUSED
        elif where == ["(scoped)"] and template != "/memberships":
            assert await status() in LET_IN, f"{method} {template} with its right somewhere"
        elif not where:
            assert await status() in REFUSED, f"{method} {template} with its right in a cluster only"


async def test_a_right_to_some_names_is_for_those(world: Any) -> None:
    await world.admin.ok("POST", "/groups", {"name": "crew"})
    await world.admin.ok("POST", "/groups", {"name": "deck"})
    bob = await world.user("bob")
    named = Rule(verbs=("get",), api_groups=(OWN_GROUP,), resources=("groups",), resource_names=("crew",))
    hold(world, "bob", [named])
    assert (await bob("GET", "/groups/crew")).status_code == 200
    assert (await bob("GET", "/groups/deck")).status_code == 403
    assert (await bob("GET", "/groups")).status_code == 403


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YWRtaW46YWRtaW4=", "Bearer mrg_x", "Token {}", "Bearer {} {}", "Bearer {}x"],
)
async def test_what_is_no_bearer_token_is_refused(world: Any, header: str) -> None:
    sent = {"Authorization": header.replace("{}", world.admin.token)}
    answer = await world.http.get("/api/v1/server", headers=sent)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mooring"'


async def test_unknown_paths_and_methods_say_so_in_the_same_form(world: Any) -> None:
    for method, path, status in (("GET", "/nosuch", 404), ("PUT", "/clusters", 405), ("OPTIONS", "/clusters", 401)):
        answer = await world.anonymous(method, path)
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_the_table_in_the_documentation_is_this_one() -> None:
    rows = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if len(cells) >= 3 and cells[0] in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            rows[cells[0], cells[1]] = cells[2]
    assert rows == TABLE
