# SPDX-License-Identifier: Apache-2.0
"""Users and groups: names that are refused, rights that end at once, and the administrator who always stays."""

from __future__ import annotations

from typing import Any

import pytest

GOOD = "a long enough one"


async def test_a_user_is_made_changed_and_deleted(world: Any) -> None:
    answer = await world.admin(
        "POST", "/users", {"name": "Jörg Müller", "display_name": "J", "password": GOOD, "groups": ["admins"]}
    )
    assert (answer.status_code, answer.headers["ETag"]) == (201, '"1"')
    made = answer.json()
    assert made["groups"] == ["admins"]
    assert GOOD not in answer.text
    assert await world.admin.ok("GET", f"/users/{made['id']}") == made
    changed = await world.admin.ok("PATCH", f"/users/{made['id']}", {"display_name": "K", "groups": []}, If_Match='"1"')
    assert (changed["display_name"], changed["groups"], changed["version"]) == ("K", [], 2)
    assert changed["uid"] == made["uid"]
    assert (await world.admin("PATCH", f"/users/{made['id']}", {}, If_Match='"1"')).status_code == 412
    await world.admin.ok("DELETE", f"/users/{made['id']}")
    assert (await world.admin("GET", f"/users/{made['id']}")).status_code == 404


async def test_a_user_who_comes_back_gets_another_uid(world: Any) -> None:
    first = await world.admin.ok("POST", "/users", {"name": "bob"})
    await world.admin.ok("DELETE", "/users/bob")
    assert (await world.admin.ok("POST", "/users", {"name": "bob"}))["uid"] != first["uid"]


REFUSED = [
    "",
    "system:admin",
    "SYSTEM:x",
    "a\nb",
    "a\x00b",
    "a\x7fb",
    "a\u202eb",
    "a\u2028b",
    " a",
    "a ",
    "x" * 254,
    "é" * 127,
]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("path", ["/users", "/groups"])
async def test_names_that_could_forge_anything_are_refused_where_they_enter(world: Any, path: str, name: str) -> None:
    answer = await world.admin("POST", path, {"name": name})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "name"


@pytest.mark.parametrize(
    ("path", "name"), [("/users", "me"), ("/users", "u-aaaaaaaaaaaa"), ("/groups", "g-aaaaaaaaaaaa")]
)
async def test_names_with_a_meaning_in_urls_are_refused(world: Any, path: str, name: str) -> None:
    answer = await world.admin("POST", path, {"name": name})
    assert answer.json()["errors"][0]["field"] == "name"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "b", "password": "short"}, "password"),
        ({"name": "b", "password": "x" * 1025}, "password"),
        ({"name": "b", "password": "é" * 1000}, "password"),
        ({"name": "b", "display_name": "a\x1b[31m"}, "display_name"),
        ({"name": "b", "groups": ["nosuch"]}, "groups"),
        ({"name": "b", "admin": True}, "admin"),
        ({"name": "admin"}, "name"),
        ({}, "name"),
    ],
)
async def test_a_field_that_is_wrong_is_named(world: Any, body: dict[str, Any], field: str) -> None:
    answer = await world.admin("POST", "/users", body)
    assert answer.status_code in (409, 422)
    assert answer.json()["errors"][0]["field"] == field
    assert (await world.admin.ok("GET", "/users"))["total"] == 1, "nothing is half made"


async def test_a_disabled_user_is_out_at_once_and_for_good(world: Any) -> None:
    bob = await world.user("bob")
    await world.admin.ok("PATCH", "/users/bob", {"enabled": False})
    assert (await bob("GET", "/whoami")).status_code == 401
    await world.admin.ok("PATCH", "/users/bob", {"enabled": True})
    assert (await bob("GET", "/whoami")).status_code == 401, "the old tokens stay dead"
    await (await world.login("bob", GOOD)).ok("GET", "/whoami")


async def test_a_deleted_user_is_out_at_once(world: Any) -> None:
    bob = await world.user("bob")
    await world.admin.ok("DELETE", "/users/bob")
    assert (await bob("GET", "/whoami")).status_code == 401
    assert (await world.anonymous("POST", "/login", {"username": "bob", "password": GOOD})).status_code == 401


async def test_a_new_password_ends_the_tokens_of_the_old_one(world: Any) -> None:
    bob = await world.user("bob")
    await world.admin.ok("PATCH", "/users/bob", {"password": "quite another one"})
    assert (await bob("GET", "/whoami")).status_code == 401
    assert (await world.anonymous("POST", "/login", {"username": "bob", "password": GOOD})).status_code == 401
    await world.login("bob", "quite another one")
    await world.admin.ok("PATCH", "/users/admin", {"password": "quite another one"})
    await world.admin.ok("GET", "/whoami")


async def test_people_change_their_own_password(world: Any) -> None:
    bob, other = await world.user("bob"), await world.login("bob", GOOD)
    wrong = await bob("POST", "/users/me/password", {"old": "not the old one", "new": "quite another one"})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "wrong_password")
    short = await bob("POST", "/users/me/password", {"old": GOOD, "new": "short"})
    assert short.json()["errors"][0]["field"] == "new"
    await bob.ok("POST", "/users/me/password", {"old": GOOD, "new": "quite another one"})
    await bob.ok("GET", "/whoami")
    assert (await other("GET", "/whoami")).status_code == 401
    await world.login("bob", "quite another one")


