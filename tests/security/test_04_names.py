# SPDX-License-Identifier: Apache-2.0
"""Attack class 4: names of users and groups with CR, LF, NUL, non-ASCII or 10 KB, from every source of names.

Such a name could end a header, forge a line of a log, or be one of Kubernetes' own. Guards: `lib/names.py` (one rule
for every source), `api/common.py` (free text), `wire/headers.py` (a head with a control character is never written),
`agent/dispatch.py` (no `system:` name runs). What is allowed arrives in the cluster exactly, as one name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from support.rawhttp import RawClient, bearer
from support.road import BIN, run

from .conftest import Person, Road, new_source, strangers

FORGED = "forged-line"
BAD = [
    "",
    " ",
    f"eve\r\nImpersonate-Group: system:masters\r\nX: {FORGED}",
    f"eve\n{FORGED}",
    f"eve\r{FORGED}",
    "eve\n",
    "\neve",
    "eve\x00",
    "\x00",
    "eve\x00root",
    "eve\x1b[2K",
    "eve\x7f",
    "eve\x85" + FORGED,
    "eve\u2028" + FORGED,
    "eve\u2029" + FORGED,
    "eve\u202egpj.exe",
    "eve\u2066",
    "eve\ud800",
    "eve ",
    "eve\u00a0",
    "e" * 254,
    "é" * 127,
    "e" * 10_240,
    "system:admin",
    "system:masters",
    "SYSTEM:masters",
    "system:serviceaccount:kube-system:default",
    "system:",
    "ſystem:masters",  # U+017F, which folds to an s
]
ALLOWED = [
    "zoë-Ω-名前",
    "a,system:masters",
    "%0d%0aImpersonate-Group: system:masters",
    "mooring:admin",
    "x;y=z",
    "quo\"ted'\\",
    "../../admin",
    "n" * 253,
]


def in_json(text: str) -> bytes:
    """The text as a JSON string, also a lone surrogate."""
    return json.dumps(text).encode()


def test_no_source_takes_a_name_that_could_forge_anything(road: Road, client: RawClient) -> None:
    admin = bearer(road.server.admin_token, (b"Content-Type", b"application/json"))
    password = in_json("a long enough password")
    sources: list[tuple[str, str, Callable[[bytes], bytes]]] = [
        ("POST", "/users", lambda name: b'{"name":%b,"password":%b}' % (name, password)),
        ("POST", "/groups", lambda name: b'{"name":%b}' % name),
        ("POST", "/users", lambda name: b'{"name":"victim","groups":[%b]}' % name),
        ("PATCH", "/users/admin", lambda name: b'{"groups":["admins",%b]}' % name),
        ("POST", "/memberships", lambda name: b'{"cluster":"aft","user":%b}' % name),
        ("POST", "/memberships", lambda name: b'{"cluster":"aft","group":%b}' % name),
        ("POST", "/tokens", lambda name: b'{"user":%b}' % name),
        ("POST", "/clusters", lambda name: b'{"name":%b}' % name),
    ]
    for name in BAD:
        for method, path, body in sources:
            answer = client.request(method, f"/api/v1{path}", admin, body(in_json(name)))
            assert answer.status in (400, 422), (method, path, name[:40], str(answer))
    for name in BAD[1::4]:  # a few, as each may cost a password's hash
        with road.dial(new_source()) as login:
            body_ = b'{"username":%b,"password":%b}' % (in_json(name), password)
            answer = login.request("POST", "/api/v1/login", [(b"Content-Type", b"application/json")], body_)
            assert answer.status in (400, 401, 422), (name[:40], str(answer))
    users = road.server.api("GET", "/users?limit=500")["items"]
    assert not [user for user in users if user["name"].startswith(("eve", "victim", "system", "e" * 20))]
    assert road.server.api("GET", "/users/admin")["groups"] == ["admins"]
    assert not [line for line in road.server_log().splitlines() if line.lstrip().startswith(FORGED)]


def test_free_text_cannot_forge_a_line_or_a_header(road: Road, client: RawClient) -> None:
    admin = bearer(road.server.admin_token, (b"Content-Type", b"application/json"))
    for text in (f"a\r\nX: {FORGED}", "a\x00", "a\x1b[2J", "a\ud800", "\x7f", "x" * 10_240):
        for path, body in [
            ("/users", b'{"name":"texted","display_name":%b}'),
            ("/groups", b'{"name":"texted","description":%b}'),
            ("/tokens", b'{"description":%b}'),
            ("/clusters", b'{"name":"texted","description":%b}'),
            ("/clusters", b'{"name":"texted","labels":{"a":%b}}'),
            ("/clusters", b'{"name":"texted","labels":{%b:"a"}}'),
        ]:
            answer = client.request("POST", f"/api/v1{path}", admin, body % in_json(text))
            assert answer.status in (400, 422), (path, text[:20], str(answer))


def test_raw_bytes_in_names_are_refused_and_not_a_fault(road: Road, client: RawClient) -> None:
    """Bytes that are no JSON, or no UTF-8, where a name is expected."""
    admin = bearer(road.server.admin_token, (b"Content-Type", b"application/json"))
    for name in (
        b'"\xff\xfe"',
        b'"\xc0\xae"',
        b'"\xed\xa0\x80"',
        b'"a\nb"',
        b'"a\x00b"',
        b'"\\ud800"',
        b"null",
        b"7",
        b"[]",
    ):
        answer = client.request("POST", "/api/v1/users", admin, b'{"name":%b}' % name)
        assert answer.status in (400, 422), (name, str(answer))
    for ref in ("%0d%0a", "%00", "%ff", "a%0aadmin", "%e2%80%a8", "x" * 300):
        answer = client.request("GET", f"/api/v1/users/{ref}", bearer(road.server.admin_token))
        assert answer.status in (400, 404, 422), (ref, str(answer))


def test_the_first_administrator_and_the_prefix_are_sources_too(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("a long enough password")
    password.chmod(0o600)
    for number, wrong in enumerate(
        (("--admin", "system:admin"), ("--admin", f"eve\n{FORGED}"), ("--prefix", "system:"))
    ):
        init = [BIN / "mooring", "server", "init", "--data", tmp_path / f"data{number}", "--listen", "127.0.0.1:1",
                "--url", "https://127.0.0.1:1", *wrong, "--admin-password-file", password]  # fmt: skip
        assert run(init, check=False).returncode != 0, wrong


def test_an_odd_name_that_is_allowed_arrives_as_one_name(road: Road, client: RawClient) -> None:
    """Not escaped, not split at a comma, not decoded: the cluster's RBAC must be able to name exactly this user."""
    begin = road.a.position()
    known = []
    for number, name in enumerate(ALLOWED):
        person: Person = road.person(name, clusters=[road.a], password=False)
        group = road.server.api("POST", "/groups", {"name": f"{number}{name}".encode()[:253].decode("utf-8", "ignore")})
        road.server.api("PATCH", f"/users/{person.id}", {"groups": [group["name"]]})
        answer = road.whoami(client, road.a, person.token)
        assert answer.status == 201, (name, str(answer))
        info = answer.json()["status"]["userInfo"]
        known.append(road.known_as(person))
        assert (info["username"], info["uid"], sorted(info["groups"])) == known[-1], name
        assert info["username"] == f"mooring:{name}"
    assert strangers(road.seen_until(road.a, begin), *known) == []
