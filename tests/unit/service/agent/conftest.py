# SPDX-License-Identifier: Apache-2.0
"""An agent between a scripted kube-apiserver and a server that takes sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop
from mooring.agent.config import AgentOptions
from mooring.agent.main import Agent
from testbed.pki import Authority

from .fakes import FakeKube, FakeServer, join_secret, pair, until


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """As in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA of cluster and server."""
    return Authority(tmp_path_factory.mktemp("pki"), "ca")


@pytest.fixture
async def kube(authority: Authority) -> AsyncIterator[FakeKube]:
    """The cluster's API server."""
    fake = FakeKube(authority, pair(authority, "kube"))
    await fake.start()
    yield fake
    fake.stop()
    assert fake.errors == []


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[FakeServer]:
    """The server."""
    fake = FakeServer(pair(authority, "server"), "i-one")
    await fake.start()
    yield fake
    fake.stop()


class Running:
    """Starts agents and stops them."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.agents: list[tuple[Agent, asyncio.Event, asyncio.Task[None]]] = []

    def start(self) -> Agent:
        agent = Agent(AgentOptions(health_port=0, drain_seconds=0.2), self.kube.config())
        stop = asyncio.Event()
        self.agents.append((agent, stop, asyncio.get_running_loop().create_task(agent.run(stop))))
        return agent

    async def stop(self) -> None:
        for _unused, stop, task in self.agents:
            stop.set()
            async with asyncio.timeout(10):
                await task
        self.agents.clear()


@pytest.fixture
async def running(kube: FakeKube) -> AsyncIterator[Running]:
    """Makes agents of the cluster."""
    agents = Running(kube)
    yield agents
    await agents.stop()


@pytest.fixture
async def agent(kube: FakeKube, server: FakeServer, running: Running) -> Agent:
    """An agent that has joined and is connected."""
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt)
    agent = running.start()
    await until(lambda: server.live and not agent.problems())
    return agent


@pytest.fixture
def ca(authority: Authority) -> Path:
    """The CA's certificate."""
    return authority.crt
