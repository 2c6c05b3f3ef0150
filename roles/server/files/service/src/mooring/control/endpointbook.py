# SPDX-License-Identifier: Apache-2.0
"""The tokens for the endpoints of clusters, by cluster, shard and user; and which shards a change may concern. Pure.

    put, drop, forget_user, forget_cluster    keep it as the store is; each says which shards it concerns
    holders                                   of one shard: who has tokens and may enter, as things are now

The proxy asks three things: is the token in force, is its user there and enabled, may they enter the cluster. `holders`
answers the same of the same facts (`authn.index`), so that a token opens the endpoint when it would open the proxy.

It must not: hold a token of another audience or without an end, or let a cluster see another one's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from mooring.store.records import Members, Token, User
from mooring.wire import endpoint
from mooring.wire.endpoint import SHARDS, shard_of

MANY: Final = 10_000
"""Users that are looked at one by one within a commit, at most."""
Place = tuple[str, int]
"""A shard: the id of its cluster and its number."""


class Facts(Protocol):
    """What is asked of `authn.index.Index`."""

    def user(self, user_id: str) -> User | None: ...

    def enters_until(self, user_id: str, cluster_id: str) -> float: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """A user with tokens. `until`: when their right to enter ends (Unix seconds), infinity without an end."""

    user: User
    until: float
    tokens: tuple[endpoint.Token, ...]


@dataclass(frozen=True, slots=True)
class Holders:
    """All of one shard, at one time. `next_end`: the first time at which one of them, or of their tokens, is to go."""

    holders: list[Holder]
    next_end: float


class TokenBook:
    """One event loop uses it; nothing in it waits."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[str, str]] = {}  # token id -> ids of cluster and user
        self._clusters: dict[str, list[dict[str, dict[str, endpoint.Token]]]] = {}  # by shard, user id and token id
        self._of_user: dict[str, set[str]] = {}  # user id -> ids of the clusters that they have tokens for

    def __len__(self) -> int:
        return len(self._places)

    def put(self, token: Token) -> set[Place]:
        """A token as the store has it now; one that is revoked goes."""
        if token.audience != "endpoint" or token.cluster_id is None or token.expires_at is None:
            return set()
        if token.revoked_at is not None:
            return self.drop(token.id)
        number = shard_of(token.user_id)
        shards = self._clusters.setdefault(token.cluster_id, [{} for _unused in range(SHARDS)])
        shards[number].setdefault(token.user_id, {})[token.id] = endpoint.Token(token.id, token.hash, token.expires_at)
        self._places[token.id] = (token.cluster_id, token.user_id)
        self._of_user.setdefault(token.user_id, set()).add(token.cluster_id)
        return {(token.cluster_id, number)}

    def drop(self, token_id: str) -> set[Place]:
        """The token is gone: revoked or deleted."""
        place = self._places.pop(token_id, None)
        if place is None:
            return set()
        cluster_id, user_id = place
        number = shard_of(user_id)
        users = self._clusters[cluster_id][number]
        users[user_id].pop(token_id, None)
        if not users[user_id]:
            del users[user_id]
            self._leave(user_id, cluster_id)
        return {(cluster_id, number)}

    def forget_user(self, user_id: str) -> set[Place]:
        """The user was deleted."""
        number = shard_of(user_id)
        places = set()
        for cluster_id in self._of_user.pop(user_id, set()):
            for token_id in self._clusters[cluster_id][number].pop(user_id, {}):
                self._places.pop(token_id, None)
            places.add((cluster_id, number))
        return places

    def forget_cluster(self, cluster_id: str) -> None:
        """The cluster was deleted."""
        for users in self._clusters.pop(cluster_id, []):
            for user_id, tokens in users.items():
                self._leave(user_id, cluster_id)
                for token_id in tokens:
                    self._places.pop(token_id, None)

    def shard(self, token_id: str) -> int | None:
        """The number of the shard that the token belongs to; None: there is no such token."""
        place = self._places.get(token_id)
        return None if place is None else shard_of(place[1])

    def of_user(self, user_id: str) -> set[Place]:
        """Where the user has tokens."""
        number = shard_of(user_id)
        return {(cluster_id, number) for cluster_id in self._of_user.get(user_id, ())}

    def numbers(self, cluster_id: str) -> set[int]:
        """The shards of a cluster in which there are tokens."""
        return {number for number, users in enumerate(self._clusters.get(cluster_id, ())) if users}

    def moved(self, before: Members, after: Members, facts: Facts) -> set[str] | None:
        """The ids of users with tokens for whom it may matter that others may enter a cluster now than before; None:
        whoever it is, since looking would take too long. It costs no more for many clusters that all changed alike."""
        users, groups = _moved(before, after)
        if len(users) > MANY or (groups and len(self._of_user) > MANY):
            return None
        found = {user_id for user_id in users if user_id in self._of_user}
        if groups:
            found.update(user_id for user_id in self._of_user if _in_any(facts.user(user_id), groups))
        return found

    def user_ids(self, cluster_id: str, number: int) -> list[str]:
        """Who has tokens that belong into a shard, in the order of their ids."""
        shards = self._clusters.get(cluster_id)
        return sorted(shards[number]) if shards else []

    def holders(self, cluster_id: str, user_ids: Iterable[str], facts: Facts, now: float, grace: float) -> Holders:
        """Who of these users of one shard is in it at the time `now` (Unix seconds). A token stays for `grace` seconds
        after its end; what ended before that is forgotten. Who is disabled stays, to be told so."""
        found: list[Holder] = []
        next_end = inf
        for user_id in user_ids:
            shards = self._clusters.get(cluster_id)
            held = shards[shard_of(user_id)].get(user_id, {}) if shards else {}
            for token in [token for token in held.values() if token.expires_at + grace <= now]:
                self.drop(token.id)  # from `held`
            if not held:
                continue
            next_end = min(next_end, min(token.expires_at for token in held.values()) + grace)
            user, until = facts.user(user_id), facts.enters_until(user_id, cluster_id)
            if user is None or until <= now:
                continue
            next_end = min(next_end, until)
            found.append(Holder(user, until, tuple(held[token_id] for token_id in sorted(held))))
        return Holders(found, next_end)

    def _leave(self, user_id: str, cluster_id: str) -> None:
        clusters = self._of_user.get(user_id)
        if clusters is not None:
            clusters.discard(cluster_id)
            if not clusters:
                del self._of_user[user_id]


def _moved(before: Members, after: Members) -> tuple[set[str], set[str]]:
    """The ids of users and groups who are let in by another fact than before, or until another time."""
    facts = {fact for fact, _unused in before.until.items() ^ after.until.items()}
    return _subjects(before.users, after.users, facts), _subjects(before.groups, after.groups, facts)


def _subjects(before: Mapping[str, str], after: Mapping[str, str], facts: set[str]) -> set[str]:
    found = {subject for subject, _unused in before.items() ^ after.items()}
    if facts:
        found.update(_of_facts(before.items(), facts))
        found.update(_of_facts(after.items(), facts))
    return found


def _of_facts(items: Iterable[tuple[str, str]], facts: set[str]) -> Iterator[str]:
    return (subject for subject, fact in items if fact in facts)


def _in_any(user: User | None, groups: set[str]) -> bool:
    return user is not None and any(group_id in groups for group_id, _unused in user.groups)
