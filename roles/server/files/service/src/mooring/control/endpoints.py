# SPDX-License-Identifier: Apache-2.0
"""The endpoint controller: who may use the endpoint of each cluster, on its way there.

    store --commit--> which shards? --gathered--> made in a thread --> index --> tell the agents
    agents --endpoint-status--> what is there --> whoever waits for it; at most once a second --> store

A commit only notes which shards of which clusters it may concern. Some tasks make them and, where something came out
differently, a new index; the agents hear its digest and fetch (`api/agentendpoint.py`). A cluster whose endpoint was
turned off gets an index without shards, so that nothing is left there.

A revision is given out once, also over restarts: blocks of them are taken from the store. It must not: wait inside a
commit, hold what it was told without a bound, or let a cluster hear of another one's tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Protocol

from mooring.authn.index import Index
from mooring.control.endpointbook import Holder, Holders, Place, TokenBook
from mooring.control.endpointdocs import Documents, Made, Whose
from mooring.control.endpointstatus import EndpointStatuses
from mooring.lib import logging, metrics
from mooring.lib.bounds import Rate
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.store.ports import Store
from mooring.store.records import Cluster, Delta, EndpointSettings, Members
from mooring.wire import endpoint
from mooring.wire.endpoint import body_of
from mooring.wire.sealed import digest_of

GATHER: Final = 0.02  # seconds: commits that follow each other become one index
LANES: Final = 4  # clusters whose documents are made at the same time
BURST: Final = 16  # indexes of one cluster in a row; then one for each 0.3 s: an agent has a bound of its own (Replays)
BURST_SECONDS: Final = 5.0
RETRY: Final = 1.0  # seconds until what could not be made is tried again
FETCH_SECONDS: Final = 20.0  # for shards that are not in memory any more
FETCH_TRIES: Final = 8
SWEEP: Final = 300.0  # seconds between two looks for what has ended
REVISIONS: Final = 1024  # taken from the store at a time
AT_ONCE: Final = 500  # users that are looked at before others get their turn
REMEMBERED: Final = 64  # digests of a cluster that an agent may still report
OFF: Final = "off"  # the mode of an endpoint that is no more


class HubView(Protocol):
    """What the controller needs of mooring.bus.roster.Roster."""

    on_change: list[Callable[[str, bool, str], None]]
    on_message: list[Callable[[str, dict[str, Any]], None]]

    def connected(self, cluster_id: str) -> bool: ...

    def tell(self, cluster_id: str, message: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Facts:
    """What of a cluster is in its documents."""

    uid: str
    registered_at: float
    settings: EndpointSettings | None

    @property
    def grace(self) -> float:
        return 0.0 if self.settings is None else float(self.settings.grace_seconds)


@dataclass(slots=True)
class _Known:
    """A cluster that has an endpoint, or had one. Changes are numbered: `changes` is the last one, `shown` the last
    that is in the index, `held` the last that its agent is known to have. `revision` is the index's; revisions after
    `used` up to `ceiling` may be used; `floor` is one that the agent has, from whoever."""

    id: str
    facts: _Facts
    members: Members
    changes: int = 0
    shown: int = 0
    held: int = 0
    revision: int = 0
    used: int = 0
    ceiling: int = 0
    floor: int = 0
    shards: dict[int, Made] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)  # shard -> when the first in it is to go; empty ones, too
    index: bytes = b""
    digest: str = ""
    past: OrderedDict[str, int] = field(default_factory=OrderedDict)  # digest -> `shown` of the index that had it
    reported: str = ""  # the digest of what its agent says is there as a whole
    waiting_since: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False


class EndpointController:
    """Call `start` after the index is loaded, then `committed` for each commit, after the index took it over."""

    def __init__(
        self, store: Store, index: Index, hub: HubView, clock: Clock, documents: Documents, *, prefix: str
    ) -> None:
        self._store = store
        self._index = index
        self._hub = hub
        self._clock = clock
        self._documents = documents
        self._prefix = prefix
        self._statuses = EndpointStatuses(store, clock)
        self._book = TokenBook()
        self._clusters: dict[str, _Known] = {}
        self._due: OrderedDict[str, set[int]] = OrderedDict()  # cluster id -> shards to make; none: the index only
        self._busy: set[str] = set()
        self._put_off: set[str] = set()
        self._rate = Rate(BURST, BURST_SECONDS)
        self._wake = asyncio.Event()
        self._lanes = asyncio.Semaphore(LANES)
        self._tasks = Supervisor("endpoints")
        self._log = logging.get("mooring.control")

    async def start(self) -> None:
        """Take over all tokens. Raises StoreUnavailable."""
        async with self._store.read() as tx:
            clusters = await tx.clusters.get_many(await tx.clusters.with_endpoint())
            grace = max((one.endpoint.grace_seconds for one in clusters if one.endpoint is not None), default=0)
            for token in await tx.tokens.of_endpoints(self._clock.now() - grace):
                self._book.put(token)
        for cluster in clusters:
            self._know(cluster)
        await self._take_revisions(self._clusters)
        self._hub.on_change.append(self._changed)
        self._hub.on_message.append(self._message)
        metrics.ENDPOINT_TOKENS.set_function(lambda: len(self._book))
        metrics.ENDPOINT_BEHIND.set_function(self._count_behind)
        self._statuses.start()
        self._tasks.spawn(self._make_all(), "make")
        self._tasks.spawn(self._sweep_all(), "sweep")

    async def aclose(self) -> None:
        """Write what is still noted, if the database answers within 5 seconds."""
        await self._tasks.aclose()
        await self._statuses.aclose()

    async def flush(self) -> None:
        """Write what agents said, now. Raises StoreUnavailable."""
        await self._statuses.flush()

    # --- asked by the API -------------------------------------------------------------------------------------------

    def digest(self, cluster_id: str) -> str:
        """The digest of the index that the cluster is to have; empty: there is none yet, or never was."""
        known = self._clusters.get(cluster_id)
        return "" if known is None else known.digest

    async def documents(self, cluster_id: str, have: Mapping[int, str]) -> tuple[bytes, dict[int, bytes]] | None:
        """The cluster's index, and those of its shards that differ from the digests in `have`; None when there is none,
        or it takes too long to make them again."""
        known = self._clusters.get(cluster_id)
        if known is None or not known.digest:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FETCH_SECONDS):
                for _unused in range(FETCH_TRIES):
                    found, missing = self._collect(known, have)
                    if not missing:
                        return known.index, found
                    await self._make(known, missing, known.shown)
        return None

    async def delivered(self, cluster_id: str, token_id: str, seconds: float) -> bool:
        """Whether all that was committed up to now is in the cluster, or comes to be within so many seconds, and the
        token with it, unless that is "". False at once where no agent is connected."""
        known = self._clusters.get(cluster_id)
        if known is None:
            return False
        wanted = known.changes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while known.held < wanted and not known.gone and self._hub.connected(cluster_id):
                    await known.moved.wait()
        if not token_id:
            return known.held >= wanted
        number = self._book.shard(token_id)
        made = None if number is None else known.shards.get(number)
        return known.held >= wanted and made is not None and token_id in made.ids

    def _collect(self, known: _Known, have: Mapping[int, str]) -> tuple[dict[int, bytes], set[int]]:
        """Those of the index's shards that are not in `have`, and the numbers of those that are not in memory."""
        found: dict[int, bytes] = {}
        missing = set()
        for number, made in known.shards.items():
            if have.get(number) != made.digest:
                data = self._documents.kept(known.id, number, made.digest)
                if data is None:
                    missing.add(number)
                else:
                    found[number] = data
        return found, missing

    # --- heard of the store; must not wait --------------------------------------------------------------------------

    def committed(self, delta: Delta) -> None:
        """Take over a commit; the shards that it concerns will be made."""
        places: set[Place] = set()
        for cluster_id, cluster in delta.clusters.items():
            self._take_cluster(cluster_id, cluster)
        for token_id, token in delta.tokens.items():
            places |= self._book.drop(token_id) if token is None else self._book.put(token)
        for user_id, user in delta.users.items():
            places |= self._book.forget_user(user_id) if user is None else self._book.of_user(user_id)
        places |= self._take_members(delta.members)
        wanted: dict[str, set[int]] = {}
        for cluster_id, number in places:
            wanted.setdefault(cluster_id, set()).add(number)
        for cluster_id, numbers in wanted.items():
            self._want(cluster_id, numbers)

    def _take_cluster(self, cluster_id: str, cluster: Cluster | None) -> None:
        """Most of these commits are reports of agents, which are nothing to an endpoint."""
        known = self._clusters.get(cluster_id)
        if cluster is None:
            self._forget(cluster_id)
            return
        facts = _facts(cluster)
        if known is None:
            if cluster.endpoint is not None:
                self._know(cluster)
        elif facts != known.facts:
            before, known.facts = known.facts, facts
            on = facts.settings is not None
            anew = (facts.uid, on, facts.grace) != (before.uid, before.settings is not None, before.grace)
            self._want(cluster_id, self._all_of(known) if anew else set())

    def _take_members(self, changed: Mapping[str, Members]) -> set[Place]:
        """Where others may enter than before. A binding that reaches all clusters changes them all alike."""
        alike: dict[tuple[int, int], tuple[Members, Members, set[str]]] = {}
        for cluster_id, after in changed.items():
            known = self._clusters.get(cluster_id)
            if known is not None:
                before, known.members = known.members, after
                alike.setdefault((id(before), id(after)), (before, after, set()))[2].add(cluster_id)
        places: set[Place] = set()
        for before, after, cluster_ids in alike.values():
            moved = self._book.moved(before, after, self._index)
            if moved is None:
                places.update((one, number) for one in cluster_ids for number in self._book.numbers(one))
                continue
            for user_id in moved:
                places.update(place for place in self._book.of_user(user_id) if place[0] in cluster_ids)
        return places

    def _know(self, cluster: Cluster) -> None:
        known = _Known(cluster.id, _facts(cluster), self._index.members_of(cluster.id))
        self._clusters[cluster.id] = known
        self._want(cluster.id, self._all_of(known))

    def _forget(self, cluster_id: str) -> None:
        self._statuses.forget(cluster_id)
        self._book.forget_cluster(cluster_id)
        self._documents.forget(cluster_id)
        self._due.pop(cluster_id, None)
        known = self._clusters.pop(cluster_id, None)
        if known is not None:
            known.gone = True
            known.moved.set()

    def _all_of(self, known: _Known) -> set[int]:
        return self._book.numbers(known.id) | known.shards.keys() | known.ends.keys()

    def _want(self, cluster_id: str, numbers: set[int]) -> None:
        """These shards may come out differently, and the index (only it, if there are none)."""
        known = self._clusters.get(cluster_id)
        if known is None:
            return
        known.changes += 1
        self._due.setdefault(cluster_id, set()).update(numbers)
        if self._hub.connected(cluster_id):
            self._due.move_to_end(cluster_id, last=False)  # the others wait for their agents anyway
            if known.waiting_since is None:
                known.waiting_since = self._clock.now()
        self._wake.set()

    # --- made -------------------------------------------------------------------------------------------------------

    async def _make_all(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            while (cluster_id := self._next()) is not None:
                await self._lanes.acquire()
                self._busy.add(cluster_id)
                self._tasks.spawn(self._lane(cluster_id), "lane")

    def _next(self) -> str | None:
        """A cluster that something is due for."""
        return next((one for one in self._due if one not in self._busy and one not in self._put_off), None)

    async def _lane(self, cluster_id: str) -> None:
        """Make what is due for one cluster; or put it off, if there were many in a row."""
        try:
            known = self._clusters.get(cluster_id)
            if known is None:
                self._due.pop(cluster_id, None)
                return
            wait = self._rate.take(cluster_id, self._clock.monotonic())
            if wait > 0:
                self._later(cluster_id, wait)
                return
            numbers, changes = self._due.pop(cluster_id), known.changes
            try:
                await self._make(known, numbers, changes)
            except Exception as error:
                # One cluster's fault must not keep the others waiting.
                self._log.exception("the tokens of an endpoint were not made", cluster=cluster_id, error=repr(error))
                metrics.ENDPOINT_RENDER_FAILURES.inc()
                if not known.gone:
                    self._due.setdefault(cluster_id, set()).update(numbers)
                    self._later(cluster_id, RETRY)
        finally:
            self._busy.discard(cluster_id)
            self._lanes.release()
            if self._due:
                self._wake.set()

    def _later(self, cluster_id: str, seconds: float) -> None:
        def again() -> None:
            self._put_off.discard(cluster_id)
            self._wake.set()

        self._put_off.add(cluster_id)
        asyncio.get_running_loop().call_later(seconds, again)

    async def _make(self, known: _Known, numbers: set[int], changes: int) -> None:
        """Make these shards as things are now, and an index with them. All changes up to the number `changes` are in
        them, or in shards that were made before."""
        async with known.lock:
            facts = known.facts
            if known.gone or not facts.uid:
                return
            if known.used >= known.ceiling or known.used < known.floor:
                await self._take_revisions([known.id])
            revision = known.used + 1
            shards = dict(known.shards) if facts.settings is not None else {}
            for number in sorted(numbers) if facts.settings is not None else ():
                now = self._clock.now()
                holders = await self._holders(known.id, number, now, facts.grace)
                whose = Whose(known.id, facts.uid, revision, now)
                made = await self._documents.shard(whose, number, holders, shards.pop(number, None))
                known.ends[number] = made.next_end
                if made.digest:
                    shards[number] = made
            if known.gone:
                self._documents.forget(known.id)
            elif known.facts is not facts and known.facts.uid != facts.uid:
                return  # it is due again already
            else:
                self._show(known, facts, shards, revision, changes)

    async def _holders(self, cluster_id: str, number: int, now: float, grace: float) -> Holders:
        """Who is in the shard. Others get their turn while many are looked at; what changes meanwhile is due again."""
        found: list[Holder] = []
        next_end = inf
        user_ids = self._book.user_ids(cluster_id, number)
        for at in range(0, len(user_ids), AT_ONCE):
            some = self._book.holders(cluster_id, user_ids[at : at + AT_ONCE], self._index, now, grace)
            found += some.holders
            next_end = min(next_end, some.next_end)
            await asyncio.sleep(0)
        return Holders(found, next_end)

    def _show(self, known: _Known, facts: _Facts, shards: dict[int, Made], revision: int, changes: int) -> None:
        """An index with these shards is what the cluster is to have from now on. Nothing is said if it is as before."""
        document = endpoint.Index(
            settings=self._settings(facts.settings),
            registered_at=facts.registered_at,
            shards={number: shards[number].digest for number in sorted(shards)},
        )
        digest = digest_of(body_of(document))
        known.shards = shards
        known.shown = max(known.shown, changes)
        known.past[digest] = known.shown
        known.past.move_to_end(digest)
        while len(known.past) > REMEMBERED:
            known.past.popitem(last=False)
        if digest != known.digest or known.revision <= known.floor:
            known.index = self._documents.index(Whose(known.id, facts.uid, revision, self._clock.now()), document)
            known.digest, known.revision, known.used = digest, revision, revision
            self._hub.tell(known.id, {"kind": "endpoint", "revision": revision, "digest": digest})
        self._note_held(known, known.reported)

    def _settings(self, settings: EndpointSettings | None) -> endpoint.Settings:
        if settings is None:
            return endpoint.Settings(prefix=self._prefix, mode=OFF)
        return endpoint.Settings(prefix=self._prefix, grace=settings.grace_seconds, mode=settings.mode)

    async def _take_revisions(self, cluster_ids: Iterable[str]) -> None:
        """Take revisions that were not given out before. Raises StoreUnavailable."""
        there = [known for one in cluster_ids if (known := self._clusters.get(one)) is not None]
        least = {known.id: max(known.floor, known.used) for known in there}
        if not least:
            return
        async with self._store.write() as tx:
            taken = await tx.clusters.take_endpoint_revisions(least, REVISIONS)
        for cluster_id, before in taken.items():
            known = self._clusters.get(cluster_id)
            if known is not None:
                known.used, known.ceiling = before, before + REVISIONS

    # --- what ends by time ------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Make those shards again of which somebody, or a token, is to go. They were of no use any more: what a cluster
        holds says until when it is good."""
        now = self._clock.now()
        for known in self._clusters.values():
            ended = {number for number, end in known.ends.items() if end <= now}
            if ended:
                self._want(known.id, ended)

    async def _sweep_all(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self.sweep()

    # --- heard of agents; must not wait -----------------------------------------------------------------------------

    def _changed(self, cluster_id: str, connected: bool, reason: str) -> None:
        known = self._clusters.get(cluster_id)
        if known is None:
            return
        if not connected:
            known.waiting_since = None  # what it waits for from now on is the agent
            known.reported = ""
            self._move(known)
        elif cluster_id in self._due:
            self._due.move_to_end(cluster_id, last=False)

    def _message(self, cluster_id: str, message: dict[str, Any]) -> None:
        if message.get("kind") != "endpoint-status" or self._index.cluster(cluster_id) is None:
            return
        status = self._statuses.heard(cluster_id, message)
        known = self._clusters.get(cluster_id)
        if status is None or known is None:
            return
        known.reported = "" if status.problem else status.digest
        self._note_held(known, known.reported)
        other = status.digest != known.digest
        if known.digest and (status.revision > known.revision or (other and status.revision == known.revision)):
            # The database is older than what the agent has: it was restored. An agent takes no lower revision.
            known.floor = max(known.floor, status.revision)
            if other:
                self._want(cluster_id, set())

    def _note_held(self, known: _Known, digest: str) -> None:
        """The agent has put the documents of this index into its cluster."""
        held = known.past.get(digest, 0) if digest else 0
        if held <= known.held:
            return
        known.held = held
        if held == known.changes and known.waiting_since is not None:
            metrics.ENDPOINT_DELIVER_SECONDS.observe(max(0.0, self._clock.now() - known.waiting_since))
            known.waiting_since = None
        self._move(known)

    def _move(self, known: _Known) -> None:
        known.moved.set()
        known.moved = asyncio.Event()

    def _count_behind(self) -> float:
        return sum(known.held < known.changes and self._hub.connected(known.id) for known in self._clusters.values())


def _facts(cluster: Cluster) -> _Facts:
    return _Facts(cluster.cluster_uid or "", cluster.registered_at or 0.0, cluster.endpoint)
