# SPDX-License-Identifier: Apache-2.0
"""Rendering: what is in the cluster gives what the model gives, no more and no less, and is the same each time."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mooring.policy.render import ClusterFacts, Rendered, render
from mooring.policy.subjects import CHUNK
from mooring.store.policies import (
    Binding,
    GlobalRole,
    Policy,
    Project,
    ProjectNamespace,
    RoleTemplate,
    Rule,
    Subject,
)
from support import rbac

TIMES: dict[str, Any] = {"created_at": 0.0, "updated_at": 0.0}
CLUSTER = ClusterFacts(rbac.HOME, "home", "uid-1", rbac.LABELS[rbac.HOME])
READ_PODS = Rule(verbs=("get",), api_groups=("",), resources=("pods",))
OWN = Rule(verbs=("update",), api_groups=("mooring.fleet",), resources=("projects",))


def template(name: str = "reader", **more: Any) -> RoleTemplate:
    fields = {"id": f"rt-{name}", "name": name, "context": "project", "rules": (READ_PODS,)} | TIMES
    return RoleTemplate(**fields | more)


def project(*namespaces: str, **more: Any) -> Project:
    fields = {"id": "p-1", "name": "web", "cluster_id": CLUSTER.id, "cluster_name": "home"} | TIMES
    return Project(**fields | {"namespaces": tuple(ProjectNamespace(name=name) for name in namespaces)} | more)


def binding(*users: str, **more: Any) -> Binding:
    fields = {
        "id": "b-1",
        "kind": "project",
        "name": "readers",
        "role_id": "rt-reader",
        "role_name": "reader",
        "cluster_id": CLUSTER.id,
        "project_id": "p-1",
        "subjects": tuple(Subject(kind="user", id=f"u-{name}", name=name) for name in users),
    } | TIMES
    return Binding(**fields | more)


def policy(*things: GlobalRole | RoleTemplate | Project | Binding) -> Policy:
    def of(kind: type[Any]) -> dict[str, Any]:
        return {thing.id: thing for thing in things if isinstance(thing, kind)}

    return Policy(of(GlobalRole), of(RoleTemplate), of(Project), of(Binding))


def rendered(what: Policy, cluster: ClusterFacts = CLUSTER, **more: Any) -> Rendered:
    return render(what, cluster, **{"prefix": rbac.PREFIX} | more)


def kinds(what: Rendered, kind: str) -> list[dict[str, Any]]:
    return [item for item in what.objects if item["kind"] == kind]


def names(what: Rendered) -> list[tuple[str, str, str]]:
    return [(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in what.objects]


# --- what is given --------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(rbac.policies(), st.sets(st.sampled_from(rbac.USERS), max_size=1))
def test_the_cluster_gives_what_the_model_gives(what: Policy, disabled: set[str]) -> None:
    objects = rendered(what, now=rbac.NOW, left_out={f"u-{name}" for name in disabled}).objects
    for who in rbac.all_askers():
        for asked in rbac.all_questions():
            seen = rbac.objects_allow(objects, who, asked)
            assert seen == rbac.model_allows(what, CLUSTER.id, who, asked, disabled), (who, asked)
    found = {subject["name"] for item in objects for subject in item.get("subjects", ()) if subject["kind"] == "User"}
    assert found.isdisjoint(rbac.PREFIX + name for name in disabled)


@settings(max_examples=30)
@given(rbac.policies(), st.randoms(use_true_random=False))
def test_the_order_of_input_does_not_matter(what: Policy, random: Any) -> None:
    def shuffled(values: Any) -> Any:
        items = list(values.items())
        random.shuffle(items)
        return dict(items)

    def turned(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(random.sample(values, len(values)))

    other = Policy(
        shuffled(what.global_roles),
        {
            key: dataclasses.replace(one, rules=turned(one.rules), inherits=turned(one.inherits))
            for key, one in shuffled(what.templates).items()
        },
        {
            key: dataclasses.replace(one, namespaces=turned(one.namespaces))
            for key, one in shuffled(what.projects).items()
        },
        {key: dataclasses.replace(one, subjects=turned(one.subjects)) for key, one in shuffled(what.bindings).items()},
    )
    first, second = rendered(what), rendered(other)
    assert json.dumps(first.objects) == json.dumps(second.objects)
    assert json.dumps(first.namespaces) == json.dumps(second.namespaces)


@settings(max_examples=30)
@given(rbac.policies())
def test_no_object_comes_twice_and_each_is_marked_as_ours(what: Policy) -> None:
    found = rendered(what)
    assert len(set(names(found))) == len(found.objects)
    for item in found.objects:
        assert item["metadata"]["labels"] == {
            "app.kubernetes.io/managed-by": "mooring",
            "mooring.fleet/policy": "true",
        }
    bound = {item["roleRef"]["name"] for item in found.objects if "roleRef" in item}
    assert {item["metadata"]["name"] for item in kinds(found, "ClusterRole")} == bound - rbac.EXTERNAL.keys()


# --- how it looks ---------------------------------------------------------------------------------------------------


def test_a_role_is_named_after_its_rules() -> None:
    first = rendered(policy(template(), project("shop"), binding("ann")))
    again = rendered(policy(template(description="other"), project("shop", "bank"), binding("bob")))
    edited = rendered(policy(template(rules=(OWN,)), project("shop"), binding("ann")))
    wider = rendered(policy(template(rules=(READ_PODS, OWN, READ_PODS)), project("shop"), binding("ann")))
    assert [item["rules"] for item in kinds(first, "ClusterRole")] == [
        [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    ]
    assert kinds(first, "ClusterRole") == kinds(again, "ClusterRole") == kinds(wider, "ClusterRole")
    assert edited.objects == ()  # our own rights are none of the cluster's business
    name = kinds(first, "ClusterRole")[0]["metadata"]["name"]
    assert name.startswith("mooring:reader:")
    assert kinds(first, "RoleBinding")[0]["metadata"]["name"] == f"{name}:always"


def test_bindings_of_one_role_place_and_end_are_one_object() -> None:
    found = rendered(
        policy(
            template(),
            project("shop", "bank"),
            binding("ann"),
            binding("bob", "ann", id="b-2"),
            binding("cy", id="b-3", expires_at=1_800_000_000.9),
        )
    )
    role = kinds(found, "ClusterRole")[0]["metadata"]["name"]
    assert names(found) == [
        ("ClusterRole", "", role),
        ("RoleBinding", "bank", f"{role}:1800000000"),
        ("RoleBinding", "bank", f"{role}:always"),
        ("RoleBinding", "shop", f"{role}:1800000000"),
        ("RoleBinding", "shop", f"{role}:always"),
    ]
    ends, always = kinds(found, "RoleBinding")[:2]
    assert ends["metadata"]["annotations"] == {"mooring.fleet/expires-at": "2027-01-15T08:00:00Z"}
    assert "annotations" not in always["metadata"]
    assert [subject["name"] for subject in always["subjects"]] == ["mooring:ann", "mooring:bob"]


def test_a_user_who_is_left_out_is_in_no_binding() -> None:
    found = rendered(policy(template(), project("shop"), binding("ann", "bob")), left_out={"u-bob", "u-other"})
    assert [subject["name"] for subject in kinds(found, "RoleBinding")[0]["subjects"]] == ["mooring:ann"]
    assert rendered(policy(template(), project("shop"), binding("bob")), left_out={"u-bob"}).objects == ()


def test_a_binding_that_has_ended_is_not_rendered() -> None:
    what = policy(template(), project("shop"), binding("ann", expires_at=rbac.NOW))
    assert rendered(what, now=rbac.NOW).objects == ()
    assert len(rendered(what, now=rbac.NOW - 1).objects) == 2


def test_a_global_role_holds_where_its_selector_fits() -> None:
    role = GlobalRole(id="gr-1", name="world", cluster_rules=(READ_PODS,), cluster_selector={"tier": "test"}, **TIMES)
    what = policy(role, binding("ann", kind="global", role_id="gr-1", cluster_id=None, project_id=None))
    assert [item["kind"] for item in rendered(what).objects] == ["ClusterRole", "ClusterRoleBinding"]
    assert rendered(what, dataclasses.replace(CLUSTER, labels={"tier": "prod"})).objects == ()
    assert rendered(what, dataclasses.replace(CLUSTER, labels={})).objects == ()


def test_an_external_template_binds_what_is_there() -> None:
    whole = template("outer", external="view", rules=())
    mixed = template("mixed", inherits=("rt-outer",))
    found = rendered(policy(whole, mixed, project("shop"), binding("ann", role_id="rt-mixed")))
    [role] = kinds(found, "ClusterRole")
    assert [(item["metadata"]["name"], item["roleRef"]["name"]) for item in kinds(found, "RoleBinding")] == [
        ("mooring:external=view:always", "view"),
        (role["metadata"]["name"] + ":always", role["metadata"]["name"]),
    ]


@pytest.mark.parametrize("prefix", ["", "system:"])
def test_no_name_of_kubernetes_is_ever_bound(prefix: str) -> None:
    what = policy(
        template(),
        project("shop"),
        binding(
            subjects=(
                Subject(kind="user", id="u-1", name="system:admin"),
                Subject(kind="group", id="g-1", name="system:masters"),
            )
        ),
    )
    assert rendered(what, prefix=prefix).objects == ()


def test_a_name_of_kubernetes_makes_room_for_nobody_else() -> None:
    own = Subject(kind="user", id="u-x", name="system:x")
    other = template("other", rules=(dataclasses.replace(READ_PODS, verbs=("list",)),))
    what = policy(
        template(),
        other,
        project("shop"),
        binding(subjects=(own, Subject(kind="user", id="u-ann", name="ann"))),
        binding("ann", "bob", id="b-2", role_id="rt-other"),
    )
    found = {item["metadata"]["name"]: item["subjects"] for item in kinds(rendered(what, prefix=""), "RoleBinding")}
    names_of = {name.split(":")[1]: [subject["name"] for subject in bound] for name, bound in found.items()}
    assert names_of == {"reader": ["ann"], "other": ["ann", "bob"]}


def test_what_is_gone_or_elsewhere_gives_nothing() -> None:
    lost = (
        binding("ann", role_id="rt-gone"),
        binding("ann", id="b-2", project_id="p-gone"),
        binding("ann", id="b-3", cluster_id="c-other"),
        binding("ann", id="b-4", kind="cluster", project_id=None),  # a project's role
        binding("ann", id="b-5", kind="global", role_id="gr-gone", cluster_id=None, project_id=None),
    )
    assert rendered(policy(template(), project("shop"), *lost)).objects == ()
    assert rendered(policy(template(), project("shop", cluster_id="c-other"), binding("ann"))).objects == ()


def test_a_namespace_of_two_projects_is_of_one() -> None:
    other = project("shop", id="p-2", name="other")
    found = rendered(policy(template(), project("shop"), other, binding("ann", project_id="p-2")))
    assert kinds(found, "RoleBinding") == []
    assert [space["project"] for space in found.namespaces] == ["web"]


def test_a_project_says_what_its_namespaces_are_like() -> None:
    found = rendered(
        policy(
            project(
                namespaces=(
                    ProjectNamespace(name="shop", create=True, quota={"pods": "9"}),
                    ProjectNamespace(name="bank"),
                ),
                namespace_quota={"pods": "5", "cpu": "2"},
                container_limits={"cpu": "1"},
                container_requests={"cpu": "100m"},
                pod_security="restricted",
                isolated=True,
            )
        )
    )
    quotas = {item["metadata"]["namespace"]: item["spec"]["hard"] for item in kinds(found, "ResourceQuota")}
    assert quotas == {"shop": {"cpu": "2", "pods": "9"}, "bank": {"cpu": "2", "pods": "5"}}
    assert kinds(found, "LimitRange")[0]["spec"] == {
        "limits": [{"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}]
    }
    [only] = {json.dumps(item["spec"]) for item in kinds(found, "NetworkPolicy")}
    inside = json.loads(only)["ingress"][0]["from"][0]["namespaceSelector"]["matchExpressions"]
    assert inside == [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["bank", "shop"]}]
    labels = {"mooring.fleet/project": "web", "pod-security.kubernetes.io/enforce": "restricted"}
    assert found.namespaces == (
        {"name": "bank", "create": False, "project": "web", "labels": labels},
        {"name": "shop", "create": True, "project": "web", "labels": labels},
    )


# --- many -----------------------------------------------------------------------------------------------------------


def people(count: int) -> list[str]:
    return [f"person{n}" for n in range(count)]


def test_the_number_of_objects_does_not_grow_with_users() -> None:
    few = rendered(policy(template(), project("shop"), binding(*people(1))))
    many = rendered(policy(template(), project("shop"), binding(*people(CHUNK))))
    assert names(few) == names(many)


def test_users_beyond_the_bound_stand_in_several_objects() -> None:
    wanted = people(5 * CHUNK)
    found = kinds(rendered(policy(template(), project("shop"), binding(*wanted))), "RoleBinding")
    sizes = [len(item["subjects"]) for item in found]
    assert max(sizes) <= CHUNK
    assert len(found) <= 2 * 5
    assert sorted(s["name"] for item in found for s in item["subjects"]) == sorted(rbac.PREFIX + w for w in wanted)


def test_one_more_user_changes_one_object() -> None:
    before = kinds(rendered(policy(template(), project("shop"), binding(*people(3500)))), "RoleBinding")
    after = kinds(rendered(policy(template(), project("shop"), binding(*people(3501)))), "RoleBinding")
    assert len([item for item in after if item not in before]) == 1


def test_nobody_moves_between_objects_that_stay() -> None:
    def places(count: int) -> dict[str, str]:
        found = kinds(rendered(policy(template(), project("shop"), binding(*people(count)))), "RoleBinding")
        return {s["name"]: item["metadata"]["name"] for item in found for s in item["subjects"]}

    before, after = places(1900), places(2300)  # a list is split on the way
    stay = set(before.values()) & set(after.values())
    assert not [name for name, place in before.items() if after[name] != place and {place, after[name]} <= stay]


def test_roles_of_some_users_are_as_if_they_were_alone() -> None:
    alone = rendered(policy(template(), project("shop"), binding(*people(2000))))
    other = template("other", rules=(dataclasses.replace(READ_PODS, verbs=("list",)),))
    both = rendered(
        policy(
            template(),
            other,
            project("shop"),
            binding(*people(2000)),
            binding(*people(30000), id="b-2", role_id="rt-other"),
        )
    )
    mine = [item for item in both.objects if "reader" in item["metadata"]["name"]]
    assert mine == list(alone.objects)
