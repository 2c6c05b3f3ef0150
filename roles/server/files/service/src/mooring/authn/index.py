# SPDX-License-Identifier: Apache-2.0
"""Who may do what, in memory, so that a proxied request costs no database query.

The store feeds it: `load` at start, `apply` after each commit, synchronously, so that a revoked token is refused from
the moment the API call that revoked it is answered. Subscribers hear what was taken away or changed and look again at
what they hold open. The index must never grant what the store did not say, and must not write to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from mooring.authn import tokens
from mooring.authn.identity import ADMIN_GROUP, Identity
from mooring.authn.tokens import ENDPOINT_ID
from mooring.lib import logging
from mooring.lib.errors import MooringError
from mooring.lib.ids import is_id
from mooring.store.records import Audience, Cluster, ClusterState, Delta, Members, Snapshot, Token, User
from mooring.wire.endpoint import parse_token

_ENTRIES_MAX: Final = 16_384
"""Pairs of a user and a cluster of which it is remembered until when they may enter."""


class Unauthenticated(MooringError):
    """The bearer token is no good. `cause` is a short word for metrics: malformed, unknown, revoked, expired, user."""

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(reason, "log in again or ask for a new token")
        self.cause = cause


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    """The token is gone: revoked, deleted, or its owner or its cluster was deleted."""

    token_id: str


@dataclass(frozen=True, slots=True)
class UserChanged:
    """The user's groups, name or enabled flag changed, or the user was deleted: look again at what they hold open."""

    user_id: str


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """Somebody gained or lost the right to enter the cluster."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class ClusterRemoved:
    """The cluster was deleted: its agent's key is dead, its sessions and exchanges must end."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class AgentKeyChanged:
    """The cluster's agent registered with another key: sessions made with the old key must end."""

    cluster_id: str


Change = TokenRevoked | UserChanged | MembershipChanged | ClusterRemoved | AgentKeyChanged


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What the data path needs of a cluster. A reason is empty unless the state calls for it; times: Unix seconds."""

    id: str
    name: str
    state: ClusterState
    last_seen_at: float | None
    lost_reason: str
    refused_reason: str
    ever_connected: bool


@dataclass(frozen=True, slots=True)
class Presented:
    """A bearer token as it was shown, read: None when it has not the form of one of ours. It proves nothing yet.
    `elsewhere`: it has the form of one for a cluster's own endpoint."""

    token: tokens.ParsedToken | None
    elsewhere: bool = False


def present(bearer: str) -> Presented:
    """Read a bearer token, so that showing it again costs no more hashing."""
    return Presented(tokens.parse(bearer, "mrg"), parse_token(bearer) is not None)


def held(delta: Delta, audience: Audience = "server") -> Delta:
    """What of a change an index holds: no policy, no token for another audience, and of clusters who they are, which
    key their agent has, and what a refusal may say of them."""
    return Delta(
        clusters={key: None if cluster is None else _plain(cluster) for key, cluster in delta.clusters.items()},
        users=delta.users,
        tokens={key: token for key, token in delta.tokens.items() if _of(audience, key, token)},
        members=delta.members,
    )


