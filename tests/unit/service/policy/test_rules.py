# SPDX-License-Identifier: Apache-2.0
"""Rules compared as Kubernetes compares them; against all requests of a small universe, one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mooring.policy import rules
from mooring.policy.rules import EVERYTHING, Attributes, PolicyRefused, allows, checked, covers, normal, text, uncovered
from mooring.store.policies import Rule
from support.policymodel import kube, own

_VERBS = ("get", "list")
_GROUPS = ("", "apps")
_RESOURCES = ("pods", "nodes")
_SUBRESOURCES = ("", "log", "exec")
_NAMES = ("", "a", "b")
_PATHS = ("/healthz", "/healthz/etcd", "/logs")

# What can be asked. A word that no rule names stands for all the others: only a wildcard gives it.
_REQUESTS = [
    *(
        Attributes(verb=verb, group=group, resource=resource, subresource=sub, name=name)
        for verb, group, resource, sub, name in itertools.product(
            (*_VERBS, "other"), (*_GROUPS, "other"), (*_RESOURCES, "other"), (*_SUBRESOURCES, "other"), (*_NAMES, "o")
        )
    ),
    *(
        Attributes(verb=verb, path=path)
        for verb, path in itertools.product((*_VERBS, "other"), (*_PATHS, "/other", "/healthz/other"))
    ),
]


def _some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True).map(tuple)


_resource_rules = st.builds(
    Rule,
    verbs=_some((*_VERBS, "*")),
    api_groups=_some((*_GROUPS, "*")),
    resources=_some(("pods", "nodes", "pods/log", "pods/exec", "nodes/log", "*/log", "*/exec", "*")),
    resource_names=st.one_of(st.just(()), _some(("a", "b"))),
)
_path_rules = st.builds(
    Rule, verbs=_some((*_VERBS, "*")), non_resource_urls=_some((*_PATHS, "/healthz/*", "/healthz*", "*", "/l*"))
)
_rules = st.lists(st.one_of(_resource_rules, _path_rules), max_size=3).map(tuple)


def _set(held: tuple[Rule, ...]) -> set[Attributes]:
    return {asked for asked in _REQUESTS if allows(held, asked)}


@given(_rules, _rules)
@settings(max_examples=150)
@example((kube("get", "*/log"),), (kube("get", "pods/log"),))
@example((kube("get", "pods"),), (kube("get", "pods/log"),))
@example((kube("get", "pods", names="a"),), (kube("get", "pods"),))
@example((kube("get", "pods", names="a"), kube("get", "pods", names="b")), (kube("get", "pods", names="a b"),))
@example((Rule(verbs=("get",), non_resource_urls=("/healthz*",)),), (Rule(verbs=("get",), non_resource_urls=("*",)),))
def test_what_is_covered_allows_no_request_that_the_holder_may_not_make(
    holder: tuple[Rule, ...], wanted: tuple[Rule, ...]
) -> None:
    found = uncovered(holder, wanted)
    if found is None:
        assert _set(wanted) <= _set(holder)
    else:
        assert covers(wanted, (found,)), "the part that is named is a part of what was wanted"
        assert not covers(holder, (found,))
        # The comparison is by rule, as Kubernetes makes it, so that a union of rules can be refused which together
        # give all: `*` by listing everything that there is. What it names is then a wildcard.
        if _set(wanted) <= _set(holder):
            assert "*" in "".join((*found.resources, *found.verbs, *found.api_groups, *found.non_resource_urls))


@given(_rules)
@settings(max_examples=100)
def test_everything_covers_all_and_rules_cover_themselves_and_their_normal_form(held: tuple[Rule, ...]) -> None:
    assert covers(EVERYTHING, held)
    assert covers(held, held)
    assert _set(normal(held)) == _set(held)
    assert normal(normal(held)) == normal(tuple(reversed(held))) == normal(held)


@given(_rules, _rules, _rules)
@settings(max_examples=50)
def test_covering_is_transitive(a: tuple[Rule, ...], b: tuple[Rule, ...], c: tuple[Rule, ...]) -> None:
    ab = (*a, *b)
    abc = (*ab, *c)
    assert covers(abc, ab)
    assert covers(ab, a)
    assert covers(abc, a)


@pytest.mark.parametrize(
    ("held", "asked", "allowed"),
    [
        (kube("get", "pods"), Attributes(verb="get", resource="pods", name="a"), True),
        (kube("get", "pods"), Attributes(verb="get", resource="pods", subresource="log", name="a"), False),
        (kube("get", "pods/log"), Attributes(verb="get", resource="pods", name="a"), False),
        (kube("get", "*/log"), Attributes(verb="get", resource="pods", subresource="log"), True),
        (kube("get", "*/log"), Attributes(verb="get", resource="log"), False),
        (kube("get", "*"), Attributes(verb="get", resource="pods", subresource="exec"), True),
        (kube("get", "*", "apps"), Attributes(verb="get", group="", resource="pods"), False),
        (kube("get", "pods", names="a"), Attributes(verb="get", resource="pods", name="b"), False),
        (kube("list", "pods", names="a"), Attributes(verb="list", resource="pods"), False),
        (kube("*", "pods"), Attributes(verb="frobnicate", resource="pods"), True),
        (Rule(verbs=("get",), non_resource_urls=("/a/*",)), Attributes(verb="get", path="/a/b/c"), True),
        (Rule(verbs=("get",), non_resource_urls=("/a/*",)), Attributes(verb="get", path="/a"), False),
        (Rule(verbs=("get",), non_resource_urls=("/a*",)), Attributes(verb="get", path="/ab"), True),
        (EVERYTHING[0], Attributes(verb="get", path="/metrics"), False),
        (EVERYTHING[1], Attributes(verb="get", resource="pods"), False),
    ],
)
def test_one_request_against_one_rule(held: Rule, asked: Attributes, allowed: bool) -> None:
    assert allows((held,), asked) is allowed


@pytest.mark.parametrize(
    ("holder", "wanted", "named"),
    [
        ((kube("get list", "pods"),), (kube("get", "pods secrets"),), "get secrets"),
        ((kube("get", "pods"),), (kube("get", "pods/exec"),), "get pods/exec"),
        ((kube("get", "*/scale", "apps"),), (kube("get", "deployments/scale", "apps"),), None),
        ((kube("get", "deployments/scale", "apps"),), (kube("get", "*/scale", "apps"),), "get *.apps/scale"),
        ((kube("get", "secrets", names="a"),), (kube("get", "secrets"),), "get secrets"),
        ((kube("get", "secrets", names="a"),), (kube("get", "secrets", names="a b"),), "get secrets (named b)"),
        ((kube("get", "secrets"),), (kube("get", "secrets", names="a"),), None),
        ((kube("get", "pods"), kube("list", "pods")), (kube("get list", "pods"),), None),
        ((kube("get", "pods"), kube("list", "nodes")), (kube("get list", "pods nodes"),), "get nodes"),
        ((kube("get list", "pods"),), (kube("*", "pods"),), "* pods"),
        ((kube("*", "*", "apps"),), (kube("*", "*", "*"),), "* *.*"),
        ((), (kube("get", "pods"),), "get pods"),
        ((), (), None),
        (EVERYTHING[:1], EVERYTHING, "* *"),
    ],
)
def test_the_part_that_is_too_much_is_named(
    holder: tuple[Rule, ...], wanted: tuple[Rule, ...], named: str | None
) -> None:
    found = uncovered(holder, wanted)
    assert (None if found is None else text(found)) == named


@pytest.mark.parametrize(
    ("rule", "kind", "field"),
    [
        (Rule(verbs=()), "cluster", "rules[0].verbs"),
        (kube("get", "pods/*"), "cluster", "rules[0].resources"),
        (kube("get", "*/*"), "cluster", "rules[0].resources"),
        (kube("get", "po*"), "cluster", "rules[0].resources"),
        (kube("get", "Pods"), "cluster", "rules[0].resources"),
        (kube("get", "pods/exec/more"), "cluster", "rules[0].resources"),
        (kube("GET", "pods"), "cluster", "rules[0].verbs"),
        (kube("get", "pods", names="*"), "cluster", "rules[0].resource_names"),
        (kube("get", "pods", names="a*"), "cluster", "rules[0].resource_names"),
        (kube("get", "pods", names="a/b"), "cluster", "rules[0].resource_names"),
        (Rule(verbs=("get",), api_groups=("",), resources=("pods",), resource_names=("a\nb",)), "cluster", "names"),
        (kube("get", "pods", "UPPER"), "cluster", "rules[0].api_groups"),
        (Rule(verbs=("get",), resources=("pods",)), "cluster", "rules[0].api_groups"),
        (Rule(verbs=("get",), api_groups=("",)), "cluster", "rules[0].resources"),
        (Rule(verbs=("get",), api_groups=("",), non_resource_urls=("/a",)), "cluster", "non_resource_urls"),
        (Rule(verbs=("get",), non_resource_urls=("a",)), "cluster", "non_resource_urls"),
        (Rule(verbs=("get",), non_resource_urls=("/a*b",)), "cluster", "non_resource_urls"),
        (Rule(verbs=("get",), non_resource_urls=("/a",)), "project", "non_resource_urls"),
        (Rule(verbs=("get",), non_resource_urls=("/a",)), "own", "non_resource_urls"),
        (kube("get", "pods"), "own", "rules[0].api_groups"),
        (kube("get", "pods", "*"), "own", "rules[0].api_groups"),
        (Rule(verbs=("get",), api_groups=("", "mooring.fleet"), resources=("*",)), "cluster", "rules[0].api_groups"),
        (Rule(verbs=("a",) * 201, api_groups=("",), resources=("pods",)), "cluster", "rules[0].verbs"),
        (kube("get", "a" * 507), "cluster", "rules[0].resources"),
    ],
)
def test_what_means_nothing_or_something_else_than_meant_is_refused(rule: Rule, kind: rules.Kind, field: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        checked([rule], "rules", kind)
    assert field in refused.value.field


def test_rules_are_bounded() -> None:
    with pytest.raises(PolicyRefused, match="too many"):
        checked([kube("get", f"r{i}") for i in range(201)], "rules", "cluster")
    words = " ".join(f"r{i}" for i in range(150))
    names = " ".join(f"n{i}" for i in range(100))
    with pytest.raises(PolicyRefused, match="combinations"):
        checked([kube("get", words, names=names)], "rules", "cluster")


def test_rules_from_outside_come_back_in_one_order() -> None:
    given_rules = [kube("list get get", "b a"), own("get", "clusters"), kube("get list", "a b")]
    assert checked(given_rules, "rules", "cluster") == (kube("get list", "a b"), own("get", "clusters"))


def test_the_wildcard_group_of_kubernetes_is_never_ours() -> None:
    assert not rules.is_own(kube("*", "*", "*"))
    assert rules.own((kube("*", "*", "*"), own("get", "users"))) == (own("get", "users"),)
