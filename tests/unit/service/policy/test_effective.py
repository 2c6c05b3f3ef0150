# SPDX-License-Identifier: Apache-2.0
"""What somebody may do, from all their bindings; against a plain walk through the policy."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from mooring.policy import rules
from mooring.policy.effective import Reach, Rights, Who, fits, flatten, rights
from mooring.policy.rules import EVERYTHING, Attributes
from support.policymodel import binding, global_role, kube, own, policy, project, template

_BOB = Who("u-bob", ("g-devs",))
_LABELS = {"c-one": {"tier": "prod"}, "c-two": {"tier": "dev"}}


def _rights(*things: object, now: float = 10.0, who: Who = _BOB) -> Rights:
    return rights(policy(*things), who, _LABELS, now)  # type: ignore[arg-type]


def test_nobody_holds_anything_without_a_binding() -> None:
    role = global_role("all", own("*", "*"), cluster_rules=EVERYTHING)
    held = _rights(role, binding("x", role, "alice @others"))
    assert not held.may("get", "users")
    assert held.kube_rules(cluster="c-one") == ()
    assert not held.reach("get", "users")
    assert not held.enters("c-one")


def test_a_global_role_holds_everywhere_and_in_each_place() -> None:
    role = global_role("users", own("get list", "users"), own("get", "clusters", names="one"))
    held = _rights(role, binding("x", role, "@devs"))
    assert held.may("get", "users")
    assert held.may("get", "users", cluster="c-one")
    assert held.may("get", "users", project="p-unknown")
    assert not held.may("delete", "users")
    assert held.may("get", "clusters", name="one")
    assert not held.may("get", "clusters", name="two")
    assert held.reach("get", "users") == Reach(everywhere=True)
    assert not held.reach("get", "clusters"), "a right on one name is none on lists"
    assert held.somewhere("get", "clusters")


def test_cluster_rules_hold_where_the_labels_fit() -> None:
    role = global_role(
        "prod", cluster_rules=[kube("get", "pods"), own("get", "projects")], cluster_selector=_LABELS["c-one"]
    )
    held = _rights(role, binding("x", role, "bob"))
    assert held.kube_rules(cluster="c-one") == (kube("get", "pods"),)
    assert held.kube_rules(cluster="c-two") == ()
    assert held.kube_rules(cluster="c-new") == ()
    assert held.may("get", "projects", cluster="c-one")
    assert not held.may("get", "projects")
    assert held.reach("get", "projects") == Reach(clusters=frozenset({"c-one"}))
    assert (held.enters("c-one"), held.enters("c-two")) == (True, False)
    assert held.everywhere() == ()
    assert held.everywhere({"tier": "prod", "zone": "a"}) == role.cluster_rules


def test_what_holds_in_a_cluster_holds_in_its_projects_and_not_the_other_way_round() -> None:
    role = template("pods", "cluster", kube("get", "pods"), own("get", "projects"))
    inner = template("exec", "project", kube("create", "pods/exec"), own("update", "projects"))
    web, other = project("web", "one", "web"), project("other", "two", "other")
    held = _rights(
        role, inner, web, other, binding("x", role, "bob", cluster="one"), binding("y", inner, "@devs", project=web)
    )
    assert held.kube_rules(cluster="c-one") == (kube("get", "pods"),)
    assert held.kube_rules(cluster="c-one", project="p-web") == (kube("get", "pods"), kube("create", "pods/exec"))
    assert held.may("get", "projects", project="p-web")
    assert held.may("update", "projects", project="p-web")
    assert not held.may("update", "projects", cluster="c-one")
    assert not held.may("get", "projects", project="p-other")
    assert held.reach("update", "projects") == Reach(projects=frozenset({"p-web"}))
    assert (held.enters("c-one"), held.enters("c-two")) == (True, False)


def test_a_project_lets_into_its_cluster_but_not_into_others_even_when_the_caller_mixes_them_up() -> None:
    role = template("r", "cluster", kube("get", "secrets"))
    web = project("web", "two", "web")
    held = _rights(role, web, binding("x", role, "bob", cluster="one"))
    assert held.kube_rules(cluster="c-one", project="p-web") == (), "the project's own cluster counts"


def test_a_binding_ends_to_the_second() -> None:
    role = template("r", "cluster", kube("get", "pods"))
    things = (role, binding("x", role, "bob", cluster="one", expires_at=100.0))
    before, after = _rights(*things, now=99.9), _rights(*things, now=100.0)
    assert before.kube_rules(cluster="c-one")
    assert before.until == 100.0
    assert not after.kube_rules(cluster="c-one")
    assert not after.enters("c-one")
    assert after.until == math.inf


def test_inheritance_is_flattened_and_a_circle_ends() -> None:
    a = template("a", "project", kube("get", "pods"), inherits="b c")
    b = template("b", "project", kube("list", "pods"), inherits="d")
    c = template("c", "project", own("get", "projects"), inherits="d gone")
    d = template("d", "project", kube("watch", "pods"), inherits="a", external="view")
    flat = flatten(policy(a, b, c, d).templates, a.id)
    assert set(flat.rules) == {kube("get", "pods"), kube("list", "pods"), own("get", "projects")}
    assert flat.externals == ("view",)


def test_an_external_role_gives_nothing_that_is_known_but_lets_in() -> None:
    role = template("r", "cluster", external="cluster-admin")
    held = _rights(role, binding("x", role, "bob", cluster="one"))
    assert held.kube_rules(cluster="c-one") == ()
    assert held.externals == (("c-one", "", "cluster-admin"),)
    assert held.enters("c-one")


def test_the_right_to_enter_is_one_of_our_own() -> None:
    role = global_role("in", own("enter", "clusters"))
    held = _rights(role, binding("x", role, "bob"))
    assert held.enters("c-one")
    assert held.enters("c-new")


def test_a_binding_to_what_is_gone_gives_nothing() -> None:
    role, web = template("r", "project", kube("get", "pods")), project("web", "one", "web")
    bound = binding("x", role, "bob", project=web)
    assert _rights(web, bound).kube_rules(cluster="c-one", project="p-web") == ()
    assert _rights(role, bound).kube_rules(cluster="c-one", project="p-web") == ()
    assert not _rights(role, bound).enters("c-one")


def test_an_empty_name_or_id_is_nobody() -> None:
    role = global_role("r", own("get", "users"))
    nobody = binding("x", role, "bob")
    odd = type(nobody.subjects[0])(kind="user", id="", name="")
    from dataclasses import replace

    assert not _rights(role, replace(nobody, subjects=(odd,)), who=Who("", ("",))).may("get", "users")


_names = st.sampled_from(["one", "two"])
_verbs = st.sampled_from(["get", "update"])
_subjects = st.sampled_from(["bob", "@devs", "alice", "bob alice"])


@st.composite
def _cases(draw: st.DrawFn) -> tuple[object, ...]:
    things: list[object] = []
    projects = [project("web", "one", "web"), project("db", "two", "db")]
    things.extend(projects)
    for number in range(draw(st.integers(0, 5))):
        verb, end = draw(_verbs), draw(st.sampled_from([None, 5.0, 20.0]))
        kind = draw(st.sampled_from(["global", "cluster", "project"]))
        name, subjects = f"x{number}", draw(_subjects)
        if kind == "global":
            selector = draw(st.sampled_from([{}, {"tier": "prod"}]))
            role = global_role(
                name, own(verb, "projects"), cluster_rules=[kube(verb, "pods")], cluster_selector=selector
            )
            things += [role, binding(name, role, subjects, expires_at=end)]
        elif kind == "cluster":
            made = template(name, "cluster", kube(verb, "pods"), own(verb, "projects"))
            things += [made, binding(name, made, subjects, cluster=draw(_names), expires_at=end)]
        else:
            made = template(name, "project", kube(verb, "pods"), own(verb, "projects"))
            things += [made, binding(name, made, subjects, project=draw(st.sampled_from(projects)), expires_at=end)]
    return tuple(things)


@given(_cases())
@settings(max_examples=60)
def test_rights_are_what_a_plain_walk_through_the_policy_finds(things: tuple[object, ...]) -> None:
    whole = policy(*things)  # type: ignore[arg-type]
    held = rights(whole, _BOB, _LABELS, 10.0)
    for cluster, project_id in (("c-one", ""), ("c-two", ""), ("c-one", "p-web"), ("c-two", "p-db")):
        for verb in ("get", "update"):
            pods = own_right = False
            for bound in whole.bindings.values():
                mine = any(s.name in ("bob", "devs") for s in bound.subjects)
                if not mine or (bound.expires_at or 99) <= 10:
                    continue
                if bound.kind == "global":
                    role = whole.global_roles[bound.role_id]
                    own_right |= verb in role.rules[0].verbs
                    pods |= fits(role.cluster_selector, _LABELS[cluster]) and verb in role.cluster_rules[0].verbs
                elif bound.cluster_id == cluster and bound.project_id in (None, project_id):
                    pods |= verb in whole.templates[bound.role_id].rules[0].verbs
                    own_right |= verb in whole.templates[bound.role_id].rules[1].verbs
            asked = Attributes(verb=verb, resource="pods")
            assert rules.allows(held.kube_rules(cluster=cluster, project=project_id), asked) is pods
            assert held.may(verb, "projects", cluster=cluster, project=project_id) is own_right
