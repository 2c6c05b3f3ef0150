# SPDX-License-Identifier: Apache-2.0
"""The client of the REST API trusts one CA, keeps the token to itself, and says what went wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mooring.cli.client import ApiError, Client, Unreachable, segment
from mooring.cli.profile import Login
from mooring.lib import pki
from mooring.lib.secrets import Secret
from support.fake_api import FakeApi


def login(api: FakeApi, ca_pem: str | None = None) -> Login:
    return Login(url=api.url, token=Secret("mrg_canary"), ca_pem=api.ca_pem if ca_pem is None else ca_pem)


def test_a_call_carries_the_token_and_gives_the_answer(api: FakeApi) -> None:
    api.answer("GET", "/api/v1/whoami", {"user": "bob"})
    with Client(login(api)) as client:
        assert client.get("whoami") == {"user": "bob"}
    assert api.asked[0].headers["Authorization"] == "Bearer mrg_canary"


def test_a_server_of_another_ca_is_refused_before_the_token_leaves(api: FakeApi) -> None:
    other, _unused = pki.make_ca("Test CA", time.time())
    with Client(login(api, other)) as client, pytest.raises(Unreachable, match="certificate is not accepted") as caught:
        client.get("whoami")
    assert "--ca-file" in caught.value.hint
    assert caught.value.exit_code == 5
    assert api.asked == []


def test_without_a_remembered_ca_the_system_decides(api: FakeApi) -> None:
    with Client(login(api, "")) as client, pytest.raises(Unreachable, match="certificate is not accepted"):
        client.get("whoami")
    assert api.asked == []


def test_a_proxy_of_the_environment_gets_nothing(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    api.answer("GET", "/api/v1/whoami", {"user": "bob"})
    with Client(login(api)) as client:
        assert client.get("whoami")["user"] == "bob"


def test_a_redirect_is_not_followed(api: FakeApi) -> None:
    api.answer("GET", "/api/v1/whoami", {}, 302, Location=f"{api.url}/api/v1/elsewhere")
    with Client(login(api)) as client, pytest.raises(ApiError, match="302"):
        client.get("whoami")
    assert len(api.asked) == 1


@pytest.mark.parametrize(("status", "code"), [(401, 3), (403, 3), (404, 4), (409, 1), (412, 1), (500, 1)])
def test_a_problem_becomes_an_error_with_its_exit_code(api: FakeApi, status: int, code: int) -> None:
    api.answer("GET", "/api/v1/x", {"title": "No", "detail": "because of this"}, status)
    with Client(login(api)) as client, pytest.raises(ApiError, match="because of this") as caught:
        client.get("x")
    assert (caught.value.status, caught.value.exit_code) == (status, code)


def test_the_fields_of_a_problem_are_named(api: FakeApi) -> None:
    errors = [{"field": "name", "message": "is taken"}]
    api.answer("POST", "/api/v1/users", {"detail": "invalid", "errors": errors}, 400)
    with Client(login(api)) as client, pytest.raises(ApiError, match="name: is taken"):
        client.post("users", {})


def test_a_kubernetes_status_is_understood_too(api: FakeApi) -> None:
    api.answer("GET", "/k8s/clusters/lab/version", {"kind": "Status", "message": "not connected"}, 503)
    with Client(login(api)) as client, pytest.raises(ApiError, match="not connected"):
        client.call("GET", f"{api.url}/k8s/clusters/lab/version")


def test_an_answer_that_is_no_json_is_an_error_too(api: FakeApi) -> None:
    api.answer("GET", "/api/v1/x", "<html>", 502)
    with Client(login(api)) as client, pytest.raises(ApiError, match="502"):
        client.get("x")


def test_nobody_at_the_address_says_so(tmp_path: Path) -> None:
    nowhere = Login(url="https://127.0.0.1:1", token=Secret(""))
    with Client(nowhere) as client, pytest.raises(Unreachable, match="cannot be reached"):
        client.get("whoami")


def test_a_list_is_followed_to_its_last_page(api: FakeApi) -> None:
    api.answer("GET", "/api/v1/users?group=a%2Fb&limit=200", {"items": [{"n": 1}], "next": "abc", "total": 2})
    api.answer("GET", "/api/v1/users?group=a%2Fb&limit=200&cursor=abc", {"items": [{"n": 2}], "next": None, "total": 2})
    with Client(login(api)) as client:
        assert list(client.items("users", {"group": "a/b"})) == [{"n": 1}, {"n": 2}]


def test_a_change_is_made_to_what_was_read_and_nothing_newer(api: FakeApi) -> None:
    api.answer("GET", "/api/v1/groups/g", {}, ETag='"7"')
    api.answer("PATCH", "/api/v1/groups/g", {"version": 8})
    with Client(login(api)) as client:
        assert client.change("groups/g", {"description": "d"}) == {"version": 8}
    assert api.asked[1].headers["If-Match"] == '"7"'
    assert api.asked[1].body == {"description": "d"}


def test_names_cannot_leave_their_segment() -> None:
    assert segment("../admin?x#y é") == "..%2Fadmin%3Fx%23y%20%C3%A9"
