# SPDX-License-Identifier: Apache-2.0
"""Every route, called by everybody: a route that is added without a line in this table fails the first test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from mooring.api.openapi import document

DOCS = Path(__file__).parents[4] / "docs" / "api.md"

Who = Literal["public", "token", "user", "admin"]

TABLE: dict[tuple[str, str], Who] = {
    ("POST", "/login"): "public",
    ("POST", "/logout"): "user",
    ("GET", "/whoami"): "token",
    ("GET", "/server"): "user",
    ("POST", "/agents/register"): "public",
    ("GET", "/clusters"): "user",
    ("POST", "/clusters"): "admin",
    ("GET", "/clusters/{ref}"): "user",
    ("PATCH", "/clusters/{ref}"): "admin",
    ("DELETE", "/clusters/{ref}"): "admin",
    ("POST", "/clusters/{ref}/join-tokens"): "admin",
    ("POST", "/clusters/{ref}/manifest"): "admin",
    ("GET", "/users"): "admin",
    ("POST", "/users"): "admin",
    ("GET", "/users/{ref}"): "user",
    ("PATCH", "/users/{ref}"): "admin",
    ("DELETE", "/users/{ref}"): "admin",
    ("POST", "/users/me/password"): "user",
    ("GET", "/groups"): "admin",
    ("POST", "/groups"): "admin",
    ("GET", "/groups/{ref}"): "admin",
    ("PATCH", "/groups/{ref}"): "admin",
    ("DELETE", "/groups/{ref}"): "admin",
    ("GET", "/tokens"): "user",
    ("POST", "/tokens"): "user",
    ("GET", "/tokens/{token_id}"): "user",
    ("DELETE", "/tokens/{token_id}"): "user",
    ("GET", "/memberships"): "admin",
    ("POST", "/memberships"): "admin",
    ("GET", "/memberships/{membership_id}"): "admin",
    ("DELETE", "/memberships/{membership_id}"): "admin",
    ("POST", "/kubeconfig"): "user",
}

RANK: dict[str, int] = {"public": 0, "token": 1, "user": 2, "admin": 3}


def test_the_table_has_every_route(world: Any) -> None:
    served = {
        (method.upper(), path.removeprefix("/api/v1")): operation["x-access"]
        for path, item in document(world.http._transport.app)["paths"].items()
        for method, operation in item.items()
    }
    assert served == TABLE


async def test_who_may_call_what(world: Any) -> None:
    await world.cluster("prod")
    callers = {
        "public": world.anonymous,
        "token": await world.login("admin", "correct horse battery", cluster="prod"),
        "user": await world.user("bob"),
        "admin": world.admin,
    }
    for (method, template), least in TABLE.items():
        path = template.replace("{ref}", "nosuch").replace("{token_id}", "x").replace("{membership_id}", "x")
        if path == "/logout":
            continue  # it would end the callers; tested by itself
        # A body that no route takes: who is let in gets as far as the check of the body, or a 404.
        body = {"no such field": 1} if method in ("POST", "PATCH") else None
        for who, caller in callers.items():
            status = (await caller(method, path, body)).status_code
            if RANK[who] >= RANK[least]:
                assert status in (200, 404, 422), f"{who} {method} {path}: {status}"
            else:
                assert status == (401 if who == "public" else 403), f"{who} {method} {path}: {status}"


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
        if len(cells) >= 3 and cells[0] in ("GET", "POST", "PATCH", "DELETE"):
            rows[cells[0], cells[1]] = cells[2]
    assert rows == TABLE
