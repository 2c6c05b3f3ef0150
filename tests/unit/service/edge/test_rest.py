# SPDX-License-Identifier: Apache-2.0
"""The way to the REST API: over a unix socket, with our headers and none of the client's own like them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.edgebed import Edge, MakeEdge, Peer, until


class Api:
    """A REST API that writes down what it is asked, and answers what it is told to."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        self.closed = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length: "):
                        head += await reader.readexactly(int(line.split()[1]))
                self.requests.append(head)
                writer.write(self.answer)
                if not self.answer:
                    await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed += 1
            writer.close()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api()
    server = await asyncio.start_unix_server(api, tmp_path / "api.sock")
    yield api
    server.close()


async def test_request_goes_to_the_api_with_source_and_request_id(api: Api, edge: Edge) -> None:
    peer = await edge.connect()
    for _unused in range(2):
        await peer.send(
            edge.get(
                "/api/v1/whoami?x=%2F", "bob", "X-Mooring-Source: 10.0.0.1", "X-MOORING-Admin: 1", "x_mooring_x: 1",
                "X-Forwarded-For: 10.0.0.1", "X-Request-Id: mine", "Connection: X-Drop", "X-Drop: 1", "If-Match: \"1\""
            )
        )  # fmt: skip
        head = await peer.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await peer.exactly(2) == b"{}"
        assert b"\r\nX-Request-Id: " in head
    sent = api.requests[0].decode().split("\r\n")
    assert sent[0] == "GET /api/v1/whoami?x=%2F HTTP/1.1"
    assert sorted(line for line in sent[1:] if line and not line.startswith("X-Mooring-Request-Id: ")) == [
        f"Authorization: Bearer {edge.world.bearer('bob')}",
        "Host: localhost",
        'If-Match: "1"',
        "X-Mooring-Source: 127.0.0.1",
    ]
    assert len(api.requests) == 2


async def test_body_goes_along(api: Api, edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get("/api/v1/login", None, "Content-Length: 5", method="POST") + b"hello")
    await peer.until(b"{}")
    assert api.requests[0].endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("declared", ["Content-Length: 2000", "Transfer-Encoding: chunked"])
async def test_body_over_the_bound_is_413(api: Api, make_edge: MakeEdge, declared: str) -> None:
    edge = await make_edge(api_body_max=1_000)
    peer = await edge.connect()
    body = b"a" * 2_000 if "Length" in declared else b"7d0\r\n" + b"a" * 2_000 + b"\r\n0\r\n\r\n"
    await peer.send(edge.get("/api/v1/users", "root", declared, method="POST") + body)
    assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")


async def test_api_that_is_down_is_503(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get("/api/v1/whoami", "bob"))
    assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")


async def test_api_that_says_nothing_is_504(api: Api, make_edge: MakeEdge) -> None:
    edge = await make_edge(api_answer_timeout=0.1)
    api.answer = b""
    peer = await edge.connect()
    await peer.send(edge.get("/api/v1/whoami", "bob"))
    assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 504 ")


async def test_client_that_leaves_ends_the_request(api: Api, edge: Edge) -> None:
    api.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
    peer = await edge.connect()
    await peer.send(edge.get("/api/v1/clusters", "bob"))
    await peer.until(b"ab\r\n")
    peer.abort()
    await until(lambda: api.closed == 1)


async def test_upgrade_is_not_passed_on(api: Api, edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get("/api/v1/clusters", "bob", "Connection: Upgrade", "Upgrade: websocket"))
    assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
    assert api.requests == []


async def test_who_holds_requests_open_does_not_keep_others_from_the_api(api: Api, make_edge: MakeEdge) -> None:
    """A thousand login bodies that never end used up every connection to the API."""
    edge = await make_edge(api_requests_per_source=2)
    held = [await edge.connect() for _unused in range(2)]
    for peer in held:
        await peer.send(edge.get("/api/v1/login", None, "Content-Length: 9", method="POST"))
    rest = edge.listener.handle.__self__._rest  # type: ignore[attr-defined]
    await until(lambda: rest._open["127.0.0.1"] == 2)
    peer = await edge.connect()
    await peer.send(edge.get("/api/v1/whoami", "bob"))
    head = await peer.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"Content-Type: application/problem+json\r\n" in head
    assert b"Retry-After: 1\r\n" in head
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", edge.listener.port, local_addr=("127.0.0.2", 0), ssl=edge.tls.client, server_hostname="localhost"
    )
    other = Peer(reader, writer)
    edge.peers.append(other)
    await other.send(edge.get("/api/v1/whoami", "bob"))
    await other.until(b"{}")
    for peer in held:
        peer.abort()
    await until(lambda: len(rest._open) == 0)
