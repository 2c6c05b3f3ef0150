# SPDX-License-Identifier: Apache-2.0
"""Which cluster is reached through which live session.

Exists so that the proxy asks one object for a way into a cluster, and everybody who shows or records connection states
hears of changes from one place. It must not know how sessions come about, and keeps nothing that outlives the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from mooring.lib import bounds, logging, metrics
from mooring.lib.clock import Clock, SystemClock
from mooring.tunnel.session import Session
from mooring.tunnel.stream import APISERVER
from mooring.wire import actas
from mooring.wire.frames import Code

MAX_SESSIONS: Final = 16  # of one cluster: more agents than that in one cluster are a mistake, or an attack

OnChange = Callable[[str, bool, str], None]
OnReady = Callable[[str, Session], None]
OnMessage = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Lost:
    """When (Unix seconds) and why a cluster was last lost."""

    at: float
    reason: str


@dataclass(slots=True, eq=False)
class _Waiter:
    callback: Callable[[Session | None], None]
    timer: asyncio.TimerHandle | None = None


class Hub:
    """The live sessions of every cluster.

    `on_change(cluster_id, connected, reason)` is called when the first usable session of a cluster came or its last
    one went; `on_ready(cluster_id, session)` for each session that becomes usable; `on_message(cluster_id, message)`
    for each control message of an agent. All are lists of callbacks that must not block; what one raises is logged, and
    the others are called all the same.
    """

    def __init__(self, clock: Clock | None = None, *, max_sessions: int = MAX_SESSIONS) -> None:
        """`max_sessions`: of one cluster."""
        self.on_change: list[OnChange] = []
        self.on_ready: list[OnReady] = []
        self.on_message: list[OnMessage] = []
        self._clock = clock or SystemClock()
        self._max_sessions = max_sessions
        self._log = logging.get("mooring.tunnel.hub")
        self._sessions: dict[str, list[Session]] = {}
        self._connected: set[str] = set()
        self._lost: dict[str, Lost] = {}
        self._counted: dict[Session, tuple[int, int]] = {}
        self._draining = False
        self._waiting: dict[str, list[_Waiter]] = {}
        self.expected: Callable[[str], bool] = lambda cluster_id: False
        """Whether a session of the cluster is to be expected soon: its agent is connected to another process."""
        # One set for all sessions: a closure for each would be a kilobyte.
        self._callbacks = (self._ready, self._message, self._going_away, self._count_bytes, self._closed)
        metrics.TUNNEL_SESSIONS.set_function(self._count_sessions)
        metrics.TUNNEL_STREAMS.set_function(self.streams)

    # -- sessions come and go -----------------------------------------------------------------------------------------

    def add(self, cluster_id: str, session: Session) -> None:
        """Take a session of an authenticated agent of this cluster, before or after its HELLO.

        It is used once HELLO came. At the bound of sessions of one cluster, a new one is closed with BUSY.
        """
        sessions = self._sessions.setdefault(cluster_id, [])
        if self._draining or len(sessions) >= self._max_sessions:
            if not sessions:
                del self._sessions[cluster_id]
            if self._draining:
                session.close(Code.SHUTDOWN, "the server is shutting down")
            else:
                bounds.met("sessions_per_cluster")
                session.close(Code.BUSY, f"the cluster has {self._max_sessions} sessions already")
            return
        sessions.append(session)
        session.owner = cluster_id
        session.on_ready, session.on_message, session.on_going_away, session.on_tick, session.on_close = self._callbacks
        if session.closed:
            self._closed(session, session.close_code or Code.NO_ERROR, session.close_reason)
        elif session.peer is not None:
            self._ready(session)

    def remove(self, cluster_id: str, reason: str) -> None:
        """End every session of a cluster that was deleted, or whose agent got another key, and forget the cluster."""
        for session in list(self._sessions.get(cluster_id, ())):
            session.close(Code.CREDENTIAL, reason)
        self._lost.pop(cluster_id, None)

    def doubt(self, cluster_id: str) -> None:
        """A session with the cluster's agent was lost, here or in another process: are the others alive?"""
        for session in list(self._sessions.get(cluster_id, ())):
            session.doubt()

    def broadcast(self, message: dict[str, Any]) -> None:
        """Send a control message to every agent."""
        for session in self._all():
            session.message(message)

    def tell(self, cluster_id: str, message: dict[str, Any]) -> None:
        """Send a control message to each agent of a cluster, once: on its newest usable session."""
        for session in self._newest(cluster_id).values():
            session.message(message)

    async def close_all(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109 - the deadline is the point of this call
        """Take no new sessions; let open streams finish for at most `timeout` seconds; then close all sessions."""
        self._draining = True
        await asyncio.gather(*[session.drain(timeout) for session in self._all()])

    # -- for the proxy ------------------------------------------------------------------------------------------------

    def session_for(
        self, cluster_id: str, but_not: Session | None = None, *, target: str = APISERVER
    ) -> Session | None:
        """The usable session of a cluster with the fewest open streams, or None. `but_not`: one that just refused.

        Of several sessions with one instance of an agent, the newest counts. Only agents that serve `target` count.
        """
        sessions = self._sessions.get(cluster_id)
        if sessions is None:
            return None
        if len(sessions) == 1 and but_not is None:
            only = sessions[0]
            return only if only.usable and (target is APISERVER or _serves(only, target)) else None
        newest = self._newest(cluster_id, but_not, target=target)
        return min(newest.values(), key=lambda session: session.streams, default=None)

    def wait_for(
        self, cluster_id: str, callback: Callable[[Session | None], None], seconds: float
    ) -> Callable[[], None]:
        """Have `callback` called with the next usable session of a cluster, or with None when none came in time.

        Returns what ends the wait without a call.
        """
        waiting = self._waiting.setdefault(cluster_id, [])
        waiter = _Waiter(callback)
        waiting.append(waiter)

        def cancel() -> None:
            if waiter.timer is not None:
                waiter.timer.cancel()
            if waiter in waiting:
                waiting.remove(waiter)
            if not waiting and self._waiting.get(cluster_id) is waiting:
                del self._waiting[cluster_id]

        def late() -> None:
            cancel()
            self._call(callback, None)

        waiter.timer = asyncio.get_running_loop().call_later(seconds, late)
        return cancel

    def give_up_waiting(self, but_not: Callable[[str], bool]) -> None:
        """End the waits for clusters that are not to be expected any more."""
        for cluster_id in [each for each in self._waiting if not but_not(each)]:
            self._end_waiting(cluster_id)

    def connected(self, cluster_id: str) -> bool:
        """Whether a usable session of the cluster is there."""
        return cluster_id in self._connected

    def clusters(self) -> list[str]:
        """The ids of all connected clusters."""
        return sorted(self._connected)

    def last_lost(self, cluster_id: str) -> Lost | None:
        """When and why the cluster's last session went, since this process started; None when it never did."""
        return self._lost.get(cluster_id)

    def sessions(self, cluster_id: str) -> list[Session]:
        """The sessions of a cluster, also those that are not usable yet or any more."""
        return list(self._sessions.get(cluster_id, ()))

    def streams(self) -> int:
        """Open streams of all sessions."""
        return sum(session.streams for session in self._all())

    # -- callbacks of sessions ----------------------------------------------------------------------------------------

    def _ready(self, session: Session) -> None:
        assert session.peer is not None
        cluster_id = session.owner
        instance = session.peer.instance
        self._log.info("agent connected", cluster=cluster_id, instance=instance, version=session.peer.version)
        self._update(cluster_id, "")
        for callback in self.on_ready:
            self._call(callback, cluster_id, session)

    def _newest(
        self, cluster_id: str, but_not: Session | None = None, *, target: str = APISERVER
    ) -> dict[str, Session]:
        """The usable session of each instance of a cluster's agent. An agent that dials again while its old session
        looks alive here has lost that one: the newest counts."""
        newest: dict[str, Session] = {}
        for session in self._sessions.get(cluster_id, ()):
            if session.usable and session is not but_not and session.peer is not None and _serves(session, target):
                newest[session.peer.instance] = session
        return newest

    def _going_away(self, session: Session) -> None:
        self._update(session.owner, "the agent is shutting down")

    def _closed(self, session: Session, code: Code, reason: str) -> None:
        cluster_id = session.owner
        sessions = self._sessions.get(cluster_id)
        if sessions is None or session not in sessions:
            return
        sessions.remove(session)
        if not sessions:
            del self._sessions[cluster_id]
        self._count_bytes(session)
        self._counted.pop(session, None)
        metrics.TUNNEL_ENDED.labels(code.name).inc()
        self._log.info("agent session ended", cluster=cluster_id, code=code.name, reason=reason)
        self.doubt(cluster_id)
        self._update(cluster_id, reason or code.name)

    def _end_waiting(self, cluster_id: str) -> None:
        for waiter in self._waiting.pop(cluster_id, []):
            if waiter.timer is not None:
                waiter.timer.cancel()
            self._call(waiter.callback, self.session_for(cluster_id))

    def _update(self, cluster_id: str, reason: str) -> None:
        """Tell everybody if the cluster became connected or stopped being so."""
        now = self.session_for(cluster_id) is not None
        if now:
            self._end_waiting(cluster_id)
        if now == (cluster_id in self._connected):
            return
        if now:
            self._connected.add(cluster_id)
        else:
            self._connected.discard(cluster_id)
            self._lost[cluster_id] = Lost(self._clock.now(), reason)
        for callback in self.on_change:
            self._call(callback, cluster_id, now, reason)

    def _message(self, session: Session, message: dict[str, Any]) -> None:
        for callback in self.on_message:
            self._call(callback, session.owner, message)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as exc:
            self._log.error("a callback of the hub failed", error=repr(exc), exc_info=exc)

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _all(self) -> Iterator[Session]:
        for sessions in list(self._sessions.values()):
            yield from list(sessions)

    def _count_sessions(self) -> int:
        return sum(map(len, self._sessions.values()))

    def _count_bytes(self, session: Session) -> None:
        stats = session.stats()
        before_in, before_out = self._counted.get(session, (0, 0))
        metrics.TUNNEL_BYTES.labels("in").inc(stats.bytes_in - before_in)
        metrics.TUNNEL_BYTES.labels("out").inc(stats.bytes_out - before_out)
        self._counted[session] = (stats.bytes_in, stats.bytes_out)


def _serves(session: Session, target: str) -> bool:
    """Whether the agent at the other end knows this target."""
    return target == APISERVER or (
        target == actas.TARGET and session.peer is not None and actas.FEATURE in session.peer.features
    )