async def test_guessing_the_old_password_gets_slow(world: Any) -> None:
    bob = await world.user("bob")
    guess = {"old": "not the old one", "new": "quite another one"}
    codes = [(await bob("POST", "/users/me/password", guess)).status_code for _unused in range(4)]
    assert codes == [403, 403, 403, 429]


async def test_people_read_themselves_only(world: Any) -> None:
    bob = await world.user("bob")
    me = await bob.ok("GET", "/users/me")
    assert me == await bob.ok("GET", "/users/bob") == await bob.ok("GET", f"/users/{me['id']}")
    assert (await bob("GET", "/users/admin")).status_code == 404
    assert (await bob("GET", "/users/nosuch")).status_code == 404


async def test_users_are_selected(world: Any) -> None:
    await world.admin.ok("POST", "/groups", {"name": "ops"})
    await world.admin.ok("POST", "/users", {"name": "ann", "groups": ["ops"]})
    await world.admin.ok("POST", "/users", {"name": "bob", "enabled": False})

    async def names(query: str) -> list[str]:
        return [user["name"] for user in (await world.admin.ok("GET", f"/users?{query}"))["items"]]

    assert await names("") == ["admin", "ann", "bob"]
    assert await names("enabled=false") == ["bob"]
    assert await names("group=ops") == ["ann"]
    assert await names("name=bob") == ["bob"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/users/admin", None),
        ("PATCH", "/users/admin", {"enabled": False}),
        ("PATCH", "/users/admin", {"groups": []}),
        ("PATCH", "/groups/admins", {"members": []}),
        ("PATCH", "/groups/admins", {"remove_members": ["admin"]}),
        ("PATCH", "/groups/admins", {"members": ["off"]}),
    ],
)
async def test_the_last_enabled_administrator_stays(world: Any, method: str, path: str, body: Any) -> None:
    await world.admin.ok("POST", "/users", {"name": "off", "enabled": False, "groups": ["admins"]})
    answer = await world.admin(method, path, body)
    assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")
    me = await world.admin.ok("GET", "/whoami")
    assert me["admin"]
    assert (await world.admin.ok("GET", "/groups/admins"))["members"] == ["admin", "off"]


async def test_with_another_administrator_the_first_may_go(world: Any) -> None:
    ann = await world.user("ann", groups=("admins",))
    await world.admin.ok("DELETE", "/users/admin")
    assert (await ann.ok("GET", "/users"))["total"] == 1


async def test_who_leaves_the_administrators_is_none_with_the_next_call(world: Any) -> None:
    ann = await world.user("ann", groups=("admins",))
    await ann.ok("GET", "/users")
    await world.admin.ok("PATCH", "/groups/admins", {"remove_members": ["ann"]})
    assert (await ann("GET", "/users")).status_code == 403


async def test_members_are_set_added_and_removed(world: Any) -> None:
    for name in ("ann", "bob", "eve"):
        await world.admin.ok("POST", "/users", {"name": name})
    made = await world.admin.ok("POST", "/groups", {"name": "ops", "members": ["bob", "ann"]})
    assert (made["members"], made["builtin"]) == (["ann", "bob"], False)
    changed = await world.admin.ok("PATCH", "/groups/ops", {"add_members": ["eve"], "remove_members": ["ann"]})
    assert changed["members"] == ["bob", "eve"]
    same = await world.admin.ok("PATCH", "/groups/ops", {"add_members": ["eve"], "remove_members": ["ann"]})
    assert same["version"] == changed["version"]
    assert (await world.admin.ok("PATCH", "/groups/ops", {"members": ["ann"]}))["members"] == ["ann"]
    assert (await world.admin.ok("GET", "/groups?member=ann"))["items"][0]["name"] == "ops"
    for body in ({"members": [], "add_members": ["ann"]}, {"members": ["nosuch"]}):
        answer = await world.admin("PATCH", "/groups/ops", body)
        assert answer.json()["errors"][0]["field"] == "members"
    both = await world.admin("PATCH", "/groups/ops", {"add_members": ["bob"], "remove_members": ["bob"]})
    assert both.json()["errors"][0]["field"] == "remove_members"


async def test_a_group_is_described_and_deleted_but_not_the_built_in_one(world: Any) -> None:
    await world.admin.ok("POST", "/groups", {"name": "ops"})
    changed = await world.admin("PATCH", "/groups/ops", {"description": "d"}, If_Match='"1"')
    assert changed.headers["ETag"] == '"2"'
    assert (await world.admin("DELETE", "/groups/ops", If_Match='"1"')).status_code == 412
    await world.admin.ok("DELETE", "/groups/ops")
    assert (await world.admin("GET", "/groups/ops")).status_code == 404
    kept = await world.admin("DELETE", "/groups/admins")
    assert (kept.status_code, kept.json()["code"]) == (409, "builtin")


@pytest.mark.parametrize("name", ["ops", "OPS", "oрs", "\uff4fps", "o\u0301ps", "Admins", "system:ops"])
async def test_a_group_that_looks_like_another_is_refused(world: Any, name: str) -> None:
    await world.admin.ok("POST", "/groups", {"name": "ops"})
    answer = await world.admin("POST", "/groups", {"name": name})
    assert answer.status_code in (409, 422)
    assert answer.json()["errors"][0]["field"] == "name"
