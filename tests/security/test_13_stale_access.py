# SPDX-License-Identifier: Apache-2.0
"""Attack class 13: stale access. A right is taken away, and what was opened with it goes on.

Each right that an access can hang on is removed while a watch and an upgraded connection are open: both end, and no
new one begins. Guards: `proxy/registry.py` (ends what hangs on a right, as the index tells it), `authn/index.py` (a
removed right counts from then on), `api/` (each change is told before it is answered).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from support.glass import Glass
from support.rawhttp import RawClient, bearer
from support.road import until

from .conftest import Person, Road

SWITCHED = (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"")
UPGRADE = (
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Key", b"a2V5"),
    (b"Sec-WebSocket-Version", b"13"),
)
WATCH = "/api/v1/namespaces/stale/configmaps?watch=1&allowWatchBookmarks=true"
EXEC = "/api/v1/namespaces/d/pods/p/exec?command=sh"


@dataclass
class Opened:
    """One person's watch on the real cluster A and exec in the cluster of glass."""

    person: Person
    token: str
    watch: RawClient
    shell: RawClient

    def ended(self, road: Road) -> None:
        for what, client in (("watch", self.watch), ("exec", self.shell)):
            client.socket.settimeout(60)
            rest = b""
            while data := receive(client):
                rest += data
            assert not rest.endswith(b"0\r\n\r\n"), f"the {what} looks as if it had ended by itself"
            client.close()


def receive(client: RawClient) -> bytes:
    try:
        return client.socket.recv(65536)
    except TimeoutError:
        raise AssertionError("still open after a minute") from None
    except OSError:
        return b""


def open_both(road: Road, glass: Glass, person: Person, token: str) -> Opened:
    watch, shell = road.dial(), road.dial()
    watch.send(head("GET", road.a.path(WATCH), token))
    begun = watch.socket.recv(65536)
    assert begun.startswith(b"HTTP/1.1 200 "), begun
    answer = shell.request("GET", glass.path(EXEC), bearer(token, *UPGRADE))
    assert answer.status == 101, str(answer)
    return Opened(person, token, watch, shell)


