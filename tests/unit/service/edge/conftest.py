# SPDX-License-Identifier: Apache-2.0
"""A real TLS listener on the loopback, with real routes; what is behind them is played by the tests."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop
from mooring.authn.agents import AgentVerifier
from mooring.edge.agents import AgentRoute
from mooring.edge.builtin import Builtin
from mooring.edge.listener import Listener, tls_context
from mooring.edge.rest import RestRoute
from mooring.edge.routes import Routes
from mooring.edge.settings import EdgeSettings
from mooring.lib.pki import make_ca, make_server_certificate
from mooring.net.http1client import Http1Pool
from mooring.net.sockets import unix_connector
from support.edgebed import Edge, MakeEdge, Tls
from support.proxyfakes import make_world


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    ca_pem, ca_key = make_ca("edge test", time.time())
    cert_pem, key = make_server_certificate(ca_pem, ca_key, ["127.0.0.1", "localhost"], time.time())
    (folder / "ca.pem").write_text(ca_pem)
    (folder / "cert.pem").write_text(cert_pem)
    (folder / "key.pem").write_text(key.reveal())
    client = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    return Tls(tls_context(folder / "cert.pem", folder / "key.pem"), client, folder / "ca.pem")


@pytest.fixture
async def make_edge(tls: Tls, tmp_path: Path) -> AsyncIterator[MakeEdge]:
    edges: list[Edge] = []

    async def make(*, per_minute: int = 2_000, **changes: object) -> Edge:
        settings = EdgeSettings(**{"sweep_interval": 0.02, **changes})  # type: ignore[arg-type]
        world = make_world()
        pool = Http1Pool(unix_connector(str(tmp_path / "api.sock")), name="api")
        accepted: list[tuple[str, bytes]] = []
        refused: list[tuple[str, str]] = []

        def accept(identity: object, transport: asyncio.Transport, raw: bytes, source: str) -> None:
            accepted.append((identity.cluster_id, raw))  # type: ignore[attr-defined]
            transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

        keys: dict[str, bytes] = {}
        ready = {"audit": ""}
        agents = AgentRoute(
            AgentVerifier(keys.get, "mooring-test"),
            world.clock,
            accept,
            lambda cluster_id, reason: refused.append((cluster_id, reason)),
            per_minute=per_minute,
        )
        builtin = Builtin(
            {"audit": lambda: ready["audit"]},
            world.chain.authenticate,
            metrics_public=settings.metrics_public,
        )
        routes = Routes(chain=world.chain, agents=agents, rest=RestRoute(pool, settings), builtin=builtin)
        listener = Listener(routes.handle, settings, sweep=world.registry.sweep)
        await listener.start("127.0.0.1", 0, tls.server)
        edge = Edge(listener, world, tls, accepted, refused, pool, agents, routes, agent_keys=keys, ready=ready)
        edges.append(edge)
        return edge

    yield make
    for edge in edges:
        for peer in edge.peers:
            peer.abort()
        await edge.listener.stop(0)
        await edge.pool.aclose()


@pytest.fixture
async def edge(make_edge: MakeEdge) -> Edge:
    return await make_edge()
