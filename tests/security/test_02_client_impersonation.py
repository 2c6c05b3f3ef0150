# SPDX-License-Identifier: Apache-2.0
"""Attack class 2: `Impersonate-*` headers of a client, in every spelling, on every route and upgrade.

Whoever gets one through is whoever he likes. Guards: `proxy/impersonate.py` (`verdict`, by prefix, with `_` for `-`),
`wire/actas.py` (what `kubectl --as` sends is read into a value and written anew), `agent/acting.py` and
`agent/review.py` (the cluster is asked first, as the real user), `edge/routes.py` (no such header on other routes),
`agent/dispatch.py` (exactly one real user, no names of Kubernetes' own). Bob has no right to impersonate.
"""

from __future__ import annotations

from support.glass import Glass
from support.rawhttp import RawClient, bearer, lines
from support.road import until

from .conftest import Person, Road, strangers

Pairs = list[tuple[bytes, bytes]]
SPELLINGS = [
    b"Impersonate-User",
    b"impersonate-user",
    b"IMPERSONATE-USER",
    b"iMpErSoNaTe-uSeR",
    b"Impersonate_User",
    b"IMPERSONATE_USER",
    b"Impersonate",
    b"Impersonate-",
    b"Impersonate-Uid",
    b"Impersonate_Uid",
    b"Impersonate-Group",
    b"Impersonate-GROUP",
    b"Impersonate-Extra-Scopes",
    b"Impersonate-Extra-mooring.fleet%2ftoken-id",
    b"Impersonate-Extra-mooring.fleet%2Frequest-id",
    b"Impersonate-Userextras-Scopes",
    b"Impersonate-User-Extra",
    b"Impersonate-Anything-Later",
]
VALUES = [b"root", b"system:admin", b"system:masters", b"mooring:admin", b"", b"\xc3\xa4\xff"]
TOGETHER: list[Pairs] = [
    [(b"Impersonate-User", b"root"), (b"Impersonate-Group", b"system:masters")],
    [(b"Impersonate-User", b"mooring:bob"), (b"impersonate-user", b"root")],
    [(b"Impersonate-Group", b"system:masters")] * 3,
    [(b"Impersonate-User", b"root"), (b"Impersonate-Uid", b"0"), (b"Impersonate-Extra-Scopes", b"all")],
    [(b"X-Remote-User", b"root"), (b"X-Remote-Group", b"system:masters"), (b"X-Remote-Uid", b"0")],
    [(b"x_remote_user", b"root"), (b"X-REMOTE-EXTRA-scopes", b"all")],
]
# Ways to bring the header in that are no header to a strict reader.
HIDDEN = [
    b"X-A: 1\r\n Impersonate-User: root\r\n",
    b"X-A: 1\nImpersonate-User: root\r\n",
    b"X-A: 1\rImpersonate-User: root\r\n",
    b"X-A: 1\r\r\nImpersonate-User: root\r\n",
    b"X-A: 1\x00\r\nImpersonate-User: root\r\n",
    b"Impersonate-User : root\r\n",
    b"Impersonate-User\t: root\r\n",
    b" Impersonate-User: root\r\n",
    b":Impersonate-User: root\r\n",
    b"Impersonate-User\r\n",
    b"Impersonate-Us\xe9r: root\r\n",
    b"Impersonate-User\x00: root\r\n",
    b"Impersonate-User\x0b: root\r\n",
    b"X-A: 1\x0bImpersonate-User: root\r\n",
]


def attacks() -> list[Pairs]:
    return [[(name, value)] for name in SPELLINGS for value in VALUES] + TOGETHER


def test_nobody_is_somebody_else_in_a_cluster_by_a_header(road: Road, bob: Person) -> None:
    begin = road.a.position()
    me = road.known_as(bob)
    with road.dial() as client:
        for attack in attacks():
            answer = road.whoami(client, road.a, bob.token, attack)
            if answer.status == 201:  # dropped, and bob stays bob
                info = answer.json()["status"]["userInfo"]
                assert (info["username"], info["uid"], sorted(info["groups"])) == me, attack
                assert info["extra"].keys() == {"mooring.fleet/token-id", "mooring.fleet/request-id"}, attack
            else:
                assert answer.status in (400, 403), (attack, str(answer))
                assert not attack[0][0].lower().startswith(b"x"), (attack, "these are dropped, not refused")
    assert strangers(road.seen_until(road.a, begin), me) == []


def test_a_header_that_only_a_lax_reader_sees_is_malformed(road: Road, bob: Person) -> None:
    begin = road.a.position()
    path = road.a.path("/version").encode()
    with road.dial() as client:
        for attack in HIDDEN:
            head = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + attack + lines(bearer(bob.token)) + b"\r\n"
            answer = client.exchange(head)
            assert answer.status == 400, (attack, str(answer))
            assert client.closed(), attack
        trailer = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Impersonate-User\r\n" % path
        trailer += lines(bearer(bob.token)) + b"\r\n1\r\nx\r\n0\r\nImpersonate-User: root\r\n\r\n"
        assert client.exchange(trailer).status in (0, 400)
    assert strangers(road.seen_until(road.a, begin), road.known_as(bob)) == []


