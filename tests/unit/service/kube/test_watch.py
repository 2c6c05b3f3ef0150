# SPDX-License-Identifier: Apache-2.0
"""How objects are followed: lists in pages, watches that are resumed, and what an API server may not do to us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from mooring.kube import watch
from mooring.kube.watch import Follower, Place, Query, one
from mooring.net.fetch import Answer, FetchError
from mooring.wire.frames import Code


class Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")


class Thing(msgspec.Struct):
    metadata: Meta
    colour: str = ""


def thing(name: str, version: int, colour: str = "red") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "x", "resourceVersion": str(version)}, "colour": colour}


def event(kind: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


class Head:
    def __init__(self, status: int) -> None:
        self.status = status


class Watch:
    """`Download` of a watch."""

    def __init__(self, status: int = 200) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.status = status
        self.closed = False

    def tell(self, *pieces: bytes | None) -> None:
        for piece in pieces:
            self.queue.put_nowait(piece)

    async def head(self) -> Head:
        return Head(self.status)

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.queue.get()
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        self.closed = True


class Api:
    """The two methods of `KubeApi` that are used."""

    def __init__(self) -> None:
        self.pages: list[Answer] = []
        self.lists: list[dict[str, list[str]]] = []
        self.watches: list[tuple[dict[str, list[str]], Watch]] = []
        self.statuses: list[int] = []
        self.away = False

    def page(self, *items: dict[str, Any], version: int, more: str = "") -> None:
        body = {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}
        self.pages.append(Answer(200, [], json.dumps(body).encode()))

    async def call(self, _method: str, path: str, **_unused: Any) -> Answer:
        await asyncio.sleep(0)
        if self.away or not self.pages:
            raise FetchError(Code.UPSTREAM_UNREACHABLE, "nobody is there", sent=False)
        self.lists.append(parse_qs(path.partition("?")[2]))
        return self.pages.pop(0)

    def watch(self, path: str, **_unused: Any) -> Watch:
        if self.away:
            raise FetchError(Code.UPSTREAM_UNREACHABLE, "nobody is there", sent=False)
        made = Watch(self.statuses.pop(0) if self.statuses else 200)
        self.watches.append((parse_qs(path.partition("?")[2]), made))
        return made


class Log:
    """A sink."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def found(self, item: Thing) -> None:
        self.said.append(("found", item.metadata.name, item.colour))

    def gone(self, item: Thing) -> None:
        self.said.append(("gone", item.metadata.name))

    def listed(self, places: set[Place], number: int) -> None:
        self.said.append(("listed", sorted(places), number))

    def unread(self, reason: str) -> None:
        self.said.append(("unread", reason))

    def back(self) -> None:
        self.said.append(("back",))


class World:
    def __init__(self) -> None:
        self.api = Api()
        self.log = Log()
        self.tasks: list[asyncio.Task[None]] = []

    def follow(self, query: Query | None = None, max_line: int = 4096) -> Follower[Thing]:
        query = query or Query(collection="/api/v1/things")
        made: Follower[Thing] = Follower(self.api, query, Thing, self.log, patience=0.3, max_line=max_line)  # type: ignore[arg-type]
        self.tasks.append(asyncio.get_running_loop().create_task(made.run()))
        return made

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - conditions of any kind, with a deadline
                await asyncio.sleep(0.005)

    async def watched(self, number: int = 1) -> tuple[dict[str, list[str]], Watch]:
        await self.until(lambda: len(self.api.watches) == number)
        return self.api.watches[-1]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_a_list_is_read_in_pages_and_the_watch_goes_on_from_it(world: World) -> None:
    world.api.page(thing("a", 3), version=7, more="next please")
    world.api.page(thing("b", 5), version=7)
    follower = world.follow()
    query, stream = await world.watched()
    assert [found.get("continue") for found in world.api.lists] == [None, ["next please"]]
    assert query["resourceVersion"] == ["7"]
    stream.tell(event("MODIFIED", thing("a", 8, "blue")), event("DELETED", thing("b", 9)))
    stream.tell(event("BOOKMARK", thing("", 12)))
    await world.until(lambda: follower.version == "12")
    assert world.log.said == [
        ("found", "a", "red"),
        ("found", "b", "red"),
        ("listed", [("x", "a"), ("x", "b")], 7),
        ("found", "a", "blue"),
        ("gone", "b"),
    ]


