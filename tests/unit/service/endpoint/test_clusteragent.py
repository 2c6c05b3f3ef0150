# SPDX-License-Identifier: Apache-2.0
"""The agent with its endpoint as one process: it serves what it is registered as, and goes on without the server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.agent.config import AgentOptions
from mooring.app import clusteragent
from mooring.app.clusteragent import ClusterAgent
from mooring.endpoint.service import Endpoint
from mooring.endpoint.settings import EndpointOptions
from mooring.lib.errors import MooringError
from mooring.tunnel.stream import Code
from support.agentjwt import b64
from support.road import free_port
from testbed.pki import Authority

from ..agent.fakes import FakeKube, FakeServer, join_secret, pair, until
from .scene import Scene, answer, bearer, user

PODS = "/api/v1/namespaces/d/pods"
KEY = Ed25519PrivateKey.generate()


class Process:
    """A cluster agent, and questions to its endpoint."""

    def __init__(self, kube: FakeKube, folder: Path) -> None:
        self.port = free_port("127.0.0.1")
        self.options = EndpointOptions(
            host="127.0.0.1", port=self.port, names=("localhost", "127.0.0.1"), folder=folder, url="https://e.example"
        )
        self.it = ClusterAgent(AgentOptions(health_port=0, drain_seconds=0.2), kube.config(), self.options)
        self.stop = asyncio.Event()
        self.task = asyncio.ensure_future(self.it.run(self.stop))

    async def serving(self, before: Endpoint | None = None) -> Endpoint:
        await until(lambda: self.it.endpoint not in (None, before) and self.it.endpoint._listener._acceptor)  # type: ignore[union-attr]
        assert self.it.endpoint is not None
        return self.it.endpoint

    async def ask(self, token: str) -> int:
        assert self.it.keeper.shown is not None
        context = ssl.create_default_context(cadata=self.it.keeper.shown.ca)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        writer.write(f"GET {PODS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        status = (await answer(reader)).status
        writer.close()
        return status

    def scene(self, kube: FakeKube, authority: Authority) -> Scene:
        assert self.it.endpoint is not None
        more: Any = None
        return Scene(kube, authority, KEY, self.it.journal, self.it.endpoint, more, more, more)


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[FakeServer]:
    fake = FakeServer(pair(authority, "server"), "i-one")
    fake.on_register = lambda body: (
        201,
        {**fake.accept(body)[1], "policy_key": b64(KEY.public_key().public_bytes_raw())},
    )
    await fake.start()
    yield fake
    fake.stop()


@pytest.fixture
async def process(kube: FakeKube, server: FakeServer, tmp_path: Path) -> AsyncIterator[Process]:
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt)
    made = Process(kube, tmp_path / "state")
    yield made
    made.stop.set()
    async with asyncio.timeout(20):
        await made.task


async def test_it_serves_with_a_certificate_of_its_own_and_tells_the_server(
    process: Process, kube: FakeKube, authority: Authority
) -> None:
    await process.serving()
    assert await process.ask(bearer("b")) == 503
    assert process.it.agent.endpoint.serving == {
        "url": "https://e.example", "ca_pem": kube.secrets["mooring-endpoint-tls"]["ca.crt"]
    }  # fmt: skip
    process.scene(kube, authority).deliver(user("bob", "b"))
    assert await process.ask(bearer("b")) == 200


async def test_a_dead_server_changes_nothing(
    process: Process, kube: FakeKube, server: FakeServer, authority: Authority
) -> None:
    await process.serving()
    process.scene(kube, authority).deliver(user("bob", "b"))
    await until(lambda: server.live)
    server.stop()
    await until(process.it.agent.problems)
    assert await process.ask(bearer("b")) == 200
    assert await process.ask(bearer("c")) == 401
    await until(lambda: process.it.shipper.problem)
    assert process.it.journal.waiting() > 0
    assert process.it.journal.accepting


async def test_a_new_registration_starts_over_with_nobody_let_in(
    process: Process, kube: FakeKube, server: FakeServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusteragent, "LOOK", 0.05)
    first = await process.serving()
    process.scene(kube, authority).deliver(user("bob", "b"))
    assert await process.ask(bearer("b")) == 200
    kube.secrets["mooring-agent-identity"] |= {"cluster_id": "c-bbbbbbbbbbbb"}
    await process.serving(first)
    await asyncio.sleep(0.1)
    assert await process.ask(bearer("b")) == 503
    server.live[0].close(Code.SHUTDOWN, "restart")


async def test_two_agents_do_not_share_a_folder(kube: FakeKube, process: Process, tmp_path: Path) -> None:
    await process.serving()
    second = ClusterAgent(AgentOptions(health_port=0), kube.config(), process.options)
    with pytest.raises(MooringError, match="another process"):
        await second.run(asyncio.Event())
