# SPDX-License-Identifier: Apache-2.0
"""A place is never without a process for longer than it must be, and never has two that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest
from mooring.app import keeper as module
from mooring.app.keeper import Keeper
from mooring.app.process import Child
from mooring.lib.errors import MooringError


class FakeChild:
    """A process that does what the test says."""

    def __init__(self, number: int, fault: str = "") -> None:
        self.number = number
        self.pid = number
        self.fault = fault
        self.settled = asyncio.Event()
        self.settled.set()
        self.gone = asyncio.Event()
        self.code: int | None = None
        self.log: list[str] = []

    @property
    def ended(self) -> bool:
        return self.code is not None

    def end(self, code: int | None) -> None:
        self.code = code
        self.gone.set()

    async def wait_ready(self) -> None:
        await asyncio.sleep(0)
        if self.fault:
            raise MooringError(self.fault)

    async def wait_gone(self) -> int | None:
        await self.gone.wait()
        return self.code

    async def reap(self, seconds: float) -> None:
        self.log.append("reap")

    async def drain(self, seconds: float, *, replaced: bool) -> None:
        self.log.append("drain, replaced" if replaced else "drain")
        await asyncio.sleep(0)
        self.end(0)

    async def kill(self) -> None:
        if not self.ended:
            self.log.append("kill")
            self.end(-9)


class Place:
    def __init__(self) -> None:
        self.made: list[FakeChild] = []
        self.faults: list[str] = []
        self.changes = 0
        self.failures = 0
        self.keeper = Keeper("worker-0", self._spawn, self._changed, 1.0, self._failed)

    async def _spawn(self) -> Child:
        child = FakeChild(len(self.made) + 1, self.faults.pop(0) if self.faults else "")
        self.made.append(child)
        return cast(Child, child)

    def _changed(self) -> None:
        self.changes += 1

    def _failed(self) -> None:
        self.failures += 1

    @property
    def now(self) -> int:
        return cast(FakeChild, self.keeper.child).number


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, with a deadline
            await asyncio.sleep(0.001)


async def test_a_process_that_dies_is_replaced_also_when_the_first_tries_fail() -> None:
    place = Place()
    await place.keeper.start()
    place.faults = ["no memory", "no memory"]
    place.made[0].end(-9)
    await until(lambda: place.now == 4)
    assert (place.changes, place.failures) == (2, 2)
    assert [child.log for child in place.made] == [[], ["kill"], ["kill"], []]
    await place.keeper.stop()
    assert place.made[3].log == ["drain"]
    assert len(place.made) == 4


async def test_a_process_that_says_it_goes_is_replaced_before_it_has_ended() -> None:
    place = Place()
    await place.keeper.start()
    place.made[0].end(None)
    await until(lambda: place.now == 2)
    assert place.made[0].log == ["reap"]
    await place.keeper.stop()


async def test_a_first_process_that_cannot_start_says_why() -> None:
    place = Place()
    place.faults = ["the port is taken"]
    with pytest.raises(MooringError, match="the port is taken"):
        await place.keeper.start()
    assert place.made[0].log == ["kill"]
    await place.keeper.stop()


async def test_in_an_exchange_the_new_one_is_there_before_the_old_one_is_told_to_go() -> None:
    place = Place()
    await place.keeper.start()
    old = place.made[0]

    async def drain(seconds: float, *, replaced: bool) -> None:
        assert (place.now, replaced) == (2, True)
        old.end(0)

    old.drain = drain  # type: ignore[method-assign]
    await place.keeper.exchange(overlap=True)
    assert (place.now, len(place.made)) == (2, 2)
    place.made[1].end(-9)  # the new one is kept as the old one was
    await until(lambda: place.now == 3)
    await place.keeper.stop()


async def test_an_exchange_whose_new_process_cannot_start_leaves_the_old_one() -> None:
    place = Place()
    await place.keeper.start()
    place.faults = ["this build is broken"]
    with pytest.raises(MooringError, match="broken"):
        await place.keeper.exchange(overlap=True)
    assert (place.now, place.made[0].log) == (1, [])
    await place.keeper.stop()


async def test_without_overlap_a_failed_exchange_is_made_good() -> None:
    place = Place()
    await place.keeper.start()
    place.faults = ["this build is broken"]
    with pytest.raises(MooringError, match="broken"):
        await place.keeper.exchange(overlap=False)
    await until(lambda: place.now == 3)
    assert place.made[0].log == ["drain"]
    await place.keeper.stop()


async def test_a_death_during_an_exchange_does_not_make_two() -> None:
    place = Place()
    await place.keeper.start()
    exchange = asyncio.ensure_future(place.keeper.exchange(overlap=True))
    await asyncio.sleep(0)
    place.made[0].end(-9)
    await exchange
    assert place.now == 2
    place.made[1].end(-9)
    await until(lambda: place.now == 3)
    assert len(place.made) == 3
    await place.keeper.stop()
