# SPDX-License-Identifier: Apache-2.0
"""Attack class 9: guess a token, learn a part of one, or use one that was replaced.

Guards: `authn/tokens.py` (256 random bits, only their SHA-256 is kept, compared in constant time; one form only),
`authn/index.py` (an unknown id and a wrong secret are one answer; a revoked token is gone), `api/users.py` and
`api/tokens.py` (a new password and a revocation end tokens), `lib/secrets.py`.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import zlib
from collections.abc import Callable

import pytest
from support.rawhttp import RawClient, bearer
from support.road import until

from .conftest import Person, Road


def made(road: Road, count: int) -> list[str]:
    body = {"description": "one of many", "ttl_seconds": 600}
    return [road.server.api("POST", "/tokens", body)["token"] for _unused in range(count)]


def test_each_token_holds_256_bits_that_nothing_else_tells(road: Road) -> None:
    tokens = made(road, 64)
    joins = [road.server.api("POST", f"/clusters/{road.b.name}/join-tokens")["join_token"] for _unused in range(4)]
    parts = [token.split("_") for token in tokens + joins]
    assert {part[0] for part in parts} == {"mrg", "mrj"}
    secrets_ = [part[2] for part in parts]
    raw = [base64.b32decode(secret.upper() + "====") for secret in secrets_]
    assert {len(bits) for bits in raw} == {32}
    assert len(set(secrets_)) == len({part[1] for part in parts}) == len(parts)
    for at in range(51):  # no position of the secret stands still or favours a letter (the last holds one bit)
        counts = collections.Counter(secret[at] for secret in secrets_)
        assert counts.most_common(1)[0][1] < len(parts) / 3, (at, counts)
    ones = sum(bin(int.from_bytes(bits, "big")).count("1") for bits in raw) / (256 * len(raw))
    assert 0.45 < ones < 0.55
    together = b"".join(raw)
    assert len(zlib.compress(together, 9)) > len(together), "a part of a secret follows from another part or secret"
    assert not any(part[1][2:] in part[2] for part in parts), "the id says nothing of the secret"


def test_no_answer_tells_how_much_of_a_guess_is_right(road: Road, bob: Person, client: RawClient) -> None:
    """Unknown id, right id with a wrong secret, and all but the last letter: one and the same answer."""
    (good,) = made(road, 1)
    kind, token_id, secret = good.split("_")
    wrong = "".join("q" if letter == "a" else "a" for letter in secret)  # in each place another letter
    guesses = [f"{kind}_{token_id}_{secret[:right]}{wrong[right:]}" for right in (0, 1, 8, 26, 50, 51)]
    assert good not in guesses
    guesses += [f"{kind}_t-{'a' * 12}_{secret}", f"{kind}_{bob.token.split('_')[1]}_{secret}"]
    for path in (road.a.path("/version"), "/api/v1/whoami", "/metrics"):
        seen = set()
        for guess in guesses:
            answer = client.request("GET", path, bearer(guess))
            headers = tuple(pair for pair in answer.headers if pair[0] not in (b"date", b"x-request-id"))
            request_id = answer.get(b"x-request-id") or b"-"
            seen.add((answer.status, headers, answer.body.replace(request_id, b"")))
        assert len(seen) == 1, (path, seen)
        assert next(iter(seen))[0] == 401
    for spelling in [
        good.upper(),
        good.replace("mrg", "MRG"),
        good.replace("mrg_", "mrj_"),
        f"{good}=",
        f"{good}a",
        good[:-1],
        f" {good} x",
        good.replace("_", "-"),
        f"{kind}_{token_id}_",
        f"{kind}_{token_id}_{hashlib.sha256(secret.encode()).hexdigest()}",
        f"{kind}_{token_id}_{base64.b32encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip('=').lower()}",
        f"{kind}__{secret}",
        f"{kind}_%_{secret}",
    ]:
        for path in (road.a.path("/version"), "/api/v1/whoami"):
            assert client.request("GET", path, bearer(spelling)).status == 401, (path, spelling)
    assert client.request("GET", road.a.path("/version"), bearer(good)).status == 200


def test_what_is_stored_or_shown_is_no_token(road: Road, bob: Person) -> None:
    road.server.api("GET", "/tokens?limit=500")
    secret = bob.token.split("_")[2]
    forms = [secret.encode(), base64.b32decode(secret.upper() + "====")]
    shown = [
        road.server.call("GET", f"/api/v1/tokens/{bob.token.split('_')[1]}", token=bob.token).body,
        road.server.call("GET", "/api/v1/tokens?limit=500", token=road.server.admin_token).body,
        road.server.call("GET", "/api/v1/whoami", token=bob.token).body,
        road.server.call("GET", "/metrics", token=road.server.admin_token).body,
        road.server_log().encode(),
        (road.server.folder / "data" / "audit.log").read_bytes(),
        *(path.read_bytes() for path in (road.server.folder / "data").glob("mooring.db*")),
    ]
    for form in forms:
        assert not any(form in text for text in shown)
    stored = b"".join(path.read_bytes() for path in (road.server.folder / "data").glob("mooring.db*"))
    assert hashlib.sha256(secret.encode()).digest() in stored, "the test looks where tokens are"


def dead(road: Road, token: str) -> None:
    """No process of the server takes it any more, on the proxy, the API or the metrics."""
    paths = [road.a.path("/version"), "/api/v1/whoami", "/metrics"]

    def statuses() -> list[int]:
        found = []
        for path in paths:
            with road.dial() as client:
                found.append(client.request("GET", path, bearer(token)).status)
        return found

    until("the token is refused everywhere", lambda: statuses() == [401] * 3, 5)
    for _unused in range(4):
        assert statuses() == [401] * 3


@pytest.mark.parametrize("how", ["revoked", "logged out", "new password", "password set by an administrator"])
def test_a_token_is_dead_once_it_is_replaced(road: Road, how: str, fresh_name: Callable[[str], str]) -> None:
    person = road.person(fresh_name("rotated"), clusters=[road.a], password="password" in how)
    keeper = person.token
    old = road.server.api("POST", "/tokens", {"description": "old", "ttl_seconds": 600}, token=keeper)["token"]
    assert road.server.call("GET", road.a.path("/version"), token=old).status == 200
    new = "another long password"
    if how == "revoked":
        road.server.api("DELETE", f"/tokens/{old.split('_')[1]}", token=keeper)
    elif how == "logged out":
        road.server.api("POST", "/logout", token=old)
    elif how == "new password":
        road.server.api("POST", "/users/me/password", {"old": person.password, "new": new}, token=keeper)
    else:
        road.server.api("PATCH", f"/users/{person.id}", {"password": new})
        dead(road, keeper)
    dead(road, old)
    if how != "password set by an administrator":
        assert road.server.call("GET", road.a.path("/version"), token=keeper).status == 200, "that one was kept"
