# SPDX-License-Identifier: Apache-2.0
"""`mooring policy`, files with fields, and the policy that is made of a cluster's RBAC."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from mooring.cli.export import Export
from mooring.cli.policies import export_text
from mooring.policy import check
from mooring.policy.effective import Who, rights
from support.fake_api import FakeApi, reason
from support.policymodel import binding, everywhere, policy, template

_RBAC = "/k8s/clusters/lab/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture(autouse=True)
def logged_in(api: FakeApi, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.log_in(monkeypatch, home)


def _role(name: str, *rules: dict[str, Any], namespace: str = "", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "rules": list(rules), **more}


def _bound(name: str, role: str, *subjects: str, namespace: str = "", kind: str = "ClusterRole") -> dict[str, Any]:
    found = []
    for subject in subjects:
        what, _unused, rest = subject.partition(" ")
        home, slash, last = rest.partition("/")
        found.append({"kind": what, "namespace": home, "name": last} if slash else {"kind": what, "name": rest})
    return {
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"kind": kind, "name": role},
        "subjects": found,
    }


_READ = {"verbs": ["list", "get"], "apiGroups": [""], "resources": ["pods"]}
_CLUSTER_ROLES = [
    _role("cluster-admin", {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
    _role("edit", aggregationRule={}),
    _role("Pod:Reader", _READ),
    _role("odd", {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/*"]}),
    _role("probes", {"verbs": ["get"], "nonResourceURLs": ["/healthz*"]}),
]
_ROLES = [_role("same", _READ, namespace="shop"), _role("same", _READ, namespace="blog")]
_CLUSTER_BINDINGS = [
    _bound("root", "cluster-admin", "Group mooring:ops", "Group system:masters", "User kubernetes-admin"),
    _bound("readers", "Pod:Reader", "User mooring:bob", "ServiceAccount ci/robot"),
    _bound("gone", "nowhere", "User mooring:bob"),
    _bound("odd", "odd", "User mooring:bob"),
    _bound("system:node", "cluster-admin", "User mooring:bob"),
    _bound("mooring-agent", "cluster-admin", "ServiceAccount mooring-system/mooring-agent"),
    {
        **_bound("boot", "edit", "User mooring:bob"),
        "metadata": {"name": "boot", "labels": {"kubernetes.io/bootstrapping": "x"}},
    },
    {
        **_bound("ours", "edit", "User mooring:bob"),
        "metadata": {"name": "ours", "labels": {"mooring.fleet/policy": "true"}},
    },
]
_ROLE_BINDINGS = [
    _bound("a", "same", "User mooring:bob", "ServiceAccount shop/robot", namespace="shop", kind="Role"),
    _bound("b", "edit", "Group mooring:devs", "ServiceAccount blog/robot", namespace="shop"),
    _bound("a", "same", "User mooring:al", namespace="blog", kind="Role"),
    _bound("c", "probes", "User mooring:al", namespace="blog"),
    _bound("k", "edit", "User mooring:al", namespace="kube-system"),
    _bound("o", "edit", "User outsider", namespace="other"),
]


def test_the_rbac_of_a_cluster_becomes_a_policy_and_what_cannot_is_told() -> None:
    found = Export("lab", "mooring:").policy(_CLUSTER_ROLES, _ROLES, _CLUSTER_BINDINGS, _ROLE_BINDINGS)
    assert found.role_templates == [
        {
            "name": "pod-reader",
            "context": "cluster",
            "rules": [{"verbs": ["get", "list"], "api_groups": [""], "resources": ["pods"]}],
        },
        {"name": "cluster-admin-in-cluster", "context": "cluster", "external": "cluster-admin"},
        {
            "name": "same",
            "context": "project",
            "rules": [{"verbs": ["get", "list"], "api_groups": [""], "resources": ["pods"]}],
        },
        {"name": "edit-in-project", "context": "project", "external": "edit"},
    ]
    assert found.tree("lab")["clusters"] == [
        {
            "name": "lab",
            "bindings": [
                {"name": "lab-readers", "role": "pod-reader", "users": ["bob"], "service_accounts": ["ci/robot"]},
                {"name": "lab-root", "role": "cluster-admin-in-cluster", "groups": ["ops"]},
            ],
            "projects": [
                {
                    "name": "blog",
                    "namespaces": [{"name": "blog", "create": False}],
                    "bindings": [{"name": "lab-blog-a", "role": "same", "users": ["al"]}],
                },
                {
                    "name": "shop",
                    "namespaces": [{"name": "shop", "create": False}],
                    "bindings": [
                        {
                            "name": "lab-shop-a",
                            "role": "same",
                            "users": ["bob"],
                            "service_accounts": ["shop/robot"],
                        },
                        {"name": "lab-shop-b", "role": "edit-in-project", "groups": ["devs"]},
                    ],
                },
            ],
        }
    ]
    told = "\n".join(found.notes)
    for note in (
        "group system:masters is Kubernetes' own",
        "user kubernetes-admin does not come through",
        "nowhere, which is not there",
        "'pods/*'",
        "a project has no paths",
        "kube-system/k: the namespace belongs",
        "blog/robot is of another namespace",
        "user outsider",
    ):
        assert note in told, note
    assert len(found.notes) == 8


def test_what_is_exported_may_be_written_by_an_administrator() -> None:
    found = Export("lab", "mooring:").policy(_CLUSTER_ROLES, _ROLES, _CLUSTER_BINDINGS, _ROLE_BINDINGS)
    whole = policy(binding("root", everywhere("admin"), "root"), built_in=True)
    root = rights(whole, Who("u-root"), {"c-lab": {}}, 1.0)
    from mooring.store.policies import Rule

    for item in found.role_templates:
        held = [Rule(**{key: tuple(value) for key, value in rule.items()}) for rule in item.get("rules", ())]
        check.template(whole, root, template(item["name"], item["context"], *held, external=item.get("external", "")))


def test_names_are_made_plain_and_stay_apart() -> None:
    export = Export("lab", "mooring:")
    bindings = [_bound(name, "Pod:Reader", "User mooring:bob") for name in ("A_b", "a-b", "a" * 80, "a" * 90, "::")]
    names = [b["name"] for b in export.policy(_CLUSTER_ROLES, [], bindings, []).bindings]
    assert sorted(names) == sorted(["lab", "lab-a-b", "lab-a-b-2", "lab-" + "a" * 59, "lab-" + "a" * 57 + "-2"])


def test_a_name_from_the_cluster_cannot_get_out_of_a_comment() -> None:
    evil = _bound("x", "gone\nmooring_policy: evil", "User mooring:bob")
    text = export_text("lab", Export("lab", "mooring:").policy([], [], [evil], []))
    assert yaml.safe_load(text) == {"mooring_policy": {}}
    assert "which is not there" in text


def test_export_reads_all_pages_through_the_proxy(api: FakeApi, mooring: Callable[..., Result]) -> None:
    empty: dict[str, Any] = {"items": []}
    api.answer("GET", f"{_RBAC}/clusterroles?limit=500", {"items": _CLUSTER_ROLES[:1], "metadata": {"continue": "k/1"}})
    api.answer("GET", f"{_RBAC}/clusterroles?limit=500&continue=k%2F1", {"items": _CLUSTER_ROLES[1:]})
    api.answer("GET", f"{_RBAC}/roles?limit=500", empty)
    api.answer("GET", f"{_RBAC}/clusterrolebindings?limit=500", {"items": _CLUSTER_BINDINGS})
    api.answer("GET", f"{_RBAC}/rolebindings?limit=500", empty)
    result = mooring("policy", "export", "--cluster", "lab")
    assert result.exit_code == 0, result.exception
    found = yaml.safe_load(result.output)["mooring_policy"]
    assert [b["name"] for b in found["clusters"][0]["bindings"]] == ["lab-readers", "lab-root"]
    assert "# - ClusterRoleBinding root: group system:masters" in result.output


def test_a_simulation_is_told_by_cluster_and_object(api: FakeApi, home: Path, mooring: Callable[..., Result]) -> None:
    (home / "c.json").write_text(json.dumps([{"kind": "cluster_binding", "op": "delete", "name": "x"}]))
    made = {"kind": "ClusterRoleBinding", "namespace": None, "name": "mooring:x"}
    gone = {"kind": "RoleBinding", "namespace": "web", "name": "mooring:y"}
    clusters = [
        {
            "cluster": "lab",
            "added": [made],
            "removed": [gone],
            "changed": [],
            "counts": {"added": 3, "removed": 1, "changed": 0},
        }
    ]
    api.answer("POST", "/api/v1/policy/simulate", {"clusters": clusters})
    assert mooring("policy", "simulate", "-f", home / "c.json").output == (
        "lab: 3 added, 1 removed, 0 changed\n  + ClusterRoleBinding mooring:x\n  + and 2 more\n"
        "  - RoleBinding web/mooring:y\n"
    )


def test_an_explanation_names_who_and_why(api: FakeApi, mooring: Callable[..., Result]) -> None:
    reason_ = {
        "binding": "x",
        "users": ["bob"],
        "groups": ["devs"],
        "service_accounts": [],
        "subjects": 7,
        "expires_at": None,
        "sentence": "because",
    }
    api.answer("GET", "/api/v1/policy/explain?verb=get&cluster=lab&resource=pods", {"items": [reason_], "total": 3})
    output = mooring("policy", "explain", "get", "pods", "--cluster", "lab").output
    assert "bob,group devs,and 5 more" in output
    assert "because" in output
    assert "and 2 more bindings" in output


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("rules: [", "neither YAML nor JSON"),
        ("- a\n", "does not hold fields"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("!!python/object/apply:os.system [id]", "neither YAML nor JSON"),
        ("1: 2\n", "does not hold fields"),
    ],
)
def test_a_file_that_is_no_set_of_fields_is_refused(
    text: str, because: str, home: Path, api: FakeApi, mooring: Callable[..., Result]
) -> None:
    (home / "f").write_text(text)
    assert because in reason(mooring("global-role", "create", "g", "-f", home / "f"))
    assert api.asked == []


def test_a_file_that_is_not_there_or_too_large_is_refused(home: Path, mooring: Callable[..., Result]) -> None:
    assert "cannot be read" in reason(mooring("global-role", "create", "g", "-f", home / "none"))
    (home / "big").write_text("a" * (4 * 1024 * 1024 + 1))
    assert "larger" in reason(mooring("global-role", "create", "g", "-f", home / "big"))
    assert "no changes" in reason(mooring("policy", "simulate", "-f", "-", stdin="changes: []"))


def test_rules_are_shown_in_words(api: FakeApi, mooring: Callable[..., Result]) -> None:
    held = [
        {"verbs": ["get", "list"], "api_groups": [""], "resources": ["pods"], "resource_names": ["a"]},
        {"verbs": ["get"], "non_resource_urls": ["/metrics"]},
    ]
    api.answer("GET", "/api/v1/role-templates/r", {"name": "r", "rules": held})
    assert "get,list pods named a; get /metrics" in mooring("role-template", "get", "r").output
    assert json.loads(mooring("role-template", "get", "r", "-o", "json").output)["rules"] == held
