# SPDX-License-Identifier: Apache-2.0
"""Why somebody may do something: the same answers as the decision, with the way to them."""

from __future__ import annotations

from mooring.policy import rules
from mooring.policy.effective import Who, rights
from mooring.policy.explain import Place, project_of, what_can, who_can
from mooring.policy.rules import Attributes
from support.policymodel import binding, everywhere, global_role, kube, own, policy, project, role, template

_LABELS = {"c-one": {"tier": "prod"}, "c-two": {}}
_WEB = project("web", "one", "web api")
_DEEP = template("deep", "project", kube("get", "secrets"))
_MIDDLE = template("middle", "project", inherits="deep")
_TOP = template("top", "project", own("update", "projects"), inherits="middle")
_OUTSIDE = template("outside", "cluster", external="view")
_PROD = global_role("prod", cluster_rules=[kube("get", "secrets")], cluster_selector={"tier": "prod"})
_POLICY = policy(
    *(_WEB, _DEEP, _MIDDLE, _TOP, _OUTSIDE, _PROD),
    binding("a", _TOP, "bob @devs", project=_WEB),
    binding("b", _PROD, "alice"),
    binding("c", _OUTSIDE, "olga", cluster="one"),
    binding("d", role("cluster-owner"), "owen", cluster="one", expires_at=50.0),
    binding("e", everywhere("users-manage"), "ursula"),
    built_in=True,
)
_SECRET = Attributes(verb="get", resource="secrets", name="s")


def test_each_binding_that_gives_it_is_told_with_the_way_of_inheritance() -> None:
    found = who_can(_POLICY, _LABELS, _SECRET, Place("c-one", "web"), 10.0)
    assert [(r.binding.name, r.certain) for r in found] == [
        ("admins", True),
        ("b", True),
        ("c", False),
        ("d", True),
        ("a", True),
    ]
    assert found[-1].path == ("top", "middle", "deep")
    assert found[-1].sentence == (
        "the project binding 'a' gives the role 'top', which inherits from 'middle', which inherits from 'deep', whose "
        "rule allows: get secrets"
    )
    assert "ClusterRole 'view'" in found[2].sentence


def test_what_has_ended_or_is_elsewhere_is_not_told() -> None:
    assert [r.binding.name for r in who_can(_POLICY, _LABELS, _SECRET, Place("c-one", "other"), 60.0)] == [
        "admins",
        "b",
        "c",
    ]
    assert [r.binding.name for r in who_can(_POLICY, _LABELS, _SECRET, Place("c-two", "web"), 10.0)] == ["admins"]
    assert [r.binding.name for r in who_can(_POLICY, _LABELS, _SECRET, Place(), 10.0)] == []


def test_rights_on_our_own_api_are_explained_too() -> None:
    users = Attributes(verb="create", group="mooring.fleet", resource="users")
    assert [r.binding.name for r in who_can(_POLICY, _LABELS, users, Place(), 10.0)] == ["admins", "e"]
    update = Attributes(verb="update", group="mooring.fleet", resource="projects")
    place = Place("c-one", project="p-web")
    assert [r.binding.name for r in who_can(_POLICY, _LABELS, update, place, 10.0)] == ["admins", "d", "a"]


def test_paths_are_explained_in_a_cluster() -> None:
    metrics = Attributes(verb="get", path="/metrics")
    found = who_can(_POLICY, _LABELS, metrics, Place("c-one"), 10.0)
    assert [r.binding.name for r in found] == ["admins", "c", "d"]


def test_what_somebody_can_do_is_told_by_binding() -> None:
    found = what_can(_POLICY, _LABELS, Who("u-bob", ("g-devs",)), 10.0)
    assert [(a.binding.name, a.subject.name, a.clusters) for a in found] == [("a", "bob", ("c-one",))]
    assert found[0].kube == (kube("get", "secrets"),)
    assert found[0].own == (own("update", "projects"),)
    assert [a.clusters for a in what_can(_POLICY, _LABELS, Who("u-alice"), 10.0)] == [("c-one",)]
    assert [a.externals for a in what_can(_POLICY, _LABELS, Who("u-olga"), 10.0)] == [("view",)]
    assert what_can(_POLICY, _LABELS, Who("u-alice"), 10.0, cluster="c-two") == []
    assert what_can(_POLICY, _LABELS, Who("u-bob"), 10.0, limit=0) == []


def test_explanations_say_what_is_decided() -> None:
    for user in ("bob", "alice", "owen", "ursula", "nobody"):
        who = Who(f"u-{user}")
        for now in (10.0, 60.0):
            held = rights(_POLICY, who, _LABELS, now)
            for cluster in ("c-one", "c-two"):
                for namespace in ("web", "none"):
                    found = who_can(_POLICY, _LABELS, _SECRET, Place(cluster, namespace), now)
                    told = any(r.certain and any(s.name == user for s in r.binding.subjects) for r in found)
                    at = project_of(_POLICY, cluster, namespace)
                    assert told is rules.allows(held.kube_rules(cluster=cluster, project=at), _SECRET)
