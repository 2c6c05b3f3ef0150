# SPDX-License-Identifier: Apache-2.0
"""The edge and a real tunnel: an agent dials in by WebSocket, and a client's request reaches it and returns."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import OKPKey
from joserfc.util import urlsafe_b64decode
from mooring.authn.agents import AgentIdentity, AgentVerifier
from mooring.edge.agents import AgentRoute
from mooring.edge.builtin import Builtin
from mooring.edge.listener import Listener
from mooring.edge.rest import RestRoute
from mooring.edge.routes import Routes
from mooring.edge.settings import EdgeSettings
from mooring.net.http1client import Http1Pool
from mooring.net.sockets import unix_connector
from mooring.tunnel.carrier import ConnectFailed, ServerCarrier, connect_client
from mooring.tunnel.hub import Hub
from mooring.tunnel.session import Session
from mooring.tunnel.stream import Code, Stream, StreamSink, unpack_open
from mooring.wire.headers import parse_request_head
from mooring.wire.hello import Hello
from support.edgebed import Edge, Tls, until
from support.proxyfakes import ALPHA, make_world

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")

API = "/k8s/clusters/alpha/api"


class Echo:
    """What the agent does with a stream: says which method and user came, then gives back what is sent."""

    def __init__(self, stream: Stream, payload: bytes, fin: bool) -> None:
        self.stream = stream
        self.reset = False
        self._held = 0  # bytes that were written while the stream was full
        head = parse_request_head(unpack_open(payload).head)
        user = dict(head.headers)[b"Impersonate-User"]
        if any(name.lower() == b"upgrade" for name, _unused in head.headers):
            stream.opened(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        else:
            stream.opened(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            stream.write(head.method + b" " + head.target + b" " + user + b"\n", fin)

    def on_head(self, head: bytes, fin: bool) -> None:
        raise AssertionError("agents are not answered")

    def on_data(self, data: bytes) -> None:
        if self.stream.write(data):
            self.stream.consumed(len(data))
        else:  # an echo that takes in more than it gets rid of is reset, and its bound is met on a busy machine
            self._held += len(data)

    def on_end(self) -> None:
        self.stream.end()

    def on_reset(self, code: Code, message: str) -> None:
        self.reset = True

    def on_refused(self, code: Code, message: str) -> None:
        raise AssertionError("agents are not refused")

    def on_writable(self) -> None:
        held, self._held = self._held, 0
        if held:
            self.stream.consumed(held)


class Agent:
    """An agent of alpha with a registered key."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.key = OKPKey.generate_key("Ed25519")
        edge.agent_keys[ALPHA] = urlsafe_b64decode(self.key.as_dict(private=False)["x"].encode())  # type: ignore[union-attr]
        self.echoes: list[Echo] = []

    def bearer(self) -> str:
        now = self.edge.world.clock.now()
        claims = {
            "iss": ALPHA,
            "aud": "mooring-test",
            "iat": now,
            "nbf": now,
            "exp": now + 60,
            "jti": os.urandom(8).hex(),
        }
        header = {"alg": "EdDSA", "typ": "mooring-agent+jwt", "kid": ALPHA}
        return jwt.encode(header, claims, self.key, algorithms=["EdDSA"])

    async def dial(self, bearer: str) -> Session:
        def opened(stream: Stream, payload: bytes, fin: bool) -> StreamSink:
            self.echoes.append(Echo(stream, payload, fin))
            return self.echoes[-1]

        session = Session("agent", Hello(instance="agent", version="1"), on_open=opened)
        await connect_client(
            f"wss://127.0.0.1:{self.edge.listener.port}/tunnel/connect",
            session,
            headers=[("Authorization", f"Bearer {bearer}")],
            ssl_context=self.edge.tls.client,
        )
        await asyncio.wait_for(session.wait_ready(), 5)
        return session


@pytest.fixture
async def edge(tls: Tls, tmp_path: Path) -> AsyncIterator[Edge]:
    world = make_world()
    hub = Hub(world.clock)
    world.chain.hub = hub
    settings = EdgeSettings(sweep_interval=0.02)
    pool = Http1Pool(unix_connector(str(tmp_path / "api.sock")), name="api")
    keys: dict[str, bytes] = {}
    refused: list[tuple[str, str]] = []

    def accept(identity: AgentIdentity, transport: asyncio.Transport, raw: bytes, source: str) -> None:
        session = Session("server", Hello(instance="server", version="1"), name=source)
        hub.add(identity.cluster_id, session)
        ServerCarrier.accept(transport, raw, session)

    agents = AgentRoute(
        AgentVerifier(keys.get, "mooring-test"), world.clock, accept, lambda *said: refused.append(said)
    )
    routes = Routes(
        chain=world.chain,
        agents=agents,
        rest=RestRoute(pool, settings),
        builtin=Builtin({}, world.chain.authenticate),
    )
    listener = Listener(routes.handle, settings, sweep=world.registry.sweep)
    await listener.start("127.0.0.1", 0, tls.server)
    edge = Edge(listener, world, tls, [], refused, pool, agents, routes, agent_keys=keys)
    yield edge
    for peer in edge.peers:
        peer.abort()
    await hub.close_all()
    await listener.stop(0)
    await pool.aclose()


async def test_request_reaches_the_agent_and_returns(edge: Edge) -> None:
    agent = Agent(edge)
    session = await agent.dial(agent.bearer())
    peer = await edge.connect()
    for _unused in range(2):
        await peer.send(edge.get(API + "?x=1"))
        assert (await peer.until(b"0\r\n\r\n")).endswith(b"GET /api?x=1 mooring:bob\n\r\n0\r\n\r\n")
    session.close()


async def test_upload_comes_back_whole(edge: Edge) -> None:
    agent = Agent(edge)
    await agent.dial(agent.bearer())
    body = os.urandom(3_000_000)
    peer = await edge.connect()
    sending = asyncio.create_task(peer.send(edge.get(API, "bob", f"Content-Length: {len(body)}", method="POST") + body))
    head = await peer.until(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    got = b""
    while size := int(await peer.until(b"\r\n"), 16):
        got += (await peer.exactly(size + 2))[:-2]
    await sending
    assert got == b"POST /api mooring:bob\n" + body


async def test_upgraded_connection_carries_bytes_both_ways_until_the_client_leaves(edge: Edge) -> None:
    agent = Agent(edge)
    await agent.dial(agent.bearer())
    peer = await edge.connect()
    await peer.send(edge.get(API, "bob", "Connection: Upgrade", "Upgrade: websocket"))
    assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    data = os.urandom(200_000)
    await peer.send(data)
    assert await peer.exactly(len(data)) == data
    peer.abort()
    await until(lambda: agent.echoes[0].reset or agent.echoes[0].stream.closed)
    await until(lambda: len(edge.world.registry) == 0)


async def test_agent_that_dies_is_told_in_the_answer(edge: Edge) -> None:
    agent = Agent(edge)
    session = await agent.dial(agent.bearer())
    session.close(Code.SHUTDOWN, "node drained")
    await until(lambda: edge.world.chain.hub.last_lost(ALPHA) is not None)
    peer = await edge.connect()
    await peer.send(edge.get(API))
    assert b"was lost at" in await peer.until(b"}\n")


async def test_refused_agent_is_told_why(edge: Edge) -> None:
    agent = Agent(edge)
    used = agent.bearer()
    await agent.dial(used)
    with pytest.raises(ConnectFailed, match="used before") as refused:
        await agent.dial(used)
    assert refused.value.status == 403
    assert edge.refused[0][0] == ALPHA
