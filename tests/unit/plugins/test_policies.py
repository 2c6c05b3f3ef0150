# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of policies: each makes, changes and removes once; check mode asks for a simulation, writes nothing."""

from __future__ import annotations

import pytest
from fake_api import Failed

RULE = {"verbs": ["list", "get"], "api_groups": [""], "resources": ["pods"]}
CASES = {
    "global_role": {
        "name": "watcher",
        "display_name": "Watcher",
        "cluster_rules": [RULE],
        "cluster_selector": {"tier": "test", "floor": 3},
        "new_user_default": True,
    },
    "role_template": {"name": "deployer", "context": "project", "rules": [RULE], "inherits": ["b", "a"]},
    "project": {
        "name": "shop",
        "cluster": "paris",
        "namespaces": [{"name": "front", "quota": {"pods": 5}}, {"name": "db", "create": False}],
        "namespace_quota": {"pods": 3},
        "pod_security": "baseline",
        "isolated": True,
    },
    "global_binding": {
        "name": "admins",
        "role": "admin",
        "groups": ["platform"],
        "expires_at": "2040-01-01T08:00:00+00:00",
        "reason": "they run it",
    },
    "cluster_binding": {"name": "lookers", "role": "viewer", "cluster": "paris", "users": ["bob", "ann"]},
    "project_binding": {
        "name": "workers",
        "role": "member",
        "cluster": "paris",
        "project": "shop",
        "users": ["bob"],
        "service_accounts": ["front/robot"],
    },
}
CHANGES = [
    ("global_role", {"cluster_selector": {}}),
    ("global_role", {"cluster_rules": []}),
    ("role_template", {"rules": [dict(RULE, verbs=["get"])]}),
    ("role_template", {"locked": True}),
    ("project", {"namespaces": [{"name": "front"}]}),
    ("project", {"pod_security": "none"}),
    ("global_binding", {"expires_at": ""}),
    ("global_binding", {"expires_at": "2041-01-01T08:00:00Z"}),
    ("cluster_binding", {"users": ["bob"]}),
    ("project_binding", {"service_accounts": []}),
]


def collection(api, name):
    return api.objects[name.replace("_", "-") + "s"]


def only(api, name):
    (item,) = collection(api, name).values()
    return item


@pytest.mark.parametrize("name", sorted(CASES))
def test_made_once_and_removed_once(api, run_module, name):
    arguments = CASES[name]
    would = run_module(name, check=True, **arguments)
    assert would["changed"]
    assert [entry for entry in api.writes() if entry != ("POST", "/policy/simulate")] == []
    made = run_module(name, **arguments)
    assert made["changed"]
    assert would["diff"][0] == made["diff"]
    assert len(collection(api, name)) == 1

    again = run_module(name, **arguments)
    assert not again["changed"]
    assert again[name] == made[name]
    turned = {key: value[::-1] if isinstance(value, list) else value for key, value in arguments.items()}
    assert not run_module(name, **turned)["changed"]

    assert run_module(name, check=True, state="absent", **arguments)["change"]["op"] == "delete"
    assert len(collection(api, name)) == 1
    assert run_module(name, state="absent", **arguments)["changed"]
    assert collection(api, name) == {}
    assert not run_module(name, state="absent", **arguments)["changed"]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_only_what_differs_is_written(api, run_module, name, change):
    run_module(name, **CASES[name])
    before = dict(only(api, name))
    would = run_module(name, check=True, **dict(CASES[name], **change))
    assert would["changed"]
    assert would["change"]["op"] == "update"
    assert only(api, name) == before
    result = run_module(name, **dict(CASES[name], **change))
    assert result["diff"] == would["diff"][0]
    differing = {key for key, value in only(api, name).items() if value != before.get(key)}
    assert differing == {*change, "version"}
    assert not run_module(name, **dict(CASES[name], **change))["changed"]


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_is_not_given_is_kept(api, run_module, name):
    run_module(name, **CASES[name])
    least = {key: CASES[name][key] for key in ("name", "cluster", "project") if key in CASES[name]}
    assert not run_module(name, **least)["changed"]


def test_check_mode_shows_the_objects_of_each_cluster(api, run_module):
    api.simulation = [
        {
            "cluster": "paris",
            "counts": {"added": 1, "removed": 1, "changed": 1},
            "added": [{"kind": "RoleBinding", "namespace": "front", "name": "new"}],
            "removed": [{"kind": "ClusterRole", "namespace": "", "name": "old"}],
            "changed": [{"kind": "RoleBinding", "namespace": "db", "name": "both"}],
        }
    ]
    result = run_module("project_binding", check=True, **CASES["project_binding"])
    assert result["simulation"] == api.simulation
    shown = result["diff"][1]
    assert shown["before_header"] == "cluster paris: 1 added, 1 removed, 1 changed"
    assert shown["before"] == "ClusterRole old\nRoleBinding db/both\n"
    assert shown["after"] == "RoleBinding db/both (changed)\nRoleBinding front/new\n"
    asked = api.simulated[-1]["changes"]
    assert asked == [result["change"]]
    assert asked[0]["kind"] == "project_binding"
    assert asked[0]["body"]["project"] == "shop"
    assert asked[0]["body"]["role"] == "member"


