# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of the role `policies`: nothing before what it names, nothing removed that is not the tree's to remove."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mooring.fleet.plugins.filter.policy_plan import FilterModule

plan = FilterModule().filters()["policy_plan"]


def names(items):
    return [item["name"] for item in items]


def spaces(*found):
    return [{"name": name, "create": True, "quota": {}} for name in found]


def test_a_tree_becomes_lists():
    tree = {
        "global_roles": [{"name": "g"}],
        "clusters": [
            {
                "name": "paris",
                "bindings": [{"name": "cb", "role": "viewer"}],
                "projects": [{"name": "shop", "isolated": True, "bindings": [{"name": "pb", "role": "member"}]}],
            },
            {"name": "lyon", "projects": [{"name": "shop"}]},
        ],
    }
    found = plan(tree)
    assert found["global_roles"] == [{"name": "g"}]
    assert found["cluster_bindings"] == [{"name": "cb", "role": "viewer", "cluster": "paris"}]
    assert found["projects"] == [
        {"name": "shop", "isolated": True, "cluster": "paris"},
        {"name": "shop", "cluster": "lyon"},
    ]
    assert found["project_bindings"] == [{"name": "pb", "role": "member", "cluster": "paris", "project": "shop"}]
    assert found["role_templates"] == found["global_bindings"] == found["leaving"] == []
    assert not any(found["extra"].values())


def test_what_is_inherited_comes_first():
    templates = [{"name": "c", "inherits": ["b"]}, {"name": "b", "inherits": ["a", "built-in"]}, {"name": "a"}]
    assert names(plan({"role_templates": templates})["role_templates"]) == ["a", "b", "c"]
    found = {"role_templates": [dict(one, builtin=False) for one in templates]}
    assert names(plan({}, found)["extra"]["role_templates"]) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ([], "takes a dictionary"),
        ({"role_templates": [{"name": "a", "inherits": ["b"]}, {"name": "b", "inherits": ["a"]}]}, "in a circle"),
        ({"global_roles": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({"clusters": [{"name": "x", "projects": [{"name": "p"}, {"name": "p"}]}]}, "twice"),
        (
            {
                "clusters": [
                    {"name": "x", "bindings": [{"name": "b"}]},
                    {"name": "y", "bindings": [{"name": "b"}]},
                ]
            },
            "twice",
        ),
    ],
)
def test_a_tree_that_cannot_be_says_why(tree, reason):
    with pytest.raises(AnsibleFilterError, match=reason):
        plan(tree)


def test_only_what_the_tree_has_a_say_in_is_extra():
    binding = {"builtin": False, "cluster": None}
    found = {
        "global_roles": [{"name": "admin", "builtin": True}, {"name": "old", "builtin": False}],
        "global_bindings": [dict(binding, name="admins", builtin=True), dict(binding, name="gone")],
        "projects": [
            {"name": "shop", "cluster": "paris", "cluster_id": "c-1"},
            {"name": "past", "cluster": "paris", "cluster_id": "c-1"},
            {"name": "theirs", "cluster": "lyon", "cluster_id": "c-2"},
        ],
        "cluster_bindings": [dict(binding, name="here", cluster="paris"), dict(binding, name="there", cluster="lyon")],
        "project_bindings": [dict(binding, name="stay", cluster="paris")],
    }
    shop = {"name": "shop", "bindings": [{"name": "stay"}]}
    for name in ("paris", "c-1"):
        for item in found["cluster_bindings"] + found["project_bindings"]:
            item["cluster_id"] = "c-1" if item["cluster"] == "paris" else "c-2"
        extra = plan({"clusters": [{"name": name, "projects": [shop]}]}, found)["extra"]
        assert {kind: names(items) for kind, items in extra.items() if items} == {
            "global_roles": ["old"],
            "global_bindings": ["gone"],
            "projects": ["past"],
            "cluster_bindings": ["here"],
        }


def test_a_namespace_leaves_one_project_before_it_comes_to_another():
    there = [
        {"name": "a", "cluster": "paris", "namespaces": spaces("one", "two")},
        {"name": "b", "cluster": "paris", "namespaces": spaces("three")},
        {"name": "a", "cluster": "lyon", "namespaces": spaces("one", "two")},
    ]
    tree = {
        "clusters": [
            {
                "name": "paris",
                "projects": [
                    {"name": "b", "namespaces": spaces("three", "two")},
                    {"name": "a", "namespaces": spaces("one")},
                ],
            }
        ]
    }
    assert plan(tree, {"projects": there})["leaving"] == [
        {"name": "a", "cluster": "paris", "namespaces": spaces("one")},
    ]
    assert plan(tree, {"projects": there[1:]})["leaving"] == []