class Index:
    """The identities, memberships and clusters of this server. One event loop uses it; nothing in it waits.

    Tokens for another audience than `audience` are not taken, whoever feeds them: so that one that is good at the
    endpoint of a cluster opens nothing here, nor one for here anything there."""

    def __init__(self, audience: Audience = "server") -> None:
        self._audience: Audience = audience
        self._tokens: dict[str, Token] = {}
        self._tokens_of: dict[str, set[str]] = {}  # user id -> token ids
        self._users: dict[str, User] = {}
        self._clusters: dict[str, Cluster] = {}
        self._ids: dict[str, str] = {}  # cluster name -> id
        self._members: dict[str, Members] = {}
        self._ends: dict[str, float] = {}  # cluster id -> when the next of the facts in its members ends
        # Token id -> what it proves while its time lasts: the token was good when it was asked for, and its owner
        # enabled. Emptied when a fact behind it changes.
        self._identities: dict[str, Identity] = {}
        # User and cluster id -> until when they may enter; emptied with every change, since it is quickly found again.
        self._entries: dict[tuple[str, str], float] = {}
        self._views: dict[str, ClusterView] = {}  # cluster id -> what was asked for since it changed
        self._used: dict[str, float] = {}
        self._subscribers: list[Callable[[Change], None]] = []
        self._log = logging.get("mooring.authn")

    # --- asked by the data path -------------------------------------------------------------------------------------

    def authenticate(self, bearer: str | Presented, now: float) -> Identity:
        """The identity that a bearer token proves at the time `now` (Unix seconds). Raises Unauthenticated."""
        shown = present(bearer) if isinstance(bearer, str) else bearer
        parsed = shown.token
        if parsed is None and shown.elsewhere:
            raise Unauthenticated("malformed", "this token is good at the endpoint of its cluster only, not here")
        if parsed is None:
            raise Unauthenticated("malformed", "the bearer token is not a Mooring token")
        token = self._tokens.get(parsed.id)
        if token is None or not tokens.same(token.hash, parsed.hash):
            raise Unauthenticated("unknown", "the token is unknown or was revoked")
        identity = self._identities.get(token.id)
        if identity is None or (identity.expires_at is not None and identity.expires_at <= now):
            return self._prove(token, now)
        return identity

    def still_valid(self, token_id: str, now: float) -> Identity:
        """The identity of a token seen before, as the facts are now. Raises Unauthenticated."""
        token = self._tokens.get(token_id)
        if token is None:
            raise Unauthenticated("unknown", "the token was revoked")
        return self._prove(token, now)

    def may_enter(self, identity: Identity, cluster_id: str, now: float) -> bool:
        """Whether anything lets the identity into the cluster at the time `now`: whether `may_enter_facts` has any."""
        key = (identity.user_id, cluster_id)
        until = self._entries.get(key)
        if until is None:
            if len(self._entries) >= _ENTRIES_MAX:
                self._entries.clear()
            until = self._entries[key] = self.enters_until(identity.user_id, cluster_id)
        return until > now

    def may_enter_facts(self, identity: Identity, cluster_id: str, now: float) -> set[str]:
        """The ids of the memberships and bindings that let the identity into the cluster at the time `now`."""
        return self.memberships_of(identity.user_id, cluster_id, now)

    def memberships_of(self, user_id: str, cluster_id: str, now: float) -> set[str]:
        """The ids of the memberships and bindings that let the user into the cluster, by themselves or by a group.

        Of several bindings that have the same subject, the one that lasts longest; `now` in Unix seconds.
        """
        members = self._members.get(cluster_id)
        user = self._users.get(user_id)
        if members is None or user is None:
            return set()
        facts = {members.groups[group_id] for group_id, _unused in user.groups if group_id in members.groups}
        if user.id in members.users:
            facts.add(members.users[user.id])
        if members.until:
            return {fact for fact in facts if members.until.get(fact, inf) > now}
        return facts

    def enters_until(self, user_id: str, cluster_id: str) -> float:
        """Until when `memberships_of` is not empty (Unix seconds): infinity without an end, minus infinity if nothing
        lets the user in."""
        members = self._members.get(cluster_id)
        user = self._users.get(user_id)
        if members is None or user is None:
            return -inf
        facts = [members.groups[group_id] for group_id, _unused in user.groups if group_id in members.groups]
        if user.id in members.users:
            facts.append(members.users[user.id])
        return max((members.until.get(fact, inf) for fact in facts), default=-inf)

    def members_of(self, cluster_id: str) -> Members:
        """Who may enter a cluster."""
        return self._members.get(cluster_id, Members())

    def user(self, user_id: str) -> User | None:
        """A user by id."""
        return self._users.get(user_id)

    def groups_of(self, user_id: str) -> tuple[str, ...]:
        """The ids of the groups that a user is in."""
        user = self._users.get(user_id)
        return () if user is None else tuple(group_id for group_id, _unused in user.groups)

    def entered_by(self, user_id: str, group_ids: Iterable[str]) -> set[str]:
        """The ids of the clusters that this user, or one of these groups, is a member of."""
        groups = set(group_ids)
        return {
            cluster_id
            for cluster_id, members in self._members.items()
            if user_id in members.users or not groups.isdisjoint(members.groups)
        }

    def cluster(self, ref: str) -> ClusterView | None:
        """A cluster by id or by name."""
        cluster = self._clusters.get(ref) or self._clusters.get(self._ids.get(ref, ""))
        if cluster is None:
            return None
        view = self._views.get(cluster.id)
        if view is None:
            view = self._views[cluster.id] = _view(cluster)
        return view

    def clusters(self) -> list[ClusterView]:
        """All clusters in the order of their names."""
        return [_view(self._clusters[self._ids[name]]) for name in sorted(self._ids)]

    def agent_key(self, cluster_id: str) -> bytes | None:
        """The raw Ed25519 public key of the cluster's agent; None if the cluster is unknown or not registered."""
        cluster = self._clusters.get(cluster_id)
        return None if cluster is None else cluster.public_key

    def note_used(self, token_id: str, now: float) -> None:
        """Remember that a token was used; written to the store in batches."""
        if token_id in self._tokens:
            self._used[token_id] = max(now, self._used.get(token_id, now))

    def take_used(self) -> dict[str, float]:
        """The tokens used since the last call, with the time of their last use."""
        used, self._used = self._used, {}
        return used

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Have the callback called for each change, in order; returns what ends the subscription."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    # --- fed by the store -------------------------------------------------------------------------------------------

    def load(self, snapshot: Snapshot) -> None:
        """Start from what the store holds. Call it before anybody subscribes or asks."""
        self._entries.clear()
        self._clusters = {cluster.id: _plain(cluster) for cluster in snapshot.clusters}
        self._views.clear()
        self._ids = {cluster.name: cluster.id for cluster in snapshot.clusters}
        self._users = {user.id: user for user in snapshot.users}
        self._members = dict(snapshot.members)
        self._ends.clear()
        for cluster_id in self._members:
            self._note_end(cluster_id)
        self._tokens.clear()
        self._tokens_of.clear()
        self._identities.clear()
        for token in snapshot.tokens:
            if token.audience == self._audience:
                self._put_token(token)

    def snapshot(self) -> Snapshot:
        """All that it holds, for another index to start from."""
        return Snapshot(
            clusters=list(self._clusters.values()),
            users=list(self._users.values()),
            tokens=list(self._tokens.values()),
            members=dict(self._members),
        )

    def replace(self, snapshot: Snapshot) -> None:
        """Take over a snapshot after some changes were missed, and tell the subscribers what is different."""
        clusters: dict[str, Cluster | None] = dict.fromkeys(self._clusters)
        clusters.update((cluster.id, cluster) for cluster in snapshot.clusters)
        users: dict[str, User | None] = dict.fromkeys(self._users)
        users.update((user.id, user) for user in snapshot.users)
        tokens: dict[str, Token | None] = dict.fromkeys(self._tokens)
        tokens.update((token.id, token) for token in snapshot.tokens)
        members = {cluster_id: snapshot.members.get(cluster_id, Members()) for cluster_id in clusters}
        self.apply(Delta(clusters=clusters, users=users, tokens=tokens, members=members))

    def apply(self, delta: Delta) -> None:
        """Take over what a transaction changed, then tell the subscribers."""
        delta = held(delta, self._audience)
        self._entries.clear()  # nobody asks before all is taken over: one event loop uses it
        changes: list[Change] = []
        self._apply_tokens(delta.tokens, changes)
        self._apply_users(delta.users, changes)
        self._apply_clusters(delta.clusters, changes)
        for cluster_id, members in delta.members.items():
            if cluster_id in self._clusters and members != self._members.get(cluster_id):
                self._members[cluster_id] = members
                self._note_end(cluster_id)
                changes.append(MembershipChanged(cluster_id))
        self._tell(changes)

    def lapse(self, now: float) -> None:
        """Tell the subscribers of clusters that some may not enter any more, since a binding has ended.

        To be called every second or so. Nothing is decided here: who asks is refused from the second of the end on.
        """
        ended = [cluster_id for cluster_id, end in self._ends.items() if end <= now]
        for cluster_id in ended:
            self._note_end(cluster_id, now)
        self._tell([MembershipChanged(cluster_id) for cluster_id in ended])

    def drop_expired(self, now: float) -> None:
        """Forget tokens whose time is over, so that the index does not grow with them."""
        for token in [t for t in self._tokens.values() if t.expires_at is not None and t.expires_at <= now]:
            self._drop_token(token.id)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for subscriber in tuple(self._subscribers):
                try:
                    subscriber(change)
                except Exception:  # one subscriber's fault must not keep a revocation from the others
                    self._log.exception("a subscriber failed", change=repr(change))

    def _note_end(self, cluster_id: str, now: float = -inf) -> None:
        """Keep when the next fact ends after the time `now`."""
        end = min((end for end in self._members[cluster_id].until.values() if end > now), default=None)
        if end is None:
            self._ends.pop(cluster_id, None)
        else:
            self._ends[cluster_id] = end

    def _check(self, token: Token, now: float) -> None:
        user = self._users.get(token.user_id)
        if token.revoked_at is not None:
            raise Unauthenticated("revoked", "the token was revoked")
        if token.expires_at is not None and token.expires_at <= now:
            raise Unauthenticated("expired", "the token has expired")
        if user is None or not user.enabled:
            raise Unauthenticated("user", "the user of this token is disabled or gone")

    def _prove(self, token: Token, now: float) -> Identity:
        """What the token proves. Raises Unauthenticated."""
        self._check(token, now)
        identity = self._identities.get(token.id)
        if identity is None:
            user = self._users[token.user_id]
            groups = tuple(name for _unused, name in user.groups)
            identity = Identity(
                user_id=user.id,
                user=user.name,
                uid=user.uid,
                groups=groups,
                token_id=token.id,
                token_cluster=token.cluster_id,
                expires_at=token.expires_at,
                admin=ADMIN_GROUP in groups,
            )
            self._identities[token.id] = identity
        return identity

    def _put_token(self, token: Token) -> None:
        self._tokens[token.id] = token
        self._tokens_of.setdefault(token.user_id, set()).add(token.id)
        self._identities.pop(token.id, None)

    def _drop_token(self, token_id: str) -> None:
        token = self._tokens.pop(token_id, None)
        self._identities.pop(token_id, None)
        self._used.pop(token_id, None)
        if token is not None:
            owned = self._tokens_of.get(token.user_id, set())
            owned.discard(token_id)
            if not owned:
                self._tokens_of.pop(token.user_id, None)

    def _apply_tokens(self, changed: Mapping[str, Token | None], changes: list[Change]) -> None:
        for token_id, token in changed.items():
            if token is not None and token.revoked_at is None:
                self._put_token(token)
            elif token_id in self._tokens:
                self._drop_token(token_id)
                changes.append(TokenRevoked(token_id))

    def _apply_users(self, changed: Mapping[str, User | None], changes: list[Change]) -> None:
        for user_id, user in changed.items():
            before = self._users.get(user_id)
            if user is None:
                self._users.pop(user_id, None)
                for token_id in sorted(self._tokens_of.get(user_id, ())):
                    self._drop_token(token_id)
                    changes.append(TokenRevoked(token_id))
            else:
                self._users[user_id] = user
                for token_id in self._tokens_of.get(user_id, ()):
                    self._identities.pop(token_id, None)
            if before is not None and (
                user is None
                or (before.name, before.enabled, before.groups, before.uid)
                != (user.name, user.enabled, user.groups, user.uid)
            ):
                changes.append(UserChanged(user_id))

    def _apply_clusters(self, changed: Mapping[str, Cluster | None], changes: list[Change]) -> None:
        for cluster_id, cluster in changed.items():
            before = self._clusters.get(cluster_id)
            if before is not None:
                self._ids.pop(before.name, None)
            if cluster is not None:
                self._clusters[cluster_id] = cluster
                self._views.pop(cluster_id, None)
                self._ids[cluster.name] = cluster_id
                if before is not None and before.public_key is not None and before.public_key != cluster.public_key:
                    changes.append(AgentKeyChanged(cluster_id))
            elif before is not None:
                del self._clusters[cluster_id]
                self._views.pop(cluster_id, None)
                self._members.pop(cluster_id, None)
                self._ends.pop(cluster_id, None)
                for token in [t for t in self._tokens.values() if t.cluster_id == cluster_id]:
                    self._drop_token(token.id)
                    changes.append(TokenRevoked(token.id))
                changes.append(ClusterRemoved(cluster_id))


def _of(audience: Audience, token_id: str, token: Token | None) -> bool:
    """Whether it is a token for this audience. Of one that is gone the id tells."""
    if token is None:
        return audience == "endpoint" or not is_id(token_id, ENDPOINT_ID)
    return token.audience == audience


def _plain(cluster: Cluster) -> Cluster:
    # Without conditions, versions and what its nodes do: each process holds each cluster, and that was most of it.
    return Cluster(
        id=cluster.id,
        name=cluster.name,
        labels=cluster.labels,
        created_at=cluster.created_at,
        updated_at=cluster.updated_at,
        version=cluster.version,
        state=cluster.state,
        state_reason=cluster.state_reason,
        last_seen_at=cluster.last_seen_at,
        connected_at=cluster.connected_at,
        cluster_uid=cluster.cluster_uid,
        public_key=cluster.public_key,
    )


def _view(cluster: Cluster) -> ClusterView:
    return ClusterView(
        id=cluster.id,
        name=cluster.name,
        state=cluster.state,
        last_seen_at=cluster.last_seen_at,
        lost_reason=cluster.state_reason if cluster.state == "disconnected" else "",
        refused_reason=cluster.state_reason if cluster.state == "refused" else "",
        ever_connected=cluster.connected_at is not None,
    )
