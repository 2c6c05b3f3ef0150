# SPDX-License-Identifier: Apache-2.0
"""What may be written: each attempt to end up with more than was granted is a test, named after the attempt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mooring.policy import check, rules
from mooring.policy.effective import Rights, Who, rights
from mooring.policy.rules import EVERYTHING, PolicyRefused, text
from mooring.store.policies import Binding, GlobalRole, Policy, Project, RoleTemplate, Rule, Subject
from support.policymodel import binding, everywhere, global_role, kube, own, policy, project, role, subject, template

_LABELS = {"c-one": {"tier": "prod"}, "c-two": {}}
_NOW = 1000.0


def _held(whole: Policy, user: str = "bob", now: float = _NOW) -> Rights:
    return rights(whole, Who(f"u-{user}"), _LABELS, now)


def _bind(whole: Policy, wish: Binding, before: Binding | None = None, user: str = "bob") -> Binding:
    return check.binding(whole, _held(whole, user), wish, _NOW, before)


def _write(
    whole: Policy, wish: RoleTemplate | GlobalRole, before: Any = None, user: str = "bob"
) -> RoleTemplate | GlobalRole:
    if isinstance(wish, GlobalRole):
        return check.global_role(whole, _held(whole, user), wish, before)
    return check.template(whole, _held(whole, user), wish, before)


_MANAGER = role("cluster-bindings-manage")
_READER = template("reader", "cluster", kube("get list watch", "pods"))
_ADMIN = binding("root", everywhere("admin"), "root")


def _company(*things: GlobalRole | RoleTemplate | Project | Binding) -> Policy:
    """Bob manages the bindings of cluster one and reads pods there; root is an administrator."""
    return policy(
        _READER,
        _ADMIN,
        binding("manager", _MANAGER, "bob", cluster="one"),
        binding("reads", _READER, "bob", cluster="one"),
        *things,
        built_in=True,
    )


def test_a_binding_manager_cannot_grant_owner_and_is_told_what_is_too_much() -> None:
    with pytest.raises(PolicyRefused, match="you do not hold this in the cluster") as refused:
        _bind(_company(), binding("x", role("cluster-owner"), "bob", cluster="one"))
    assert refused.value.field == "role"
    assert refused.value.rule is not None
    assert text(refused.value.rule) in str(refused.value)


def test_a_binding_manager_grants_what_they_hold_there_and_only_there() -> None:
    assert _bind(_company(), binding("x", _READER, "alice", cluster="one"))
    with pytest.raises(PolicyRefused, match="get pods"):
        _bind(_company(), binding("x", _READER, "alice", cluster="two"))
    assert _bind(_company(), binding("x", _READER, "alice", cluster="two"), user="root")


def test_an_administrator_grants_everything_also_in_a_cluster_that_is_new() -> None:
    for name in ("cluster-owner", "cluster-viewer", "nodes-manage"):
        assert _bind(_company(), binding("x", role(name), "@devs", cluster="new"), user="root")
    assert _bind(_company(), binding("x", everywhere("admin"), "@devs"), user="root")
    outside = template("outside", "cluster", external="cluster-admin")
    assert _bind(_company(outside), binding("x", outside, "@devs", cluster="new"), user="root")


def test_nobody_but_an_administrator_grants_the_role_admin() -> None:
    owner = _company(binding("owner", role("cluster-owner"), "bob", cluster="one"))
    with pytest.raises(PolicyRefused, match="everywhere"):
        _bind(owner, binding("x", everywhere("admin"), "bob"))


def test_what_has_ended_cannot_be_granted_on() -> None:
    whole = policy(_READER, binding("reads", _READER, "bob", cluster="one", expires_at=_NOW))
    with pytest.raises(PolicyRefused):
        _bind(whole, binding("x", _READER, "alice", cluster="one"))


def test_the_verb_bind_on_a_role_lets_grant_it_and_no_other() -> None:
    binder = template("binder", "cluster", own("bind", "roletemplates", names="cluster-viewer"))
    whole = _company(binder, binding("binds", binder, "bob", cluster="one"))
    assert _bind(whole, binding("x", role("cluster-viewer"), "alice", cluster="one"))
    with pytest.raises(PolicyRefused):
        _bind(whole, binding("x", role("cluster-owner"), "alice", cluster="one"))
    with pytest.raises(PolicyRefused):
        _bind(whole, binding("x", role("cluster-viewer"), "alice", cluster="two"))


def test_bind_and_escalate_cannot_be_written_into_a_role_by_who_does_not_hold_them() -> None:
    manager = _company(binding("roles", everywhere("roles-manage"), "bob"))
    for verb in ("bind", "escalate", "*"):
        with pytest.raises(PolicyRefused, match="cannot give it"):
            _write(manager, template("mine", "cluster", own(verb, "roletemplates")))
    for verb in ("bind", "escalate", "impersonate"):
        with pytest.raises(PolicyRefused, match=verb):
            _write(manager, template("mine", "cluster", kube(verb, "clusterroles", "rbac.authorization.k8s.io")))


def test_a_role_of_more_than_its_author_holds_everywhere_is_refused() -> None:
    manager = _company(binding("roles", everywhere("roles-manage"), "bob"))
    with pytest.raises(PolicyRefused, match="get pods"):
        _write(manager, template("mine", "cluster", kube("get", "pods")))  # held in cluster one only
    assert _write(manager, template("mine", "cluster", own("get", "roletemplates")))
    with pytest.raises(PolicyRefused) as refused:
        _write(manager, global_role("mine", own("create", "users")))
    assert refused.value.field == "rules"
    with pytest.raises(PolicyRefused) as refused:
        _write(manager, global_role("mine", cluster_rules=[kube("get", "secrets")]))
    assert refused.value.field == "cluster_rules"


def test_escalate_lets_write_what_is_not_held_within_the_names_that_it_has() -> None:
    writer = global_role("writer", own("escalate", "roletemplates", names="mine"))
    whole = _company(writer, binding("w", writer, "bob"))
    assert _write(whole, template("mine", "cluster", kube("get", "secrets")))
    with pytest.raises(PolicyRefused):
        _write(whole, template("other", "cluster", kube("get", "secrets")))
    with pytest.raises(PolicyRefused):
        _write(whole, global_role("mine", cluster_rules=[kube("get", "secrets")]))


def test_a_role_does_not_come_under_a_right_by_another_name() -> None:
    writer = global_role("writer", own("escalate", "globalroles roletemplates", names="mine"))
    before, other = template("strong", "cluster", kube("get", "secrets")), global_role("other")
    whole = _company(writer, before, other, binding("w", writer, "bob"))
    for thing in (before, other):
        with pytest.raises(PolicyRefused, match="keeps its name"):
            _write(whole, replace(thing, name="mine"), thing)


def test_a_role_edited_after_it_was_bound_is_checked_as_a_new_one() -> None:
    before = template("mine", "cluster", own("get", "roletemplates"))
    whole = _company(
        before, binding("roles", everywhere("roles-manage"), "bob"), binding("b", before, "bob", cluster="one")
    )
    with pytest.raises(PolicyRefused, match="get secrets"):
        _write(whole, replace(before, rules=(*before.rules, kube("get", "secrets"))), before)
    assert _write(whole, replace(before, description="new"), before)


def test_inheritance_added_later_is_checked_with_all_that_it_brings() -> None:
    before = template("mine", "cluster", own("get", "roletemplates"))
    whole = _company(before, binding("roles", everywhere("roles-manage"), "bob"))
    with pytest.raises(PolicyRefused) as refused:
        _write(whole, replace(before, inherits=(role("cluster-owner").id,)), before)
    assert refused.value.field == "inherits"
    with pytest.raises(PolicyRefused):
        _write(whole, replace(before, inherits=(role("projects-create").id,)), before)
    assert _write(whole, replace(before, inherits=(role("cluster-owner").id,)), before, user="root")


def test_a_change_that_gives_nothing_new_needs_no_rights_and_one_that_makes_it_a_default_does() -> None:
    strong = template("strong", "cluster", kube("*", "*", "*"))
    grole = global_role("grole", own("*", "users"))
    whole = _company(strong, grole, binding("roles", everywhere("roles-manage"), "bob"))
    assert _write(whole, replace(strong, hidden=True), strong)
    with pytest.raises(PolicyRefused):
        _write(whole, replace(strong, creator_default=True), strong)
    with pytest.raises(PolicyRefused):
        _write(whole, replace(grole, new_user_default=True), grole)


def test_a_circle_is_refused_with_the_way_it_goes() -> None:
    a = template("a", "project", inherits="b")
    b = template("b", "project", inherits="c")
    c = template("c", "project")
    whole = _company(a, b, c)
    with pytest.raises(PolicyRefused, match="c inherits from a inherits from b inherits from c"):
        _write(whole, replace(c, inherits=(a.id,)), c, user="root")
    with pytest.raises(PolicyRefused, match="itself"):
        _write(whole, replace(c, inherits=(c.id,)), c, user="root")


def test_contexts_do_not_mix() -> None:
    inner = template("inner", "project", kube("get", "pods"))
    web = project("web", "one", "web")
    whole = _company(inner, web)
    with pytest.raises(PolicyRefused, match="do not mix"):
        _write(whole, template("x", "cluster", inherits="inner"), user="root")
    with pytest.raises(PolicyRefused, match="stays one"):
        _write(whole, replace(inner, context="cluster"), inner, user="root")
    with pytest.raises(PolicyRefused, match="template of a project"):
        _bind(whole, binding("x", inner, "bob", cluster="one"), user="root")
    with pytest.raises(PolicyRefused, match="template of a cluster"):
        _bind(whole, binding("x", _READER, "bob", project=web), user="root")
    with pytest.raises(PolicyRefused, match="global role"):
        _bind(whole, binding("x", _READER, "bob"), user="root")
    with pytest.raises(PolicyRefused, match="no such role"):
        _bind(whole, binding("x", template("gone", "cluster"), "bob", cluster="one"), user="root")
    with pytest.raises(PolicyRefused, match="no such project"):
        _bind(whole, binding("x", inner, "bob", project=replace(web, cluster_name="two")), user="root")


def test_a_locked_role_is_not_bound_and_gets_no_new_subjects_but_may_lose_some() -> None:
    locked = template("locked", "cluster", kube("get", "pods"), locked=True)
    before = binding("b", locked, "alice carol", cluster="one")
    whole = _company(locked, before)
    with pytest.raises(PolicyRefused, match="locked"):
        _bind(whole, binding("x", locked, "alice", cluster="one"), user="root")
    with pytest.raises(PolicyRefused, match="locked"):
        _bind(whole, replace(before, subjects=(*before.subjects, subject("dora"))), before, user="root")
    assert _bind(whole, replace(before, subjects=before.subjects[:1]), before)


def test_taking_subjects_away_or_ending_sooner_needs_no_rights_and_the_opposite_does() -> None:
    before = binding("b", role("cluster-owner"), "alice carol", cluster="one", expires_at=_NOW + 100)
    whole = _company(before)
    assert _bind(whole, replace(before, subjects=before.subjects[1:]), before)
    assert _bind(whole, replace(before, expires_at=_NOW + 50), before)
    for more in (
        replace(before, subjects=(*before.subjects, subject("bob"))),
        replace(before, expires_at=_NOW + 101),
        replace(before, expires_at=None),
    ):
        with pytest.raises(PolicyRefused, match="cannot give it"):
            _bind(whole, more, before)
    with pytest.raises(PolicyRefused, match="stay"):
        _bind(whole, replace(before, cluster_id="c-two"), before, user="root")
    with pytest.raises(PolicyRefused, match="stay"):
        _bind(whole, replace(before, role_id=_READER.id), before, user="root")


@pytest.mark.parametrize("end", [_NOW, _NOW - 1, float("nan"), float("inf"), -1.0])
def test_an_end_that_has_passed_or_is_none_at_all_is_refused(end: float) -> None:
    with pytest.raises(PolicyRefused) as refused:
        _bind(_company(), binding("x", _READER, "alice", cluster="one", expires_at=end))
    assert refused.value.field == "expires_at"


def test_a_cluster_role_of_the_cluster_itself_is_for_those_who_hold_everything() -> None:
    outside = template("outside", "cluster", external="cluster-admin")
    owner = _company(outside, binding("owner", role("cluster-owner"), "owen", cluster="one"))
    with pytest.raises(PolicyRefused, match="cluster-admin") as refused:
        _bind(owner, binding("x", outside, "bob", cluster="one"))
    assert refused.value.field == "role"
    assert _bind(owner, binding("x", outside, "bob", cluster="one"), user="owen")
    manager = _company(binding("roles", everywhere("roles-manage"), "bob"))
    with pytest.raises(PolicyRefused, match="cluster-admin"):
        _write(manager, outside)
    hidden = template("hidden", "cluster", inherits="outside")
    with pytest.raises(PolicyRefused, match="cluster-admin"):
        _write(_company(outside, binding("roles", everywhere("roles-manage"), "bob")), hidden)
    assert _write(manager, outside, user="root")
    with pytest.raises(PolicyRefused, match="made by us"):
        _write(manager, template("x", "cluster", external="mooring:reader:0123456789"), user="root")
    with pytest.raises(PolicyRefused, match="no rules of Kubernetes"):
        _write(manager, template("x", "cluster", kube("get", "pods"), external="view"), user="root")


@pytest.mark.parametrize(
    "name",
    ["system:masters", "System:masters", "SYSTEM:MASTERS", "ѕystem:masters", "sy\u200bstem:masters", "ｓystem：x"],
)
@pytest.mark.parametrize("kind", ["user", "group"])
def test_subjects_that_are_or_look_like_kubernetes_own_are_refused(name: str, kind: Any) -> None:
    wish = replace(
        binding("x", _READER, "", cluster="one"), subjects=(Subject(kind=kind, id="g-aaaaaaaaaaaa", name=name),)
    )
    with pytest.raises(PolicyRefused, match=r"system:|control") as refused:
        _bind(_company(), wish, user="root")
    assert refused.value.field == f"{kind}s"


def test_service_accounts_of_other_projects_and_of_the_agent_are_refused() -> None:
    inner = template("inner", "project", kube("get", "pods"))
    web, other = project("web", "one", "web"), project("other", "one", "other")
    whole = _company(inner, web, other)
    assert _bind(whole, binding("x", inner, "web/robot", project=web), user="root")
    for account in ("other/robot", "kube-system/robot", "default/robot"):
        with pytest.raises(PolicyRefused, match="not in the project") as refused:
            _bind(whole, binding("x", inner, account, project=web), user="root")
        assert refused.value.field == "service_accounts"
    with pytest.raises(PolicyRefused, match="one cluster"):
        _bind(whole, binding("x", everywhere("user"), "web/robot"), user="root")
    with pytest.raises(PolicyRefused, match="agent's own"):
        _bind(whole, binding("x", _READER, "mooring-system/mooring-impersonator", cluster="one"), user="root")
    with pytest.raises(PolicyRefused, match="no service account"):
        _bind(whole, binding("x", _READER, "web/system:x", cluster="one"), user="root")


def test_built_in_things_stay_as_they_are_but_for_what_administrators_set() -> None:
    whole = _company()
    for_new = everywhere("user")
    viewer = role("cluster-viewer")
    with pytest.raises(PolicyRefused, match="built in"):
        _write(whole, replace(viewer, rules=()), viewer, user="root")
    with pytest.raises(PolicyRefused, match="keeps its name"):
        _write(whole, replace(viewer, name="other"), viewer, user="root")
    with pytest.raises(PolicyRefused, match="built in"):
        _write(whole, replace(for_new, rules=(*for_new.rules, own("*", "users"))), for_new, user="root")
    assert _write(whole, replace(viewer, locked=True), viewer, user="root")
    assert _write(whole, replace(for_new, new_user_default=True), for_new, user="root")
    (bound,) = (b for b in whole.bindings.values() if b.builtin)
    with pytest.raises(PolicyRefused, match="built in"):
        _bind(whole, replace(bound, subjects=()), bound, user="root")
    for thing in (viewer, for_new, bound):
        with pytest.raises(PolicyRefused, match="cannot be deleted"):
            check.removal(whole, thing)


def test_what_something_rests_on_is_not_deleted() -> None:
    a, b = template("a", "cluster"), template("b", "cluster", inherits="a")
    grole = global_role("g")
    whole = _company(a, b, grole, binding("x", b, "bob", cluster="one"), binding("y", grole, "bob"))
    for thing, names in ((a, "'b' inherits"), (b, "binding 'x'"), (grole, "binding 'y'")):
        with pytest.raises(PolicyRefused, match=names):
            check.removal(whole, thing)
    check.removal(whole, whole.bindings["b-x"])
    check.removal(whole, project("web", "one"))


def test_names_are_unique_and_plain() -> None:
    whole = _company(global_role("mine"))
    with pytest.raises(PolicyRefused, match="already"):
        _write(whole, replace(global_role("mine"), id="gr-other"), user="root")
    with pytest.raises(PolicyRefused, match="already"):
        _bind(whole, replace(binding("reads", _READER, "alice", cluster="one"), id="b-other"), user="root")
    for name in ("", "Upper", "a b", "a/b", "a" * 64, "gr-aaaaaaaaaaaa", "-a"):
        with pytest.raises(PolicyRefused) as refused:
            _write(whole, replace(global_role("x"), name=name), user="root")
        assert refused.value.field == "name"
    with pytest.raises(PolicyRefused, match="control character"):
        _write(whole, global_role("x", description="a\x1b[31mb"), user="root")


def test_a_selector_needs_rules_and_is_made_of_labels() -> None:
    with pytest.raises(PolicyRefused, match="there are none"):
        _write(_company(), global_role("x", cluster_selector={"a": "b"}), user="root")
    with pytest.raises(PolicyRefused, match="no label"):
        _write(_company(), global_role("x", cluster_rules=EVERYTHING, cluster_selector={"a b": "c"}), user="root")


def test_what_is_held_by_labels_can_be_given_within_them_and_not_beyond() -> None:
    held = global_role("prod", cluster_rules=[kube("get", "pods")], cluster_selector={"tier": "prod"})
    whole = policy(held, binding("h", held, "bob"))
    assert _write(whole, replace(held, id="gr-n", name="n", cluster_selector={"tier": "prod", "zone": "a"}))
    for selector in ({}, {"tier": "dev"}, {"zone": "a"}):
        with pytest.raises(PolicyRefused):
            _write(whole, replace(held, id="gr-n", name="n", cluster_selector=selector))


def test_labels_of_a_cluster_cannot_be_set_to_pull_in_a_role_that_gives_more() -> None:
    prod = global_role("secret-readers", cluster_rules=[kube("get", "secrets")], cluster_selector={"vault": "yes"})
    owner = policy(
        prod,
        _ADMIN,
        binding("p", prod, "bob"),
        binding("o", role("cluster-owner"), "owen", cluster="one"),
        built_in=True,
    )
    with pytest.raises(PolicyRefused, match="secret-readers"):
        check.cluster_labels(owner, _held(owner), "c-one", {"vault": "yes"})
    check.cluster_labels(owner, _held(owner), "c-one", {"vault": "no"})
    check.cluster_labels(owner, _held(owner, "owen"), "c-one", {"vault": "yes"})
    check.cluster_labels(owner, _held(owner, "root"), "c-new", {"vault": "yes"})
    with pytest.raises(PolicyRefused):
        check.cluster_labels(owner, _held(owner), "c-new", {"vault": "yes"})


def test_nobody_acts_for_somebody_who_holds_more() -> None:
    web = project("web", "one", "web")
    outside = template("outside", "project", external="admin")
    whole = _company(
        web,
        outside,
        binding("users", everywhere("users-manage"), "bob"),
        binding("po", role("project-owner"), "paul", project=web),
        binding("out", outside, "olga", project=web),
        binding("r", _READER, "rita", cluster="one"),
    )
    bob = _held(whole)
    check.acting_for(bob, _held(whole, "rita"), "password")
    check.acting_for(bob, _held(whole, "nobody"), "password")
    for name in ("root", "paul", "olga"):
        with pytest.raises(PolicyRefused) as refused:
            check.acting_for(bob, _held(whole, name), "password")
        assert refused.value.field == "password"
        check.acting_for(_held(whole, "root"), _held(whole, name), "password")


_RULES = [
    kube("get", "pods"),
    kube("get", "secrets"),
    kube("*", "*"),
    kube("create", "pods/exec"),
    own("get", "projects"),
]


@given(
    held=st.lists(st.sampled_from(_RULES), max_size=3),
    wanted=st.lists(st.sampled_from(_RULES), max_size=3),
    inherited=st.lists(st.sampled_from(_RULES), max_size=2),
    where=st.sampled_from(["one", "two"]),
)
@settings(max_examples=60)
def test_a_binding_passes_only_if_all_that_it_gives_is_held_in_that_place(
    held: list[Rule], wanted: list[Rule], inherited: list[Rule], where: str
) -> None:
    mine = template("mine", "cluster", *held)
    parent = template("parent", "cluster", *inherited)
    wish = template("wish", "cluster", *wanted, inherits="parent")
    whole = policy(mine, parent, wish, binding("m", mine, "bob", cluster="one"))
    made = binding("x", wish, "alice", cluster=where)
    given_rules = (*wanted, *inherited)
    holds = where == "one"
    fine = rules.covers(held if holds else [], given_rules)
    try:
        _bind(whole, made)
    except PolicyRefused:
        assert not fine
    else:
        assert fine
