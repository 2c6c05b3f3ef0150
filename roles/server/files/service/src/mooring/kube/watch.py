# SPDX-License-Identifier: Apache-2.0
"""Objects of one kind, followed: a list in pages, then a watch that goes on from there, for as long as it is asked to.

    Follower(kube, Query("/api/v1/namespaces", "labelSelector=..."), Item, sink).run()
    Follower(kube, one("/api/v1/namespaces/x/secrets", "name"), Item, sink).run()

A watch that ends is resumed where it was; only when the API server no longer knows that far back is the list read anew.
Objects are read with the typed struct that is given, so that no more of one is ever held than what somebody looks at.
It must not: poll, or hold objects. The sink keeps what it needs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError, message_of
from mooring.lib.backoff import Backoff
from mooring.net.fetch import FetchError

PAGE: Final = 250
"""Objects of a list that are asked for at once."""
MOST: Final = 200_000
"""Objects of a list; more are taken for a fault of the API server."""
WATCH_SECONDS: Final = (300, 600)
"""A watch ends after a time between these."""
STEADY: Final = 10.0
"""Seconds after which a watch counts as good, and is resumed at once."""
PATIENCE: Final = 10.0
"""Seconds between two attempts, at most."""
MAX_LINE: Final = 8 * 1024 * 1024
"""Bytes of one event."""
_JSON: Final = "application/json"
_METADATA: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class Meta(Protocol):
    """What is needed of an object's metadata."""

    name: str
    namespace: str
    version: str
    """`resourceVersion`."""


class Object(Protocol):
    """What is needed of an object."""

    @property
    def metadata(self) -> Meta:
        """Who it is, and at which version."""


T = TypeVar("T", bound=Object)
_In_contra = TypeVar("_In_contra", bound=Object, contravariant=True)

Place = tuple[str, str]
"""Namespace (empty for an object of the cluster) and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is followed. `collection` is the path of the list; `selector` goes into the query as it is."""

    collection: str
    selector: str = ""
    metadata_only: bool = False

    def accept(self, what: str = "") -> str:
        """The media type of an object, or of a `List`."""
        return _METADATA.format(what) if self.metadata_only else _JSON


def one(collection: str, name: str) -> Query:
    """A single object, by its name: RBAC allows that to whoever may list and watch this name only."""
    return Query(collection=collection, selector=f"fieldSelector=metadata.name%3D{quote(name, safe='')}")


class Sink(Protocol[_In_contra]):
    """Who is told. None of it may wait."""

    def found(self, item: _In_contra) -> None:
        """An object is there, new or changed."""

    def gone(self, item: _In_contra) -> None:
        """An object is not there any more, or the selector does not choose it any more."""

    def listed(self, places: set[Place], number: int) -> None:
        """A list is complete: whatever else was known at this resource version (0: it is no number) is gone."""

    def unread(self, reason: str) -> None:
        """The list cannot be read just now."""

    def back(self) -> None:
        """The API server answers again after it did not."""


class _ListMeta(msgspec.Struct):
    version: str = msgspec.field(name="resourceVersion", default="")
    more: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, Generic[T]):
    metadata: _ListMeta
    items: list[T] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Outdated(Exception):
    """The API server does not know that far back."""


_EVENT: Final = msgspec.json.Decoder(_Event)


class Follower(Generic[T]):
    """Follows what a query asks for, until cancelled. `kind` is the struct that objects are read with. `patience`:
    seconds between two attempts at most; `max_line`: bytes of one event."""

    def __init__(
        self,
        kube: KubeApi,
        query: Query,
        kind: type[T],
        sink: Sink[T],
        *,
        patience: float = PATIENCE,
        max_line: int = MAX_LINE,
    ) -> None:
        self._kube = kube
        self._query = query
        self._sink = sink
        self._patience = patience
        self._max_line = max_line
        self._item: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self._page: msgspec.json.Decoder[_Page[T]] = msgspec.json.Decoder(_Page[kind])  # type: ignore[valid-type]
        self._away = False  # the last call was not answered
        self.version = ""
        """How far it is known; empty: the list is to be read."""

    async def run(self) -> None:
        """Follows."""
        backoff = Backoff(0.2, self._patience)
        loop = asyncio.get_running_loop()
        while True:
            try:
                if not self.version:
                    self.version = await self._list()
                    backoff.reset()
                began = loop.time()
                await self._watch()
                if loop.time() - began > STEADY:
                    backoff.reset()
                    continue
            except _Outdated:
                self.version = ""
            except (KubeError, FetchError, BadConfig, msgspec.MsgspecError) as error:
                self._away = True
                if not self.version:
                    self._sink.unread(str(error))
            await asyncio.sleep(backoff.next())

    async def _list(self) -> str:
        """Reads the list in pages; returns its version. Raises KubeError, FetchError, _Outdated."""
        places: set[Place] = set()
        more = ""
        while True:
            path = f"{self._query.collection}?limit={PAGE}&{self._query.selector}"
            if more:
                path += f"&continue={quote(more, safe='')}"
            answer = await self._kube.call("GET", path, accept=self._query.accept("List"))
            if answer.status == 410 and more:
                raise _Outdated  # the list took too long
            if answer.status != 200:
                raise KubeError(answer.status, f"{self._name} cannot be listed: {message_of(answer)}")
            page = self._page.decode(answer.body)
            for item in page.items or ():
                places.add((item.metadata.namespace, item.metadata.name))
                self._sink.found(item)
            if len(places) > MOST:
                raise KubeError(502, f"there are more than {MOST} {self._name}")
            more = page.metadata.more
            if not more:
                version = page.metadata.version
                self._sink.listed(places, int(version) if version.isdigit() else 0)
                return version

    async def _watch(self) -> None:
        """Tells the sink of each event until the watch ends. Raises KubeError, FetchError, _Outdated."""
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - spreads load, protects nothing
        path = (
            f"{self._query.collection}?watch=1&allowWatchBookmarks=true"
            f"&resourceVersion={quote(self.version, safe='')}&timeoutSeconds={seconds}&{self._query.selector}"
        )
        async for line in self._lines(path):
            event = _EVENT.decode(line)
            if event.type == "ERROR":
                raise _Outdated
            item = self._item.decode(event.object)
            if event.type == "DELETED":
                self._sink.gone(item)
            elif event.type in ("ADDED", "MODIFIED"):
                self._sink.found(item)
            self.version = item.metadata.version

    async def _lines(self, path: str) -> AsyncIterator[bytes]:
        download = self._kube.watch(path, accept=self._query.accept())
        try:
            head = await download.head()
            if head.status == 410:
                raise _Outdated
            if head.status != 200:
                raise KubeError(head.status, f"watching {self._name}: HTTP status {head.status}")
            if self._away:
                self._away = False
                self._sink.back()
            rest = bytearray()
            async for piece in download:
                if b"\n" not in piece:
                    rest += piece
                else:
                    *lines, left = bytes(rest + piece).split(b"\n")
                    rest = bytearray(left)
                    for line in lines:
                        if line.strip():
                            yield line
                if len(rest) > self._max_line:
                    raise KubeError(502, f"an event of {self._name} is too large")
        finally:
            download.close()

    @property
    def _name(self) -> str:
        return self._query.collection.rpartition("/")[2]