async def test_an_event_may_come_in_any_pieces(world: World) -> None:
    world.api.page(version=1)
    follower = world.follow()
    _query, stream = await world.watched()
    data = event("ADDED", thing("a", 2)) + b"\n" + event("ADDED", thing("b", 3)) + event("ADDED", thing("c", 4))
    stream.tell(*(data[at : at + 7] for at in range(0, len(data), 7)))
    await world.until(lambda: follower.version == "4")
    assert [said[1] for said in world.log.said[1:]] == ["a", "b", "c"]


async def test_a_watch_that_ends_is_resumed_and_nothing_is_listed_again(world: World) -> None:
    world.api.page(version=1)
    world.follow()
    _query, stream = await world.watched()
    stream.tell(event("ADDED", thing("a", 5)), None)
    query, _stream = await world.watched(2)
    assert query["resourceVersion"] == ["5"]
    assert len(world.api.lists) == 1
    assert stream.closed


@pytest.mark.parametrize("how", ["status", "event"])
async def test_what_is_too_long_ago_is_listed_again(world: World, how: str) -> None:
    world.api.page(thing("a", 1), version=1)
    if how == "status":
        world.api.statuses = [410]
    world.follow()
    _query, stream = await world.watched()
    world.api.page(version=9)
    if how == "event":
        stream.tell(event("ERROR", {"code": 410, "metadata": {}}))
    query, _stream = await world.watched(2)
    assert query["resourceVersion"] == ["9"]
    assert world.log.said[-1] == ("listed", [], 9)


async def test_one_object_is_asked_for_by_its_name(world: World) -> None:
    world.api.page(version=1)
    world.follow(one("/api/v1/namespaces/x/secrets", "mooring-endpoint"))
    query, _stream = await world.watched()
    assert query["fieldSelector"] == world.api.lists[0]["fieldSelector"] == ["metadata.name=mooring-endpoint"]


async def test_a_list_that_cannot_be_read_is_told_and_tried_again(world: World) -> None:
    world.follow()
    await world.until(lambda: world.log.said)
    world.api.page(version=1)
    await world.watched()
    await world.until(lambda: ("back",) in world.log.said)
    assert world.log.said[0] == ("unread", "nobody is there")


async def test_an_outage_is_told_when_it_is_over_and_the_list_is_not_read_again(world: World) -> None:
    world.api.page(version=3)
    world.follow()
    _query, stream = await world.watched()
    world.api.away = True
    stream.tell(None)
    await asyncio.sleep(0.5)
    world.api.away = False
    query, _stream = await world.watched(2)
    await world.until(lambda: ("back",) in world.log.said)
    assert query["resourceVersion"] == ["3"]
    assert len(world.api.lists) == 1


async def test_an_event_that_has_no_end_is_not_gathered(world: World) -> None:
    world.api.page(version=1)
    world.follow(max_line=100)
    _query, stream = await world.watched()
    stream.tell(b"x" * 60, b"x" * 60)
    await world.watched(2)
    assert stream.closed


async def test_a_list_that_has_no_end_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST", 2)
    for page in range(3):
        world.api.page(thing(f"a{page}", 1), version=1, more="and so on")
    world.follow()
    await world.until(lambda: any(said[0] == "unread" for said in world.log.said))
    assert ("unread", "there are more than 2 things") in world.log.said


async def test_an_event_that_cannot_be_read_ends_the_watch_and_not_the_follower(world: World) -> None:
    world.api.page(version=1)
    world.follow()
    _query, stream = await world.watched()
    stream.tell(b'{"type": "ADDED", "object": {"metadata": 7}}\n')
    _query, stream = await world.watched(2)
    stream.tell(event("ADDED", thing("a", 2)))
    await world.until(lambda: world.log.said[-1] == ("found", "a", "red"))
