# SPDX-License-Identifier: Apache-2.0
"""Which clusters a change of the policy concerns: never one too few."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from mooring.control.affected import affected, next_end
from mooring.policy.book import patched
from mooring.store.policies import Binding, GlobalRole, Policy, PolicyDelta, Project, RoleTemplate, Rule, Subject

RULE = Rule(verbs=("get",), api_groups=("",), resources=("pods",))
TIMES: dict[str, Any] = {"created_at": 1.0, "updated_at": 1.0}
LABELS = {"c-one": {"tier": "prod"}, "c-two": {"tier": "test"}, "c-three": {}}
BOB = Subject(kind="user", id="u-bob", name="bob")


def binding(id: str, kind: Any, role: str, **more: Any) -> Binding:
    return Binding(id=id, kind=kind, name=id, role_id=role, role_name=role, **{"subjects": (BOB,)} | TIMES | more)


BASE = RoleTemplate(id="t-base", name="base", context="cluster", rules=(RULE,), **TIMES)
HEIR = RoleTemplate(id="t-heir", name="heir", context="cluster", inherits=("t-base",), **TIMES)
LEAF = RoleTemplate(id="t-leaf", name="leaf", context="cluster", inherits=("t-heir",), **TIMES)
PROD = GlobalRole(id="r-prod", name="prod", cluster_rules=(RULE,), cluster_selector={"tier": "prod"}, **TIMES)
OURS = GlobalRole(id="r-ours", name="ours", rules=(RULE,), **TIMES)
SHOP = Project(id="p-shop", name="shop", cluster_id="c-two", cluster_name="two", **TIMES)
POLICY = Policy(
    global_roles={PROD.id: PROD, OURS.id: OURS},
    templates={BASE.id: BASE, HEIR.id: HEIR, LEAF.id: LEAF},
    projects={SHOP.id: SHOP},
    bindings={
        b.id: b
        for b in (
            binding("b-leaf", "cluster", LEAF.id, cluster_id="c-three", subjects=()),
            binding("b-prod", "global", PROD.id, subjects=()),
            binding("b-ours", "global", OURS.id, subjects=()),
            binding("b-bob", "project", "t-x", cluster_id="c-two", project_id=SHOP.id, expires_at=50.0),
        )
    },
)
ANYWHERE = replace(PROD, cluster_selector={})
TESTS = replace(PROD, cluster_selector={"tier": "test"})
NO_RULES = replace(PROD, cluster_rules=())


@pytest.mark.parametrize(
    ("delta", "users", "clusters"),
    [
        (PolicyDelta(), [], set()),
        (PolicyDelta(templates={BASE.id: replace(BASE, rules=())}), [], {"c-three"}),
        (PolicyDelta(templates={HEIR.id: replace(HEIR, inherits=())}), [], {"c-three"}),
        (PolicyDelta(templates={"t-new": replace(BASE, id="t-new")}), [], set()),
        (PolicyDelta(global_roles={PROD.id: TESTS}), [], {"c-one", "c-two"}),
        (PolicyDelta(global_roles={PROD.id: ANYWHERE}), [], {"c-one", "c-two", "c-three"}),
        (PolicyDelta(global_roles={PROD.id: NO_RULES}), [], {"c-one"}),
        (PolicyDelta(global_roles={OURS.id: replace(OURS, rules=())}), [], set()),
        (PolicyDelta(projects={SHOP.id: None}), [], {"c-two"}),
        (PolicyDelta(projects={"p-new": replace(SHOP, id="p-new", cluster_id="c-one")}), [], {"c-one"}),
        (PolicyDelta(bindings={"b-prod": None}), [], {"c-one"}),
        (PolicyDelta(bindings={"b-ours": None}), [], set()),
        (PolicyDelta(bindings={"b-new": binding("b-new", "cluster", BASE.id, cluster_id="c-one")}), [], {"c-one"}),
        (PolicyDelta(bindings={"b-new": binding("b-new", "cluster", BASE.id, cluster_id="c-gone")}), [], set()),
        (PolicyDelta(), ["u-bob"], {"c-two"}),
        (PolicyDelta(), ["u-alice"], set()),
    ],
)
def test_the_clusters_of_a_change(delta: PolicyDelta, users: list[str], clusters: set[str]) -> None:
    assert affected(POLICY, patched(POLICY, delta), delta, users, LABELS) == clusters


def test_the_next_end_is_the_first_that_has_not_come() -> None:
    assert next_end(POLICY, 49.0) == 50.0
    assert next_end(POLICY, 50.0) is None
