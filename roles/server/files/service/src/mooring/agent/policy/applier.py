# SPDX-License-Identifier: Apache-2.0
"""Makes the cluster be as the policy says, and keeps it so.

Two ways lead there. A new policy is a transition: its steps in the order of `mooring.kube.transition`. Everything else
is one object that is not as it shall be (drift, a namespace that came, a binding whose time is over, a step that
failed): it is put right by itself, as soon as the watch or the time says so.

It must not: write an object that somebody else made (by its field manager; its name alone says nothing), delete what is
not labelled and applied by us, or run more than `FLIGHT` writes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from mooring.agent.policy.cluster import Cluster
from mooring.agent.policy.desired import Desired, Wanted
from mooring.agent.policy.kinds import KINDS, NAMESPACE, SPACES, Item, Kind, title
from mooring.agent.policy.report import Report
from mooring.agent.policy.spaces import Spaces
from mooring.agent.policy.timekeeper import Timekeeper
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeError
from mooring.kube.transition import PHASES, Key, Manifest, Step, key, phases, same
from mooring.lib import logging
from mooring.lib.backoff import Backoff
from mooring.lib.tasks import Supervisor
from mooring.net.fetch import FetchError

FLIGHT: Final = 16
"""Writes at once."""
TRIES: Final = 3
"""Attempts of a step before the transition goes on without it."""
RETRY_FIRST, RETRY_MOST = 1.0, 300.0
"""Seconds until an object that could not be put right is tried again."""
PATIENCE: Final = 8
"""How often an object is put right at once; after that, within `CALM` seconds of the last time, only after `PAUSE`: two
programs that want it otherwise shall not keep the API server busy."""
CALM, PAUSE = 60.0, 1.5
LOOK_AGAIN: Final = 15.0
"""Seconds after which the time is asked again while a binding's end is near: a machine may have slept."""
MANY: Final = 64
"""New objects of a kind from which on it is asked once which names are taken, and not for each of them."""
ATTEMPT: Final = (KubeError, FetchError, BadConfig)
_PASSING: Final = (408, 409, 429)


@dataclass(slots=True)
class Seen:
    """An object that is in the cluster. `good`: as it shall be."""

    uid: str
    number: int
    ours: bool
    good: bool


@dataclass(slots=True)
class _Retry:
    backoff: Backoff
    timer: asyncio.TimerHandle
    what: str


class NotOurs(Exception):
    """Somebody else made an object that has a name of ours."""


