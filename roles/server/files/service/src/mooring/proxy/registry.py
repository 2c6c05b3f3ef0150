# SPDX-License-Identifier: Apache-2.0
"""The exchanges that are open now, by token, user and cluster.

Why: a watch or an exec that began with a right must end when the right does. The registry hears of every change from
the index and looks again at the exchanges that it touches; time (expiry of tokens and bindings, late answers) it checks
in a sweep that the edge calls at least once a second.

It must not: decide by itself who may (the index and `policy.decide` do), or keep an exchange that has ended.
"""

from __future__ import annotations

from collections import Counter
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


class Open(Protocol):
    """An open exchange."""

    identity: Identity
    cluster_id: str

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
        self._by_token: dict[str, set[Open]] = {}
        self._by_user: dict[str, set[Open]] = {}
        self._by_cluster: dict[str, set[Open]] = {}
        self._by_both: Counter[tuple[str, str]] = Counter()
        # In the order in which they were added; all have the same time to answer, so the first is due first.
        self._waiting: dict[Open, float] = {}
        self._size = 0
        metrics.PROXY_OPEN.set_function(lambda: self._size)
        metrics.PROXY_ENDLESS.set_function(self._endless)

    def __len__(self) -> int:
        return self._size

    def of_cluster(self, cluster_id: str) -> int:
        """How many are open to the cluster."""
        return len(self._by_cluster.get(cluster_id, ()))

    def of_user(self, user_id: str) -> int:
        """How many the user has open."""
        return len(self._by_user.get(user_id, ()))

    def of_user_in(self, user_id: str, cluster_id: str) -> int:
        """How many the user has open to the cluster."""
        return self._by_both[user_id, cluster_id]

    def add(self, exchange: Open) -> None:
        """An exchange begins."""
        identity = exchange.identity
        self._by_token.setdefault(identity.token_id, set()).add(exchange)
        self._by_user.setdefault(identity.user_id, set()).add(exchange)
        self._by_cluster.setdefault(exchange.cluster_id, set()).add(exchange)
        self._by_both[identity.user_id, exchange.cluster_id] += 1
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
        identity = exchange.identity
        self._waiting.pop(exchange, None)
        _discard(self._by_token, identity.token_id, exchange)
        _discard(self._by_user, identity.user_id, exchange)
        if _discard(self._by_cluster, exchange.cluster_id, exchange):
            self._size -= 1
            both = (identity.user_id, exchange.cluster_id)
            self._by_both[both] -= 1
            if not self._by_both[both]:
                del self._by_both[both]

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
        self._look_again(touched)

    def sweep(self) -> None:
        """Cut what has run out of time."""
        now = self._clock.now()
        self._index.lapse(now)  # which calls `on_change`
        expired: set[Open] = set()
        for exchanges in self._by_token.values():
            expires_at = next(iter(exchanges)).identity.expires_at
            if expires_at is not None and expires_at <= now:
                expired |= exchanges
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
        self._look_again({exchange for exchanges in self._by_token.values() for exchange in exchanges})

    def cut_endless(self, cause: str, message: str, *, spare_raw: bool = False) -> None:
        """End what would not end by itself: the server stops, and waits for the rest.

        `spare_raw`: not upgraded connections, which nobody can take up again elsewhere as a watch can be.
        """
        for exchanges in list(self._by_cluster.values()):
            for exchange in list(exchanges):
                if exchange.endless and not (spare_raw and exchange.raw):
                    exchange.cut(cause, message)

    def cut_all(self, cause: str, message: str) -> None:
        """End everything: the server stops."""
        for exchanges in list(self._by_cluster.values()):
            for exchange in list(exchanges):
                exchange.cut(cause, message)

    def _endless(self) -> int:
        return sum(exchange.endless for exchanges in self._by_cluster.values() for exchange in exchanges)

    def _look_again(self, exchanges: set[Open] | None) -> None:
        for exchange in list(exchanges or ()):
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
        member = bool(self._index.may_enter_facts(identity, exchange.cluster_id, now))
        decision = decide(identity, exchange.cluster_id, member)
        return None if decision.allowed else ("membership", decision.reason)


def _discard(table: dict[str, set[Open]], key: str, exchange: Open) -> bool:
    exchanges = table.get(key)
    if exchanges is None or exchange not in exchanges:
        return False
    exchanges.discard(exchange)
    if not exchanges:
        del table[key]
    return True
