# SPDX-License-Identifier: Apache-2.0
"""What the built-in roles hold, and above all what they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mooring.lib.ids import is_id
from mooring.policy import builtin, rules
from mooring.policy.effective import flatten
from mooring.policy.rules import EVERYTHING, Attributes, allows, checked
from mooring.store.policies import Policy, PolicyDelta, Rule
from mooring.store.records import ADMIN_GROUP_ID
from support.policymodel import everywhere, role

_POLICY = builtin.policy()
_READING = ("cluster-viewer", "project-read-only")
_ESCALATING = [
    *(Attributes(verb=verb, resource="pods", subresource=sub) for verb in ("create", "get") for sub in ("exec",)),
    Attributes(verb="create", resource="pods", subresource="attach"),
    Attributes(verb="create", resource="pods", subresource="portforward"),
    Attributes(verb="get", resource="pods", subresource="proxy"),
    Attributes(verb="patch", resource="pods", subresource="ephemeralcontainers"),
    Attributes(verb="get", resource="services", subresource="proxy"),
    Attributes(verb="create", resource="serviceaccounts", subresource="token"),
]
_FORBIDDEN = [
    Attributes(verb="get", resource="nodes", subresource="proxy"),
    Attributes(verb="impersonate", resource="users"),
    Attributes(verb="impersonate", resource="serviceaccounts"),
    Attributes(verb="bind", group="rbac.authorization.k8s.io", resource="clusterroles"),
    Attributes(verb="escalate", group="rbac.authorization.k8s.io", resource="roles"),
    Attributes(verb="create", group="rbac.authorization.k8s.io", resource="clusterrolebindings"),
    Attributes(verb="create", group="authentication.k8s.io", resource="tokenreviews"),
    Attributes(verb="patch", resource="namespaces"),
    Attributes(verb="create", resource="namespaces"),
    Attributes(verb="patch", resource="resourcequotas"),
    Attributes(verb="delete", resource="limitranges"),
]


def _held(name: str) -> tuple[Rule, ...]:
    return flatten(_POLICY.templates, builtin.template_id(name)).rules


def _names(context: str) -> list[str]:
    return [template.name for template in builtin.TEMPLATES if template.context == context]


def test_all_of_them_keep_the_rules_for_rules_and_for_names() -> None:
    ids = set()
    for global_role in builtin.GLOBAL_ROLES:
        assert checked(global_role.rules, "rules", "own") == global_role.rules
        assert checked(global_role.cluster_rules, "rules", "cluster") == global_role.cluster_rules
        assert is_id(global_role.id, "gr")
        assert global_role.builtin
        ids.add(global_role.id)
    for template in builtin.TEMPLATES:
        assert checked(template.rules, "rules", template.context) == template.rules
        assert is_id(template.id, "rt")
        assert template.builtin
        assert {_POLICY.templates[parent].context for parent in template.inherits} <= {template.context}
        ids.add(template.id)
    names = [r.name for r in (*builtin.GLOBAL_ROLES, *builtin.TEMPLATES)]
    assert len(set(names)) == len(names) == len(ids)


def test_ids_never_change() -> None:
    assert builtin.role_id("admin") == "gr-522xf5pv6zlq"
    assert builtin.template_id("cluster-owner") == "rt-utjvvixafiri"
    assert builtin.BINDINGS[0].id == "b-5qwsmu7lqgxt"


def test_the_group_admins_is_bound_to_everything() -> None:
    (binding,) = builtin.BINDINGS
    assert [(s.kind, s.id) for s in binding.subjects] == [("group", ADMIN_GROUP_ID)]
    admin = _POLICY.global_roles[binding.role_id]
    assert rules.covers(admin.cluster_rules, EVERYTHING)
    assert rules.allows(admin.rules, Attributes(verb="escalate", group="mooring.fleet", resource="globalroles"))


@pytest.mark.parametrize("name", [n for n in _names("cluster") if n != "cluster-owner"] + _names("project"))
def test_only_owners_hold_what_escalates(name: str) -> None:
    held = _held(name)
    if name != "project-owner":
        assert [asked for asked in _ESCALATING if allows(held, asked)] == []
    allowed = [asked for asked in _FORBIDDEN if allows(held, asked)]
    assert allowed == []
    assert not any(allows(held, Attributes(verb=verb, path="/metrics")) for verb in ("get", "post"))


@pytest.mark.parametrize("name", _READING)
def test_viewers_read_and_nothing_else_and_no_secrets(name: str) -> None:
    held = rules.kube(_held(name))
    assert {verb for rule in held for verb in rule.verbs} <= {"get", "list", "watch"}
    for verb in ("get", "list", "watch"):
        assert not allows(held, Attributes(verb=verb, resource="secrets", name="s"))
        assert allows(held, Attributes(verb=verb, resource="pods"))
        assert allows(held, Attributes(verb=verb, group="apps", resource="deployments"))
    assert not any("*" in rule.api_groups or (rule.api_groups == ("",) and "*" in rule.resources) for rule in held)


@pytest.mark.parametrize("template", builtin.TEMPLATES, ids=lambda template: template.name)
def test_who_reads_secrets_is_told_so_by_the_description(template: object) -> None:
    found = next(t for t in builtin.TEMPLATES if t is template)
    reads = allows(_held(found.name), Attributes(verb="get", resource="secrets", name="s"))
    assert not reads or "secret" in found.description
    makes_pods = allows(_held(found.name), Attributes(verb="create", resource="pods"))
    assert not makes_pods or "exec" in found.description


def test_the_smaller_roles_are_within_the_greater_ones() -> None:
    for name in _names("project"):
        assert rules.covers(_held("project-owner"), _held(name)), name
    for name in _names("cluster"):
        assert rules.covers(rules.kube(_held("cluster-owner")), rules.kube(_held(name))), name
        assert rules.covers(rules.own(_held("cluster-owner")), rules.own(_held(name))), name
    for name in ("manage", "view"):
        for what in ("workloads", "services", "ingress", "configmaps", "secrets", "volumes", "serviceaccounts"):
            assert _held(f"{what}-{name}")
        assert rules.covers(_held("nodes-manage"), _held(f"nodes-{name}"))


def test_project_members_manage_what_runs_and_owners_bind_in_kubernetes_too() -> None:
    member, owner = _held("project-member"), _held("project-owner")
    for group, resource in (("apps", "deployments"), ("", "secrets"), ("batch", "jobs"), ("", "services")):
        assert allows(member, Attributes(verb="create", group=group, resource=resource))
    bind = Attributes(verb="create", group="rbac.authorization.k8s.io", resource="rolebindings")
    assert not allows(member, bind)
    assert allows(owner, bind)
    assert allows(owner, Attributes(verb="create", resource="pods", subresource="exec"))


def test_a_new_server_gets_all_and_a_server_that_has_them_nothing() -> None:
    fresh = builtin.delta(Policy())
    assert len(fresh.global_roles) == len(builtin.GLOBAL_ROLES)
    assert len(fresh.templates) == len(builtin.TEMPLATES)
    assert len(fresh.bindings) == 1
    again = builtin.delta(_POLICY)
    assert again == PolicyDelta()


def test_an_upgrade_writes_changed_rules_and_keeps_what_administrators_set() -> None:
    old = replace(role("nodes-view"), rules=(), locked=True, version=7)
    user = replace(everywhere("user"), description="old", new_user_default=True)
    held = replace(
        _POLICY,
        templates={**_POLICY.templates, old.id: old},
        global_roles={**_POLICY.global_roles, user.id: user},
    )
    delta = builtin.delta(held)
    assert set(delta.templates) == {old.id}
    written = delta.templates[old.id]
    assert written is not None
    assert written.locked
    assert written.rules == role("nodes-view").rules
    again = delta.global_roles[user.id]
    assert again is not None
    assert again.new_user_default
