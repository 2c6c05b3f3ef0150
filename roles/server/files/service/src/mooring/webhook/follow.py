# SPDX-License-Identifier: Apache-2.0
"""Keeps the copy as the Secrets of the cluster are: one watch on the index, and a read of each shard that it changes.

    Secret mooring-endpoint       `document`: the index; `link`: whether the agent has a session to the server
    Secret mooring-endpoint-<n>   `document`: a shard

The agent writes shards first and the index last, so that what an index names is there when it is seen. A shard that is
already of the next index is waited for a moment (its index is on its way); then the shard counts as missing, which
`copy` answers by letting nobody of it in.

The index is also read every quarter of a minute: a watch may die without anybody being told.

It must not: answer reviews, or wait for the API server before it serves what is on disk.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError, message_of
from mooring.kube.watch import Follower, Place, one
from mooring.lib import logging
from mooring.lib.tasks import Supervisor
from mooring.net.fetch import FetchError
from mooring.webhook.copy import Copy
from mooring.webhook.disk import Disk
from mooring.wire.endpoint import SHARD
from mooring.wire.sealed import BadDocument, claimed

NAME: Final = "mooring-endpoint"
"""Of the Secret with the index, and the beginning of the names of the shards' Secrets."""
PATIENCE: Final = 2.0
"""Seconds between two attempts to follow, at most: so long after the API server is back may something be late."""
CHECK: Final = 15.0
"""Seconds between two reads of the index without a watch."""
KEEP_CLOCK: Final = 30.0
"""Seconds between two times that are kept on disk."""
TRIES: Final = 5
"""Reads of shards that do not fit their index, `PAUSE` seconds apart, before those are missing."""
PAUSE: Final = 0.2
RETRY: Final = 1.0
"""Seconds before an index whose shards could not be read is looked at again."""
MAX_LINE: Final = 256 * 1024
"""Bytes of an event: an index is 3 KiB."""
_FAILED: Final = (KubeError, FetchError, BadConfig, msgspec.MsgspecError)


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")


class Secret(msgspec.Struct):
    """What is read of a Secret."""

    metadata: _Meta
    data: dict[str, str] | None = None


class Link(msgspec.Struct, frozen=True):
    """What the agent says of its session."""

    connected: bool
    since: float = 0.0
    offset: float = 0.0


_SECRET: Final = msgspec.json.Decoder(Secret)
_LINK: Final = msgspec.json.Decoder(Link)


