# SPDX-License-Identifier: Apache-2.0
"""A worker's end of the bus: keeps its index true, and tells control what its agents do.

While control is away the worker goes on with what it knows, and says for how long that has been: whoever lets people in
asks `lost_for`. Coming back, it takes a whole snapshot, so that nothing that was revoked meanwhile stays open. Agents
cannot come in without control: their JWTs must be claimed there.

It must not: decide how old its knowledge may be, or write anything down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from mooring.authn.agents import AgentIdentity
from mooring.authn.index import Index
from mooring.authn.replays import Replays
from mooring.bus import messages, totals
from mooring.bus.channel import Channel
from mooring.bus.messages import ToWorker
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.errors import MooringError
from mooring.lib.tasks import Supervisor
from mooring.store.records import Cluster, Delta, Members, Snapshot, Token, User
from mooring.tunnel.hub import Hub
from mooring.tunnel.session import Session

BEAT_SECONDS: Final = 1.0
"""How often control gives a sign of life."""
SILENCE_SECONDS: Final = 10.0
"""After so long without one the channel is given up."""
RETRY_SECONDS: Final = 0.1
ANSWER_SECONDS: Final = 5.0
"""For an answer of control to a claim or a question for metrics."""
USED_SECONDS: Final = 5.0
"""How often the uses of tokens are passed on."""
KINDS: Final = ("status", "policy-status", "endpoint-status")
"""The control messages of agents that are passed on; of each cluster and kind, the last one is kept for a control
process that does not know it."""
EVENTS: Final = "drift"
"""The member of them that tells of events: it is passed on once, and not kept."""

log = logging.get("mooring.bus")


class Link:
    """Keeps one channel to control. `start` waits for the first snapshot."""

    def __init__(self, path: str, *, instance: str, slot: int, pid: int, index: Index, hub: Hub, clock: Clock) -> None:
        self.audience = ""
        self.database = "not asked yet"
        """What control says is wrong with the database."""
        self.instances: list[str] = [instance]
        self.on_instances: Callable[[list[str]], None] = lambda names: None
        self._path = path
        self._instance = instance
        self._slot = slot
        self._pid = pid
        self._index = index
        self._hub = hub
        self._clock = clock
        self._channel: Channel[ToWorker] | None = None
        self._synced = False
        self._loaded = asyncio.Event()
        self._ended = asyncio.Event()
        self._parts: list[messages.SnapshotPart] = []
        self._gathered: tuple[dict[str, str], dict[str, str], dict[str, float]] = ({}, {}, {})
        self._alive = clock.monotonic()  # the channel's last sign of life
        self._heard = self._alive  # when the index was last known to be true
        self._reachable: set[str] = set()
        self._said: dict[str, dict[str, bytes]] = {kind: {} for kind in KINDS}  # the last of each cluster
        self._told: dict[str, dict[str, dict[str, Any]]] = {}  # what each cluster's agents are told when they connect
        self._replays = Replays()
        self._claims: dict[int, Callable[[bool | None], None]] = {}
        self._asked: dict[int, Callable[[bytes], None]] = {}
        self._next = 0
        self._leaving = False
        self._tasks = Supervisor("bus")
        hub.on_change.append(self._changed)
        hub.on_message.append(self._message)
        hub.on_ready.append(self._ready)

    async def start(self, seconds: float) -> None:
        """Connect and take the first snapshot. Raises MooringError when control does not answer in time."""
        self._tasks.spawn(self._keep(), "channel")
        self._tasks.spawn(self._tick(), "tick")
        try:
            async with asyncio.timeout(seconds):
                await self._loaded.wait()
        except TimeoutError:
            raise MooringError("the control process does not answer", "the log above says why") from None

    async def aclose(self) -> None:
        """Pass on what control does not know yet, and close."""
        self._pass_used()
        self._send(messages.Sampled(id=0, families=totals.sample()))
        self._synced = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        await self._tasks.aclose()

    def leave(self) -> None:
        """Agents need not look for this worker any more."""
        self._leaving = True
        self._send(messages.Leaving())

    # -- asked by the worker -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the index is up to date."""
        return self._synced

    def lost_for(self) -> float:
        """Seconds for which nothing was heard of control; 0 while it is there."""
        return 0.0 if self._synced else self._clock.monotonic() - self._heard

    def expected(self, cluster_id: str) -> bool:
        """Whether the cluster's agent is connected to another worker, and so is to be expected here."""
        return self._synced and not self._leaving and cluster_id in self._reachable

    def settled(self) -> bool:
        """Whether every cluster that is reachable at all is reachable here."""
        return self._synced and all(map(self._hub.connected, self._reachable))

    def claim(self, identity: AgentIdentity, answer: Callable[[bool | None], None]) -> None:
        """Ask whether an agent's JWT is used for the first time; None: control is away."""
        if not self._synced:
            answer(None)
            return
        number = self._number()
        timer = asyncio.get_running_loop().call_later(ANSWER_SECONDS, lambda: self._claimed(number, None))

        jti = printable(identity.jti)

        def done(first: bool | None) -> None:
            timer.cancel()
            if first:
                self._replays.first_time(identity.cluster_id, jti, identity.until, self._clock.now())
            answer(first)

        self._claims[number] = done
        self._send(messages.Claim(id=number, cluster_id=identity.cluster_id, jti=jti, until=identity.until))

    def note_refused(self, cluster_id: str, reason: str) -> None:
        """A handshake in this cluster's name was refused."""
        self._send(messages.AgentRefused(cluster_id=cluster_id, reason=reason))

    def metrics(self, answer: Callable[[bytes], None]) -> None:
        """The metrics of the whole server; those of this worker when control is away."""
        alone = totals.Totals()
        if not self._synced:
            answer(alone.render({self._name: totals.sample()}))
            return
        number = self._number()
        timer = asyncio.get_running_loop().call_later(
            ANSWER_SECONDS, lambda: self._metrics(number, alone.render({self._name: totals.sample()}))
        )

        def done(text: bytes) -> None:
            timer.cancel()
            answer(text)

        self._asked[number] = done
        self._send(messages.AskMetrics(id=number))

    # -- the channel ---------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"worker-{self._slot}"

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _send(self, message: Any) -> None:
        if self._channel is not None:
            self._channel.send(message)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._ended.clear()
            try:
                await loop.create_unix_connection(
                    lambda: Channel(ToWorker, self._heard_message, self._lost, self._opened), self._path
                )
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._ended.wait()
            await asyncio.sleep(RETRY_SECONDS)

    def _opened(self, channel: Channel[ToWorker]) -> None:
        self._channel = channel
        self._alive = self._clock.monotonic()
        self._parts.clear()
        self._gathered = ({}, {}, {})
        connected = {cluster_id: self._said["status"].get(cluster_id, b"") for cluster_id in self._hub.clusters()}
        seen = self._replays.seen(self._clock.now())
        channel.send(
            messages.Join(
                instance=self._instance,
                slot=self._slot,
                pid=self._pid,
                connected=connected,
                seen=seen,
                policies=dict(self._said["policy-status"]),
                endpoints=dict(self._said["endpoint-status"]),
            )
        )
        if self._leaving:
            channel.send(messages.Leaving())

    def _lost(self, channel: Channel[ToWorker]) -> None:
        if self._synced:
            log.warning("the control process is away; this worker goes on with what it knows")
        self._synced = False
        self._channel = None
        self._ended.set()
        self._hub.give_up_waiting(lambda cluster_id: False)
        for claim in list(self._claims):
            self._claimed(claim, None)
        for asked in list(self._asked):
            self._metrics(asked, totals.Totals().render({self._name: totals.sample()}))

    async def _tick(self) -> None:
        used_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            now = self._clock.monotonic()
            # Before the snapshot, a channel may wait for long: in the queue of a control process that is being started.
            if self._channel is not None and self._synced and now - self._alive > SILENCE_SECONDS:
                log.error("the control process is silent; its channel is closed", seconds=round(now - self._alive))
                self._channel.abort()
            if self._synced and now - used_at >= USED_SECONDS:
                used_at = now
                self._pass_used()

    def _pass_used(self) -> None:
        times = self._index.take_used() if self._synced else {}
        if times:
            self._send(messages.Used(times=times))

    # -- heard of control ----------------------------------------------------------------------------------------------

    def _heard_message(self, channel: Channel[ToWorker], message: ToWorker) -> None:
        self._alive = self._clock.monotonic()
        if self._synced:
            self._heard = self._alive
        match message:
            case messages.Changed(delta=delta):
                self._index.apply(delta)
            case messages.MembersPart():
                self._gather(message)
            case messages.Tell(cluster_id=cluster_id, message=said):
                self._tell(cluster_id, said)
            case messages.Beat(database=problem):
                self.database = problem
            case messages.Claimed(id=number, first=first):
                self._claimed(number, first)
            case messages.Reach(cluster_id=cluster_id, connected=connected):
                (self._reachable.add if connected else self._reachable.discard)(cluster_id)
                if not connected:
                    self._hub.give_up_waiting(self.expected)
            case messages.Doubted(cluster_id=cluster_id):
                self._hub.doubt(cluster_id)
            case messages.Reachable(cluster_ids=cluster_ids):
                self._reachable = set(cluster_ids)
            case messages.Instances(names=names):
                self.instances = names
                self.on_instances(names)
            case messages.Sample(id=number):
                self._send(messages.Sampled(id=number, families=totals.sample()))
            case messages.Metrics(id=number, text=text):
                self._metrics(number, text)
            case messages.Welcome(audience=audience):
                self.audience = audience
            case messages.SnapshotPart():
                self._parts.append(message)
            case messages.SnapshotEnd():
                self._take_snapshot()

    def _take_snapshot(self) -> None:
        clusters: list[Cluster] = []
        users: list[User] = []
        tokens: list[Token] = []
        members: dict[str, Members] = {}
        for part in self._parts:
            clusters += part.clusters
            users += part.users
            tokens += part.tokens
            members.update(part.members)
        self._parts.clear()
        # Always as changes: what was held open by a right that is gone must end.
        self._index.replace(Snapshot(clusters=clusters, users=users, tokens=tokens, members=members))
        self._synced = True
        self._heard = self._clock.monotonic()
        if self._loaded.is_set():
            log.info("the control process is back")
        self._loaded.set()

    def _gather(self, message: messages.MembersPart) -> None:
        """Put the parts together: an index must not see half of those who may enter."""
        part = message.part
        self._gathered[0].update(part.users)
        self._gathered[1].update(part.groups)
        self._gathered[2].update(part.until)
        if not message.last:
            return
        whole = dict.fromkeys(message.cluster_ids, Members(*self._gathered))
        self._gathered = ({}, {}, {})
        if self._synced:
            self._index.apply(Delta(members=whole))
        else:
            self._parts.append(messages.SnapshotPart(members=whole))

    def _claimed(self, number: int, first: bool | None) -> None:
        answer = self._claims.pop(number, None)
        if answer is not None:
            answer(first)

    def _metrics(self, number: int, text: bytes) -> None:
        answer = self._asked.pop(number, None)
        if answer is not None:
            answer(text)

    # -- heard of the hub ----------------------------------------------------------------------------------------------

    def _changed(self, cluster_id: str, connected: bool, reason: str) -> None:
        if connected:
            self._send(messages.AgentUp(cluster_id=cluster_id))
        else:
            for said in self._said.values():
                said.pop(cluster_id, None)
            self._told.pop(cluster_id, None)
            self._send(messages.AgentDown(cluster_id=cluster_id, reason=reason))

    def _ready(self, cluster_id: str, session: Session) -> None:
        for told in self._told.get(cluster_id, {}).values():
            session.message(told)

    def _tell(self, cluster_id: str, data: bytes) -> None:
        if not self._hub.connected(cluster_id):
            return  # it went meanwhile; control says it again to whoever gets its next session
        message = msgspec.json.decode(data, type=dict[str, Any])
        self._told.setdefault(cluster_id, {})[message["kind"]] = message
        self._hub.tell(cluster_id, message)

    def _message(self, cluster_id: str, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind not in KINDS:
            return
        try:
            data = msgspec.json.encode(message)
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
            log.warning("an agent's status cannot be passed on", cluster=cluster_id)
            return
        kept = {name: value for name, value in message.items() if name != EVENTS}
        self._said[kind][cluster_id] = msgspec.json.encode(kept) if EVENTS in message else data
        self._send(messages.AgentSaid(cluster_id=cluster_id, message=data))


def printable(jti: str) -> str:
    """A `jti` that can be sent, whatever JSON allowed it to hold."""
    return jti.encode("utf-8", "backslashreplace").decode()
