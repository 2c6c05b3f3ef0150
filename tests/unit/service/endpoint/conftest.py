# SPDX-License-Identifier: Apache-2.0
"""As in production: on uvloop, with an API server by script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop
from testbed.pki import Authority

from ..agent.fakes import FakeKube, pair
from . import scene as scenes
from .scene import Scene


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """As in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), "ca")


@pytest.fixture
async def kube(authority: Authority) -> AsyncIterator[FakeKube]:
    fake = FakeKube(authority, pair(authority, "kube"))
    await fake.start()
    yield fake
    fake.stop()
    assert fake.errors == []


@pytest.fixture
async def scene(kube: FakeKube, authority: Authority, tmp_path: Path) -> AsyncIterator[Scene]:
    made = await scenes.make(kube, authority, tmp_path)
    yield made
    await scenes.end(made)
