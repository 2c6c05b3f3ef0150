# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module promises: check mode writes nothing, a second run changes nothing, a diff shows no secret."""

from __future__ import annotations

import pytest
from fake_api import Failed

PASSWORD = "correct horse battery staple"

CASES = {
    "cluster": {"name": "paris", "description": "the first", "labels": {"site": "paris", "floor": 3}},
    "user": {"name": "bob", "display_name": "Bob", "groups": ["b", "a"], "password": PASSWORD},
    "group": {"name": "developers", "description": "they build", "members": ["bob", "alice"]},
    "membership": {"cluster": "paris", "group": "developers"},
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_made_once_changed_once_removed_once(api, run_module, name):
    arguments = CASES[name]
    kind = name + "s"

    would = run_module(name, check=True, **arguments)
    assert would["changed"]
    assert api.objects[kind] == {}
    assert api.writes() == []
    made = run_module(name, **arguments)
    assert made["changed"]
    assert made["diff"]["before"] == {}
    assert len(api.objects[kind]) == 1
    assert would["diff"] == made["diff"]

    again = run_module(name, **arguments)
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]
    assert again[name] == made[name]

    would = run_module(name, check=True, state="absent", **arguments)
    assert would["changed"]
    assert len(api.objects[kind]) == 1
    gone = run_module(name, state="absent", **arguments)
    assert gone["changed"]
    assert gone["diff"]["after"] == {}
    assert api.objects[kind] == {}
    assert not run_module(name, state="absent", **arguments)["changed"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cluster", {"labels": {"site": "lyon"}}),
        ("cluster", {"description": ""}),
        ("user", {"enabled": False}),
        ("user", {"groups": []}),
        ("group", {"members": ["carol"]}),
    ],
)
def test_only_what_differs_is_written(api, run_module, name, change):
    run_module(name, **CASES[name])
    (field,) = change
    before = dict(next(iter(api.objects[name + "s"].values())))

    would = run_module(name, check=True, **dict(CASES[name], **change))
    assert would["changed"]
    assert next(iter(api.objects[name + "s"].values())) == before
    result = run_module(name, **dict(CASES[name], **change))
    after = next(iter(api.objects[name + "s"].values()))
    assert result["changed"]
    assert result["diff"] == would["diff"]
    assert {k for k in after if after[k] != before[k]} == {field, "version"}


def test_what_is_not_set_is_kept(api, run_module):
    run_module("cluster", **CASES["cluster"])
    result = run_module("cluster", name="paris")
    assert not result["changed"]
    assert result["cluster"]["labels"] == {"site": "paris", "floor": "3"}


def test_the_order_of_a_list_is_no_change(api, run_module):
    run_module("group", **CASES["group"])
    assert not run_module("group", **dict(CASES["group"], members=["alice", "bob"]))["changed"]


def test_append_adds_members_and_removes_nobody(api, run_module):
    run_module("group", **CASES["group"])
    assert not run_module("group", name="developers", members=["bob"], append=True)["changed"]
    result = run_module("group", name="developers", members=["carol"], append=True)
    assert result["group"]["members"] == ["alice", "bob", "carol"]


def test_a_password_is_written_for_a_new_user_only_unless_told(api, run_module):
    run_module("user", name="bob", password=PASSWORD)
    assert not run_module("user", name="bob", password=PASSWORD)["changed"]
    assert run_module("user", name="bob", password=PASSWORD, update_password="always")["changed"]


def test_no_secret_is_printed(api, run_module):
    for result in (
        run_module("user", name="bob", password=PASSWORD),
        run_module("user", name="bob", password=PASSWORD, update_password="always"),
        run_module("server_info", token=None, login_username="alice", login_password=api.passwords["alice"]),
    ):
        assert PASSWORD not in result["_printed"]
        assert api.passwords["alice"] not in result["_printed"]
        assert api.token not in result["_printed"]


