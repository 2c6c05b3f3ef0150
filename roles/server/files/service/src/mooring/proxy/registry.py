# SPDX-License-Identifier: Apache-2.0
"""The exchanges that are open now, by token, user and cluster.

    place                a token in a cluster: the exchanges that are open there by it
    group                places of one token, of one user, of one cluster, of one user in one cluster

Why: a watch or an exec that began with a right must end when the right does. The registry hears of every change from
the index and looks again at the exchanges that it touches; time (expiry of tokens and bindings, late answers) it checks
in a sweep that the edge calls at least once a second. A place stays for the time between two sweeps when its last
exchange has ended, since the next one is often there before.

It must not: decide by itself who may (the index and `policy.decide` do), or keep an exchange that has ended.
"""

from __future__ import annotations

from typing import Protocol

from mooring.authn.identity import Identity
from mooring.authn.index import (
    AgentKeyChanged,
    Change,
    ClusterRemoved,
    Index,
    MembershipChanged,
    TokenRevoked,
    Unauthenticated,
    UserChanged,
)
from mooring.lib import metrics
from mooring.lib.clock import Clock
from mooring.policy.decide import decide


class Group:
    """Places that have something in common, and how many exchanges are open in them."""

    __slots__ = ("open", "places")

    def __init__(self) -> None:
        self.open = 0
        self.places: set[Place] = set()

    def exchanges(self) -> list[Open]:
        """What is open in its places."""
        return [exchange for place in self.places for exchange in place.exchanges]


class Place:
    """A token in a cluster. A token has one user for all its life."""

    __slots__ = ("both", "cluster", "cluster_id", "exchanges", "token", "token_id", "user", "user_id")

    def __init__(self, identity: Identity, cluster_id: str, groups: tuple[Group, Group, Group, Group]) -> None:
        self.token_id = identity.token_id
        self.user_id = identity.user_id
        self.cluster_id = cluster_id
        self.exchanges: set[Open] = set()
        self.token, self.user, self.cluster, self.both = groups
        for group in groups:
            group.places.add(self)


class Open(Protocol):
    """An open exchange."""

    identity: Identity
    cluster_id: str

    place: Place
    """Of the identity's token in the cluster."""

    raw: bool
    """Whether it is an upgraded connection (exec, attach, port-forward)."""

    @property
    def endless(self) -> bool:
        """Whether it may go on for ever: a watch, a followed log, an upgraded connection."""

    def cut(self, cause: str, message: str) -> None:
        """End it now; `cause` is a short word for metrics and audit, `message` a sentence for the client."""

    def late(self) -> None:
        """The cluster has not answered in time."""


