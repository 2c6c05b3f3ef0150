# SPDX-License-Identifier: Apache-2.0
"""What is kept in the cluster, whose turn it is, and what time it is there."""

from __future__ import annotations

import asyncio
import base64
import os

import pytest
from mooring.agent import lease as lease_module
from mooring.agent.lease import Lease
from mooring.agent.policy import vault as vault_module
from mooring.agent.policy.timekeeper import Timekeeper
from mooring.agent.policy.vault import LARGEST, About, TooLarge, Vault
from mooring.kube.client import KubeError
from mooring.lib.clock import ManualClock, SystemClock
from support.fakekube import FakeApi
from support.policybed import until


def vault(api: FakeApi) -> Vault:
    return Vault(api, "mooring-system")  # type: ignore[arg-type]


async def read(api: FakeApi) -> bytes | None:
    kept = await vault(api).load()
    return kept.data if kept is not None else None


async def test_a_bundle_is_kept_in_parts_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_module, "PART", 1000)
    api = FakeApi()
    assert await read(api) is None
    first, second = os.urandom(3500), os.urandom(500)
    kept = vault(api)
    await kept.save(first, About(registration="one", offset=3.5))
    assert len(api.names("secrets")) == 4
    loaded = await vault(api).load()
    assert loaded is not None
    assert (loaded.data, loaded.about) == (first, About(registration="one", offset=3.5))
    await kept.save(second, About())
    assert len(api.names("secrets")) == 1
    assert await read(api) == second


async def test_whatever_dies_while_a_bundle_is_written_one_whole_bundle_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vault_module, "PART", 1000)
    for at in range(1, 8):
        api = FakeApi()
        first, second = os.urandom(3000), os.urandom(4000)
        await vault(api).save(first, About())
        agent = vault(api)
        await agent.load()
        left = [at]

        def cut(method: str, _path: str, _body: object, left: list[int] = left) -> tuple[int, str] | None:  # pylint: disable=dangerous-default-value
            if method == "GET":
                return None
            left[0] -= 1
            return (500, "the agent is dead") if left[0] < 0 else None

        api.refuse = cut
        try:
            await agent.save(second, About())
        except KubeError:
            pass
        api.refuse = lambda *_unused: None
        assert await read(api) in (first, second)
        after = vault(api)
        await after.load()
        await after.save(first, About())
        assert await read(api) == first


async def test_what_was_changed_in_a_secret_is_not_read() -> None:
    api = FakeApi()
    await vault(api).save(b"bundle", About())
    ((at, item),) = [(at, item) for at, item in api.objects.items() if at[0] == "secrets"]
    item["data"]["part"] = base64.b64encode(b"bundlE").decode()
    assert await read(api) is None
    api.objects[at]["data"] = {"part": "?"}
    assert await read(api) is None
    await vault(api).save(b"another", About())
    assert await read(api) == b"another"


async def test_a_bundle_that_cannot_be_kept_is_refused() -> None:
    api = FakeApi()
    with pytest.raises(TooLarge):
        await vault(api).save(bytes(LARGEST + 1), About())
    assert api.names("secrets") == set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LIFE", 0.6)
    monkeypatch.setattr(lease_module, "RENEW", 0.1)
    monkeypatch.setattr(lease_module, "GIVE_UP", 0.4)


class Worker:
    def __init__(self, api: FakeApi, name: str) -> None:
        self.lease = Lease(  # type: ignore[arg-type]
            api, "mooring-system", name, SystemClock(), name="mooring-policy", work="applies the policy"
        )
        self.working = False
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self.lease.hold(self._work)

    async def _work(self) -> None:
        self.working = True
        try:
            await asyncio.Event().wait()
        finally:
            self.working = False

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.mark.usefixtures("quick")
async def test_one_works_and_the_next_begins_when_it_ends() -> None:
    api = FakeApi()
    one = Worker(api, "one")
    await until("one works", lambda: one.working)
    two = Worker(api, "two")
    await asyncio.sleep(1.0)
    assert (one.working, two.working) == (True, False)
    await one.stop()
    await until("two works", lambda: two.working, 0.5)
    await two.stop()
    assert (api.get("leases", "mooring-policy", "mooring-system") or {})["spec"]["holderIdentity"] == ""


@pytest.mark.usefixtures("quick")
async def test_who_cannot_renew_stops_before_another_begins() -> None:
    api = FakeApi()
    one = Worker(api, "one")
    await until("one works", lambda: one.working)
    two = Worker(api, "two")
    both = []

    def watch(_method: str, _path: str, body: object) -> tuple[int, str] | None:
        both.append(one.working and two.working)
        mine = isinstance(body, dict) and body.get("spec", {}).get("holderIdentity") == "one"
        return (500, "cut off") if mine else None

    api.refuse = watch
    await until("two works", lambda: two.working)
    assert not one.working
    assert not any(both)
    await one.stop()
    await two.stop()


def test_the_time_goes_on_by_the_monotonic_clock_and_never_falls_behind_the_other() -> None:
    class Clocks:
        wall, mono = 1_000_000.0, 50.0

        def now(self) -> float:
            return self.wall

        def monotonic(self) -> float:
            return self.mono

    clocks = Clocks()
    time = Timekeeper(clocks)
    clocks.wall, clocks.mono = clocks.wall - 3600, clocks.mono + 10  # set back
    assert time.now() == 1_000_010.0
    clocks.wall = 1_000_500.0  # the machine slept: its monotonic clock stood still
    assert time.now() == 1_000_500.0


def test_the_server_corrects_the_time_by_an_hour_at_most() -> None:
    clock = ManualClock()
    time = Timekeeper(clock)
    time.learn(clock.now() + 1)
    assert time.offset == 0.0  # a Date has whole seconds
    time.learn(clock.now() + 100)
    assert time.now() == clock.now() + 100.5
    assert Timekeeper(clock, time.offset).now() == clock.now() + 100.5  # as it was kept
    time.learn(clock.now() + 7200)
    assert time.now() == clock.now()
    assert Timekeeper(clock, -1e9).offset == -3600
