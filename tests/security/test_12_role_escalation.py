# SPDX-License-Identifier: Apache-2.0
"""Attack class 12: role escalation through our API. A user, a cluster's token, or nobody, becomes an administrator.

Every operation of the API's own document is tried by who may not, with bodies that bring fields of their own along;
afterwards nothing has changed. Guards: `api/access.py` (each route says who may call it, and what does not say is
refused), the checks in each resource that an object is the caller's own, bodies that refuse unknown fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.rawhttp import RawClient, bearer

from .conftest import Person, Road, new_source

ROOT = Path(__file__).resolve().parents[2]
AUDIT = "/api/v1/agents/audit"
OPEN_TO_ALL = {
    ("post", "/api/v1/login"),
    ("post", "/api/v1/agents/register"),
    ("get", "/api/v1/agents/policy"),
    ("post", "/api/v1/agents/endpoint"),
    ("post", AUDIT),
}
OF_EVERY_USER = {
    ("get", "/api/v1/whoami"),
    ("post", "/api/v1/logout"),
    ("get", "/api/v1/tokens"),
    ("post", "/api/v1/tokens"),
    ("get", "/api/v1/tokens/{token_id}"),
    ("delete", "/api/v1/tokens/{token_id}"),
    ("post", "/api/v1/kubeconfig"),
    ("post", "/api/v1/users/me/password"),
    ("get", "/api/v1/clusters"),
    ("get", "/api/v1/clusters/{ref}"),
    ("get", "/api/v1/server"),
    ("get", "/api/v1/users/{ref}"),
    ("get", "/api/v1/global-roles"),
    ("get", "/api/v1/global-roles/{ref}"),
    ("get", "/api/v1/role-templates"),
    ("get", "/api/v1/role-templates/{ref}"),
    ("get", "/api/v1/policy/access"),
    ("post", "/api/v1/policy/simulate"),
}
"""What a user may call: what it shows is his own, and (by the role `user-base`) which roles there are. Everything else
needs rights that others have."""
OF_A_CLUSTERS_TOKEN = {("get", "/api/v1/whoami")}


def operations() -> list[tuple[str, str]]:
    paths = json.loads((ROOT / "docs" / "api" / "openapi.json").read_text())["paths"]
    found = [(method, path) for path, item in paths.items() for method in item if method != "parameters"]
    assert len(found) > 25
    return found


BODIES: dict[str, dict[str, Any]] = {
    "/api/v1/users": {"name": "eve-made", "password": "a long enough one", "groups": ["admins"]},
    "/api/v1/groups": {"name": "eve-group"},
    "/api/v1/clusters": {"name": "eve-cluster"},
    "/api/v1/memberships": {"cluster": "bow", "user": "eve"},
    "/api/v1/tokens": {"user": "admin"},
    "/api/v1/users/{ref}": {"groups": ["admins"], "enabled": True},
    "/api/v1/groups/{ref}": {"members": ["eve"]},
    "/api/v1/clusters/{ref}": {"labels": {"eve": "1"}},
}


def test_every_operation_refuses_who_may_not_call_it(road: Road, client: RawClient) -> None:
    server = road.server
    eve = road.person("eve", clusters=[road.a])
    scoped = server.api("POST", "/tokens", {"cluster": "aft"}, token=eve.token)["token"]
    admin = server.api("GET", "/users/admin")
    admins_token = server.api("GET", "/tokens?user=admin")["items"][0]["id"]
    membership = server.api("GET", "/memberships")["items"][0]["id"]
    before = state(road)
    mistakes = []
    for method, template in operations():
        path = template.replace("{token_id}", admins_token).replace("{membership_id}", membership)
        path = path.replace(
            "{ref}", {"users": admin["id"], "groups": "admins", "clusters": "bow"}.get(template.split("/")[3], "x")
        )
        body = json.dumps(BODIES.get(template, {})).encode() if method in ("post", "patch") else b""
        for who, token, allowed in (
            ("nobody", "", OPEN_TO_ALL),
            ("a cluster's token", scoped, OPEN_TO_ALL | OF_A_CLUSTERS_TOKEN),
            ("a user", eve.token, OPEN_TO_ALL | OF_EVERY_USER),
        ):
            if (token, method, template) == (eve.token, "post", "/api/v1/logout"):
                continue  # her right, and the end of her part
            kind = b"application/x-ndjson" if template == AUDIT else b"application/json"
            headers = [*(bearer(token) if token else ()), (b"Content-Type", kind)]
            with road.dial(new_source()) as stranger:
                status = stranger.request(method.upper(), path, headers, body).status
            wanted: tuple[int, ...] = {"nobody": (401,), "a cluster's token": (403,)}.get(who, (403, 404))
            if (method, template) in allowed:
                wanted = (200, 201, 204, 400, 401, 403, 404, 409, 422)
            elif not token:
                wanted = (401,)
            if status not in wanted:
                mistakes.append((who, method, template, status))
    assert mistakes == []
    assert state(road) == before
    assert client.request("GET", "/api/v1/whoami", bearer(eve.token)).status == 200


def state(road: Road) -> list[Any]:
    """Everything that an escalation would have changed."""
    api = road.server.api
    keys = ("id", "name", "groups", "enabled", "members", "cluster", "user", "group", "labels")
    found = [
        {key: item.get(key) for key in keys}
        for what in ("users", "groups", "memberships", "clusters")
        for item in api("GET", f"/{what}")["items"]
    ]
    admin_tokens = api("GET", "/tokens?user=admin&active=true")["total"]
    return [*found, admin_tokens]


def test_nobody_makes_themselves_more_than_they_are(
    road: Road, client: RawClient, fresh_name: Callable[[str], str]
) -> None:
    server = road.server
    mallory = road.person(fresh_name("mallory"), clusters=[road.a])
    victim = road.person(fresh_name("victim"), clusters=[road.a, road.b])
    equal = road.person(fresh_name("equal"), clusters=[road.a])  # has no right that mallory lacks, and is another
    theirs = server.api("GET", "/whoami", token=victim.token)["token"]["id"]
    me = mallory.name
    attempts: list[tuple[str, str, Any, set[int]]] = [
        ("PATCH", f"/users/{me}", {"groups": ["admins"]}, {403, 404}),
        ("PATCH", f"/users/{mallory.id}", {"admin": True}, {403, 404, 400, 422}),
        ("PATCH", "/users/me", {"groups": ["admins"]}, {403, 404}),
        (
            "POST",
            "/users/me/password",
            {"old": mallory.password, "new": "x" * 20, "user": victim.name},
            {400, 422},
        ),
        ("POST", "/users/me/password", {"old": "wrong", "new": "x" * 20}, {401, 403, 422}),
        ("POST", "/tokens", {"user": victim.name}, {403}),
        ("POST", "/tokens", {"user": victim.id}, {403}),
        ("POST", "/tokens", {"user": equal.name}, {403}),
        ("POST", "/tokens", {"user": "admin"}, {403}),
        ("POST", "/tokens", {"cluster": "bow"}, {422}),
        ("POST", "/tokens", {"ttl_seconds": 10**9}, {400, 422}),
        ("POST", "/tokens", {"admin": True}, {400, 422}),
        ("POST", "/tokens", {"groups": ["admins"]}, {400, 422}),
        ("GET", f"/tokens/{theirs}", None, {404}),
        ("DELETE", f"/tokens/{theirs}", None, {404}),
        ("GET", f"/tokens?user={victim.name}", None, {403}),
        ("POST", "/kubeconfig", {"clusters": ["bow"]}, {422}),
        ("POST", "/memberships", {"cluster": "bow", "user": me}, {403}),
        ("POST", "/groups", {"name": "admins2", "members": [me]}, {403}),
        ("PATCH", "/groups/admins", {"members": [me]}, {403, 404}),
        ("PATCH", "/groups/admins", {"name": "x"}, {403, 404}),
        ("POST", "/clusters/aft/join-tokens", None, {403}),
        ("POST", "/clusters/aft/manifest", {}, {403}),
        ("DELETE", f"/users/{victim.name}", None, {403, 404}),
        ("GET", "/clusters/bow", None, {404, 403}),
    ]
    for method, path, body, wanted in attempts:
        data = json.dumps(body).encode() if body is not None else b""
        headers = bearer(mallory.token, (b"Content-Type", b"application/json"))
        answer = client.request(method, f"/api/v1{path}", headers, data)
        assert answer.status in wanted, (method, path, body, str(answer))
    still = server.api("GET", f"/users/{mallory.id}")
    assert still["groups"] == []
    assert server.api("GET", "/whoami", token=victim.token)["user"] == victim.name
    assert client.request("GET", road.b.path("/api"), bearer(mallory.token)).status == 403


def test_a_token_gives_no_more_than_itself(road: Road, client: RawClient, fresh_name: Callable[[str], str]) -> None:
    """A cluster's token makes none for another cluster, and opens neither the REST API nor another cluster."""
    server = road.server
    person: Person = road.person(fresh_name("scoped"), clusters=[road.a, road.b])
    made = server.api("POST", "/tokens", {"cluster": "aft", "ttl_seconds": 600}, token=person.token)
    token = made["token"]
    assert client.request("GET", road.a.path("/api"), bearer(token)).status == 200
    for method, path, body in (
        ("GET", road.b.path("/api"), None),
        ("POST", "/api/v1/tokens", {"cluster": "bow"}),
        ("POST", "/api/v1/tokens", {}),
        ("POST", "/api/v1/kubeconfig", {"clusters": ["bow"]}),
        ("GET", "/api/v1/tokens", None),
        ("GET", "/metrics", None),
        ("POST", "/api/v1/users/me/password", {"old": person.password, "new": "x" * 20}),
    ):
        data = json.dumps(body).encode() if body is not None else b""
        headers = bearer(token, (b"Content-Type", b"application/json"))
        answer = client.request(method, path, headers, data)
        assert answer.status == 403, (method, path, str(answer))
    short = server.api("POST", "/tokens", {"ttl_seconds": 600}, token=person.token)["token"]
    longer = client.request(
        "POST", "/api/v1/tokens", bearer(short, (b"Content-Type", b"application/json")), b'{"ttl_seconds": 86400}'
    )
    assert longer.status == 422, "a token makes none that outlives it"