class Registry:
    """Keeps the open exchanges and ends them. `subscribe` it to the index with `on_change`."""

    def __init__(self, index: Index, clock: Clock) -> None:
        self._index = index
        self._clock = clock
        self._places: dict[tuple[str, str], Place] = {}  # token and cluster id
        self._by_token: dict[str, Group] = {}
        self._by_user: dict[str, Group] = {}
        self._by_cluster: dict[str, Group] = {}
        self._by_both: dict[tuple[str, str], Group] = {}
        # In the order in which they were added; all have the same time to answer, so the first is due first.
        self._waiting: dict[Open, float] = {}
        self._size = 0
        metrics.PROXY_OPEN.set_function(lambda: self._size)
        metrics.PROXY_ENDLESS.set_function(self._endless)

    def __len__(self) -> int:
        return self._size

    def of_cluster(self, cluster_id: str) -> int:
        """How many are open to the cluster."""
        group = self._by_cluster.get(cluster_id)
        return 0 if group is None else group.open

    def of_user(self, user_id: str) -> int:
        """How many the user has open."""
        group = self._by_user.get(user_id)
        return 0 if group is None else group.open

    def place(self, identity: Identity, cluster_id: str) -> Place:
        """Where an exchange of this identity with the cluster belongs; to be used at once, or asked for again."""
        place = self._places.get((identity.token_id, cluster_id))
        if place is None:
            user_id = identity.user_id
            groups = (
                self._by_token.setdefault(identity.token_id, Group()),
                self._by_user.setdefault(user_id, Group()),
                self._by_cluster.setdefault(cluster_id, Group()),
                self._by_both.setdefault((user_id, cluster_id), Group()),
            )
            place = self._places[identity.token_id, cluster_id] = Place(identity, cluster_id, groups)
        return place

    def add(self, exchange: Open) -> None:
        """An exchange begins."""
        place = exchange.place
        place.exchanges.add(exchange)
        place.user.open += 1
        place.cluster.open += 1
        place.both.open += 1
        self._size += 1

    def asked(self, exchange: Open, answer_by: float) -> None:
        """The whole request is on its way; its answer is due by then, in the clock's monotonic seconds.

        The time from here to `answer_by` must be the same for all.
        """
        self._waiting[exchange] = answer_by

    def answered(self, exchange: Open) -> None:
        """The head of the response has come."""
        self._waiting.pop(exchange, None)

    def remove(self, exchange: Open) -> None:
        """The exchange is over."""
        self._waiting.pop(exchange, None)
        place = exchange.place
        if exchange in place.exchanges:
            place.exchanges.discard(exchange)
            place.user.open -= 1
            place.cluster.open -= 1
            place.both.open -= 1
            self._size -= 1

    def on_change(self, change: Change) -> None:
        """Look again at what the change touches."""
        match change:
            case TokenRevoked(token_id):
                touched = self._by_token.get(token_id)
            case UserChanged(user_id):
                touched = self._by_user.get(user_id)
            case MembershipChanged(cluster_id) | ClusterRemoved(cluster_id):
                touched = self._by_cluster.get(cluster_id)
            case AgentKeyChanged():
                return  # ends sessions of the tunnel, and with them their streams
        if touched is not None:
            self._look_again(touched.exchanges())

    def sweep(self) -> None:
        """Cut what has run out of time."""
        now = self._clock.now()
        self._index.lapse(now)  # which calls `on_change`
        expired: list[Open] = []
        for place in list(self._places.values()):
            if not place.exchanges:
                self._forget(place)
                continue
            expires_at = next(iter(place.exchanges)).identity.expires_at
            if expires_at is not None and expires_at <= now:
                expired += place.exchanges
        self._look_again(expired)
        monotonic = self._clock.monotonic()
        while self._waiting:
            exchange, answer_by = next(iter(self._waiting.items()))
            if answer_by > monotonic:
                break
            del self._waiting[exchange]
            exchange.late()

    def recheck(self) -> None:
        """Look again at everything that is open."""
        self._look_again(self._all())

    def cut_endless(self, cause: str, message: str, *, spare_raw: bool = False) -> None:
        """End what would not end by itself: the server stops, and waits for the rest.

        `spare_raw`: not upgraded connections, which nobody can take up again elsewhere as a watch can be.
        """
        for exchange in self._all():
            if exchange.endless and not (spare_raw and exchange.raw):
                exchange.cut(cause, message)

    def cut_all(self, cause: str, message: str) -> None:
        """End everything: the server stops."""
        for exchange in self._all():
            exchange.cut(cause, message)

    def _all(self) -> list[Open]:
        return [exchange for place in self._places.values() for exchange in place.exchanges]

    def _endless(self) -> int:
        return sum(exchange.endless for exchange in self._all())

    def _forget(self, place: Place) -> None:
        """Nothing is open there."""
        del self._places[place.token_id, place.cluster_id]
        for group in (place.token, place.user, place.cluster, place.both):
            group.places.discard(place)
        if not place.token.places:
            del self._by_token[place.token_id]
        if not place.user.places:
            del self._by_user[place.user_id]
        if not place.cluster.places:
            del self._by_cluster[place.cluster_id]
        if not place.both.places:
            del self._by_both[place.user_id, place.cluster_id]

    def _look_again(self, exchanges: list[Open]) -> None:
        for exchange in exchanges:
            taken = self._taken_away(exchange)
            if taken is not None:
                metrics.PROXY_CUT.labels(taken[0]).inc()
                exchange.cut(*taken)

    def _taken_away(self, exchange: Open) -> tuple[str, str] | None:
        """The right that is gone, as cause and message; None if all are still there."""
        before = exchange.identity
        now = self._clock.now()
        try:
            identity = self._index.still_valid(before.token_id, now)
        except Unauthenticated as error:
            return "token", error.reason
        if (identity.user_id, identity.user, identity.uid) != (before.user_id, before.user, before.uid):
            return "user", "the user has changed"
        # The groups that went along with the request give rights in the cluster; one that is lost takes them away.
        if not set(before.groups) <= set(identity.groups):
            return "group", "the user is no longer in all groups that this request was made with"
        if self._index.cluster(exchange.cluster_id) is None:
            return "cluster", "the cluster was removed"
        member = self._index.may_enter(identity, exchange.cluster_id, now)
        decision = decide(identity, exchange.cluster_id, member)
        return None if decision.allowed else ("membership", decision.reason)
