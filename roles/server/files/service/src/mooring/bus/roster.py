# SPDX-License-Identifier: Apache-2.0
"""Control's end of the bus: which workers there are, and what all of them together are connected to.

To the cluster controller it looks like one hub: a cluster is connected while any worker has a session with its agent.
Whatever a commit changes goes to every worker before the call that made the commit is answered.

It must not: keep anything that outlives the process, or wait for a worker.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from mooring.authn.agents import AgentIdentity
from mooring.authn.index import Index, held
from mooring.authn.replays import Replays
from mooring.bus import messages, totals
from mooring.bus.channel import Channel
from mooring.bus.link import BEAT_SECONDS, printable
from mooring.bus.messages import MAX_PART, ToControl
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.store.records import Delta, Members

SAMPLE_SECONDS: Final = 2.0
"""For the workers to send their metrics; who is late is left out."""
_CREDENTIALS = struct.Struct("3i")
WORKER_LOST: Final = "the server process that held the tunnel ended"

log = logging.get("mooring.bus")
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Worker:
    channel: Channel[ToControl]
    instance: str = ""
    slot: int = -1
    pid: int = 0
    leaving: bool = False
    clusters: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Question:
    asked_by: _Worker
    id: int
    missing: set[_Worker]
    families: dict[str, list[messages.Family]]
    timer: asyncio.TimerHandle | None = None


class Roster:
    """The workers that are connected. Its `on_change`, `on_message`, `connected` and `remove` are those of a hub."""

    def __init__(self, index: Index, clock: Clock, audience: str, database: Callable[[], str]) -> None:
        self.on_change: list[Callable[[str, bool, str], None]] = []
        self.on_message: list[Callable[[str, dict[str, Any]], None]] = []
        self.on_refused: Callable[[str, str], None] = lambda cluster_id, reason: None
        self._index = index
        self._clock = clock
        self._audience = audience
        self._database = database
        self._replays = Replays()
        self._totals = totals.Totals()
        self._workers: dict[Channel[ToControl], _Worker] = {}
        self._questions: dict[int, _Question] = {}
        self._told: dict[str, dict[str, bytes]] = {}  # the messages that stand for each cluster's agents, by kind
        self._next = 0
        self._tasks = Supervisor("roster")
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Let workers in on a listening unix socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: Channel(ToControl, self._heard, self._lost, self._opened), sock=listener
        )
        self._tasks.spawn(self._beat(), "beat")

    async def aclose(self) -> None:
        """Close all channels; the workers look for another control process."""
        await self._tasks.aclose()
        if self._server is not None:
            self._server.close()
        for channel in list(self._workers):
            channel.close()

    # -- the hub of the whole server -----------------------------------------------------------------------------------

    def connected(self, cluster_id: str) -> bool:
        """Whether any worker has a session with the cluster's agent."""
        return any(cluster_id in worker.clusters for worker in self._workers.values())

    def remove(self, cluster_id: str, reason: str) -> None:
        """Nothing to do: each worker ends its sessions when its index says that the cluster or its key is gone."""

    def forget(self, cluster_id: str) -> None:
        """The cluster was deleted."""
        self._replays.forget(cluster_id)
        self._told.pop(cluster_id, None)

    def tell(self, cluster_id: str, message: dict[str, Any]) -> None:
        """Tell every agent of a cluster, now and whenever one connects, until something else of this kind is told in
        its place."""
        data = msgspec.json.encode(message)
        self._told.setdefault(cluster_id, {})[message["kind"]] = data
        for worker in self._workers.values():
            if cluster_id in worker.clusters:
                worker.channel.send(messages.Tell(cluster_id=cluster_id, message=data))

    def first_use(self, identity: AgentIdentity) -> bool:
        """Whether an agent's JWT is shown for the first time at any process of the server, this one included."""
        jti = printable(identity.jti)
        return self._replays.first_time(identity.cluster_id, jti, identity.until, self._clock.now())

    def publish(self, delta: Delta) -> None:
        """Tell every worker what a commit changed; the store calls this after the index has taken it over."""
        for message in parts(delta):
            for worker in self._joined():
                try:
                    worker.channel.send(message)
                except ValueError as error:
                    # Nobody may go on without having heard: it comes back, and takes a snapshot.
                    log.error("a change cannot be passed on; the worker starts anew", error=str(error))
                    worker.channel.abort()

    # -- workers come and go -------------------------------------------------------------------------------------------

    def _joined(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.instance]

    def _opened(self, channel: Channel[ToControl]) -> None:
        if not channel.open or not _same_user(channel):
            log.error("a process of another user tried to join; it was refused")
            channel.abort()
            return
        self._workers[channel] = _Worker(channel)

    def _join(self, worker: _Worker, message: messages.Join) -> None:
        worker.instance, worker.slot, worker.pid = message.instance, message.slot, message.pid
        channel = worker.channel
        channel.send(messages.Welcome(audience=self._audience))
        snapshot = self._index.snapshot()
        for at in range(0, len(snapshot.clusters), MAX_PART):
            channel.send(messages.SnapshotPart(clusters=snapshot.clusters[at : at + MAX_PART]))
        for at in range(0, len(snapshot.users), MAX_PART):
            channel.send(messages.SnapshotPart(users=snapshot.users[at : at + MAX_PART]))
        for at in range(0, len(snapshot.tokens), MAX_PART):
            channel.send(messages.SnapshotPart(tokens=snapshot.tokens[at : at + MAX_PART]))
        few, many = _by_size(snapshot.members)
        for some in _chunks(few):
            channel.send(messages.SnapshotPart(members=some))
        for part in _members_parts(many):
            channel.send(part)
        channel.send(messages.SnapshotEnd())
        channel.send(messages.Beat(database=self._database()))
        for cluster_id, jti, until in message.seen:
            self._replays.first_time(cluster_id, jti, until, self._clock.now())
        for cluster_id, status in message.connected.items():
            self._up(worker, cluster_id)
            if status:
                self._say(cluster_id, status)
        for cluster_id, status in (*message.policies.items(), *message.endpoints.items()):
            self._say(cluster_id, status)
        reachable = set().union(*(other.clusters for other in self._workers.values()))
        channel.send(messages.Reachable(cluster_ids=sorted(reachable)))
        self._tell_instances()
        log.info("worker joined", instance=worker.instance, pid=worker.pid)

    def _lost(self, channel: Channel[ToControl]) -> None:
        worker = self._workers.pop(channel, None)
        if worker is None or not worker.instance:
            return
        log.info("worker left", instance=worker.instance, pid=worker.pid)
        self._totals.ended(worker.instance)
        for cluster_id in worker.clusters:
            if not self.connected(cluster_id):
                self._reach(cluster_id, False, WORKER_LOST)
        for question in list(self._questions.values()):
            question.missing.discard(worker)
            self._answer_if_complete(question)
        self._tell_instances()

    def _tell_instances(self) -> None:
        live = [worker for worker in self._joined() if not worker.leaving]
        message = messages.Instances(names=[w.instance for w in sorted(live, key=lambda w: w.slot)])
        for worker in self._joined():
            worker.channel.send(message)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            message = messages.Beat(database=self._database())
            for worker in self._joined():
                worker.channel.send(message)

    # -- what workers say ----------------------------------------------------------------------------------------------

    def _heard(self, channel: Channel[ToControl], message: ToControl) -> None:
        worker = self._workers.get(channel)
        if worker is None:
            return
        if isinstance(message, messages.Join):
            self._join(worker, message)
            return
        if not worker.instance:
            channel.abort()
            return
        match message:
            case messages.AgentUp(cluster_id=cluster_id):
                self._up(worker, cluster_id)
            case messages.AgentDown(cluster_id=cluster_id, reason=reason):
                worker.clusters.discard(cluster_id)
                if not self.connected(cluster_id):
                    self._reach(cluster_id, False, reason)
                else:
                    self._doubt(cluster_id)
            case messages.AgentSaid(cluster_id=cluster_id, message=said):
                self._say(cluster_id, said)
            case messages.AgentRefused(cluster_id=cluster_id, reason=reason):
                self.on_refused(cluster_id, reason)
            case messages.Claim(id=number, cluster_id=cluster_id, jti=jti, until=until):
                first = self._replays.first_time(cluster_id, jti, until, self._clock.now())
                channel.send(messages.Claimed(id=number, first=first))
            case messages.Used(times=times):
                for token_id, when in times.items():
                    self._index.note_used(token_id, when)
            case messages.Leaving():
                worker.leaving = True
                self._tell_instances()
            case messages.Sampled(id=number, families=families):
                self._totals.heard(worker.instance, families)
                question = self._questions.get(number)
                if question is not None:
                    question.missing.discard(worker)
                    question.families[f"worker-{worker.slot}"] = families
                    self._answer_if_complete(question)
            case messages.AskMetrics(id=number):
                self._ask_metrics(worker, number)

    def _up(self, worker: _Worker, cluster_id: str) -> None:
        before = self.connected(cluster_id)
        worker.clusters.add(cluster_id)
        for told in self._told.get(cluster_id, {}).values():
            worker.channel.send(messages.Tell(cluster_id=cluster_id, message=told))
        if not before:
            self._reach(cluster_id, True, "")

    def _reach(self, cluster_id: str, connected: bool, reason: str) -> None:
        message = messages.Reach(cluster_id=cluster_id, connected=connected)
        for worker in self._joined():
            worker.channel.send(message)
        for callback in self.on_change:
            callback(cluster_id, connected, reason)

    def _doubt(self, cluster_id: str) -> None:
        """One session with an agent is lost. The others are asked for rarely while they are at rest: now they are."""
        message = messages.Doubted(cluster_id=cluster_id)
        for worker in self._joined():
            if cluster_id in worker.clusters:
                worker.channel.send(message)

    def _say(self, cluster_id: str, data: bytes) -> None:
        message = msgspec.json.decode(data, type=dict[str, Any])
        for callback in self.on_message:
            callback(cluster_id, message)

    # -- metrics -------------------------------------------------------------------------------------------------------

    def _ask_metrics(self, worker: _Worker, number: int) -> None:
        self._next += 1
        ours = self._next
        question = _Question(worker, number, set(self._joined()), {})
        self._questions[ours] = question
        question.timer = asyncio.get_running_loop().call_later(SAMPLE_SECONDS, self._answer, question)
        for other in question.missing:
            other.channel.send(messages.Sample(id=ours))

    def _answer_if_complete(self, question: _Question) -> None:
        if not question.missing:
            self._answer(question)

    def _answer(self, question: _Question) -> None:
        for number, other in list(self._questions.items()):
            if other is question:
                del self._questions[number]
        if question.timer is not None:
            question.timer.cancel()
        text = self._totals.render({"control": totals.sample(), **question.families})
        question.asked_by.channel.send(messages.Metrics(id=question.id, text=text))