def head(method: str, path: str, token: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


@pytest.fixture(scope="module", autouse=True)
def stale(road: Road) -> None:
    """What everybody who gets in may watch."""
    direct = road.a.direct
    direct("create", "namespace", "stale")
    direct("-n", "stale", "create", "role", "watcher", "--verb=get,list,watch", "--resource=configmaps")
    direct("-n", "stale", "create", "rolebinding", "all", "--role=watcher", "--group=system:authenticated")


@pytest.fixture(autouse=True)
def answering(glass: Glass) -> Iterator[None]:
    """The cluster of glass takes upgrades."""
    usual = glass.answer
    glass.answer = lambda call: SWITCHED if call.get_all(b"upgrade") else (b"HTTP/1.1 200 OK\r\n\r\n", b"{}")
    yield
    glass.answer = usual


def test_what_hangs_on_a_binding_ends_with_it(road: Road, glass: Glass, fresh_name: Callable[[str], str]) -> None:
    """By a role in the clusters, or by a global role that chooses them by label; without any membership."""
    api = road.server.api
    places = ("aft", "glass")
    template, label = fresh_name("visitor"), fresh_name("label")
    enter = {"verbs": ["enter"], "api_groups": ["mooring.fleet"], "resources": ["clusters"]}
    reading = {"verbs": ["get"], "api_groups": [""], "resources": ["pods"]}
    api("POST", "/role-templates", {"name": template, "context": "cluster", "rules": [enter]})
    kept = {name: api("GET", f"/clusters/{name}")["labels"] for name in places}

    def labelled(value: str) -> None:
        for name in places:
            api("PATCH", f"/clusters/{name}", {"labels": kept[name] | ({label: value} if value else {})})

    def local(stem: str) -> Person:
        who = road.person(fresh_name(stem), password=False)
        for name in places:
            api(
                "POST",
                "/cluster-bindings",
                {"name": f"{who.name}-{name}", "cluster": name, "role": template, "users": [who.name]},
            )
        return who

    def everywhere(stem: str) -> Person:
        who = road.person(fresh_name(stem), password=False)
        role = {"name": who.name, "cluster_rules": [reading], "cluster_selector": {label: "yes"}}
        api("POST", "/global-roles", role)
        api("POST", "/global-bindings", {"name": who.name, "role": who.name, "users": [who.name]})
        return who

    def each(who: Person, method: str, body: Callable[[], dict[str, object]] | None = None) -> None:
        for name in places:
            api(method, f"/cluster-bindings/{who.name}-{name}", *([] if body is None else [body()]))

    def soon() -> dict[str, object]:
        return {"expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))}

    labelled("yes")
    removals: dict[str, tuple[Person, Callable[[Person], object]]] = {
        "binding removed": (local("removed"), lambda p: each(p, "DELETE")),
        "binding expired": (local("expired"), lambda p: each(p, "PATCH", soon)),
        "taken out of the binding": (local("outside"), lambda p: each(p, "PATCH", lambda: {"remove_users": [p.name]})),
        "global binding removed": (everywhere("global"), lambda p: api("DELETE", f"/global-bindings/{p.name}")),
        "role gives nothing in clusters any more": (
            everywhere("emptied"),
            lambda p: api("PATCH", f"/global-roles/{p.name}", {"cluster_rules": [], "cluster_selector": {}}),
        ),
        "role chooses other clusters": (
            everywhere("elsewhere"),
            lambda p: api("PATCH", f"/global-roles/{p.name}", {"cluster_selector": {label: "no"}}),
        ),
        "label of the cluster changed": (everywhere("label"), lambda p: labelled("")),
    }
    untouched = local("untouched")
    opened = {name: open_both(road, glass, who, who.token) for name, (who, _unused) in removals.items()}
    still = open_both(road, glass, untouched, untouched.token)
    try:
        for name, (who, remove) in removals.items():
            remove(who)
            opened[name].ended(road)
            for path in (road.a.path(WATCH), glass.path("/api")):
                assert road.server.call("GET", path, token=who.token).status == 403, (name, path)
        road.a.direct("-n", "stale", "create", "configmap", "bound", "--from-literal=of=life")
        until("an event on the watch of somebody else", lambda: b'"of"' in still.watch.socket.recv(65536))
    finally:
        labelled("")
        still.watch.close()
        still.shell.close()


def test_what_hangs_on_a_right_ends_with_it(road: Road, glass: Glass, fresh_name: Callable[[str], str]) -> None:
    server, direct = road.server, road.a.direct
    api = server.api

    group = fresh_name("crew")
    api("POST", "/groups", {"name": group})
    by_group = [api("POST", "/memberships", {"cluster": name, "group": group})["id"] for name in ("aft", "glass")]

    def person(stem: str, *, member: bool) -> Person:
        made = road.person(fresh_name(stem), clusters=[road.a] if member else [], groups=[] if member else [group])
        if member:
            api("POST", "/memberships", {"cluster": "glass", "user": made.name})
        return made

    def memberships(of: Person) -> None:
        for item in api("GET", f"/memberships?user={of.name}")["items"]:
            api("DELETE", f"/memberships/{item['id']}")

    removals: dict[str, tuple[Person, Callable[[Person], object]]] = {
        "token revoked": (
            person("token", member=True),
            lambda p: api("DELETE", "/tokens/" + api("GET", "/whoami", token=p.token)["token"]["id"]),
        ),
        "logged out": (person("logout", member=True), lambda p: server.call("POST", "/api/v1/logout", token=p.token)),
        "membership removed": (person("member", member=True), memberships),
        "user disabled": (
            person("disabled", member=True),
            lambda p: api("PATCH", f"/users/{p.id}", {"enabled": False}),
        ),
        "user deleted": (person("deleted", member=True), lambda p: api("DELETE", f"/users/{p.id}")),
        "taken out of the group": (
            person("left", member=False),
            lambda p: api("PATCH", f"/users/{p.id}", {"groups": []}),
        ),
        "password changed": (
            person("password", member=True),
            lambda p: api("PATCH", f"/users/{p.id}", {"password": "another long enough one"}),
        ),
    }
    grouped = {
        "the group's membership removed": person("grouped", member=False),
        "the group deleted": person("orphan", member=False),
    }
    untouched = person("untouched", member=True)
    opened = {name: open_both(road, glass, who, who.token) for name, (who, _unused) in removals.items()}
    still = open_both(road, glass, untouched, untouched.token)
    for name, (who, remove) in removals.items():
        remove(who)
        opened[name].ended(road)
        with road.dial() as client:
            again = client.request("GET", road.a.path(WATCH), bearer(who.token))
            assert again.status in (401, 403), (name, str(again))
            shell = client.request("GET", glass.path(EXEC), bearer(who.token, *UPGRADE))
            assert shell.status in (401, 403), (name, str(shell))
    both = {name: open_both(road, glass, who, who.token) for name, who in grouped.items()}
    for membership in by_group:
        api("DELETE", f"/memberships/{membership}")
    for name, one in both.items():
        one.ended(road)
        assert server.call("GET", road.a.path("/api"), token=one.token).status == 403, name
    for name in ("aft", "glass"):
        api("POST", "/memberships", {"cluster": name, "group": group})
    last = open_both(road, glass, grouped["the group deleted"], grouped["the group deleted"].token)
    api("DELETE", f"/groups/{group}")
    last.ended(road)
    # Nobody else was touched: an event still arrives on the watch, and bytes go through the exec.
    direct("-n", "stale", "create", "configmap", "sign", "--from-literal=of=life")
    until("an event on the watch of somebody else", lambda: b'"of"' in still.watch.socket.recv(65536))
    shells = [call for call in glass.calls if not call.reset and call.get_all(b"upgrade")]
    still.shell.send(b"still here")
    until("bytes in the exec of somebody else", lambda: any(call.body == b"still here" for call in shells))
    assert all(call.reset for call in glass.calls if call.get_all(b"upgrade") and call not in shells)
    still.watch.close()
    still.shell.close()