class Applier:
    """The cluster's policy. A sink of the watch."""

    def __init__(self, cluster: Cluster, time: Timekeeper, report: Report) -> None:
        self._cluster = cluster
        self._time = time
        self._report = report
        self._spaces = Spaces(cluster, report)
        self._seen: dict[Key, Seen] = {}
        self._uids: dict[Key, str] = {}  # of what we wrote: ours, whatever became of its metadata
        self._read: dict[str, asyncio.Event] = {name: asyncio.Event() for name in (*KINDS, NAMESPACE)}
        self._dirty: dict[Key, str] = {}  # and what was done to it; empty: nothing by others
        self._free: set[Key] = set()  # names that nobody had when the transition began
        self._held: set[Key] = set()  # by the transition that runs
        self._busy: set[Key] = set()
        self._retry: dict[Key, _Retry] = {}
        self._fights: dict[Key, tuple[int, float]] = {}  # how often an object was put right, and when last
        self._inside: dict[str, list[Key]] = {}  # namespace -> what shall be in it
        self._ready = False  # until the first transition is through, nothing is put right by itself
        self._flight = asyncio.Semaphore(FLIGHT)
        self._wake = asyncio.Event()
        self._turn = asyncio.Event()
        self._moving = asyncio.Lock()
        self._tasks = Supervisor("policy/applier")
        self._log = logging.get("mooring.agent.policy")
        self.desired: Desired | None = None

    def start(self) -> None:
        """Begins to put right what is not as it shall be."""
        self._tasks.spawn(self._heal(), "heal")
        self._tasks.spawn(self._expire(), "expire")

    def tick(self) -> None:
        """The time may be another."""
        self._turn.set()

    async def aclose(self) -> None:
        """Ends; what is half done goes on with the next start."""
        for retry in self._retry.values():
            retry.timer.cancel()
        self._retry.clear()
        await self._tasks.aclose()

    # --- from one policy to the next -------------------------------------------------------------------------------

    async def adopt(self, new: Desired) -> None:
        """Makes this the policy. Returns when every step was tried; what failed is in the report, and tried again."""
        async with self._moving:
            old, self.desired = self.desired, new
            self._spaces.desired = new.spaces
            self._inside = {}
            for at in new.objects:
                if at[1]:
                    self._inside.setdefault(at[1], []).append(at)
            self._report.desired = new.revision
            for read in self._read.values():
                await read.wait()
            self._held = changed = self._changed(old, new)
            try:
                await self._transition(old, new, changed)
            finally:
                self._held, self._free = set(), set()
                for at in changed - self._retry.keys():
                    self._look(at)
                self._wake.set()
            self._ready = True
            self._forget(new)
            self._report.applied, self._report.digest = new.revision, new.digest
            self._report.applied_at = self._time.now()
            self._report.note()
            self._turn.set()
            self._log.info("the policy is applied", revision=new.revision, changed=len(changed))

    def _forget(self, new: Desired) -> None:
        """What nobody wants any more is neither ours to know nor wrong."""
        for at in [at for at in self._uids if at not in new.objects]:
            del self._uids[at]
        self._fights.clear()
        known = {title(at) for at in new.objects} | {title((NAMESPACE, "", name)) for name in self._spaces.all()}
        for name in [name for name in self._report.errors if name.partition(" ")[0] in self._read]:
            if name not in known:
                self._report.right(name)

    def _changed(self, old: Desired | None, new: Desired) -> set[Key]:
        before = old.objects if old is not None else {}
        changed = {at for at, wanted in new.objects.items() if at not in before or before[at].body != wanted.body}
        changed |= {at for at in new.objects if (seen := self._seen.get(at)) is None or not seen.good}
        changed |= {at for at in before if at not in new.objects}
        return changed | {at for at, seen in self._seen.items() if seen.ours and at not in new.objects}

    async def _transition(self, old: Desired | None, new: Desired, changed: set[Key]) -> None:
        await self._all(self._space(name) for name in self._spaces.unsure())
        have = await self._have(old, changed)
        for at in changed:
            if at in self._seen:
                self._seen[at].good = False  # it was as the last policy said
        want = [w.manifest() for at in changed if (w := new.objects.get(at)) is not None and self._wanted(at) is w]
        await self._look_for_others(at for at in map(key, want) if at not in self._seen)
        plan = phases(have.values(), want, self._time.now())
        for name, steps in zip(PHASES, plan, strict=True):
            if name == "around":
                await self._all(self._space(space) for space in self._spaces.all())
            await self._all(self._step(step) for step in steps)

    async def _have(self, old: Desired | None, changed: set[Key]) -> dict[Key, Manifest]:
        """Those of the changed objects that are in the cluster and ours, with what is in them now."""
        found: dict[Key, Manifest] = {}

        async def read(at: Key) -> None:
            try:
                item = await self._cluster.get(at)
            except ATTEMPT as error:
                self._failed(at, error)
                return
            if item is not None and self._is_ours(at, item):
                self._note(at, item)
                found[at] = item.manifest(KINDS[at[0]])

        missing = []
        for at in changed:
            seen = self._seen.get(at)
            if seen is None or not seen.ours:
                continue
            if seen.good and old is not None and at in old.objects:
                found[at] = old.objects[at].manifest()
            else:
                missing.append(at)
        await self._all(read(at) for at in missing)
        return found

    async def _look_for_others(self, new: Iterable[Key]) -> None:
        """Which of the names are nobody's, if there are many of them."""
        by_kind: dict[str, set[Key]] = {}
        for at in new:
            by_kind.setdefault(at[0], set()).add(at)
        for name, keys in by_kind.items():
            if len(keys) >= MANY:
                try:
                    self._free |= keys - await self._cluster.names(KINDS[name])
                except ATTEMPT as error:
                    self._log.info("each object is asked for by itself", reason=str(error))

    async def _step(self, step: Step) -> None:
        action, item = step
        at = key(item)
        backoff = Backoff(0.1, 2.0)
        attempt = 0
        while True:
            try:
                async with self._flight:
                    await (self._put(at, item) if action == "apply" else self._remove(at))
                return
            except NotOurs as error:
                self._failed(at, error)
                return
            except ATTEMPT as error:
                # While the API server is away, the transition stands still, and goes on when it is back.
                attempt += isinstance(error, KubeError) or await self._cluster.answers()
                if attempt == TRIES or (isinstance(error, KubeError) and not _passes(error)):
                    self._failed(at, error)
                    return
            await asyncio.sleep(backoff.next())

    async def _all(self, work: Iterable[Any]) -> None:
        """Does it all, side by side. A thousand objects of work are not a thousand tasks."""
        todo = iter(work)

        async def worker() -> None:
            for one in todo:
                await one

        async with asyncio.TaskGroup() as group:
            for _unused in range(FLIGHT):
                group.create_task(worker())

    # --- one object -----------------------------------------------------------------------------------------------

    def _wanted(self, at: Key) -> Wanted | None:
        """How it shall be now: in a namespace that is there (or is about to be), until its time is over."""
        wanted = self.desired.objects.get(at) if self.desired is not None else None
        if wanted is None or (wanted.expires_at is not None and wanted.expires_at <= self._time.now()):
            return None
        return wanted if not at[1] or self._spaces.holds(at[1]) else None

    async def _put(self, at: Key, item: Manifest) -> None:
        """Applies an object. Raises NotOurs, KubeError, FetchError, BadConfig."""
        seen = self._seen.get(at)
        force = seen is not None and seen.ours
        if not force and at in self._free:
            self._free.discard(at)  # should it fail, it is asked for
        elif not force:
            there = await self._cluster.get(at)
            if there is not None and not self._is_ours(at, there):
                raise NotOurs(_whose(there))
            force = there is not None
        # Without force, what somebody makes just now under this name is a conflict, and not written over.
        made = await self._cluster.apply(item, force=force)
        self._uids[at] = made.metadata.uid
        if not _is(made, item):
            # Apply leaves what others own: an aggregation rule of a role, traffic out of a network policy.
            made = await self._cluster.replace(item, made.metadata.version)
        self._note(at, made, wrote=True)
        if not _is(made, item):
            raise KubeError(
                422, "the API server does not keep it as it was written: something in the cluster changes it"
            )
        self._settled(at)

    async def _remove(self, at: Key) -> None:
        seen = self._seen.get(at)
        if seen is not None and seen.ours:
            await self._cluster.delete(at, seen.uid)
            self._seen.pop(at, None)
        self._settled(at)

    async def _fix(self, at: Key, what: str) -> None:
        """Puts one object right, if it is not."""
        if what and (pause := self._pause(at)):
            await asyncio.sleep(pause)
        if at[0] == NAMESPACE:
            await self._space(at[2], what)
            return
        try:
            async with self._flight:
                wanted, seen = self._wanted(at), self._seen.get(at)
                if wanted is None:
                    await self._remove(at)
                elif seen is None or not seen.good:
                    await self._put(at, wanted.manifest())
                    if what:
                        self._report.drifted(at, what)
                else:
                    self._settled(at)
        except (NotOurs, *ATTEMPT) as error:
            self._failed(at, error, what)  # it still is a drift when it is put right later

    def _pause(self, at: Key) -> float:
        """Seconds to wait before an object is put right once more."""
        now = asyncio.get_running_loop().time()
        times, last = self._fights.get(at, (0, now))
        if now - last > CALM:
            times = 0
        self._fights[at] = (times + 1, now)
        return PAUSE if times >= PATIENCE else 0.0

    async def _space(self, name: str, what: str = "") -> None:
        """Sees to a namespace, and to what is in it if that came to be possible."""
        at = (NAMESPACE, "", name)
        held = self._spaces.holds(name)
        try:
            async with self._flight:
                done = await self._spaces.see_to(name)
        except ATTEMPT as error:
            self._failed(at, error, what)
            return
        if not self._spaces.conflict(name):
            self._settled(at)
        if done and what:
            self._report.drifted(at, what)
        if held != self._spaces.holds(name):
            self._enter(name)

    def _is_ours(self, at: Key, item: Item) -> bool:
        return item.ours or self._uids.get(at) == item.metadata.uid

    def _note(self, at: Key, item: Item, *, wrote: bool = False) -> Seen:
        """What was seen of an object, unless something newer was."""
        seen = self._seen.get(at)
        if seen is not None and seen.uid == item.metadata.uid and 0 < item.number < seen.number:
            return seen
        ours = wrote or self._is_ours(at, item) or (seen is not None and seen.ours and seen.uid == item.metadata.uid)
        wanted = self.desired.objects.get(at) if self.desired is not None else None
        good = ours and item.labelled and wanted is not None and _is(item, wanted.manifest())
        self._seen[at] = made = Seen(item.metadata.uid, item.number, ours, good)
        return made

    def _settled(self, at: Key) -> None:
        """It is as it shall be."""
        retry = self._retry.pop(at, None)
        if retry is not None:
            retry.timer.cancel()
        self._report.right(title(at))

    def _failed(self, at: Key, error: Exception, what: str = "") -> None:
        """It is not; it is tried again later."""
        self._report.failed(title(at), error.reason if isinstance(error, ATTEMPT) else str(error))
        last = self._retry.get(at)
        if last is not None:
            last.timer.cancel()
        backoff = last.backoff if last is not None else Backoff(RETRY_FIRST, RETRY_MOST)
        timer = asyncio.get_running_loop().call_later(backoff.next(), self._again, at)
        self._retry[at] = _Retry(backoff, timer, what or (last.what if last is not None else ""))

    def _again(self, at: Key) -> None:
        if at in self._retry:
            self._mark(at, self._retry[at].what)

    # --- what the watch says ----------------------------------------------------------------------------------------

    def found(self, kind: Kind, item: Item) -> None:
        """Called by the watch."""
        if kind is SPACES:
            self._moved(item.metadata.name, self._spaces.found(item))
            return
        at = item.key(kind)
        before = self._seen.get(at)
        if before is not None and before.number >= item.number > 0 and before.uid == item.metadata.uid:
            return  # what we wrote, or what was before that
        was_good = before is not None and before.good
        if self._note(at, item).good:
            self._dirty.pop(at, None)
        elif was_good or at not in self._retry:  # what could not be put right has its time; it is not fought over
            self._look(at, "changed" if was_good else "")

    def gone(self, kind: Kind, item: Item) -> None:
        """Called by the watch."""
        if kind is SPACES:
            self._moved(item.metadata.name, self._spaces.gone(item.metadata.name))
            return
        at = item.key(kind)
        seen = self._seen.get(at)
        if seen is not None and (seen.uid != item.metadata.uid or item.number < seen.number):
            return  # what came after it is there already
        if seen is not None:
            del self._seen[at]
            self._look(at, "deleted")

    def listed(self, kind: Kind, keys: set[Key], number: int) -> None:
        """Called by the watch."""
        if kind is SPACES:
            for name in self._spaces.listed({at[2] for at in keys}):
                self._moved(name, "")
        else:
            gone = [at for at in self._seen if at[0] == kind.name and at not in keys]
            for at in [at for at in gone if self._seen[at].number <= number or not number]:
                del self._seen[at]
                self._look(at, "deleted")
        self._read[kind.name].set()
        self._report.right(kind.resource)

    def unread(self, kind: Kind, reason: str) -> None:
        """Called by the watch."""
        self._report.failed(kind.resource, reason)
        # What is not known is asked for one by one, and what is too much goes once it can be listed.
        self._read[kind.name].set()

    def back(self) -> None:
        """Called by the watch."""
        for at, retry in self._retry.items():
            retry.backoff.reset()
            self._mark(at, retry.what)

    def _moved(self, name: str, what: str | None) -> None:
        """A namespace came, went or changed."""
        if what is not None:
            self._mark((NAMESPACE, "", name), what)
            self._enter(name)

    def _enter(self, name: str) -> None:
        """What shall be in a namespace is looked at."""
        for at in self._inside.get(name, ()):
            if not self._spaces.holds(name):
                self._settled(at)  # nobody misses it
            self._look(at)

    def _look(self, at: Key, what: str = "") -> None:
        """Marks an object if it is not as it shall be."""
        if at[1] and self._spaces.ending(at[1]):
            return  # Kubernetes empties it, and nothing can be made in it
        wanted, seen = self._wanted(at), self._seen.get(at)
        if wanted is None:
            if seen is not None and seen.ours and self.desired is not None:
                self._mark(at, "")
        elif seen is None or not seen.good:
            self._mark(at, what)

    def _mark(self, at: Key, what: str) -> None:
        if at in self._held:
            what = ""  # it changes by ourselves
        if what or at not in self._dirty:
            self._dirty[at] = what
        self._wake.set()

    async def _heal(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._ready:
                continue
            for at in [at for at in self._dirty if at not in self._held and at not in self._busy]:
                what = self._dirty.pop(at)
                self._busy.add(at)
                self._tasks.spawn(self._heal_one(at, what), title(at))
                if len(self._busy) >= 4 * FLIGHT:
                    break  # one that is done wakes us

    async def _heal_one(self, at: Key, what: str) -> None:
        try:
            await self._fix(at, what)
        finally:
            self._busy.discard(at)
            if self._dirty:
                self._wake.set()

    async def _expire(self) -> None:
        """Ends bindings by the second, whether or not there is a server."""
        while True:
            self._turn.clear()
            now, following = self._time.now(), None
            for at, wanted in self.desired.objects.items() if self.desired is not None else ():
                if wanted.expires_at is None:
                    continue
                self._look(at)  # its time may be over, or have been set back
                if wanted.expires_at <= now:
                    continue
                following = wanted.expires_at if following is None else min(following, wanted.expires_at)
            try:
                async with asyncio.timeout(None if following is None else min(following - now, LOOK_AGAIN)):
                    await self._turn.wait()
            except TimeoutError:
                continue


def _is(item: Item, want: Manifest) -> bool:
    kind = KINDS[want["kind"]]
    have = item.manifest(kind)
    # In a NetworkPolicy more means another: a selector that is added to a peer, one that picks fewer pods.
    return same(have, want) and (kind.name != "NetworkPolicy" or have.get("spec") == want.get("spec"))


def _passes(error: KubeError) -> bool:
    """Whether it may be otherwise in a moment."""
    return error.status >= 500 or error.status in _PASSING


def _whose(item: Item) -> str:
    managers = sorted({owner.manager for owner in item.metadata.owners if owner.manager})[:5]
    return (
        f"an object of that name is there that is not the policy's (made by {', '.join(managers) or 'somebody else'})"
    )