class Follow:
    """Feeds the copy, and the disk if there is one. `start`, then `aclose`."""

    def __init__(self, kube: KubeApi, namespace: str, copy: Copy, disk: Disk | None) -> None:
        self._kube = kube
        self._path = f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets"
        self._copy = copy
        self._disk = disk
        self._tasks = Supervisor("endpoint/follow")
        self._news = asyncio.Event()
        self._latest: Secret | None = None
        self._seen = ""  # resourceVersion of what was looked at last
        self.heard = 0.0
        """When the API server was last heard, in seconds of the monotonic clock; 0: never."""
        self.problem = "the cluster's API server has not been asked yet"
        """Why the Secrets cannot be read; empty: they can."""
        self._log = logging.get("mooring.endpoint")

    def load(self) -> None:
        """Start from what is on disk. Call it before `start`; it waits for the disk."""
        if self._disk is None:
            return
        self._copy.time.at_least(self._disk.clock())
        index = self._disk.index()
        if index is None:
            return
        try:
            self._copy.adopt(index, self._disk.shards(self._copy.wants(index) or {}))
        except BadDocument as error:
            self._log.error("the copy on disk is not used", reason=str(error))
            return
        self._log.info("the copy on disk is used", revision=self._copy.revision, tokens=self._copy.tokens)

    def start(self) -> None:
        """Begin to follow."""
        follower = Follower(self._kube, one(self._path, NAME), Secret, self, patience=PATIENCE, max_line=MAX_LINE)
        self._tasks.spawn(follower.run(), "watch")
        self._tasks.spawn(self._work(), "work")
        self._tasks.spawn(self._check(), "check")
        if self._disk is not None:
            self._tasks.spawn(self._keep_clock(self._disk), "clock")

    async def aclose(self) -> None:
        """End."""
        await self._tasks.aclose()
        await self._save_clock()

    # --- kube.watch.Sink ---------------------------------------------------------------------------------------------

    def found(self, item: Secret) -> None:
        self._hear()
        self._latest = item
        self._news.set()

    def gone(self, item: Secret) -> None:
        self._hear()
        self._lost()

    def listed(self, places: set[Place], number: int) -> None:
        self._hear()
        if not places:
            self._lost()

    def unread(self, reason: str) -> None:
        if reason != self.problem:
            self._log.warning("the tokens of the endpoint cannot be read from the cluster", reason=reason)
        self.problem = reason

    def back(self) -> None:
        self._hear()

    def _hear(self) -> None:
        self.heard = time.monotonic()
        self.problem = ""

    def _lost(self) -> None:
        """The Secret is not there, as the API server says itself: the endpoint was removed. An agent that is there
        puts it back within a second."""
        if self._copy.ready:
            self._log.warning("the Secret is not in the cluster any more: nobody is let in", name=NAME)
        self._copy.clear()
        self._latest = None
        self._news.set()

    # --- the work ----------------------------------------------------------------------------------------------------

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK)
            try:
                item = await self._get(NAME)
            except _FAILED as error:
                self.unread(str(error))
                continue
            self._hear()
            if item is None:
                self._lost()
            elif item.metadata.version != self._seen:
                self.found(item)

    async def _work(self) -> None:
        while True:
            if self._copy.missing and self._copy.ready:
                try:
                    async with asyncio.timeout(PATIENCE):
                        await self._news.wait()
                except TimeoutError:
                    await self._again()
                    continue
            else:
                await self._news.wait()
            self._news.clear()
            item = self._latest
            if item is None:
                self._seen = ""
                await self._drop()
                continue
            self._seen = item.metadata.version
            try:
                await self._look(item)
            except BadDocument as error:
                self._copy.problem = str(error)
                self._log.error("what is in the Secret is refused", name=NAME, reason=str(error))
            except _FAILED as error:
                self.unread(str(error))
                await asyncio.sleep(RETRY)
                self._news.set()

    async def _look(self, item: Secret) -> None:
        """Take over what the Secret holds. Raises BadDocument and _FAILED."""
        link = self._link(item)
        self._copy.link(None if link is None else link.connected, 0.0 if link is None else link.offset)
        index = _part(item, "document")
        if index is None:
            raise BadDocument("it holds no document")
        wanted = self._copy.wants(index)
        if wanted is None:
            self._copy.problem = ""
            return
        shards: dict[int, bytes] = {}
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE)
            if self._news.is_set():
                return  # a later index is there already
            shards |= await self._shards({n: digest for n, digest in wanted.items() if n not in shards})
            if len(shards) == len(wanted):
                break
        self._copy.adopt(index, shards)
        self._log.info(
            "taken over", revision=self._copy.revision, tokens=self._copy.tokens, problem=self._copy.problem or None
        )
        await self._save(index, shards)

    async def _again(self) -> None:
        """Try once more to get the shards that are missing."""
        try:
            shards = await self._shards(self._copy.missing)
        except _FAILED as error:
            self.unread(str(error))
            return
        brought = {number: data for number, data in shards.items() if self._copy.bring(number, data)}
        if brought and self._latest is not None and (index := _part(self._latest, "document")) is not None:
            await self._save(index, brought)

    async def _shards(self, wanted: Mapping[int, str]) -> dict[int, bytes]:
        """Of these shards (number -> digest) those that say that they are it. One after the other: each may be a
        megabyte. Raises _FAILED."""
        found: dict[int, bytes] = {}
        for number, digest in wanted.items():
            item = await self._get(f"{NAME}-{number}")
            data = _part(item, "document") if item is not None else None
            if data is not None and claimed(SHARD, data) == digest:
                found[number] = data
        return found

    async def _get(self, name: str) -> Secret | None:
        answer = await self._kube.call("GET", f"{self._path}/{name}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise KubeError(answer.status, f"the Secret {name} cannot be read: {message_of(answer)}")
        return _SECRET.decode(answer.body)

    def _link(self, item: Secret) -> Link | None:
        data = _part(item, "link")
        try:
            return None if data is None else _LINK.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    # --- the disk ----------------------------------------------------------------------------------------------------

    async def _save(self, index: bytes, shards: Mapping[int, bytes]) -> None:
        if self._disk is not None:
            await self._write(self._disk.save, index, shards, dict(self._copy.shards))
            await self._save_clock()

    async def _drop(self) -> None:
        if self._disk is not None:
            await self._write(self._disk.drop_shards)

    async def _save_clock(self) -> None:
        if self._disk is not None:
            await self._write(self._disk.keep_clock, self._copy.now())

    async def _keep_clock(self, disk: Disk) -> None:
        while True:
            await self._write(disk.keep_clock, self._copy.now())
            if (behind := self._copy.time.behind) > CHECK:
                self._log.warning(
                    "this machine's clock is behind a time that was seen before; tokens end by the later one",
                    seconds=round(behind, 1),
                )
            await asyncio.sleep(KEEP_CLOCK)

    async def _write(self, what: Any, *arguments: Any) -> None:
        try:
            await asyncio.to_thread(what, *arguments)
        except OSError as error:
            self._log.error("the copy cannot be kept on disk; a restart will need the API server", reason=str(error))


def _part(item: Secret, key: str) -> bytes | None:
    """What a Secret holds under a key; None if it is not there or not base64."""
    try:
        return base64.b64decode((item.data or {})[key], validate=True)
    except (KeyError, binascii.Error, ValueError):
        return None