def test_the_policy_gives_nobody_more_than_they_hold(
    road: Road, client: RawClient, fresh_name: Callable[[str], str]
) -> None:
    """Each way around "grant only what you hold", by somebody who may write bindings, roles, projects or users."""
    api, cluster = road.server.api, road.a.name
    tag = fresh_name("t").rpartition("-")[2]
    shop, bank = f"shop-{tag}", f"bank-{tag}"
    for name, space in ((shop, f"web-{tag}"), (bank, f"vault-{tag}")):
        api("POST", "/projects", {"name": name, "cluster": cluster, "namespaces": [{"name": space}]})
    people = {who: road.person(fresh_name(who), password=False) for who in ("bea", "rita", "owen", "una")}
    bea, rita, owen, una = people.values()
    api("POST", "/cluster-bindings", {"name": f"bea-{tag}", "role": "cluster-bindings-manage", "cluster": cluster,
                                      "users": [bea.name]})  # fmt: skip
    api("POST", "/global-bindings", {"name": f"rita-{tag}", "role": "roles-manage", "users": [rita.name]})
    api("POST", "/global-bindings", {"name": f"una-{tag}", "role": "users-manage", "users": [una.name]})
    api("POST", "/project-bindings", {"name": f"owen-{tag}", "role": "project-owner", "project": shop,
                                      "cluster": cluster, "users": [owen.name]})  # fmt: skip
    api("POST", "/cluster-bindings", {"name": f"own-{tag}", "role": "cluster-owner", "cluster": cluster})
    role, small = f"role-{tag}", f"small-{tag}"
    api("POST", "/global-roles", {"name": role}, token=rita.token)
    api("POST", "/global-bindings", {"name": f"role-{tag}", "role": role, "users": [rita.name]})
    api("POST", "/role-templates", {"name": small, "context": "cluster"}, token=rita.token)
    all_of = {"verbs": ["*"], "api_groups": ["*"], "resources": ["*"]}
    secrets_of_any_name = {**all_of, "resources": ["secrets"], "resource_names": ["*"]}

    def ours(verb: str, resource: str) -> dict[str, Any]:
        return {"rules": [{"verbs": [verb], "api_groups": ["mooring.fleet"], "resources": [resource]}]}

    place = {"project": shop, "cluster": cluster}
    namespaces = f"/projects/{shop}/namespaces"
    account = {"name": f"sa-{tag}", "role": "project-member", **place}
    attempts: list[tuple[Person, str, str, Any, set[int]]] = [
        # a manager of bindings grants owner
        (bea, "POST", "/cluster-bindings", {"name": "x", "role": "cluster-owner", "cluster": cluster,
                                            "users": [bea.name]}, {403}),
        (bea, "PATCH", f"/cluster-bindings/own-{tag}", {"add_users": [bea.name]}, {403}),
        (bea, "POST", "/project-bindings", {"name": "x", "role": "project-owner", **place, "users": [bea.name]}, {403}),
        (bea, "POST", "/cluster-bindings", {"name": "x", "role": "cluster-bindings-view", "cluster": road.b.name,
                                            "users": [bea.name]}, {403, 422}),
        (bea, "POST", "/global-bindings", {"name": "x", "role": "admin", "users": [bea.name]}, {403}),
        # a role is edited after it was bound
        (rita, "PATCH", f"/global-roles/{role}", {"cluster_rules": [all_of]}, {403}),
        (rita, "PATCH", f"/global-roles/{role}", ours("update", "users"), {403}),
        (rita, "PATCH", f"/role-templates/{small}", {"rules": [all_of]}, {403}),
        # inheritance comes later
        (rita, "PATCH", f"/role-templates/{small}", {"inherits": ["cluster-owner"]}, {403}),
        (rita, "PATCH", f"/role-templates/{small}", {"external": "cluster-admin"}, {403}),
        # bind, escalate, names that are wildcards
        (rita, "PATCH", f"/global-roles/{role}", ours("escalate", "globalroles"), {403}),
        (rita, "PATCH", f"/global-roles/{role}", ours("bind", "roletemplates"), {403}),
        (rita, "PATCH", f"/global-roles/{role}", {"cluster_rules": [secrets_of_any_name]}, {403, 422}),
        # the owner of a project pulls namespaces in
        (owen, "POST", namespaces, {"name": "kube-system", "create": False}, {403, 422}),
        (owen, "POST", namespaces, {"name": "kube-system", "create": True}, {403, 422}),
        (owen, "POST", namespaces, {"name": "left-alone", "create": False}, {403}),
        (owen, "POST", namespaces, {"name": f"vault-{tag}", "move": True}, {403}),
        (owen, "PATCH", f"/projects/{shop}", {"pod_security": "privileged"}, {403}),
        # service accounts of elsewhere
        (owen, "POST", "/project-bindings", {**account, "service_accounts": [f"vault-{tag}/default"]}, {422}),
        (owen, "POST", "/project-bindings", {**account, "service_accounts": ["kube-system/default"]}, {422}),
        # names that are, or look like, those of others
        *((una, "POST", "/groups", {"name": name}, {422})
          for name in ("system:masters", "System:Masters", "ѕystem:masters", "ｓystem:masters", "Admins", "аdmins")),
        # a manager of users becomes somebody else
        (una, "PATCH", "/users/admin", {"password": "x" * 20}, {403}),
        (una, "PATCH", f"/users/{una.name}", {"groups": ["admins"]}, {403}),
        (una, "PATCH", "/groups/admins", {"add_members": [una.name]}, {403}),
        (una, "POST", "/users", {"name": f"eve-{tag}", "groups": ["admins"]}, {403}),
        (una, "PATCH", f"/users/{owen.name}", {"password": "x" * 20}, {403}),
        (una, "POST", "/tokens", {"user": "admin"}, {403}),
    ]  # fmt: skip
    for person, method, path, body, wanted in attempts:
        headers = bearer(person.token, (b"Content-Type", b"application/json"))
        answer = client.request(method, f"/api/v1{path}", headers, json.dumps(body).encode())
        assert answer.status in wanted, (person.name, method, path, body, str(answer))
    for what in ("cluster-bindings", "project-bindings", "global-bindings"):
        assert "x" not in [item["name"] for item in api("GET", f"/{what}?limit=500")["items"]]
    assert client.request("GET", road.b.path("/api"), bearer(bea.token)).status == 403