def test_an_upgrade_carries_no_identity_of_the_clients_choice(road: Road, bob: Person) -> None:
    begin = road.a.position()
    path = road.a.path("/api/v1/namespaces/default/pods/none/exec?command=id&stdout=1")
    websocket = [(b"Sec-WebSocket-Key", b"a2V5"), (b"Sec-WebSocket-Version", b"13")]
    upgrades: list[Pairs] = [
        [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), *websocket],
        [(b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1"), (b"X-Stream-Protocol-Version", b"v4.channel.k8s.io")],
    ]
    with road.dial() as client:
        for attack in attacks()[::3] + TOGETHER:
            for upgrade in upgrades:
                answer = client.request("GET", path, bearer(bob.token, *upgrade, *attack))
                assert answer.status in (400, 403), (attack, str(answer))
    assert strangers(road.seen_until(road.a, begin), road.known_as(bob)) == []


def test_no_other_route_takes_such_a_header(road: Road, bob: Person, client: RawClient) -> None:
    routes = ["/api/v1/whoami", "/api/v1/users", "/api/v1/nothing", "/schema/openapi.json", "/version", "/healthz"]
    routes += ["/metrics", "/readyz", "/tunnel/connect", "/nothing", "/"]
    for route in routes:
        for attack in attacks()[::5]:
            answer = client.request("GET", route, bearer(bob.token, *attack))
            if attack[0][0].lower().replace(b"_", b"-").startswith(b"impersonate"):
                assert answer.status == 403, (route, attack, str(answer))
            elif route == "/api/v1/whoami":
                assert answer.json()["user"] == "bob", attack


def test_an_administrator_gets_no_header_through_that_kubernetes_does_not_know(
    road: Road, client: RawClient, glass: Glass
) -> None:
    """His cluster may let him impersonate. What is no standard form, or is ours to say, is refused all the same."""
    glass.calls.clear()
    odd: list[Pairs] = [[(name, b"x")] for name in SPELLINGS if b"_" in name or b"Userextras" in name]
    odd += [[(b"Impersonate", b"x")], [(b"Impersonate-", b"x")], [(b"Impersonate-Anything-Later", b"x")]]
    odd += [[(b"Impersonate-Extra-mooring.fleet%2ftoken-id", b"t-forged")]]
    odd += [[(b"Impersonate-Extra-mooring.fleet%2Frequest-id", b"f" * 32)]]
    for attack in odd:
        answer = client.request("GET", glass.path("/version"), bearer(road.server.admin_token, *attack))
        assert answer.status in (400, 403), (attack, str(answer))
    assert glass.calls == []


def test_a_right_to_act_as_one_is_no_right_to_act_as_another(road: Road, client: RawClient) -> None:
    """A deputy may act as alice in A: not with groups, not as others, not with our extras, and not in B."""
    deputy = road.person("deputy", clusters=[road.a, road.b], password=False)
    rbac = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["users"], "resourceNames": ["alice"], "verbs": ["impersonate"]}
    road.a.plane.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": "act-as-alice"}, "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "act-as-alice"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "act-as-alice"},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": "mooring:deputy"}],
        },
    )
    alice = (b"Impersonate-User", b"alice")
    begin = road.a.position()
    # The API server takes a moment to hear of the binding; a no that came before counts for seconds.
    until("the right is there", lambda: road.whoami(client, road.a, deputy.token, [alice]).status == 201, 30)
    answer = road.whoami(client, road.a, deputy.token, [alice])
    info = answer.json()["status"]["userInfo"]
    assert (info["username"], info.get("uid", ""), info["groups"]) == ("alice", "", ["system:authenticated"])
    assert info["extra"]["mooring.fleet/original-user"] == ["mooring:deputy"]
    assert info["extra"]["mooring.fleet/original-uid"] == [deputy.uid]
    extra = b"Impersonate-Extra-mooring.fleet%2foriginal-user"
    attacks: list[Pairs] = [
        [(b"Impersonate-User", b"alice2")],
        [(b"Impersonate-User", b"system:admin")],
        [alice, (b"Impersonate-Group", b"system:masters")],
        [alice, (b"Impersonate-Uid", b"0")],
        [alice, (b"Impersonate-Extra-Scopes", b"all")],
        [alice, (b"Impersonate-User", b"bob")],
        [alice, (extra, b"mooring:admin")],
        [alice, (extra.upper(), b"mooring:admin")],
        [alice, (b"X-Mooring-As-Group", b"system:masters"), (b"Impersonate-Group", b"ops")],
        [(b"Connection", b"Impersonate-Uid"), alice],
    ]
    for attack in attacks:
        answer = road.whoami(client, road.a, deputy.token, attack)
        assert answer.status in (400, 403), (attack, str(answer))
    assert road.whoami(client, road.b, deputy.token, [alice]).status == 403
    known = [road.known_as(deputy), ("alice", "", ["system:authenticated"])]
    assert strangers(road.seen_until(road.a, begin), *known) == []