def test_a_write_that_lost_a_race_is_tried_again(api, run_module):
    run_module("group", **CASES["group"])
    api.race = 2
    assert run_module("group", name="developers", description="new")["changed"]
    api.race = 3
    with pytest.raises(Failed, match="412"):
        run_module("group", name="developers", description="newer")


def test_a_membership_is_of_a_user_or_a_group(api, run_module):
    with pytest.raises(Failed, match="one of the following is required: user, group"):
        run_module("membership", cluster="paris")
    with pytest.raises(Failed, match="mutually exclusive"):
        run_module("membership", cluster="paris", user="bob", group="developers")


def test_names_may_hold_what_paths_may_not(api, run_module):
    run_module("user", name="Zoë/o'hara?#%")
    assert not run_module("user", name="Zoë/o'hara?#%")["changed"]


# -- cluster: what an agent needs, and waiting


def register(api, **fields):
    (cluster,) = api.objects["clusters"].values()
    cluster.update(fields or {"cluster_uid": "uid", "state": "connected"})


def test_the_manifest_holds_a_join_token_until_an_agent_has_registered(api, run_module):
    first = run_module("cluster", name="paris", manifest="always", workload="none", replicas=2, image="mine:1")
    assert first["changed"]
    assert "Secret" in first["manifest"]
    assert api.manifests[0] == {
        "join_token": True,
        "ttl_seconds": 3600,
        "workload": "none",
        "admin_binding": True,
        "replicas": 2,
        "image": "mine:1",
    }
    assert run_module("cluster", name="paris", manifest="unregistered")["changed"]

    register(api)
    later = run_module("cluster", name="paris", manifest="always")
    assert not later["changed"]
    assert "Secret" not in later["manifest"]
    assert "manifest" not in run_module("cluster", name="paris", manifest="unregistered")
    rekeyed = run_module("cluster", name="paris", manifest="always", rekey=True)
    assert rekeyed["changed"]
    assert "Secret" in rekeyed["manifest"]


def test_a_join_token_is_made_when_asked_for(api, run_module):
    assert "join_token" not in run_module("cluster", name="paris")
    made = run_module("cluster", name="paris", join_token="unregistered")
    assert made["changed"]
    assert made["join_token"].startswith("mrj_")
    assert "join_token" not in run_module("cluster", check=True, name="paris", join_token="always")
    register(api)
    assert not run_module("cluster", name="paris", join_token="unregistered")["changed"]


def test_waiting_ends_when_the_agent_is_connected(api, run_module):
    run_module("cluster", name="paris")
    register(api)
    assert run_module("cluster", name="paris", wait=True)["cluster"]["state"] == "connected"


def test_waiting_in_vain_says_why(api, run_module):
    run_module("cluster", name="paris")
    register(api, state="refused", state_reason="its key is not known")
    with pytest.raises(Failed, match=r"refused \(its key is not known\).*kubectl -n mooring-system logs"):
        run_module("cluster", name="paris", wait=True, wait_timeout=0)


def test_cluster_info_filters(api, run_module):
    for name in ("paris", "lyon", "nice"):
        run_module("cluster", name=name, labels={"sea": "yes" if name == "nice" else "no"})
    api.objects["clusters"][api.find("clusters", "lyon")["id"]]["state"] = "connected"

    def names(**arguments):
        return [c["name"] for c in run_module("cluster_info", **arguments)["clusters"]]

    assert names() == ["lyon", "nice", "paris"]  # over two pages
    assert names(name="paris") == ["paris"]
    assert names(name="rome") == []
    assert names(state="connected") == ["lyon"]
    assert names(labels={"sea": "no"}) == ["lyon", "paris"]
    assert names(name="paris", labels={"sea": "yes"}) == []
    assert api.writes() == [("POST", "/clusters")] * 3


# -- token


