# SPDX-License-Identifier: Apache-2.0
"""What is in the cluster: a list of each kind with our label, in pages, then a watch that goes on from there.

A watch that ends is resumed where it was; only when the API server no longer knows that far back is the list read anew.
It must not: poll, or hold objects. The sink keeps what it needs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Final, Protocol
from urllib.parse import quote

import msgspec

from mooring.agent.backoff import Backoff
from mooring.agent.config import BadConfig
from mooring.agent.kubeapi import KubeApi, KubeError, message_of
from mooring.agent.policy.kinds import KINDS, SELECTOR, SPACES, Item, ItemList, Kind
from mooring.kube.transition import Key
from mooring.lib.tasks import Supervisor
from mooring.net.fetch import FetchError

PAGE: Final = 250
"""Objects of a list that are asked for at once."""
WATCH_SECONDS: Final = (300, 600)
"""A watch ends after a time between these."""
STEADY: Final = 10.0
"""Seconds after which a watch counts as good, and is resumed at once."""
MAX_LINE: Final = 8 * 1024 * 1024
"""Bytes of one event."""
_METADATA: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class Sink(Protocol):
    """Who is told."""

    def found(self, kind: Kind, item: Item) -> None:
        """An object is there, new or changed."""

    def gone(self, kind: Kind, item: Item) -> None:
        """An object is not there any more, or has lost our label."""

    def listed(self, kind: Kind, keys: set[Key], number: int) -> None:
        """A list is complete: whatever else was known at this resource version is gone."""

    def unread(self, kind: Kind, reason: str) -> None:
        """A list cannot be read just now."""

    def back(self) -> None:
        """The API server answers again after it did not."""


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Outdated(Exception):
    """The API server does not know that far back."""


_LIST: Final = msgspec.json.Decoder(ItemList)
_EVENT: Final = msgspec.json.Decoder(_Event)
_ITEM: Final = msgspec.json.Decoder(Item)


class Watcher:
    """Follows all the kinds until cancelled."""

    def __init__(self, kube: KubeApi, sink: Sink) -> None:
        self._kube = kube
        self._sink = sink
        self._tasks = Supervisor("policy/watch")
        self._versions: dict[str, str] = {}  # how far each kind is known
        self._away: set[str] = set()  # kinds whose last call was not answered

    def start(self) -> None:
        """Begins."""
        for kind in KINDS.values():
            self._tasks.spawn(self._follow(kind, SELECTOR, "application/json", "application/json"), kind.resource)
        # Of namespaces all, since any may come to be one of a project; but no more of them than their metadata.
        self._tasks.spawn(self._follow(SPACES, "", _METADATA.format("List"), _METADATA.format("")), SPACES.resource)

    async def aclose(self) -> None:
        """Ends."""
        await self._tasks.aclose()

    async def _follow(self, kind: Kind, selector: str, lists: str, watches: str) -> None:
        backoff = Backoff(0.2, 10.0)
        loop = asyncio.get_running_loop()
        while True:
            try:
                if not self._versions.get(kind.name):
                    self._versions[kind.name] = await self._list(kind, selector, lists)
                    backoff.reset()
                began = loop.time()
                await self._watch(kind, selector, watches)
                if loop.time() - began > STEADY:
                    backoff.reset()
                    continue
            except _Outdated:
                self._versions[kind.name] = ""
            except (KubeError, FetchError, BadConfig, msgspec.MsgspecError) as error:
                self._away.add(kind.name)
                if not self._versions.get(kind.name):
                    self._sink.unread(kind, str(error))
            await asyncio.sleep(backoff.next())

    async def _list(self, kind: Kind, selector: str, accept: str) -> str:
        """Reads the list in pages; returns its version. Raises KubeError, FetchError, _Outdated."""
        keys: set[Key] = set()
        more = ""
        while True:
            path = f"{kind.collection()}?limit={PAGE}&{selector}"
            if more:
                path += f"&continue={quote(more, safe='')}"
            answer = await self._kube.call("GET", path, accept=accept)
            if answer.status == 410 and more:
                raise _Outdated  # the list took too long
            if answer.status != 200:
                raise KubeError(answer.status, f"{kind.resource} cannot be listed: {message_of(answer)}")
            page = _LIST.decode(answer.body)
            for item in page.items or ():
                keys.add(item.key(kind))
                self._sink.found(kind, item)
            more = page.metadata.more
            if not more:
                version = page.metadata.version
                self._sink.listed(kind, keys, int(version) if version.isdigit() else 0)
                return version

    async def _watch(self, kind: Kind, selector: str, accept: str) -> None:
        """Tells the sink of each event until the watch ends. Raises KubeError, FetchError, _Outdated."""
        version = self._versions[kind.name]
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - spreads load, protects nothing
        path = (
            f"{kind.collection()}?watch=1&allowWatchBookmarks=true&resourceVersion={quote(version, safe='')}"
            f"&timeoutSeconds={seconds}&{selector}"
        )
        async for line in self._lines(kind, path, accept):
            event = _EVENT.decode(line)
            if event.type == "ERROR":
                raise _Outdated
            item = _ITEM.decode(event.object)
            if event.type == "DELETED":
                self._sink.gone(kind, item)
            elif event.type in ("ADDED", "MODIFIED"):
                self._sink.found(kind, item)
            self._versions[kind.name] = item.metadata.version

    async def _lines(self, kind: Kind, path: str, accept: str) -> AsyncIterator[bytes]:
        download = self._kube.watch(path, accept=accept)
        try:
            head = await download.head()
            if head.status == 410:
                raise _Outdated
            if head.status != 200:
                raise KubeError(head.status, f"watching {path.split('?')[0]}: HTTP status {head.status}")
            if kind.name in self._away:
                self._away.discard(kind.name)
                self._sink.back()
            rest = b""
            async for piece in download:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > MAX_LINE:
                    raise KubeError(502, f"an event of {path.split('?')[0]} is too large")
                for line in lines:
                    if line.strip():
                        yield line
        finally:
            download.close()
