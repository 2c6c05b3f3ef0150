# SPDX-License-Identifier: Apache-2.0
"""Attack class 1: hop-by-hop stripping. `Connection` names a header that a proxy then takes off, ours among them.

Without its Impersonate-User a request would run as the agent's own service account. Guards: `proxy/impersonate.py`
(`sanitise` works on the client's headers before ours are added, and takes a named identity header for an attempt to
impersonate), `wire/headers.py` (`strip_hop_by_hop`), `agent/dispatch.py` (`check_head` refuses a `Connection` that
names more than the connection, and a request that does not name exactly one user).
"""

from __future__ import annotations

from support.glass import Glass
from support.rawhttp import RawClient, bearer

from .conftest import Person, Road, strangers

IDENTITY = [
    b"Impersonate-User",
    b"Impersonate-Uid",
    b"Impersonate-Group",
    b"Impersonate-Extra-mooring.fleet%2ftoken-id",
    b"Impersonate-Extra-mooring.fleet%2frequest-id",
]
NAMED = [b"Authorization", b"Host", b"Content-Length", b"User-Agent", b"X-Request-Id", b"X-Mooring-Source", b"Accept"]
SPELLINGS = [
    b"%b",
    b"close, %b",
    b"keep-alive,%b",
    b", ,\t%b\t,",
    b"upgrade, %b",
]


def attacks() -> list[list[tuple[bytes, bytes]]]:
    found: list[list[tuple[bytes, bytes]]] = []
    for name in [*IDENTITY, *NAMED]:
        for spelling in SPELLINGS:
            value = (spelling % name).strip(b" \t")
            found += [[(b"Connection", value)], [(b"CONNECTION", value.upper())]]
        found.append([(b"Connection", b"keep-alive"), (b"connection", name)])
        found.append([(b"Proxy-Connection", name), (b"Keep-Alive", name), (b"TE", name), (b"Trailer", name)])
    found.append([(b"Connection", b", ".join(IDENTITY))])
    found.append([(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AAMAAABk")])
    return found


def test_a_header_named_in_connection_takes_nothing_off_the_identity(road: Road, bob: Person) -> None:
    begin = road.a.position()
    with road.dial() as client:
        for attack in attacks():
            answer = road.whoami(client, road.a, bob.token, attack)
            if answer.status == 201:
                info = answer.json()["status"]["userInfo"]
                assert (info["username"], info["uid"], sorted(info["groups"])) == road.known_as(bob), attack
            else:
                assert answer.status in (400, 403), (attack, str(answer))
    events = road.seen_until(road.a, begin)
    assert len(events) > len(NAMED) * len(SPELLINGS), "the harmless ones reach the API server"
    assert strangers(events, road.known_as(bob)) == []


def test_a_header_that_speaks_of_one_connection_does_not_travel_on(client: RawClient, glass: Glass, road: Road) -> None:
    """What the cluster is sent: our identity headers, whole, and none of the client's hop-by-hop headers."""
    glass.calls.clear()
    headers = bearer(
        road.server.admin_token,
        (b"Connection", b"keep-alive, X-Named, TE"),
        (b"X-Named", b"secret-of-this-hop"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Authorization", b"Basic c2VjcmV0"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"TE", b"trailers"),
        (b"Trailer", b"Impersonate-User"),
        (b"X-Kept", b"yes"),
    )
    assert client.request("GET", glass.path("/version"), headers).status == 200
    (call,) = glass.calls
    names = [name for name, _unused in call.headers]
    assert call.get_all(b"x-kept") == [b"yes"]
    assert [
        name for name in names if name.startswith((b"proxy-", b"x-named", b"te", b"trailer", b"keep-", b"conn"))
    ] == []
    assert call.get_all(b"authorization") == []
    assert call.get_all(b"impersonate-user") == [b"mooring:admin"]
    assert len(call.get_all(b"impersonate-uid")) == 1
    assert call.get_all(b"impersonate-group") == [b"mooring:admins", b"system:authenticated"]


def test_an_upgrade_keeps_only_its_own_connection_option(client: RawClient, glass: Glass, road: Road) -> None:
    glass.calls.clear()
    answers = []
    for options in (b"Upgrade, Impersonate-User", b"Upgrade, X-Named", b"upgrade, Sec-WebSocket-Key"):
        headers = bearer(
            road.server.admin_token,
            (b"Connection", options),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Key", b"a2V5"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"X-Named", b"1"),
        )
        answers.append(client.request("GET", glass.path("/api/v1/namespaces/d/pods/p/exec?command=id"), headers).status)
    assert answers[0] in (400, 403)
    for call in glass.calls:
        assert call.get_all(b"connection") == [b"Upgrade"], call.head
        assert call.get_all(b"impersonate-user") == [b"mooring:admin"], call.head
    assert len(glass.calls) == 2