def test_many_changes_are_simulated_together(api, run_module):
    assert run_module("policy_simulate_info", changes=[])["clusters"] == []
    assert api.simulated == []
    api.simulation = [
        {
            "cluster": "paris",
            "counts": {"added": 1, "removed": 0, "changed": 1},
            "added": [{"kind": "RoleBinding", "namespace": "front", "name": "new"}],
            "removed": [],
            "changed": [{"kind": "Namespace", "namespace": "", "name": "front"}],
        }
    ]
    changes = [{"kind": "project_binding", "op": "delete", "name": "x"}]
    result = run_module("policy_simulate_info", changes=changes)
    assert api.simulated == [{"changes": changes}]
    assert not result["changed"]
    assert result["lines"] == [
        "paris: 1 added, 0 removed, 1 changed",
        "paris: + RoleBinding front/new",
        "paris: ~ Namespace front",
    ]


def test_check_mode_without_simulation_asks_nothing(api, run_module):
    result = run_module("role_template", check=True, simulate=False, **CASES["role_template"])
    assert result["changed"]
    assert "simulation" not in result
    assert api.writes() == []


def test_what_cannot_be_simulated_yet_is_a_warning(api, run_module, monkeypatch):
    told = []
    monkeypatch.setattr("ansible.module_utils.basic.AnsibleModule.warn", lambda module, text, **more: told.append(text))
    api.simulation = 422
    result = run_module("project_binding", check=True, **CASES["project_binding"])
    assert result["changed"]
    assert len(told) == 1
    assert "was not simulated" in told[0]
    api.simulation = 403
    with pytest.raises(Failed, match="403"):
        run_module("project_binding", check=True, **CASES["project_binding"])


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("role_template", {"context": "cluster"}, "is for a project"),
        ("cluster_binding", {"role": "owner"}, "cannot be changed"),
        ("cluster_binding", {"cluster": "lyon"}, "cannot be changed"),
        ("project_binding", {"project": "bank"}, "cannot be changed"),
        ("global_binding", {"expires_at": "soon"}, "must look like"),
    ],
)
def test_what_cannot_be_changed_says_so(api, run_module, name, change, reason):
    run_module(name, **CASES[name])
    before = len(api.writes())
    with pytest.raises(Failed, match=reason):
        run_module(name, **dict(CASES[name], **change))
    assert len(api.writes()) == before


@pytest.mark.parametrize(("name", "missing"), [("role_template", "context"), ("global_binding", "role")])
def test_what_is_needed_to_make_it_is_said(run_module, name, missing):
    with pytest.raises(Failed, match="%s is required" % missing):
        run_module(name, **{key: value for key, value in CASES[name].items() if key != missing})


def test_subjects_are_added(api, run_module):
    run_module("project_binding", **CASES["project_binding"])
    least = {key: CASES["project_binding"][key] for key in ("name", "cluster", "project")}
    more = dict(least, users=["carol"], service_accounts=["db/robot"], append=True)
    assert run_module("project_binding", **more)["changed"]
    found = only(api, "project_binding")
    assert found["users"] == ["bob", "carol"]
    assert found["service_accounts"] == ["db/robot", "front/robot"]
    assert not run_module("project_binding", **more)["changed"]


@pytest.mark.parametrize("name", sorted(CASES))
def test_all_are_read(run_module, name):
    run_module(name, **CASES[name])
    run_module(name, **dict(CASES[name], name="another"))
    found = run_module(name + "_info")[name + "s"]
    assert [item["name"] for item in found] == sorted([CASES[name]["name"], "another"])
    assert [item["name"] for item in run_module(name + "_info", name="another")[name + "s"]] == ["another"]


def test_who_may_is_asked_in_words_of_the_api(api, run_module):
    asked = {"cluster": "paris", "verb": "get", "resource": "pods", "api_group": "", "resource_name": "web"}
    assert run_module("policy_explain_info", **asked)["explanation"] == {"items": [], "total": 0}
    assert api.asked[-1] == (
        ["policy", "explain"],
        {"cluster": "paris", "verb": "get", "resource": "pods", "group": "", "name": "web"},
    )
    run_module("policy_explain_info", user="bob")
    assert api.asked[-1] == (["policy", "access"], {"user": "bob"})
    with pytest.raises(Failed, match="only with verb"):
        run_module("policy_explain_info", user="bob", resource="pods")
    with pytest.raises(Failed, match="one of the following"):
        run_module("policy_explain_info", cluster="paris")
