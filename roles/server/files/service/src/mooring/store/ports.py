# SPDX-License-Identifier: Apache-2.0
"""What the service asks of its store. Nothing here, and nothing above here, knows that it is SQL.

Work is done in transactions: `Store.read()` sees one state, `Store.write()` is alone (writers wait for each other), and
what it changed is read back and given to the listeners right after the commit. So nobody can write and forget to tell
the index. A `ref` is an id or a name. Methods that change return what is there afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import EllipsisType
from typing import Protocol

from mooring.lib.errors import MooringError
from mooring.lib.profiles import Profile
from mooring.lib.secrets import Secret
from mooring.store.policies import (
    Binding,
    BindingKind,
    Context,
    GlobalRole,
    Policy,
    PolicyStatus,
    Project,
    RoleTemplate,
    Subject,
)
from mooring.store.records import (
    Audience,
    Cluster,
    ClusterState,
    ClusterStatus,
    Delta,
    EndpointSettings,
    EndpointStatus,
    Group,
    JoinToken,
    Membership,
    Page,
    Snapshot,
    Token,
    User,
)


class StoreUnavailable(MooringError):
    """The database did not answer in time or not at all; nothing is known to be changed."""


class Taken(MooringError):
    """The name (or the pair) exists already. `field` is the one that clashes."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class InUse(MooringError):
    """It cannot be removed: something else needs it, and the message says what."""


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page: at most `limit` items (1 to 500) after the sort key `after`."""

    limit: int = 100
    after: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class VisibleTo:
    """Show only the clusters that this user may enter at the time ``now`` (Unix seconds)."""

    user_id: str
    now: float


class Clusters(Protocol):
    async def get(self, ref: str) -> Cluster | None: ...

    async def get_many(self, cluster_ids: Iterable[str]) -> list[Cluster]:
        """Those that are there, in no order; a few statements for any number."""

    async def by_uid(self, cluster_uid: str) -> Cluster | None: ...

    async def page(
        self,
        paging: Paging,
        *,
        name: str | None = None,
        state: ClusterState | None = None,
        labels: Mapping[str, str] | None = None,
        visible_to: VisibleTo | None = None,
    ) -> Page[Cluster]: ...

    async def add(self, cluster: Cluster) -> Cluster:
        """Raises Taken."""

    async def edit(
        self,
        cluster_id: str,
        now: float,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        profile: Profile | None = None,
    ) -> Cluster: ...

    async def register(
        self, cluster_id: str, now: float, *, public_key: bytes, cluster_uid: str, agent: str, kubernetes: str
    ) -> Cluster:
        """Pin the agent's key and the uid. Raises Taken if another cluster has this uid."""

    async def set_statuses(self, statuses: Mapping[str, ClusterStatus]) -> None:
        """By the ids of clusters, all in one statement: hundreds change when a server starts. One that is gone is
        passed over."""

    async def set_endpoint(self, cluster_id: str, now: float, settings: EndpointSettings | None) -> Cluster:
        """How the cluster may be reached without this server; None: not at all."""

    async def set_endpoint_statuses(self, statuses: Mapping[str, EndpointStatus]) -> None:
        """What agents said, by the ids of their clusters. One that is gone is passed over."""

    async def take_endpoint_revisions(self, least: Mapping[str, int], count: int) -> Mapping[str, int]:
        """Take the next `count` revisions of each of these clusters' documents: those above the number that is
        returned, which is never below the one in `least`. They are given out once. A cluster that is gone is not in
        it."""

    async def with_endpoint(self) -> Mapping[str, int]:
        """The ids of the clusters that have an endpoint, or had one, each with the last revision that was taken."""

    async def seen(self, cluster_ids: Iterable[str], now: float) -> None: ...

    async def all_disconnected(self, reason: str) -> int:
        """Every connected cluster becomes disconnected; how many there were."""

    async def remove(self, cluster_id: str) -> None: ...

    async def any_registered(self) -> bool: ...


class JoinTokens(Protocol):
    async def get(self, token_id: str) -> JoinToken | None: ...

    async def add(self, token: JoinToken) -> None: ...

    async def count_open(self, cluster_id: str, now: float) -> int: ...

    async def spend(self, token_id: str, now: float, public_key: bytes) -> None: ...

    async def purge(self, before: float) -> int: ...


