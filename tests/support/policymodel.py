# SPDX-License-Identifier: Apache-2.0
"""Small policies for tests: what matters is given, the rest is filled in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mooring.policy import builtin
from mooring.store.policies import (
    OWN_GROUP,
    Binding,
    BindingKind,
    Context,
    GlobalRole,
    Policy,
    Project,
    ProjectNamespace,
    RoleTemplate,
    Rule,
    Subject,
)

Thing = GlobalRole | RoleTemplate | Project | Binding


def kube(verbs: str, resources: str, group: str = "", names: str = "") -> Rule:
    """A rule of Kubernetes; lists are words in one string."""
    return Rule(
        verbs=tuple(verbs.split()),
        api_groups=(group,),
        resources=tuple(resources.split()),
        resource_names=tuple(names.split()),
    )


def own(verbs: str, resources: str, names: str = "") -> Rule:
    """A rule on our own API."""
    return kube(verbs, resources, OWN_GROUP, names)


def global_role(name: str, *rules: Rule, cluster_rules: Iterable[Rule] = (), **more: Any) -> GlobalRole:
    """A global role with the id `gr-NAME`."""
    return GlobalRole(
        id=f"gr-{name}",
        name=name,
        rules=rules,
        cluster_rules=tuple(cluster_rules),
        created_at=1.0,
        updated_at=1.0,
        **more,
    )


def template(name: str, context: Context, *rules: Rule, inherits: str = "", **more: Any) -> RoleTemplate:
    """A template with the id `rt-NAME`; `inherits` are names of others of this kind."""
    parents = tuple(f"rt-{parent}" for parent in inherits.split())
    return RoleTemplate(
        id=f"rt-{name}",
        name=name,
        context=context,
        rules=rules,
        inherits=parents,
        created_at=1.0,
        updated_at=1.0,
        **more,
    )


def project(name: str, cluster: str, namespaces: str = "", **more: Any) -> Project:
    """A project with the id `p-NAME` in the cluster `c-CLUSTER`; its namespaces were made by us."""
    found = more.pop("made", None)
    if found is None:
        found = tuple(ProjectNamespace(name=namespace, create=True) for namespace in namespaces.split())
    return Project(
        id=f"p-{name}",
        name=name,
        cluster_id=f"c-{cluster}",
        cluster_name=cluster,
        namespaces=found,
        created_at=1.0,
        updated_at=1.0,
        **more,
    )


def subject(text: str) -> Subject:
    """`bob` a user, `@devs` a group, `ns/name` a service account."""
    if text.startswith("@"):
        return Subject(kind="group", id=f"g-{text[1:]}", name=text[1:])
    if "/" in text:
        namespace, _unused, name = text.partition("/")
        return Subject(kind="serviceaccount", name=name, namespace=namespace)
    return Subject(kind="user", id=f"u-{text}", name=text)


def binding(
    name: str,
    role: GlobalRole | RoleTemplate,
    subjects: str,
    *,
    cluster: str = "",
    project: Project | None = None,
    **more: Any,
) -> Binding:
    """A binding with the id `b-NAME`; of a project, of a cluster, or global, by what is given."""
    kind: BindingKind = "project" if project is not None else "cluster" if cluster else "global"
    name_of = project.cluster_name if project is not None else cluster
    return Binding(
        id=f"b-{name}",
        kind=kind,
        name=name,
        role_id=role.id,
        role_name=role.name,
        cluster_id=f"c-{name_of}" if name_of else None,
        cluster_name=name_of or None,
        project_id=None if project is None else project.id,
        project_name=None if project is None else project.name,
        subjects=tuple(subject(text) for text in subjects.split()),
        created_at=1.0,
        updated_at=1.0,
        **more,
    )


def policy(*things: Thing, built_in: bool = False) -> Policy:
    """A policy of these things, on top of the built-in ones if wanted."""
    start = builtin.policy() if built_in else Policy()
    return Policy(
        global_roles={**start.global_roles, **{t.id: t for t in things if isinstance(t, GlobalRole)}},
        templates={**start.templates, **{t.id: t for t in things if isinstance(t, RoleTemplate)}},
        projects={t.id: t for t in things if isinstance(t, Project)},
        bindings={**start.bindings, **{t.id: t for t in things if isinstance(t, Binding)}},
    )


def role(name: str) -> RoleTemplate:
    """A built-in template by name."""
    return builtin.policy().templates[builtin.template_id(name)]


def everywhere(name: str) -> GlobalRole:
    """A built-in global role by name."""
    return builtin.policy().global_roles[builtin.role_id(name)]
