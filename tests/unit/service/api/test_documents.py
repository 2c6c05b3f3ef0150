# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is the one that is checked in, and errors have one form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mooring.lib.secrets import Secret
from mooring.store.ports import StoreUnavailable

CHECKED_IN = Path(__file__).parents[4] / "docs" / "api" / "openapi.json"
AGAIN = "write it again: python -m mooring.api.openapi > docs/api/openapi.json"


async def test_the_served_document_is_the_one_that_is_checked_in(world: Any) -> None:
    answer = await world.http.get("/schema/openapi.json")
    assert answer.status_code == 200
    assert answer.content == CHECKED_IN.read_bytes(), AGAIN


def test_the_command_writes_the_document() -> None:
    made = subprocess.run([sys.executable, "-m", "mooring.api.openapi"], check=True, capture_output=True, timeout=100)
    assert made.stdout == CHECKED_IN.read_bytes(), AGAIN


def test_every_operation_says_who_what_and_how_it_fails() -> None:
    document = json.loads(CHECKED_IN.read_text())
    names = set()
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert re.fullmatch(
                r"public|token|user|(get|list|create|update|delete) [a-z]+( \((cluster|scoped)\))?",
                operation["x-access"],
            )
            assert "default" in operation["responses"]
            names.add(operation["operationId"])
    assert len(names) == sum(len(item) for item in document["paths"].values())
    assert "ProblemDocument" in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("content", "status", "field"),
    [
        (b"", 422, "body"),
        (b"[]", 422, "body"),
        (b'{"nme": "a"}', 422, "nme"),
        (b'{"name": 3}', 422, "name"),
        (b'{"name": "a", "labels": {"a": 1}}', 422, "labels[...]"),
        (b"{", 400, None),
        (b"a=b", 400, None),
        (b'{"name": "a\xff"}', 400, None),
        (b'{"name": "\\ud800"}', 400, None),
        (b'{"name": "a", "labels": ' + b"[" * 100_000, 400, None),
        (b"{" + b" " * 1_048_577, 413, None),
    ],
)
async def test_a_body_that_is_wrong_is_refused_and_named(
    world: Any, content: bytes, status: int, field: str | None
) -> None:
    headers = {
        "Authorization": f"Bearer {world.admin.token}",
        "X-Mooring-Request-Id": "abc",
        "Content-Type": "application/json",
    }
    answer = await world.http.post("/api/v1/clusters", headers=headers, content=content)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["request_id"]) == (status, status, "abc")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert [error["field"] for error in problem.get("errors", ())] == ([field] if field else [])


@pytest.mark.parametrize("path", ["/clusters/%00", "/users/%0a", "/tokens/%1b", "/clusters/" + "a" * 254])
async def test_odd_references_are_refused(world: Any, path: str) -> None:
    answer = await world.admin("GET", path)
    assert answer.status_code == 422


async def test_what_nobody_foresaw_says_nothing_about_itself(world: Any, monkeypatch: Any) -> None:
    def broken(*_unused: object) -> None:
        raise RuntimeError("canary-of-the-inside")

    monkeypatch.setattr(world.services.index, "clusters", broken)
    answer = await world.admin("GET", "/server")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "canary" not in answer.text


async def test_a_database_that_is_away_is_a_503(world: Any, monkeypatch: Any) -> None:
    def away() -> None:
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(world.services.store, "read", away)
    answer = await world.admin("GET", "/clusters")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


async def test_too_many_logins_at_once_are_a_503(world: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(world.services.passwords, "_limit", 0)
    answer = await world.anonymous("POST", "/login", {"username": "admin", "password": "x"})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) > 0


async def test_no_answer_shows_a_stored_secret(world: Any) -> None:
    """Canaries: after a while of use, neither a password, nor its hash, nor a token's secret comes back anywhere."""
    bob = await world.user("bob", password="canary-password-1")
    await world.cluster("prod")
    join = (await world.admin.ok("POST", "/clusters/prod/join-tokens"))["join_token"]
    async with world.services.store.read() as tx:
        user = await tx.users.get("bob")
        stored = await tx.users.password_hash(user.id)
    assert isinstance(stored, Secret)
    secrets = ["canary-password-1", stored.reveal(), bob.token.split("_")[2], join.split("_")[2]]
    for path in ("/whoami", "/server", "/clusters", "/clusters/prod", "/users", "/users/bob", "/groups", "/tokens"):
        text = (await world.admin("GET", path)).text
        assert not [secret for secret in secrets if secret in text], path


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "text/plain; application/json"]
)
async def test_a_body_that_a_form_of_another_site_could_post_is_not_read(world: Any, kind: str | None) -> None:
    headers = {"Authorization": f"Bearer {world.admin.token}"} | ({"Content-Type": kind} if kind else {})
    answer = await world.http.post("/api/v1/clusters", headers=headers, content=b'{"name": "a"}')
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_a_token_in_the_place_of_an_id_is_not_repeated(world: Any) -> None:
    bob = await world.user("bob")
    for path in ("/tokens/", "/users/", "/clusters/"):
        answer = await bob("GET", path + bob.token)
        assert answer.status_code == 404
        assert bob.token not in answer.text