def parts(delta: Delta) -> Iterator[messages.Changed | messages.MembersPart]:
    """A change in messages that are not too large, in the order in which an index takes over the whole.

    The policy stays here, and all about the endpoints of clusters: a worker needs to know who may enter, and no more.
    """
    delta = held(delta)
    for chunk in _chunks(delta.tokens):
        yield messages.Changed(delta=Delta(tokens=chunk))
    for users in _chunks(delta.users):
        yield messages.Changed(delta=Delta(users=users))
    for clusters in _chunks(delta.clusters):
        yield messages.Changed(delta=Delta(clusters=clusters))
    few, many = _by_size(delta.members)
    for members in _chunks(few):
        yield messages.Changed(delta=Delta(members=members))
    yield from _members_parts(many)


def _by_size(members: Mapping[str, Members]) -> tuple[dict[str, Members], dict[str, Members]]:
    """Those that go with others, and those that go alone, so that a message of MAX_PART clusters stays small enough."""
    few: dict[str, Members] = {}
    many: dict[str, Members] = {}
    for cluster_id, one in members.items():
        size = len(one.users) + len(one.groups) + len(one.until)
        (few if size <= messages.MAX_MEMBERS // MAX_PART else many)[cluster_id] = one
    return few, many


def _members_parts(members: Mapping[str, Members]) -> Iterator[messages.MembersPart]:
    """Clusters that share one value (a binding that reaches them all) are told together."""
    shared: dict[int, tuple[Members, list[str]]] = {}
    for cluster_id, one in members.items():
        shared.setdefault(id(one), (one, []))[1].append(cluster_id)
    for one, cluster_ids in shared.values():
        pieces = [
            *(Members(users=some) for some in _chunks(one.users, messages.MAX_MEMBERS)),
            *(Members(groups=some) for some in _chunks(one.groups, messages.MAX_MEMBERS)),
            *(Members(until=some) for some in _chunks(one.until, messages.MAX_MEMBERS)),
        ]
        for number, piece in enumerate(pieces, 1):
            yield messages.MembersPart(cluster_ids=cluster_ids, part=piece, last=number == len(pieces))


def _chunks(table: Mapping[str, T], most: int = MAX_PART) -> Iterator[dict[str, T]]:
    items = list(table.items())
    for at in range(0, len(items), most):
        yield dict(items[at : at + most])


def _same_user(channel: Channel[ToControl]) -> bool:
    """Whether the process at the other end runs as we do. The socket's folder is private; this is the second lock."""
    sock = channel.socket()
    if sock is None:
        return False
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(raw)[1]
    return user == os.geteuid()
