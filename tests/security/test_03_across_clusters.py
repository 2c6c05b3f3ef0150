# SPDX-License-Identifier: Apache-2.0
"""Attack class 3: a right in cluster A used on cluster B, or on the server itself.

Guards: `policy/decide.py` (the token's scope, membership), `proxy/chain.py` (`route` and `authorise`, for every request
anew), `edge/routes.py` (paths are compared as they came), `api/access.py` (a token with a scope is for no other route),
`api/clusters.py`, `api/tokens.py` and `api/session.py` (what one may not enter does not exist).
"""

from __future__ import annotations

from typing import Any

from support.glass import Glass
from support.rawhttp import RawClient, bearer
from support.road import until

from .conftest import Person, Road

# What may reach cluster A with bob's right there, as a path that somebody might read as one in B.
CONFUSED = [
    "/k8s/clusters/aft/../bow/version",
    "/k8s/clusters/aft/%2e%2e/bow/version",
    "/k8s/clusters/aft/.%2E/bow/version",
    "/k8s/clusters/aft%2f..%2fbow/version",
    "/k8s/clusters/aft%00/version",
    "/k8s/clusters/aft,bow/version",
    "/k8s/clusters/aft;bow/version",
    "/k8s/clusters/%62ow/version",
    "/k8s/clusters/BOW/version",
    "/k8s/clusters//bow/version",
    "/k8s//clusters/bow/version",
    "//k8s/clusters/bow/version",
    "/K8s/clusters/bow/version",
    "/k8s/clusters/./bow/version",
    "/k8s/clusters\\bow/version",
    "/k8s/clusters/aft/..;/bow/version",
    "/k8s/clusters/aft?/../bow/version",
    "/k8s/clusters/aft/k8s/clusters/bow/version",
    "/k8s/clusters/aft//k8s/clusters/bow/version",
    "/k8s/clusters/?cluster=bow",
    "https://x/k8s/clusters/bow/version",
]


