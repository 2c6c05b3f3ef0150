# SPDX-License-Identifier: Apache-2.0
"""Log in, log out, whoami; and what a token of each kind is good for."""

from __future__ import annotations

from typing import Any

import structlog
from mooring.lib.config import AttemptsSection


async def test_a_login_gives_a_token_that_works_until_its_end(world: Any) -> None:
    await world.user("bob")
    answer = await world.anonymous.ok(
        "POST", "/login", {"username": "bob", "password": "a long enough one", "ttl_seconds": 600}
    )
    bob = type(world.admin)(world.http, answer["token"])
    assert answer["user"] == "bob"
    assert answer["expires_at"] == "2023-11-14T22:23:20.000Z"
    assert answer["token"].startswith(f"mrg_{answer['id']}_")
    assert (await bob.ok("GET", "/whoami"))["token"]["id"] == answer["id"]
    world.clock.advance(600)
    refused = await bob("GET", "/whoami")
    assert refused.status_code == 401
    assert refused.json()["detail"] == "the token has expired"


async def test_whoami_tells_the_names_downstream(world: Any) -> None:
    await world.admin.ok("POST", "/groups", {"name": "ops"})
    bob = await world.user("bob", groups=("ops",))
    me = await bob.ok("GET", "/whoami")
    assert (me["user"], me["groups"], me["admin"]) == ("bob", ["ops"], False)
    assert me["kubernetes_user"] == "mooring:bob"
    assert me["kubernetes_groups"] == ["mooring:ops", "system:authenticated"]
    assert me["uid"] == (await world.admin.ok("GET", "/users/bob"))["uid"]


async def test_a_logout_ends_the_token_at_once(world: Any) -> None:
    bob = await world.user("bob")
    await bob.ok("POST", "/logout")
    assert (await bob("GET", "/whoami")).status_code == 401


async def test_a_wrong_name_and_a_wrong_password_look_alike(world: Any) -> None:
    await world.user("bob")
    await world.admin.ok("PATCH", "/users/bob", {"enabled": False})
    answers = [
        await world.anonymous("POST", "/login", {"username": name, "password": password})
        for name, password in (("admin", "wrong password"), ("nobody", "wrong password"), ("bob", "a long enough one"))
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["code"] == "wrong_password"


async def test_a_user_without_a_password_cannot_log_in(world: Any) -> None:
    await world.admin.ok("POST", "/users", {"name": "robot"})
    for password in ("", " ", "None", "nobody has this password"):
        assert (await world.anonymous("POST", "/login", {"username": "robot", "password": password})).is_client_error


async def test_people_log_in_by_name_and_not_by_id(world: Any) -> None:
    user_id = (await world.admin.ok("GET", "/whoami"))["user_id"]
    answer = await world.anonymous("POST", "/login", {"username": user_id, "password": "correct horse battery"})
    assert answer.status_code == 401


async def test_guessing_gets_slow_for_the_guesser_only(world: Any) -> None:
    wrong = {"username": "admin", "password": "wrong password"}
    for _unused in range(AttemptsSection().login_free_per_user):
        assert (await world.anonymous("POST", "/login", wrong)).status_code == 401
    delayed = await world.anonymous("POST", "/login", wrong)
    assert delayed.status_code == 429
    assert int(delayed.headers["Retry-After"]) >= 1
    right = {"username": "admin", "password": "correct horse battery"}
    assert (await world.anonymous("POST", "/login", right)).status_code == 429, "also the right one must wait"
    elsewhere = type(world.admin)(world.http, source="198.51.100.7")
    assert (await elsewhere("POST", "/login", right)).status_code == 201
    world.clock.advance(2)
    assert (await world.anonymous("POST", "/login", right)).status_code == 201


async def test_a_password_that_changes_during_a_login_gives_no_token(world: Any, monkeypatch: Any) -> None:
    await world.user("bob")
    verify = world.services.passwords.verify

    async def slow(stored: Any, password: Any) -> bool:
        right = await verify(stored, password)
        await world.admin.ok("PATCH", "/users/bob", {"password": "quite another one"})
        return bool(right)

    monkeypatch.setattr(world.services.passwords, "verify", slow)
    answer = await world.anonymous("POST", "/login", {"username": "bob", "password": "a long enough one"})
    assert answer.status_code == 401


async def test_a_scoped_token_is_good_for_whoami_and_nothing_else_here(world: Any) -> None:
    await world.cluster("prod")
    scoped = await world.login("admin", "correct horse battery", cluster="prod")
    me = await scoped.ok("GET", "/whoami")
    assert me["token"]["cluster"] == "prod"
    for method, path in (("GET", "/clusters"), ("GET", "/server"), ("POST", "/logout"), ("POST", "/tokens")):
        answer = await scoped(method, path, {} if path == "/tokens" else None)
        assert answer.status_code == 403, path
        assert "one cluster" in answer.json()["detail"]


async def test_a_login_cannot_ask_for_more_than_the_longest_life(world: Any) -> None:
    body = {"username": "admin", "password": "correct horse battery", "ttl_seconds": 366 * 86400}
    answer = await world.anonymous("POST", "/login", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "ttl_seconds"


async def test_the_last_use_is_noted(world: Any) -> None:
    await world.admin.ok("GET", "/whoami")
    assert list(world.services.index.take_used().values()) == [world.clock.now()]


async def test_a_login_is_scoped_to_a_cluster_that_one_may_enter(world: Any) -> None:
    await world.cluster("prod")
    await world.user("bob")
    body = {"username": "bob", "password": "a long enough one"}
    hidden, missing = [await world.anonymous("POST", "/login", body | {"cluster": name}) for name in ("prod", "nosuch")]
    assert hidden.status_code == missing.status_code == 422
    assert hidden.text.replace("prod", "nosuch") == missing.text
    await world.admin.ok("POST", "/memberships", {"cluster": "prod", "user": "bob"})
    assert (await world.anonymous.ok("POST", "/login", body | {"cluster": "prod"}))["cluster"] == "prod"


async def test_a_call_that_changes_something_is_logged_without_its_body(world: Any) -> None:
    with structlog.testing.capture_logs() as lines:
        await world.admin.ok("POST", "/users", {"name": "bob", "password": "canary-password-2"})
        await world.admin.ok("GET", "/users")
    calls = [line for line in lines if line["event"] == "api call"]
    assert [(c["user"], c["method"], c["path"], c["code"], c["source"]) for c in calls] == [
        ("admin", "POST", "/api/v1/users", 201, "192.0.2.1")
    ]
    assert "canary" not in repr(lines)
