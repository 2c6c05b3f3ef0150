# SPDX-License-Identifier: Apache-2.0
"""Short ways to make records in tests."""

from __future__ import annotations

from typing import Any

from mooring.authn.tokens import new_endpoint_token, new_token
from mooring.lib.ids import new_id
from mooring.store.policies import Binding, BindingKind, GlobalRole, Project, RoleTemplate, Subject
from mooring.store.ports import Paging
from mooring.store.records import Cluster, Group, Membership, Token, User

NOW = 1_700_000_000.0
PAGE = Paging()


def cluster(name: str, **more: Any) -> Cluster:
    return Cluster(**{"id": new_id("c"), "name": name, "created_at": NOW, "updated_at": NOW} | more)


def user(name: str, **more: Any) -> User:
    return User(**{"id": new_id("u"), "name": name, "uid": new_id("x"), "created_at": NOW, "updated_at": NOW} | more)


def group(name: str, **more: Any) -> Group:
    return Group(**{"id": new_id("g"), "name": name, "created_at": NOW, "updated_at": NOW} | more)


def token(owner: User, **more: Any) -> Token:
    made = new_token("mrg")
    fields = {"id": made.id, "hash": made.hash, "user_id": owner.id, "user_name": owner.name}
    return Token(**fields | {"created_at": NOW, "expires_at": NOW + 3600} | more)


def endpoint_token(owner: User, of: Cluster, **more: Any) -> Token:
    made = new_endpoint_token(of.id)
    fields = {"id": made.id, "hash": made.hash, "cluster_id": of.id, "cluster_name": of.name, "audience": "endpoint"}
    return token(owner, **fields | more)


def membership(into: Cluster, who: User | Group, **more: Any) -> Membership:
    subject = (
        {"user_id": who.id, "user_name": who.name}
        if isinstance(who, User)
        else {"group_id": who.id, "group_name": who.name}
    )
    fields = {"id": new_id("m"), "cluster_id": into.id, "cluster_name": into.name, "created_at": NOW}
    return Membership(**fields | subject | more)


def global_role(name: str, **more: Any) -> GlobalRole:
    return GlobalRole(**{"id": new_id("gr"), "name": name, "created_at": NOW, "updated_at": NOW} | more)


def template(name: str, **more: Any) -> RoleTemplate:
    return RoleTemplate(**{"id": new_id("rt"), "name": name, "created_at": NOW, "updated_at": NOW} | more)


def project(inside: Cluster, name: str, **more: Any) -> Project:
    fields = {"id": new_id("p"), "name": name, "cluster_id": inside.id, "cluster_name": inside.name}
    return Project(**fields | {"created_at": NOW, "updated_at": NOW} | more)


def subject(who: User | Group | Subject) -> Subject:
    if isinstance(who, Subject):
        return who
    return Subject(kind="user" if isinstance(who, User) else "group", id=who.id, name=who.name)


def binding(
    kind: BindingKind,
    name: str,
    role: GlobalRole | RoleTemplate,
    where: Cluster | Project | None = None,
    *,
    subjects: tuple[User | Group | Subject, ...] = (),
    **more: Any,
) -> Binding:
    """Its subjects in the order in which the store gives them back."""
    place = {}
    if isinstance(where, Project):
        place = {"project_id": where.id, "project_name": where.name}
        place |= {"cluster_id": where.cluster_id, "cluster_name": where.cluster_name}
    elif where is not None:
        place = {"cluster_id": where.id, "cluster_name": where.name}
    bound = tuple(sorted(map(subject, subjects), key=lambda one: (one.kind, one.namespace, one.name)))
    fields = {"id": new_id("b"), "kind": kind, "name": name, "role_id": role.id, "role_name": role.name}
    return Binding(**fields | place | {"subjects": bound, "created_at": NOW, "updated_at": NOW} | more)
