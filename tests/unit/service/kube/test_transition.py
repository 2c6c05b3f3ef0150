# SPDX-License-Identifier: Apache-2.0
"""From one policy to the next: at no moment more than the old or the new gives, at no moment less than both give."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mooring.kube.transition import expires_at, key, phases, same, steps
from mooring.policy.render import ClusterFacts, render
from mooring.store.policies import Policy
from support import rbac

Manifest = dict[str, Any]
CLUSTER = ClusterFacts(rbac.HOME, "home", "uid-1", rbac.LABELS[rbac.HOME])


def objects(what: Policy) -> list[Manifest]:
    return list(render(what, CLUSTER, prefix=rbac.PREFIX, now=rbac.NOW).objects)


def moments(have: Iterable[Manifest], want: Iterable[Manifest]) -> Iterator[dict[Any, Manifest]]:
    """What is in the cluster after each step."""
    now = {key(item): item for item in have}
    for action, item in steps(have, want):
        if action == "apply":
            now[key(item)] = item
        else:
            del now[key(item)]
        yield dict(now)


def role(name: str = "reader", *verbs: str) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"mooring:{name}"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": list(verbs or ("get",))}],
    }


def bound(name: str, *users: str, to: str = "reader", namespace: str = "shop", kind: str = "User") -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"mooring:{to}"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": user} for user in users],
    }


def plain(have: Iterable[Manifest], want: Iterable[Manifest], **more: Any) -> list[tuple[str, str, int]]:
    return [
        (action, item["metadata"]["name"], len(item.get("subjects", ()))) for action, item in steps(have, want, **more)
    ]


@settings(max_examples=50)
@given(st.one_of(st.tuples(rbac.policies(), rbac.policies()), rbac.edits()))
def test_at_no_moment_more_than_old_or_new_nor_less_than_both(policies: tuple[Policy, Policy]) -> None:
    old, new = policies
    have, want = objects(old), objects(new)
    asked = list(itertools.product(rbac.all_askers(), rbac.all_questions()))
    before = {pair for pair in asked if rbac.objects_allow(have, *pair)}
    after = {pair for pair in asked if rbac.objects_allow(want, *pair)}
    now: dict[Any, Manifest] = {key(item): item for item in have}
    for now in moments(have, want):
        for pair in asked:
            allowed = rbac.objects_allow(now.values(), *pair)
            assert not allowed or pair in before or pair in after, ("more", pair)
            assert allowed or pair not in before or pair not in after, ("less", pair)
    assert {at: subjects_of(item) for at, item in now.items()} == {key(item): subjects_of(item) for item in want}


def subjects_of(item: Manifest) -> list[Any]:
    return sorted(map(repr, item.get("subjects", ())))


@settings(max_examples=30)
@given(rbac.policies(), rbac.policies())
def test_the_steps_of_a_phase_may_come_in_any_order(old: Policy, new: Policy) -> None:
    have, want = objects(old), objects(new)
    given_before = copy.deepcopy((have, want))
    for phase in phases(have, want):
        assert len({key(item) for _action, item in phase}) == len(phase)
    assert (have, want) == given_before
    assert steps(want, want) == []


@settings(max_examples=30)
@given(rbac.policies(), st.data())
def test_what_was_tampered_with_is_put_right(what: Policy, data: st.DataObject) -> None:
    want = objects(what)
    have = copy.deepcopy([item for item in want if data.draw(st.booleans())])
    for item in have:
        if data.draw(st.booleans()):
            if "roleRef" in item:
                item["roleRef"]["name"] = "cluster-admin"
            elif "rules" in item:
                item["rules"] = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
            else:
                item["spec"] = {}
    now: dict[Any, Manifest] = {key(item): item for item in have}
    for moment in moments(have, want):
        now = moment
    assert now.keys() == {key(item) for item in want}
    assert all(same(now[key(item)], item) for item in want)


def test_who_loses_without_a_replacement_loses_first() -> None:
    have = [role(), bound("a", "ann", "bob"), bound("z", "dan")]
    want = [role(), bound("a", "ann"), role("writer"), bound("w", "cy", to="writer")]
    assert plain(have, want) == [
        ("apply", "a", 1),
        ("delete", "z", 1),
        ("apply", "mooring:writer", 0),
        ("apply", "w", 1),
    ]


def test_who_moves_has_the_new_before_the_old_goes() -> None:
    have = [role(), bound("a", "ann", "bob")]
    want = [role("writer"), bound("w", "ann", to="writer")]
    assert plain(have, want) == [
        ("apply", "a", 1),  # bob is gone at once
        ("apply", "mooring:writer", 0),
        ("apply", "w", 1),
        ("delete", "a", 2),
        ("delete", "mooring:reader", 0),
    ]


def test_somebody_else_who_comes_does_not_wait_for_who_moves() -> None:
    have = [role(), bound("a", "ann"), bound("b", "bob")]
    want = [role(), bound("a", "bob"), bound("b", "ann")]
    assert plain(have, want) == [("apply", "a", 2), ("apply", "b", 2), ("apply", "a", 1), ("apply", "b", 1)]


def test_a_group_may_replace_what_its_members_lose() -> None:
    have = [role(), bound("a", "ann")]
    want = [role(), bound("g", "devs", kind="Group")]
    assert plain(have, want) == [("apply", "g", 1), ("delete", "a", 1)]
    elsewhere = [role(), bound("g", "devs", kind="Group", namespace="bank")]
    assert plain(have, elsewhere) == [("delete", "a", 1), ("apply", "g", 1)]
    everywhere = [role(), bound("g", "devs", kind="Group", namespace="")]
    assert plain(have, everywhere) == [("apply", "g", 1), ("delete", "a", 1)]


def test_a_binding_whose_time_is_over_goes_before_anything_else() -> None:
    over = bound("a", "ann")
    over["metadata"]["annotations"] = {"mooring.fleet/expires-at": "2023-11-14T22:13:20Z"}  # is rbac.NOW
    want = [role(), bound("b", "ann")]
    assert plain([role(), over], want, now=rbac.NOW) == [("delete", "a", 1), ("apply", "b", 1)]
    assert plain([role(), over], want, now=rbac.NOW - 1) == [("apply", "b", 1), ("delete", "a", 1)]


def test_a_role_that_was_edited_is_mended_first() -> None:
    have = [role("reader", "*"), bound("a", "ann")]
    want = [role(), bound("a", "ann"), bound("b", "bob")]
    assert plain(have, want) == [("apply", "mooring:reader", 0), ("apply", "b", 1)]


def test_a_role_that_is_missing_counts_as_a_gain_of_all_who_are_bound_to_it() -> None:
    have = [role("old"), bound("a", "ann", to="old"), bound("b", "ann")]
    want = [role(), bound("b", "ann")]
    assert plain(have, want) == [("apply", "mooring:reader", 0), ("delete", "a", 1), ("delete", "mooring:old", 0)]


def test_a_binding_that_was_turned_to_another_role_is_made_anew() -> None:
    assert plain([role(), bound("a", "ann", to="everything")], [role(), bound("a", "ann")]) == [
        ("delete", "a", 1),
        ("apply", "a", 1),
    ]
    assert not same(bound("a", "ann", to="everything"), bound("a", "ann"))


def test_a_namespace_is_never_deleted() -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert steps([space], []) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("2023-11-14T22:13:20Z", 1_700_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000),
        ("soon", 0),
        ("", 0),
    ],
)
def test_an_end_that_nobody_can_read_is_past(text: str | None, seconds: float | None) -> None:
    annotations = {} if text is None else {"mooring.fleet/expires-at": text}
    assert expires_at({"metadata": {"annotations": annotations}}) == seconds


def test_what_the_api_server_adds_makes_no_difference() -> None:
    quota: Manifest = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q", "namespace": "shop", "labels": {"ours": "1"}},
        "spec": {"hard": {"cpu": "1000m", "memory": "1024Mi", "pods": "5"}},
    }
    seen = copy.deepcopy(quota)
    seen["metadata"] |= {"uid": "x", "labels": {"ours": "1", "others": "2"}}
    seen["spec"]["hard"] |= {"cpu": "1", "memory": "1Gi"}
    assert same(seen, quota)
    for part, value in (("cpu", "2"), ("memory", "1G"), ("pods", "many")):
        changed = copy.deepcopy(seen)
        changed["spec"]["hard"][part] = value
        assert not same(changed, quota)
    assert not same({**seen, "spec": None}, quota)
    assert not same({**seen, "metadata": {**seen["metadata"], "labels": {}}}, quota)
    ours = role()
    assert same({**ours, "aggregationRule": None}, ours)
    assert not same({**ours, "aggregationRule": {"clusterRoleSelectors": []}}, ours)
