# SPDX-License-Identifier: Apache-2.0
"""Audit records reach the server in order, whatever happens to it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mooring.agent.identity import Identity, new_key
from mooring.agent.servertime import ServerTime
from mooring.endpoint import ship
from mooring.endpoint.journal import Batch, Journal
from mooring.endpoint.ship import NotTaken, Shipper
from mooring.lib.clock import ManualClock
from mooring.net.fetch import Answer
from support.auditrecords import audit_record

REGISTERED = Identity(
    key=new_key(),
    cluster_id="c-aaaaaaaaaaaa",
    audience="x",
    server_url="https://one:8443",
    tunnel_urls=("wss://one:8443/tunnel/connect", "wss://two:8443/tunnel/connect"),
    ca_pem="",
)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - files, with a deadline
            await asyncio.sleep(0.01)


class Server:
    """Takes what it is sent; `mood` says how."""

    def __init__(self) -> None:
        self.mood = "well"
        self.asked: list[str] = []
        self.got = b""

    async def __call__(self, base: str, identity: Identity, now: float, batch: Batch) -> int:
        self.asked.append(base)
        if self.mood == "away" or (self.mood == "first away" and "one" in base):
            raise NotTaken("the server is away")
        end = batch.offset + len(batch.lines)
        if batch.offset < len(self.got):
            assert self.got[batch.offset : end] == batch.lines[: len(self.got) - batch.offset], "other bytes"
        self.got = self.got[: batch.offset] + batch.lines
        if self.mood == "answer lost":
            self.mood = "well"
            raise NotTaken("the answer was lost")
        return end


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "audit", limit=1 << 30)
    made.open()
    made.start()
    yield made
    made.close()
    made.shut()


async def fill(journal: Journal, count: int) -> bytes:
    before = journal.path.read_bytes()
    for number in range(count):
        journal.record(audit_record(path=f"/api/{number}"))
    await until(lambda: journal.path.read_bytes().count(b"\n") >= before.count(b"\n") + count)
    return journal.path.read_bytes()


def shipper(journal: Journal, server: Server, identity: Identity = REGISTERED) -> Shipper:
    async def load() -> Identity:
        return identity

    return Shipper(journal, load, ServerTime(ManualClock()), send=server, every=0.01)


async def test_what_waits_is_taken_and_then_there_is_nothing(journal: Journal) -> None:
    server = Server()
    ships = shipper(journal, server)
    assert not await ships.step()
    everything = await fill(journal, 50)
    assert await ships.step()
    assert not await ships.step()
    assert server.got == everything
    assert journal.waiting() == 0


async def test_large_backlogs_go_in_batches(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "BATCH", 5000)
    server = Server()
    everything = await fill(journal, 100)
    ships = shipper(journal, server)
    while await ships.step():
        pass
    assert server.got == everything
    assert len(server.asked) > 5


async def test_a_server_that_is_away_costs_nothing_and_a_lost_answer_doubles_nothing(journal: Journal) -> None:
    server = Server()
    server.mood = "away"
    everything = await fill(journal, 10)
    ships = shipper(journal, server)
    running = asyncio.ensure_future(ships.run())
    await until(lambda: bool(ships.problem))
    assert journal.taken == 0
    server.mood = "answer lost"
    await until(lambda: not journal.waiting() and not ships.problem)
    running.cancel()
    assert server.got == everything


async def test_another_address_of_the_server_will_do(journal: Journal) -> None:
    server = Server()
    server.mood = "first away"
    await fill(journal, 1)
    assert await shipper(journal, server).step()
    assert server.asked == ["https://one:8443", "https://two:8443"]


async def test_before_the_cluster_has_joined_nothing_is_sent(journal: Journal) -> None:
    server = Server()
    await fill(journal, 1)
    with pytest.raises(NotTaken, match="has not joined"):
        await shipper(journal, server, replace(REGISTERED, cluster_id="")).step()
    assert server.asked == []


@pytest.mark.parametrize("body", [b"", b"{}", b'{"taken":1,"offset":99}', b'{"taken":1,"offset":4}', b"<html>"])
def test_an_answer_that_makes_no_sense_takes_nothing(body: bytes) -> None:
    with pytest.raises(NotTaken):
        ship._read(Answer(200, [], body), Batch("a-aaaaaaaaaaaa", 5, b"12345678\n"))


def test_a_refusal_is_told_in_the_servers_words() -> None:
    with pytest.raises(NotTaken, match="cannot be written just now"):
        ship._read(Answer(503, [], b'{"detail":"cannot be written just now"}'), Batch("a", 0, b"x\n"))
