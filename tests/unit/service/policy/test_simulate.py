# SPDX-License-Identifier: Apache-2.0
"""Simulation: what it says comes and goes is what is rendered after the change and was not before."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from mooring.policy.book import patched
from mooring.policy.render import ClusterFacts, render
from mooring.policy.simulate import SUBJECTS, affected, simulate
from mooring.store.policies import Binding, Policy, PolicyDelta, Project, ProjectNamespace, RoleTemplate, Rule, Subject
from support import rbac

CLUSTERS = [ClusterFacts(one, one[2:], "uid", rbac.LABELS[one]) for one in (rbac.HOME, rbac.AWAY)]
READERS = RoleTemplate(
    id="rt-1",
    name="reader",
    context="project",
    rules=(Rule(verbs=("get",), api_groups=("",), resources=("pods",)),),
    created_at=0,
    updated_at=0,
)
WEB = Project(
    id="p-1",
    name="web",
    cluster_id=rbac.HOME,
    cluster_name="home",
    namespaces=(ProjectNamespace(name="shop"),),
    created_at=0,
    updated_at=0,
)
BOUND = Binding(
    id="b-1",
    kind="project",
    name="readers",
    role_id="rt-1",
    role_name="reader",
    cluster_id=rbac.HOME,
    project_id="p-1",
    subjects=(Subject(kind="group", id="g-devs", name="devs"),),
    created_at=0,
    updated_at=0,
)
POLICY = Policy({}, {"rt-1": READERS}, {"p-1": WEB}, {"b-1": BOUND})


def difference(old: Policy, new: Policy) -> PolicyDelta:
    def of(kind: str) -> dict[str, object]:
        before, after = getattr(old, kind), getattr(new, kind)
        return {one: after.get(one) for one in before.keys() | after.keys() if before.get(one) != after.get(one)}

    return PolicyDelta(of("global_roles"), of("templates"), of("projects"), of("bindings"))  # type: ignore[arg-type]


@settings(max_examples=30)
@given(rbac.edits())
def test_no_cluster_that_changes_is_left_out(policies: tuple[Policy, Policy]) -> None:
    old, new = policies
    delta = difference(old, new)
    assert patched(old, delta) == new
    told = {change.cluster.id: change.counts for change in simulate(old, delta, CLUSTERS, prefix="m:")}
    reached = {cluster.id for cluster in affected(old, new, delta, CLUSTERS)}
    for cluster in CLUSTERS:
        before, after = render(old, cluster, prefix="m:"), render(new, cluster, prefix="m:")
        assert (cluster.id in told) == (
            before.objects != after.objects
            or {s["name"]: s["labels"] for s in after.namespaces}
            != {s["name"]: s["labels"] for s in before.namespaces if s["name"] in {n["name"] for n in after.namespaces}}
        )
        if before != after:
            assert cluster.id in reached


def test_a_new_binding_is_an_object_that_comes() -> None:
    [change] = simulate(
        dataclasses.replace(POLICY, bindings={}), PolicyDelta(bindings={"b-1": BOUND}), CLUSTERS, prefix="m:"
    )
    assert change.cluster.id == rbac.HOME
    assert change.counts == {"added": 2, "removed": 0, "changed": 0}
    assert [(shown.kind, shown.namespace, shown.subjects) for shown in change.added] == [
        ("ClusterRole", "", 0),
        ("RoleBinding", "shop", 1),
    ]


def test_an_edited_role_is_another_object() -> None:
    wider = dataclasses.replace(READERS, rules=(dataclasses.replace(READERS.rules[0], verbs=("get", "list")),))
    [change] = simulate(POLICY, PolicyDelta(templates={"rt-1": wider}), CLUSTERS, prefix="m:")
    assert change.counts == {"added": 2, "removed": 2, "changed": 0}


def test_a_label_of_a_namespace_is_shown_and_none_is_ever_removed() -> None:
    strict = dataclasses.replace(WEB, pod_security="restricted")
    [change] = simulate(POLICY, PolicyDelta(projects={"p-1": strict}), CLUSTERS, prefix="m:")
    [shown] = change.changed
    assert (shown.kind, shown.name) == ("Namespace", "shop")
    assert shown.before is not None
    assert shown.before["metadata"]["labels"] == {"mooring.fleet/project": "web"}
    [change] = simulate(POLICY, PolicyDelta(projects={"p-1": None}), CLUSTERS, prefix="m:")
    assert {shown.kind for shown in change.removed} == {"ClusterRole", "RoleBinding"}


def test_what_changes_nothing_names_no_cluster() -> None:
    same = dataclasses.replace(BOUND, reason="better words")
    assert simulate(POLICY, PolicyDelta(bindings={"b-1": same}), CLUSTERS, prefix="m:") == ()


def test_lists_have_a_bound_and_counts_do_not() -> None:
    spaces = tuple(ProjectNamespace(name=f"shop-{n}") for n in range(30))
    users = tuple(Subject(kind="user", id=f"u-{n}", name=f"user{n}") for n in range(SUBJECTS + 1))
    delta = PolicyDelta(
        projects={"p-1": dataclasses.replace(WEB, namespaces=spaces)},
        bindings={"b-1": dataclasses.replace(BOUND, subjects=users)},
    )
    [change] = simulate(POLICY, delta, CLUSTERS, prefix="m:", limit=40)
    assert change.counts["added"] == 60  # a binding and the label in each
    assert len(change.added) == 40
    shown = next(shown for shown in change.added if shown.kind == "RoleBinding")
    assert (shown.subjects, len(shown.manifest["subjects"])) == (SUBJECTS + 1, SUBJECTS)