def test_a_token_is_found_by_its_description(api, run_module):
    would = run_module("token", check=True, description="pipeline")
    assert would["changed"]
    assert "secret" not in would
    assert len(api.objects["tokens"]) == 1
    made = run_module("token", description="pipeline")
    assert made["changed"]
    assert made["secret"].startswith("mrg_")
    again = run_module("token", description="pipeline")
    assert not again["changed"]
    assert "secret" not in again
    assert again["token_info"]["id"] == made["token_info"]["id"]
    assert made["secret"] not in again["_printed"]


def test_a_token_of_another_scope_is_replaced(api, run_module):
    wide = run_module("token", description="pipeline")["token_info"]["id"]
    narrow = run_module("token", description="pipeline", cluster="paris")
    assert narrow["changed"]
    assert narrow["token_info"]["cluster"] == "paris"
    assert api.objects["tokens"][wide]["revoked_at"]


def test_an_expired_token_is_made_anew(api, run_module):
    first = run_module("token", description="pipeline")["token_info"]["id"]
    api.objects["tokens"][first]["expires_at"] = "2001-01-01T00:00:00Z"
    assert run_module("token", description="pipeline")["token_info"]["id"] != first


def test_all_tokens_of_the_description_are_revoked(api, run_module):
    for _count in range(3):
        api.issue("robot", "pipeline", None, 3600)
    other = api.issue("bob", "pipeline", None, 3600)
    assert run_module("token", check=True, description="pipeline", user="robot", state="absent")["changed"]
    assert run_module("token", description="pipeline", user="robot", state="absent")["changed"]
    assert not run_module("token", description="pipeline", user="robot", state="absent")["changed"]
    assert not api.objects["tokens"][other["id"]]["revoked_at"]


# -- connection


def test_a_session_of_a_password_ends_with_the_task(api, run_module):
    result = run_module("server_info", token=None, login_username="alice", login_password=api.passwords["alice"])
    assert result["whoami"]["user"] == "alice"
    assert api.writes() == [("POST", "/login"), ("POST", "/logout")]


def test_the_session_also_ends_when_the_task_fails(api, run_module):
    with pytest.raises(Failed):
        run_module("user", name="system:bob", token=None, login_username="alice", login_password=api.passwords["alice"])
    assert api.writes()[-1] == ("POST", "/logout")


def test_an_error_names_the_field_and_what_to_do(api, run_module):
    with pytest.raises(Failed) as failed:
        run_module("user", name="system:bob")
    assert failed.value.result["msg"] == "POST /users answered 422: name: must not begin with 'system:'"
    assert failed.value.result["status"] == 422
    assert failed.value.result["problem"]["errors"][0]["field"] == "name"
    with pytest.raises(Failed, match=r"401: the token is not known\. .*MOORING_TOKEN"):
        run_module("server_info", token="mrg_t-aaaaaaaaaaaa_x")
    with pytest.raises(Failed, match="No credential: set token"):
        run_module("server_info", token=None)


@pytest.mark.parametrize("url", ["mooring.example.com", "ftp://mooring.example.com", "https://mooring.example.com/api"])
def test_a_wrong_url_is_named(api, run_module, url):
    with pytest.raises(Failed, match="url must"):
        run_module("server_info", url=url)


def test_a_server_that_does_not_answer_is_named(api, run_module):
    with pytest.raises(Failed, match=r"GET /server failed, no answer from http://127\.0\.0\.1:1: "):
        run_module("server_info", url="http://127.0.0.1:1")


def test_the_connection_comes_from_the_environment(api, run_module, monkeypatch):
    monkeypatch.setenv("MOORING_URL", api.url)
    monkeypatch.setenv("MOORING_TOKEN", api.token)
    monkeypatch.setenv("MOORING_VALIDATE_CERTS", "false")
    result = run_module("server_info", url=None, token=None)
    assert result["invocation"]["module_args"]["validate_certs"] is False
    assert api.token not in result["_printed"]
