# SPDX-License-Identifier: Apache-2.0
"""Tasks have an owner, which sees their failures and ends them in time."""

from __future__ import annotations

import asyncio
import logging

import pytest
from mooring.lib import logging as mooring_logging
from mooring.lib.tasks import Supervisor


@pytest.fixture(autouse=True)
def standard_logging(caplog: pytest.LogCaptureFixture) -> None:
    mooring_logging.configure("debug", "json")
    logging.getLogger().addHandler(caplog.handler)


async def test_a_task_that_nobody_awaits_is_logged_when_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("the disk is on fire")

    supervisor = Supervisor("test")
    task = supervisor.spawn(fail(), "burn")
    await asyncio.wait([task], timeout=5)
    await asyncio.sleep(0)  # the loop calls the task's callbacks
    assert "test/burn" in caplog.text
    assert "the disk is on fire" in caplog.text
    assert len(supervisor) == 0


async def test_the_end_cancels_what_runs_and_waits_for_its_cleanup() -> None:
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    supervisor = Supervisor("test")
    supervisor.spawn(work(), "work")
    await asyncio.sleep(0)
    await supervisor.aclose()
    assert cleaned == [True]


async def test_a_task_that_does_not_end_does_not_hold_the_end_up(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    supervisor = Supervisor("test")
    task = supervisor.spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    await supervisor.aclose(timeout=0.01)
    assert "task did not end" in caplog.text
    release.set()
    await asyncio.wait([task], timeout=5)


async def test_a_closed_supervisor_takes_no_task() -> None:
    async def work() -> None:
        raise AssertionError("must not run")

    supervisor = Supervisor("test")
    await supervisor.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        supervisor.spawn(work(), "late")


async def test_a_task_may_close_its_own_supervisor() -> None:
    supervisor = Supervisor("test")
    await asyncio.wait_for(supervisor.spawn(supervisor.aclose(), "self"), timeout=5)
