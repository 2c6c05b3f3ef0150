# SPDX-License-Identifier: Apache-2.0
"""What a worker does by the clock."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mooring.app import worker


@pytest.mark.parametrize(("why", "cut"), [("", []), ("control is away", ["control"])])
async def test_what_is_open_ends_when_nobody_can_say_who_may(
    why: str, cut: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not go on until control is back: a right that was taken away meanwhile would live on."""
    monkeypatch.setattr(worker, "_TICK_SECONDS", 0.0)
    ended: list[str] = []
    rounds = asyncio.Event()

    class Registry:
        def __len__(self) -> int:
            return 1 - len(ended)

        def cut_all(self, cause: str, message: str) -> None:
            assert message == why
            ended.append(cause)

    me: Any = SimpleNamespace(
        _stale=lambda: why,
        _registry=Registry(),
        _link=SimpleNamespace(settled=lambda: True),
        _tell=lambda _unused: rounds.set(),
    )
    ticking = asyncio.create_task(worker.Worker._tick(cast(worker.Worker, me)))
    async with asyncio.timeout(10):
        await rounds.wait()
    ticking.cancel()
    assert ended == cut
