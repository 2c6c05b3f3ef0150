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
from typing import Protocol

from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret
from mooring.store.records import (
    Cluster,
    ClusterState,
    ClusterStatus,
    Delta,
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


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page: at most `limit` items (1 to 500) after the sort key `after`."""

    limit: int = 100
    after: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class VisibleTo:
    """Show only the clusters that this user may enter."""

    user_id: str


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
        self, cluster_id: str, now: float, *, description: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Cluster: ...

    async def register(
        self, cluster_id: str, now: float, *, public_key: bytes, cluster_uid: str, agent: str, kubernetes: str
    ) -> Cluster:
        """Pin the agent's key and the uid. Raises Taken if another cluster has this uid."""

    async def set_statuses(self, statuses: Mapping[str, ClusterStatus]) -> None:
        """By the ids of clusters, all in one statement: hundreds change when a server starts. One that is gone is
        passed over."""

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
    ) -> Page[Token]: ...

    async def add(self, token: Token) -> Token: ...

    async def count_active(self, user_id: str, now: float) -> int: ...

    async def revoke(self, token_ids: Iterable[str], now: float) -> None: ...

    async def revoke_all_of(self, user_id: str, now: float, keep: str | None = None) -> None: ...

    async def used(self, times: Mapping[str, float]) -> None: ...

    async def purge(self, before: float) -> int:
        """Delete tokens that ended (revoked or expired) before this time."""


class Memberships(Protocol):
    async def get(self, membership_id: str) -> Membership | None: ...

    async def page(
        self, paging: Paging, *, cluster: str | None = None, user: str | None = None, group: str | None = None
    ) -> Page[Membership]: ...

    async def add(self, membership: Membership) -> Membership:
        """Raises Taken."""

    async def remove(self, membership_id: str) -> None: ...


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
    def settings(self) -> Settings: ...


class Store(Protocol):
    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """One consistent view. Raises StoreUnavailable."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Commits at the end, or rolls back if the body raises. Raises StoreUnavailable."""

    def on_commit(self, listener: Callable[[Delta], None]) -> None:
        """Call the listener with what each commit changed, before `write()` returns."""

    async def snapshot(self, now: float) -> Snapshot: ...

    async def aclose(self) -> None: ...