class Users(Protocol):
    async def get(self, ref: str) -> User | None: ...

    async def named(self, refs: Iterable[str]) -> Mapping[str, tuple[str, str]]:
        """Ref (id or name) -> id and name, of those that there are."""

    async def page(
        self, paging: Paging, *, name: str | None = None, enabled: bool | None = None, group: str | None = None
    ) -> Page[User]: ...

    async def add(self, user: User, password_hash: Secret | None) -> User:
        """`user.groups` is ignored; membership is written by Groups. Raises Taken."""

    async def edit(
        self, user_id: str, now: float, *, display_name: str | None = None, enabled: bool | None = None
    ) -> User: ...

    async def set_groups(self, user_id: str, group_ids: Sequence[str], now: float) -> User: ...

    async def password_hash(self, user_id: str) -> Secret | None: ...

    async def set_password_hash(self, user_id: str, password_hash: Secret | None, now: float) -> None: ...

    async def remove(self, user_id: str) -> None: ...


class Groups(Protocol):
    async def get(self, ref: str) -> Group | None: ...

    async def named(self, refs: Iterable[str]) -> Mapping[str, tuple[str, str]]:
        """Ref (id or name) -> id and name, of those that there are."""

    async def page(self, paging: Paging, *, name: str | None = None, member: str | None = None) -> Page[Group]: ...

    async def add(self, group: Group) -> Group:
        """`group.members` is ignored. Raises Taken."""

    async def edit(self, group_id: str, now: float, *, description: str | None = None) -> Group: ...

    async def change_members(
        self, group_id: str, now: float, *, add: Iterable[str], remove: Iterable[str]
    ) -> Group: ...

    async def remove(self, group_id: str) -> None: ...

    async def enabled_admins(self) -> int:
        """How many enabled users the built-in group of administrators has."""


class Tokens(Protocol):
    async def get(self, token_id: str) -> Token | None: ...

    async def page(
        self,
        paging: Paging,
        *,
        user: str | None = None,
        cluster: str | None = None,
        active_at: float | None = None,
        audience: Audience | None = None,
    ) -> Page[Token]: ...

    async def add(self, token: Token) -> Token: ...

    async def count_active(
        self, user_id: str | None, now: float, *, audience: Audience = "server", cluster_id: str | None = None
    ) -> int:
        """How many of this audience are in force: of this user (None: of all), for this cluster (None: any or none)."""

    async def of_endpoints(self, ended_after: float) -> list[Token]:
        """Those for the endpoints of clusters that are not revoked, nor expired at that time."""

    async def revoke(self, token_ids: Iterable[str], now: float) -> None: ...

    async def revoke_all_of(self, user_id: str, now: float, keep: str | None = None) -> None: ...

    async def revoke_endpoint(self, cluster_id: str, now: float) -> int:
        """All for the endpoint of this cluster; how many that were."""

    async def used(self, times: Mapping[str, float]) -> None: ...

    async def purge(self, before: float, audience: Audience | None = None) -> int:
        """Delete tokens that ended (revoked or expired) before this time: of this audience, or all."""


class Memberships(Protocol):
    async def get(self, membership_id: str) -> Membership | None: ...

    async def page(
        self, paging: Paging, *, cluster: str | None = None, user: str | None = None, group: str | None = None
    ) -> Page[Membership]: ...

    async def add(self, membership: Membership) -> Membership:
        """Raises Taken."""

    async def remove(self, membership_id: str) -> None: ...


class GlobalRoles(Protocol):
    async def get(self, ref: str) -> GlobalRole | None: ...

    async def page(
        self, paging: Paging, *, name: str | None = None, builtin: bool | None = None
    ) -> Page[GlobalRole]: ...

    async def defaults(self) -> list[GlobalRole]:
        """Those that each new user is bound to, in the order of their names."""

    async def add(self, role: GlobalRole) -> GlobalRole:
        """Raises Taken."""

    async def edit(self, role: GlobalRole, now: float) -> GlobalRole:
        """Write what can change: all but id, name, `builtin`, `created_at` and the version, which is counted here."""

    async def remove(self, role_id: str) -> None:
        """Raises InUse while it is bound."""


class RoleTemplates(Protocol):
    async def get(self, ref: str) -> RoleTemplate | None: ...

    async def page(
        self,
        paging: Paging,
        *,
        name: str | None = None,
        context: Context | None = None,
        builtin: bool | None = None,
        hidden: bool | None = None,
    ) -> Page[RoleTemplate]: ...

    async def add(self, template: RoleTemplate) -> RoleTemplate:
        """Raises Taken."""

    async def edit(self, template: RoleTemplate, now: float) -> RoleTemplate:
        """Write what can change: all but id, name, context, `builtin`, `created_at` and the version."""

    async def remove(self, template_id: str) -> None:
        """Raises InUse while it is bound, or another inherits it."""


