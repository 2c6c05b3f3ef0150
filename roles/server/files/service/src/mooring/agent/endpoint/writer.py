# SPDX-License-Identifier: Apache-2.0
"""The work of the agent that holds the Lease `mooring-endpoint`: what the server announces is fetched, checked and
written, and what somebody else did to it is put right.

    resume: what is in the cluster counts, if the server signed it
    fetch:  a word of the server -> what differs -> check -> shards, index, then the rest goes
    keep:   the link to the server, two seconds after it changed; the Secrets, when the watch says so, and every minute

It must not: write what it has not checked, or an index that is older than the one that is there. A shard that may not
be taken is left out and its Secret removed: whoever reads the index finds that shard missing, so that nobody in it gets
in, and what is taken away from everybody else holds all the same.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from mooring.agent.endpoint.check import Known, Pin, take_index, take_shard
from mooring.agent.endpoint.link import LinkState
from mooring.agent.endpoint.places import places
from mooring.agent.endpoint.report import Report
from mooring.agent.endpoint.vault import Link, Vault
from mooring.agent.identity import BadIdentity, Identity, Registrations
from mooring.agent.policy.timekeeper import Timekeeper
from mooring.agent.serverapi import ServerApi, ServerRefuses, date_of
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.kube.names import ENDPOINT_NAME
from mooring.kube.watch import Follower, Place, one
from mooring.lib import logging
from mooring.lib.backoff import Backoff
from mooring.lib.errors import MooringError
from mooring.net.fetch import FetchError
from mooring.net.tls import BadTrust
from mooring.wire.endpoint import INDEX, MAX_DOCUMENT, SHARDS
from mooring.wire.sealed import BadDocument, public_key

PATH: Final = "/api/v1/agents/endpoint"
MEDIA: Final = "application/msgpack"
NOTHING_NEW: Final = 204
MAX_ANSWER: Final = SHARDS * (MAX_DOCUMENT + 64) + INDEX.limit + 4096
LOOK: Final = 60.0
"""Seconds between two looks at the Secrets of shards, and at the nodes."""
CALM: Final = 1.0
"""Seconds between two times that something is put right: whoever else writes there is not to keep us busy."""
PATIENCE: Final = 1.0
"""Seconds between two attempts to watch, at most."""
MAX_EVENT: Final = 4 * 1024 * 1024
_ATTEMPT: Final = (KubeError, FetchError, BadConfig)


class NotWhole(MooringError):
    """The server's answer lacks a shard that its index names."""


class _Reply(msgspec.Struct):
    index: bytes
    shards: dict[int, bytes] = {}


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


_REPLY: Final = msgspec.msgpack.Decoder(_Reply, strict=False)


class Words:
    """What the server has announced last."""

    def __init__(self) -> None:
        self.revision = 0
        self.digest = ""
        self.news = asyncio.Event()

    def heard(self, revision: int, digest: str) -> None:
        """The server has an index with this digest."""
        self.revision, self.digest = revision, digest
        self.news.set()


