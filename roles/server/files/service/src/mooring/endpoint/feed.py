# SPDX-License-Identifier: Apache-2.0
"""Keeps the index of the chain as the local copy is: the same index, and the same changes told, as on the server.

    webhook.copy -> settings, shard, link -> Delta -> authn.index.Index -> registry: what is open is looked at again

A user who is in a shard may enter the cluster, until the time that stands there. While the agent has no session to the
server, tokens are good for the grace of the settings beyond their end.

It must not: let in who is in no shard, or decide anything that the index decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from mooring.authn.index import ClusterView, Index
from mooring.store.records import Cluster, Delta, Members, Snapshot, Token, User
from mooring.wire import endpoint
from mooring.wire.endpoint import Settings

_LONG_AGO: Final = 0.0


class Feed:
    """A `webhook.copy.Sink` that fills `index`."""

    def __init__(self, cluster_id: str, cluster_name: str, *, recheck: Callable[[], None] = lambda: None) -> None:
        """`recheck`: look again at everything that is open, since tokens may have ended."""
        self.index = Index("endpoint")
        self.recheck = recheck
        self.prefix = ""
        """What goes before names of users and groups; empty while nothing is known."""
        self.on_prefix: Callable[[str], None] = lambda prefix: None
        self._cluster_id = cluster_id
        self._cluster_name = cluster_name
        self._users: dict[str, endpoint.User] = {}
        self._shards: dict[int, tuple[str, ...]] = {}  # number -> ids of its users
        self._grace = 0
        self._connected = True
        cluster = Cluster(
            id=cluster_id, name=cluster_name, created_at=_LONG_AGO, updated_at=_LONG_AGO, state="connected"
        )
        self.index.load(Snapshot(clusters=[cluster], users=[], tokens=[], members={}))

    @property
    def cluster(self) -> ClusterView:
        """The one cluster."""
        view = self.index.cluster(self._cluster_id)
        assert view is not None
        return view

    # --- webhook.copy.Sink -------------------------------------------------------------------------------------------

    def settings(self, settings: Settings) -> None:
        before, self._grace = self._extra(), settings.grace
        if settings.prefix != self.prefix:
            self.prefix = settings.prefix
            self.on_prefix(settings.prefix)
        if self._extra() != before:
            self._again()

    def shard(self, number: int, users: Sequence[endpoint.User]) -> None:
        # One shard does not speak for a user of another.
        now = {user.id: user for user in users if endpoint.shard_of(user.id) == number}
        before = {user_id: self._users[user_id] for user_id in self._shards.get(number, ())}
        changed: dict[str, User | None] = {user_id: None for user_id in before if user_id not in now}
        tokens: dict[str, Token | None] = {}
        for user_id in changed:
            tokens.update((token.id, None) for token in before[user_id].tokens)
        for user_id, user in now.items():
            old = before.get(user_id)
            if user == old:
                continue
            changed[user_id] = _user(user)
            kept = {token.id for token in user.tokens}
            tokens.update((token.id, None) for token in (old.tokens if old is not None else ()) if token.id not in kept)
            tokens.update((token.id, self._token(user, token)) for token in user.tokens)
        for user_id in before:
            del self._users[user_id]
        self._users |= now
        self._shards[number] = tuple(now)
        self.index.apply(Delta(users=changed, tokens=tokens, members={self._cluster_id: self._members()}))

    def link(self, connected: bool | None) -> None:
        """Only who knows that there is no session grants the grace."""
        before, self._connected = self._extra(), connected is not False
        if self._extra() != before:
            self._again()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _extra(self) -> int:
        return 0 if self._connected else self._grace

    def _again(self) -> None:
        """Tokens end at another time than a moment ago."""
        tokens = {token.id: self._token(user, token) for user in self._users.values() for token in user.tokens}
        self.index.apply(Delta(tokens=tokens))
        self.recheck()

    def _token(self, user: endpoint.User, token: endpoint.Token) -> Token:
        return Token(
            id=token.id,
            hash=token.hash,
            user_id=user.id,
            user_name=user.name,
            cluster_id=self._cluster_id,
            cluster_name=self._cluster_name,
            created_at=_LONG_AGO,
            expires_at=token.expires_at + self._extra(),
            audience="endpoint",
        )

    def _members(self) -> Members:
        return Members(
            users={user_id: user_id for user_id in self._users},
            until={user.id: user.until for user in self._users.values() if user.until is not None},
        )


def _user(user: endpoint.User) -> User:
    return User(
        id=user.id,
        name=user.name,
        uid=user.uid,
        enabled=user.enabled,
        groups=tuple((name, name) for name in user.groups),
        created_at=_LONG_AGO,
        updated_at=_LONG_AGO,
    )