class Projects(Protocol):
    """A name is unique in its cluster, and a namespace is in one project at most."""

    async def get(self, project_id: str) -> Project | None: ...

    async def by_name(self, cluster_id: str, name: str) -> Project | None: ...

    async def of_namespace(self, cluster_id: str, namespace: str) -> Project | None: ...

    async def page(
        self, paging: Paging, *, cluster: str | None = None, name: str | None = None, namespace: str | None = None
    ) -> Page[Project]:
        """In the order of names; of one name, by id. `cluster` and `namespace` as they are named anywhere."""

    async def add(self, project: Project) -> Project:
        """With its namespaces. Raises Taken (`name` or `namespaces`)."""

    async def edit(self, project: Project, now: float) -> Project:
        """Write what can change, its namespaces included: all but id, name, cluster, `created_at` and the version.
        Raises Taken (`namespaces`): to move a namespace, take it from its old project first."""

    async def remove(self, project_id: str) -> None:
        """Its bindings go with it."""


class Bindings(Protocol):
    """`ref` is the id, or the name among the bindings of this kind."""

    async def get(self, kind: BindingKind, ref: str) -> Binding | None: ...

    async def page(
        self,
        paging: Paging,
        *,
        kind: BindingKind | None = None,
        name: str | None = None,
        role: str | None = None,
        cluster: str | None = None,
        project: str | None = None,
        user: str | None = None,
        group: str | None = None,
    ) -> Page[Binding]:
        """In the order of names; of one name, by id. `project` is an id; `cluster` also finds those of its projects.
        `user` and `group` find those that name them as a subject."""

    async def add(self, binding: Binding) -> Binding:
        """With its subjects, by their ids. Raises Taken."""

    async def edit(
        self, binding_id: str, now: float, *, reason: str | None = None, expires_at: float | EllipsisType | None = ...
    ) -> Binding: ...

    async def change_subjects(
        self, binding_id: str, now: float, *, add: Iterable[Subject] = (), remove: Iterable[Subject] = ()
    ) -> Binding:
        """Those that are there already, or are not there, are passed over; nothing changes if that is all of them."""

    async def remove(self, binding_id: str) -> None: ...


class PolicyStatuses(Protocol):
    """One for each cluster. Not part of the policy: writing it does not change the policy's revision."""

    async def get(self, ref: str) -> PolicyStatus | None:
        """By the cluster's id or name. None: there is no such cluster; a fresh cluster has an empty status."""

    async def page(self, paging: Paging) -> Page[PolicyStatus]:
        """In the order of the clusters' names."""

    async def desire(self, cluster_id: str, revision: int, digest: str) -> None:
        """What the cluster is to have. Nothing happens if the cluster is gone."""

    async def report(self, status: PolicyStatus) -> None:
        """What the agent says: all but what is desired. Nothing happens if the cluster is gone."""


class Settings(Protocol):
    async def get(self, key: str) -> str | None: ...

    async def put(self, key: str, value: str) -> None: ...


class Transaction(Protocol):
    """The repositories, all in one transaction."""

    @property
    def clusters(self) -> Clusters: ...
    @property
    def join_tokens(self) -> JoinTokens: ...
    @property
    def users(self) -> Users: ...
    @property
    def groups(self) -> Groups: ...
    @property
    def tokens(self) -> Tokens: ...
    @property
    def memberships(self) -> Memberships: ...
    @property
    def global_roles(self) -> GlobalRoles: ...
    @property
    def templates(self) -> RoleTemplates: ...
    @property
    def projects(self) -> Projects: ...
    @property
    def bindings(self) -> Bindings: ...
    @property
    def policy_status(self) -> PolicyStatuses: ...
    @property
    def settings(self) -> Settings: ...


class Store(Protocol):
    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """One consistent view. Raises StoreUnavailable."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Commits at the end, or rolls back if the body raises. Raises StoreUnavailable."""

    def on_commit(self, listener: Callable[[Delta], None]) -> None:
        """Call the listener with what each commit changed, before `write()` returns."""

    async def snapshot(self, now: float) -> Snapshot: ...

    async def policy(self) -> tuple[int, Policy]:
        """The whole policy and its revision. A transaction that changed the policy, or what it means for a cluster
        (labels or profile of a cluster, a user enabled or disabled), has added 1 to it."""

    async def aclose(self) -> None: ...