class Writer:
    """Does the work until cancelled. `uid` is the cluster's."""

    def __init__(
        self,
        kube: KubeApi,
        vault: Vault,
        collection: str,
        registrations: Registrations,
        api: ServerApi,
        words: Words,
        link: LinkState,
        report: Report,
        time: Timekeeper,
        uid: str,
    ) -> None:
        self._kube = kube
        self._vault = vault
        self._collection = collection
        self._registrations = registrations
        self._api = api
        self._words = words
        self._link = link
        self._report = report
        self._time = time
        self._uid = uid
        self._whose = ("", "")  # the registration's cluster id and key that `_known` was verified for
        self._known: Known | None = None
        self._have: dict[int, str] = {}
        self._whole = False  # whether all that the index names is there, or may not be
        self._bad = ""  # why a shard is left out
        self._touched = False  # the Secret of the index is not as it shall be
        self._writing = asyncio.Lock()
        self._log = logging.get("mooring.agent.endpoint")

    async def run(self, there: tuple[bytes, Link | None] | None) -> None:
        """Works, from what is `there` on. Raises KubeError, FetchError, BadConfig, BadIdentity while it begins."""
        if there is not None:
            await self._resume(*there)
        follower = Follower(
            self._kube, one(self._collection, ENDPOINT_NAME), _Secret, self, patience=PATIENCE, max_line=MAX_EVENT
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fetch())
            tasks.create_task(self._keep())
            tasks.create_task(self._look())
            tasks.create_task(follower.run())

    # --- what is there ------------------------------------------------------------------------------------------------

    async def _resume(self, data: bytes, link: Link | None) -> None:
        """What an agent wrote before us counts, if the server signed it."""
        self._link.found(link)
        try:
            identity = await self._registrations.load()
            pin = self._pin(identity)
            known = take_index(data, pin, None)
        except BadDocument as error:
            self._failed(f"what is in the cluster is not used: {error}")
            self._words.news.set()
            return
        for number, digest in known.shards.items():
            shard = await self._vault.shard(number)
            try:
                if shard is None:
                    raise BadDocument(f"shard {number} is not there")
                take_shard(shard, pin, number, digest, known.prefix)
            except BadDocument as error:
                self._log.warning("a shard in the cluster is not used", reason=str(error))
            else:
                self._have[number] = digest
                self._vault.hold(number, shard)
        await self._vault.keep_only(known.shards, all_others=True)
        self._known, self._whose = known, (identity.cluster_id, identity.policy_key)
        self._whole = self._have.keys() == known.shards.keys()
        self._tell()
        if not self._whole:
            self._words.news.set()

    # --- what the server has ------------------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        while True:
            await self._words.news.wait()
            self._words.news.clear()
            if self._whole and self._known is not None and self._words.digest in ("", self._known.digest):
                self._tell()
                continue
            await self._get()

    async def _get(self) -> None:
        """Asks until there is an answer, or a newer word."""
        backoff = Backoff(0.2, 15.0)
        while True:
            try:
                await self._once()
                return
            except ServerRefuses as error:
                self._failed(error.reason, error.date)
            except (*_ATTEMPT, BadIdentity, BadTrust, NotWhole) as error:
                self._failed(error.reason)
            except BadDocument as error:
                self._failed(f"what the server sent is refused: {error}")
                return
            try:
                async with asyncio.timeout(backoff.next()):
                    await self._words.news.wait()
            except TimeoutError:
                continue
            return

    async def _once(self) -> None:
        identity = await self._registrations.load()
        pin = self._pin(identity)
        whose = (identity.cluster_id, identity.policy_key)
        if whose != self._whose:  # registered with another server, say: what was there says nothing any more
            self._whose, self._known, self._have, self._whole = whose, None, {}, False
        last = self._known
        body = {
            "digest": last.digest if last is not None and self._whole else "",
            "have": {str(number): digest for number, digest in sorted(self._have.items())},
        }
        answer = await self._api.ask(
            identity, "POST", PATH, msgspec.json.encode(body), accept=MEDIA, max_body=MAX_ANSWER
        )
        if (date := date_of(answer)) is not None:
            self._time.learn(date)
        if answer.status == NOTHING_NEW:
            self._tell()
            return
        try:
            reply = _REPLY.decode(answer.body)
        except msgspec.MsgspecError as error:
            raise BadDocument(f"it cannot be read: {error}") from None
        known = take_index(reply.index, pin, last)
        async with self._writing:
            await self._write(known, reply.shards, pin)

    async def _write(self, known: Known, shards: dict[int, bytes], pin: Pin) -> None:
        bad = ""
        fresh: dict[int, bytes] = {}
        out: set[int] = set()
        # Under another prefix the same shard names others: what was checked with the last one counts no more.
        have = self._have if self._known is not None and known.prefix == self._known.prefix else {}
        for number, digest in known.shards.items():
            data = shards.get(number)
            if have.get(number) == digest:
                continue
            if data is None:
                raise NotWhole(f"the server did not send shard {number}, which its index names")
            try:
                take_shard(data, pin, number, digest, known.prefix)
                fresh[number] = data
            except BadDocument as error:
                out.add(number)
                bad = str(error)
            await asyncio.sleep(0)  # a large one takes its time, and requests pass through this process
        self._whole = False
        for number in fresh.keys() | out:
            self._have.pop(number, None)
        await asyncio.gather(*(self._write_shard(number, data, known) for number, data in fresh.items()))
        await self._write_index(known)
        self._known = known
        await self._vault.keep_only(known.shards.keys() - out)
        self._have = {number: digest for number, digest in self._have.items() if number in known.shards}
        self._whole, self._bad = True, bad
        self._tell()

    async def _write_shard(self, number: int, data: bytes, known: Known) -> None:
        await self._vault.write_shard(number, data)
        self._have[number] = known.shards[number]

    async def _write_index(self, known: Known) -> None:
        link = self._link.now(self._time)
        await self._vault.write_index(known.data, link)
        self._link.written(link)

    # --- what is to be kept -------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Writes the link when it is another, and puts right what others did to the index."""
        backoff = Backoff(0.2, 10.0)
        while True:
            try:
                async with asyncio.timeout(self._due()):
                    await self._link.wake.wait()
            except TimeoutError:
                pass
            self._link.wake.clear()
            touched, self._touched = self._touched, False
            try:
                async with self._writing:
                    if self._known is not None and (touched or self._due() == 0.0):
                        await self._put_right(self._known, touched)
            except _ATTEMPT as error:
                self._log.info("the Secret of the index is not written just now", reason=str(error))
                self._touch()
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            if touched:
                await asyncio.sleep(CALM)

    def _due(self) -> float | None:
        """Seconds until the link is to be written; None: there is nothing to write it beside."""
        return None if self._known is None else self._link.due(self._time)

    async def _put_right(self, known: Known, touched: bool) -> None:
        if touched:
            there = await self._vault.index()
            if there is not None and there[0] == known.data and there[1] is not None:
                self._link.found(there[1])
                return
            self._log.warning("put right what somebody else did", secret=ENDPOINT_NAME)
        await self._write_index(known)

    async def _look(self) -> None:
        """Looks at the shards and at the nodes once in a while."""
        while True:
            for look in (self._look_at_nodes, self._look_at_shards):
                try:
                    await look()
                except _ATTEMPT as error:
                    self._log.info("the cluster cannot be looked at just now", reason=str(error))
            await asyncio.sleep(LOOK)

    async def _look_at_nodes(self) -> None:
        found = await places(self._kube)
        if list(self._report.places) != found:
            self._report.places = found
            self._report.note()

    async def _look_at_shards(self) -> None:
        async with self._writing:
            await self._put_shards_right()

    async def _put_shards_right(self) -> None:
        missing = False
        for number, held in (await self._vault.touched()).items():
            self._log.warning("put right what somebody else did", secret=f"{ENDPOINT_NAME}-{number}")
            digest = self._have.pop(number, None)
            if held is not None and digest is not None:
                await self._vault.write_shard(number, held)
                self._have[number] = digest
            else:
                missing = True
        if missing:
            self._whole = False
            self._words.news.set()

    # --- told by the watch --------------------------------------------------------------------------------------------

    def found(self, item: _Secret) -> None:
        """The Secret of the index is there, new or changed."""
        if not self._vault.is_index(item.data):
            self._touch()

    def gone(self, _item: _Secret) -> None:
        """Somebody removed it."""
        self._touch()

    def listed(self, where: set[Place], _number: int) -> None:
        """The list is read."""
        if not where:
            self._touch()

    def unread(self, reason: str) -> None:
        """It cannot be watched just now."""
        self._log.info("the Secret of the endpoint cannot be watched just now", reason=reason)

    def back(self) -> None:
        """The API server is back; the watch tells what has changed."""

    def _touch(self) -> None:
        self._touched = True
        self._link.wake.set()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _pin(self, identity: Identity) -> Pin:
        key = public_key(identity.policy_key)
        if key is None:
            raise BadIdentity("this cluster knows no key of the server yet")
        return Pin(key, identity.cluster_id, self._uid)

    def _tell(self) -> None:
        if self._known is not None:
            self._report.revision, self._report.digest = self._known.revision, self._known.digest
            self._report.active = True
        self._report.failed(self._bad)
        self._report.note()

    def _failed(self, reason: str, date: float | None = None) -> None:
        if date is not None:
            self._time.learn(date)
        self._report.active = True
        self._report.failed(reason)