def test_a_member_of_one_cluster_does_not_enter_the_other(road: Road, bob: Person, client: RawClient) -> None:
    begin = road.b.position()
    assert client.request("GET", road.a.path("/version"), bearer(bob.token)).status == 200
    upgrade = ((b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1"))
    calls: list[tuple[str, str, tuple[tuple[bytes, bytes], ...]]] = [
        ("GET", "/version", ()),
        ("GET", "/api/v1/namespaces/default/configmaps?watch=1", ()),
        ("DELETE", "/api/v1/namespaces/default", ()),
        ("POST", "/api/v1/namespaces/default/pods/p/exec", upgrade),
        ("GET", "/version", ((b"X-Forwarded-Host", b"aft"), (b"X-Original-URL", b"/k8s/clusters/aft/version"))),
    ]
    for method, path, more in calls:
        for ref in (road.b.name, road.b.id):
            answer = client.request(method, f"/k8s/clusters/{ref}{path}", bearer(bob.token, *more))
            assert answer.status == 403, (method, ref, path, str(answer))
            assert answer.json()["reason"] == "Forbidden"
    for target in CONFUSED:
        answer = client.request("GET", target, bearer(bob.token))
        assert answer.status in (400, 403, 404), (target, str(answer))
    users = {event.get("impersonatedUser", {}).get("username") for event in road.seen_until(road.b, begin)}
    assert "mooring:bob" not in users


def test_a_token_for_one_cluster_is_good_for_nothing_else(road: Road, client: RawClient) -> None:
    """Also when its owner may enter both, and is an administrator."""
    server = road.server
    token = server.api("POST", "/tokens", {"description": "for a", "cluster": road.a.name, "ttl_seconds": 600})["token"]
    assert client.request("GET", road.a.path("/version"), bearer(token)).status == 200
    refused: list[tuple[str, str, Any]] = [
        ("GET", road.b.path("/version"), None),
        ("GET", f"/k8s/clusters/{road.b.id}/version", None),
        ("GET", "/metrics", None),
        ("POST", "/api/v1/tokens", {"description": "wider"}),
        ("POST", "/api/v1/tokens", {"description": "wider", "cluster": road.a.name}),
        ("POST", "/api/v1/kubeconfig", {}),
        ("POST", "/api/v1/logout", None),
        ("POST", "/api/v1/users/me/password", {"old": "x" * 20, "new": "y" * 20}),
        ("GET", "/api/v1/clusters", None),
        ("GET", f"/api/v1/clusters/{road.a.name}", None),
        ("GET", "/api/v1/users", None),
        ("POST", "/api/v1/users", {"name": "planted", "groups": ["admins"]}),
        ("POST", "/api/v1/memberships", {"cluster": road.b.name, "user": "bob"}),
        ("POST", f"/api/v1/clusters/{road.a.name}/join-tokens", None),
    ]
    for method, path, body in refused:
        answer = server.call(method, path, body, token=token)
        assert answer.status == 403, (method, path, answer.body)
    assert server.call("GET", "/api/v1/whoami", token=token).status == 200, "it may know who it is"


def test_a_cluster_that_one_may_not_enter_does_not_exist_in_the_api(road: Road, bob: Person) -> None:
    server = road.server
    seen = server.call("GET", "/api/v1/clusters?limit=500", token=bob.token).json()
    assert [cluster["name"] for cluster in seen["items"]] == [road.a.name]
    assert seen["total"] == 1
    nowhere = server.call("GET", "/api/v1/clusters/nowhere", token=bob.token)
    for ref in (road.b.name, road.b.id):
        answer = server.call("GET", f"/api/v1/clusters/{ref}", token=bob.token)
        assert (answer.status, answer.json()["code"]) == (nowhere.status, nowhere.json()["code"]) == (404, "not_found")
        body = {"description": "x", "cluster": ref}
        assert server.call("POST", "/api/v1/tokens", body, token=bob.token).status == 422, ref
        login = {"username": bob.name, "password": bob.password, "cluster": ref}
        assert server.call("POST", "/api/v1/login", login).status == 422, ref
        kubeconfig = server.call("POST", "/api/v1/kubeconfig", {"clusters": [ref]}, token=bob.token)
        assert kubeconfig.status in (404, 422), ref
    whole = server.call("POST", "/api/v1/kubeconfig", {}, token=bob.token)
    assert road.a.name.encode() in whole.body
    assert b"/k8s/clusters/" + road.b.name.encode() not in whole.body
    assert road.b.id.encode() not in whole.body


def test_a_connection_remembers_nobody(road: Road, bob: Person, client: RawClient) -> None:
    """Each request on a kept-alive connection is authenticated and authorised by itself."""
    path = road.a.path("/version")
    admin = road.server.admin_token
    for headers, target, code in [
        (bearer(admin), road.b.path("/version"), 200),
        (bearer(bob.token), road.b.path("/version"), 403),
        (bearer(bob.token), path, 200),
        ([], path, 401),
        ([], "/api/v1/whoami", 401),
        (bearer(admin), "/metrics", 200),
        ([], "/metrics", 401),
        (bearer(bob.token), "/metrics", 403),
        (bearer(admin, *bearer(bob.token)), path, 401),
        ([(b"Cookie", b"token=" + bob.token.encode())], path, 401),
        ([], path + "?access_token=" + bob.token, 401),
    ]:
        assert client.request("GET", target, headers).status == code, (target, headers)


def test_what_follows_an_upgrade_is_never_read_as_a_request(road: Road, client: RawClient, glass: Glass) -> None:
    """After the 101 a connection belongs to one cluster: a request for another on it is bytes for the first."""
    before = glass.answer
    glass.answer = lambda call: (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
        b"",
    )
    glass.calls.clear()
    begin = road.b.position()
    try:
        upgrade = ((b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1"))
        headers = bearer(road.server.admin_token, *upgrade)
        assert client.request("POST", glass.path("/api/v1/namespaces/d/pods/p/exec"), headers).status == 101
        lines = [b"GET " + road.b.path("/version?smuggled").encode() + b" HTTP/1.1", b"Host: x"]
        lines += [b"%s: %s" % header for header in bearer(road.server.admin_token)]
        smuggled = b"\r\n".join([*lines, b"", b""])
        client.send(smuggled)
        until("the bytes arrive in the first cluster", lambda: glass.calls[0].body == smuggled)
        client.close()
        until("its stream ends", lambda: glass.calls[0].reset or glass.calls[0].ended)
    finally:
        glass.answer = before
    assert not [event for event in road.seen_until(road.b, begin) if "smuggled" in event["requestURI"]]
