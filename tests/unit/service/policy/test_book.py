# SPDX-License-Identifier: Apache-2.0
"""The policy in memory: what it answers is what the policy says now, however it came to be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mooring.policy import book as book_module
from mooring.policy.book import Book, patched
from mooring.policy.effective import Who, rights
from mooring.store.policies import PolicyDelta
from support.policymodel import binding, global_role, kube, own, policy, project, template

_BOB = Who("u-bob", ("g-devs",))
_ROLE = template("r", "cluster", kube("get", "pods"))
_USERS = global_role("users", own("get", "users"))
_PROD = global_role("prod", cluster_rules=[kube("list", "pods")], cluster_selector={"tier": "prod"})


def _book() -> Book:
    book = Book()
    book.load(policy(_ROLE, _USERS, _PROD, binding("x", _ROLE, "bob", cluster="one")), {"c-one": {}})
    return book


def test_changes_are_seen_at_once_and_answers_are_kept_in_between() -> None:
    book = _book()
    first = book.rights(_BOB, 1.0)
    assert book.rights(_BOB, 2.0) is first
    revision = book.revision
    added = binding("y", _USERS, "@devs")
    book.apply(PolicyDelta(bindings={added.id: added}))
    assert book.revision > revision
    assert book.rights(_BOB, 2.0).may("get", "users")
    book.apply(PolicyDelta(bindings={added.id: None}))
    assert not book.rights(_BOB, 2.0).may("get", "users")


def test_a_subject_that_is_taken_out_holds_nothing_and_a_role_that_changes_gives_what_it_says_now() -> None:
    book = _book()
    book.apply(PolicyDelta(bindings={"b-x": binding("x", _ROLE, "alice", cluster="one")}))
    assert book.rights(_BOB, 1.0).kube_rules(cluster="c-one") == ()
    assert book.rights(Who("u-alice"), 1.0).kube_rules(cluster="c-one") == (kube("get", "pods"),)
    changed = template("r", "cluster", kube("list", "nodes"))
    book.apply(PolicyDelta(templates={_ROLE.id: changed}))
    assert book.rights(Who("u-alice"), 1.0).kube_rules(cluster="c-one") == (kube("list", "nodes"),)
    book.apply(PolicyDelta(templates={_ROLE.id: None}))
    assert book.rights(Who("u-alice"), 1.0).kube_rules(cluster="c-one") == ()


def test_a_binding_that_ends_is_gone_without_a_change() -> None:
    book = _book()
    ends = binding("y", _USERS, "bob", expires_at=100.0)
    book.apply(PolicyDelta(bindings={ends.id: ends}))
    assert book.rights(_BOB, 99.0).may("get", "users")
    assert not book.rights(_BOB, 100.0).may("get", "users")


def test_labels_decide_what_a_selector_takes() -> None:
    book = _book()
    bound = binding("p", _PROD, "bob")
    book.apply(PolicyDelta(bindings={bound.id: bound}))
    assert kube("list", "pods") not in book.rights(_BOB, 1.0).kube_rules(cluster="c-one")
    book.set_labels("c-one", {"tier": "prod"})
    assert kube("list", "pods") in book.rights(_BOB, 1.0).kube_rules(cluster="c-one")
    before = book.rights(_BOB, 1.0)
    book.set_labels("c-one", {"tier": "prod"})
    assert book.rights(_BOB, 1.0) is before
    book.set_labels("c-one", None)
    assert kube("list", "pods") not in book.rights(_BOB, 1.0).kube_rules(cluster="c-one")


def test_a_group_of_many_bindings_and_a_user_of_one_are_both_found() -> None:
    web = project("web", "one", "web")
    inner = template("i", "project", kube("get", "secrets"))
    many = [binding(f"n{i}", _ROLE, f"@g{i}", cluster=f"k{i}") for i in range(50)]
    whole = policy(web, inner, _ROLE, *many, binding("s", inner, "@g7 bob", project=web))
    book = Book()
    book.load(whole, {})
    who = Who("u-zoe", ("g-g7", "g-none"))
    assert [b.id for b in book.bindings_of(who)] == ["b-n7", "b-s"]
    assert book.rights(who, 1.0).clusters == rights(whole, who, {}, 1.0).clusters
    assert book.rights(who, 1.0).projects == rights(whole, who, {}, 1.0).projects


@given(st.lists(st.lists(st.sampled_from("abcdefg"), unique=True), min_size=1, max_size=6))
@settings(max_examples=60)
def test_who_is_in_a_binding_is_known_whatever_changed_before(steps: list[list[str]]) -> None:
    book = Book()
    book.load(policy(_USERS, binding("x", _USERS, " ".join(steps[0]))), {})
    for names in [*steps[1:], []]:
        changed = binding("x", _USERS, " ".join(names))
        book.apply(PolicyDelta(bindings={changed.id: changed}))
        assert {name for name in "abcdefg" if book.bindings_of(Who(f"u-{name}"))} == set(names)
    assert book._of == {}


def test_answers_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "KEPT", 3)
    book = _book()
    for number in range(10):
        book.rights(Who(f"u-{number}"), 1.0)
    assert len(book._kept) == 3


def test_a_policy_that_was_handed_out_does_not_change() -> None:
    book = _book()
    before = book.policy
    book.apply(PolicyDelta(bindings={"b-x": None}))
    assert "b-x" in before.bindings
    assert "b-x" not in book.policy.bindings
    assert patched(before, PolicyDelta()) == before


def test_the_revision_is_the_stores_where_it_gives_one() -> None:
    book = Book()
    book.load(policy(), {}, 41)
    assert book.revision == 41
    book.apply(PolicyDelta(), 42)
    assert book.revision == 42
