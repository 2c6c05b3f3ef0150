# SPDX-License-Identifier: Apache-2.0
"""From the cluster's Secrets to the copy: what is read when, what is waited for, and what an outage costs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from mooring.lib.clock import SystemClock
from mooring.net.fetch import Answer, FetchError
from mooring.webhook import follow as follows
from mooring.webhook.book import Book
from mooring.webhook.copy import Copy
from mooring.webhook.disk import Disk
from mooring.webhook.follow import NAME, Follow
from mooring.wire.endpoint import Settings, shard_of
from mooring.wire.frames import Code
from support.edgebed import until
from support.endpoint import CLUSTER_ID, CLUSTER_UID, Documents, Person, Sealer, person


class Head:
    status = 200


class Watch:
    """`Download` of a watch."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def head(self) -> Head:
        return Head()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.queue.get()
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        pass


class Cluster:
    """What `KubeApi` is used for: Secrets of one namespace."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, bytes]] = {}
        self.version = 0
        self.watches: list[Watch] = []
        self.calls: list[str] = []
        self.away = False
        self.mute = False
        """A watch that nothing comes from any more."""

    async def call(self, method: str, path: str, body: Any = None, **_more: Any) -> Answer:
        if self.away:
            raise FetchError(Code.BUSY, "connection refused", sent=False)
        assert method == "GET"
        name = path.rpartition("/")[2]
        if name.startswith("secrets?"):
            items = [self._object(NAME)] if NAME in self.secrets else []
            return self._answer({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        self.calls.append(name)
        if name not in self.secrets:
            return Answer(404, [], b"{}")
        return self._answer(self._object(name))

    def watch(self, path: str, **_more: Any) -> Watch:
        if self.away:
            raise FetchError(Code.BUSY, "connection refused", sent=False)
        self.watches.append(Watch())
        since = int(parse_qs(path.partition("?")[2])["resourceVersion"][0])
        if NAME in self.secrets and self.version > since and not self.mute:
            self._tell("MODIFIED")
        return self.watches[-1]

    def put(self, name: str, **data: bytes) -> None:
        self.version += 1
        self.secrets[name] = data
        if name == NAME:
            self._tell("MODIFIED")

    def shards(self, documents: Documents) -> None:
        for number, data in documents[1].items():
            self.put(f"{NAME}-{number}", document=data)

    def index(self, documents: Documents, *, connected: bool = True, offset: float = 0.0) -> None:
        link = json.dumps({"connected": connected, "since": 1, "offset": offset}).encode()
        self.put(NAME, document=documents[0], link=link)

    def deliver(self, documents: Documents, **about: Any) -> None:
        self.shards(documents)
        self.index(documents, **about)

    def delete(self) -> None:
        self._tell("DELETED")
        del self.secrets[NAME]

    def _tell(self, kind: str) -> None:
        if self.mute:
            return
        line = json.dumps({"type": kind, "object": self._object(NAME)}).encode() + b"\n"
        for watch in self.watches:
            watch.queue.put_nowait(line)

    def _object(self, name: str) -> dict[str, Any]:
        data = {key: base64.b64encode(value).decode() for key, value in self.secrets[name].items()}
        return {"metadata": {"name": name, "namespace": "x", "resourceVersion": str(self.version)}, "data": data}

    def _answer(self, body: Any) -> Answer:
        return Answer(200, [], json.dumps(body).encode())


class Bed:
    def __init__(self, folder: Path) -> None:
        self.sealer = Sealer()
        self.cluster = Cluster()
        self.folder = folder
        self.bob = person("bob")
        self.token = self.sealer.token(self.bob)
        self.begin()

    def begin(self) -> None:
        """A process, as it starts."""
        disk = Disk(self.folder)
        disk.prepare()
        self.copy = Copy(CLUSTER_ID, CLUSTER_UID, self.sealer.key.public_key(), SystemClock())
        self.book = Book(CLUSTER_ID)
        self.copy.subscribe(self.book)
        self.follow = Follow(self.cluster, "x", self.copy, disk)  # type: ignore[arg-type]
        self.follow.load()

    def documents(self, *people: Person, **about: Any) -> Documents:
        return self.sealer.documents(people or (self.bob,), **about)

    async def kept(self, documents: Documents) -> None:
        """Wait until these are on disk."""
        path = self.folder / "index"
        await until(lambda: path.exists() and path.read_bytes() == documents[0])

    def good(self, token: str = "") -> bool:
        return not hasattr(self.book.find(token or self.token, self.copy.now()), "cause")


@pytest.fixture
async def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bed]:
    monkeypatch.setattr(follows, "PAUSE", 0.02)
    monkeypatch.setattr(follows, "PATIENCE", 0.05)
    monkeypatch.setattr(follows, "RETRY", 0.05)
    it = Bed(tmp_path / "state")
    yield it
    await it.follow.aclose()


async def test_what_is_in_the_cluster_is_known_and_changes_are_heard_of(bed: Bed) -> None:
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until(bed.good)
    assert bed.follow.problem == ""
    bed.bob.tokens.clear()
    other = bed.sealer.token(bed.bob)
    bed.cluster.deliver(bed.documents())
    await until(lambda: bed.good(other))
    assert not bed.good()


async def test_only_shards_that_changed_are_read(bed: Bed) -> None:
    people = [person(f"u{number}") for number in range(40)]
    bed.cluster.deliver(bed.documents(*people))
    bed.follow.start()
    await until(lambda: bed.copy.revision == 1)
    bed.cluster.calls.clear()
    people[0].groups = ("new",)
    bed.cluster.deliver(bed.documents(*people))
    await until(lambda: bed.copy.revision == 2)
    assert bed.cluster.calls == [f"{NAME}-{shard_of(people[0].id)}"]


async def test_a_shard_that_is_already_of_the_next_index_is_waited_for(bed: Bed) -> None:
    """The agent has written the shard and is about to write the index: nobody is thrown out for that moment."""
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until(bed.good)
    out: list[int] = []

    class Watcher:
        def settings(self, settings: Settings) -> None: ...

        def link(self, connected: bool | None) -> None: ...

        def shard(self, number: int, users: Any) -> None:
            out.append(len(users))

    bed.copy.subscribe(Watcher())
    bed.bob.groups = ("a",)
    between = bed.documents()
    bed.bob.groups = ("b",)
    latest = bed.documents()
    bed.cluster.shards(latest)
    bed.cluster.index(between)
    await asyncio.sleep(0.03)
    bed.cluster.index(latest)
    await until(lambda: bed.copy.revision == 3)
    assert out == [1], "the users of the shard were replaced, and never missing"


async def test_a_shard_that_stays_wrong_holds_nobody_until_it_is_right(bed: Bed) -> None:
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until(bed.good)
    eve = person("eve")
    bed.sealer.token(bed.bob)
    later = bed.documents(bed.bob, eve)
    bed.cluster.index(later)
    await until(lambda: not bed.good())
    assert bed.copy.revision == 2
    bed.cluster.shards(later)
    await until(bed.good)
    assert bed.copy.problem == ""


async def test_a_refused_index_leaves_what_is_there(bed: Bed) -> None:
    first = bed.documents()
    bed.cluster.deliver(first)
    bed.follow.start()
    await until(bed.good)
    bed.cluster.deliver(bed.documents())
    await until(lambda: bed.copy.revision == 2)
    bed.cluster.index(first)
    await until(lambda: "taken already" in bed.copy.problem)
    assert bed.good()
    for data in ({}, {"document": b"x"}, {"document": b""}):
        bed.cluster.put(NAME, **data)
        await asyncio.sleep(0.02)
        assert bed.good()
    bed.cluster.deliver(bed.documents())
    await until(lambda: bed.copy.problem == "")


async def test_the_link_is_told_and_what_it_is_not_is_unknown(bed: Bed) -> None:
    bed.bob.tokens.clear()
    token = bed.sealer.token(bed.bob, SystemClock().now() - 5)
    documents = bed.documents(settings=Settings(prefix="m:", grace=60))
    bed.cluster.deliver(documents)
    bed.follow.start()
    await until(lambda: bed.copy.ready)
    assert not bed.good(token)
    bed.cluster.index(documents, connected=False)
    await until(lambda: bed.good(token))
    for link in (b"", b"[]", b'{"connected":"no"}', b"\xff"):
        bed.cluster.index(documents, connected=False)
        await until(lambda: bed.good(token))
        bed.cluster.put(NAME, document=documents[0], link=link)
        await until(lambda: not bed.good(token))


async def test_the_api_server_may_be_away(bed: Bed) -> None:
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until(bed.good)
    bed.cluster.away = True
    for watch in bed.cluster.watches:
        watch.queue.put_nowait(None)
    await asyncio.sleep(0.1)
    assert bed.good()
    bed.bob.tokens.clear()
    bed.cluster.deliver(bed.documents())
    bed.cluster.away = False
    await until(lambda: not bed.good())


async def test_shards_that_cannot_be_read_just_now_are_read_later(bed: Bed) -> None:
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until(bed.good)
    bed.cluster.away = True
    bed.bob.tokens.clear()
    bed.cluster.deliver(bed.documents())
    await until(lambda: "connection refused" in bed.follow.problem)
    assert bed.good(), "what is not read is not known"
    bed.cluster.away = False
    await until(lambda: not bed.good())


async def test_a_start_needs_no_api_server(bed: Bed) -> None:
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until(bed.good)
    await until((bed.folder / "index").exists)
    await bed.follow.aclose()
    bed.cluster.away = True
    bed.begin()
    assert bed.good()
    bed.follow.start()
    await until(lambda: "connection refused" in bed.follow.problem)
    assert bed.good()


async def test_what_was_older_before_a_restart_is_older_after_it(bed: Bed) -> None:
    first = bed.documents()
    bed.cluster.deliver(first)
    bed.follow.start()
    await until(bed.good)
    bed.bob.tokens.clear()
    later = bed.documents()
    bed.cluster.deliver(later)
    await bed.kept(later)
    await bed.follow.aclose()
    bed.cluster.deliver(first)
    bed.begin()
    bed.follow.start()
    await until(lambda: "taken already" in bed.copy.problem)
    assert not bed.good()


async def test_the_latest_time_is_kept_over_a_restart(bed: Bed) -> None:
    bed.copy.time.at_least(5_000_000_000.0)
    bed.follow.start()
    await until((bed.folder / "clock").exists)
    await bed.follow.aclose()
    bed.begin()
    assert bed.copy.now() >= 5_000_000_000.0


async def test_a_copy_on_disk_that_somebody_changed_is_not_used(bed: Bed) -> None:
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until((bed.folder / "index").exists)
    await bed.follow.aclose()
    data = bytearray((bed.folder / "index").read_bytes())
    data[20] ^= 1
    (bed.folder / "index").write_bytes(data)
    bed.begin()
    assert not bed.copy.ready
    bed.follow.start()
    await until(bed.good)


async def test_without_a_disk_that_works_serving_goes_on(bed: Bed) -> None:
    bed.folder.chmod(0o500)
    (bed.folder / "clock").mkdir(exist_ok=True)  # also for root, whom modes do not stop
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until(bed.good)
    bed.folder.chmod(0o700)


async def test_a_secret_that_was_deleted_lets_nobody_in_and_keeps_what_is_older_out(bed: Bed) -> None:
    first = bed.documents()
    bed.cluster.deliver(first)
    bed.follow.start()
    await until(bed.good)
    bed.cluster.deliver(bed.documents())
    await until(lambda: bed.copy.revision == 2)
    bed.cluster.delete()
    await until(lambda: not bed.good())
    await until(lambda: not list(bed.folder.glob("shard-*")))
    bed.cluster.deliver(first)
    await until(lambda: "taken already" in bed.copy.problem)
    assert not bed.good()
    bed.cluster.deliver(bed.documents())
    await until(bed.good)


async def test_the_same_secret_may_come_back(bed: Bed) -> None:
    documents = bed.documents()
    bed.cluster.deliver(documents)
    bed.follow.start()
    await until(bed.good)
    bed.cluster.delete()
    await until(lambda: not bed.good())
    bed.cluster.deliver(documents)
    await until(bed.good)


async def test_a_list_without_the_secret_says_that_it_is_gone(bed: Bed) -> None:
    documents = bed.documents()
    bed.cluster.deliver(documents)
    bed.follow.start()
    await bed.kept(documents)
    await bed.follow.aclose()
    bed.cluster.secrets.clear()
    bed.begin()
    assert bed.good(), "from disk, until the API server says otherwise"
    bed.follow.start()
    await until(lambda: not bed.good())


async def test_a_watch_that_died_silently_is_noticed(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follows, "CHECK", 0.1)
    bed.cluster.deliver(bed.documents())
    bed.follow.start()
    await until(bed.good)
    bed.cluster.mute = True
    bed.bob.tokens.clear()
    bed.cluster.deliver(bed.documents())
    await until(lambda: not bed.good())
    del bed.cluster.secrets[NAME]
    await until(lambda: bed.copy.tokens == 0)
