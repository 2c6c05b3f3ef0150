# SPDX-License-Identifier: Apache-2.0
"""Connections by TLS: whom we trust, and that nothing is lost when the upstream closes before we have read."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from mooring.net.http1client import Http1Pool, PoolLimits
from mooring.net.sockets import tcp_connector
from mooring.net.tls import BadTrust, client_context, explain
from mooring.net.tlstransport import Resumption
from mooring.wire.frames import Code
from testbed.pki import Authority, Pair

from .conftest import Client, Recorder, until

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that we trust."""
    return Authority(tmp_path_factory.mktemp("pki"), "ca")


class Server:
    """Listens by TLS on loopback."""

    def __init__(self) -> None:
        self.port = 0
        self.handler: Handler = self.hello
        self.requests = 0
        self._servers: list[asyncio.Server] = []

    async def hello(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async def listen(self, pair: Pair) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.crt, pair.key)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self.handler(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                pass  # the client has gone
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        for server in self._servers:
            server.close()


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[Server]:
    """With a certificate of the CA."""
    server = Server()
    await server.listen(authority.issue("server", "server", names=["127.0.0.1"], server=True))
    yield server
    server.close()


async def ask(server: Server, context: ssl.SSLContext, name: str | None = None) -> Recorder:
    """One request; closes its pool when it is done."""
    pool = Http1Pool(tcp_connector("127.0.0.1", server.port, context, name), name="server", limits=PoolLimits())
    sink = Client(pool, None).ask()
    await sink.done()
    await pool.aclose()
    return sink


async def test_a_certificate_of_the_ca_for_the_name_is_accepted(server: Server, authority: Authority) -> None:
    sink = await ask(server, client_context(authority.crt.read_text()))
    assert sink.body == b"hello"


async def test_a_certificate_of_another_ca_is_refused_before_anything_is_sent(server: Server, tmp_path: Path) -> None:
    sink = await ask(server, client_context(Authority(tmp_path, "other").crt.read_text()))
    assert sink.failure is not None
    assert sink.failure[:2] == ("refused", Code.UPSTREAM_TLS)
    assert "the certificate is not accepted" in sink.failure[2]
    assert server.requests == 0


async def test_a_certificate_for_another_name_is_refused(server: Server, authority: Authority) -> None:
    sink = await ask(server, client_context(authority.crt.read_text()), name="kube.example")
    assert sink.failure is not None
    assert sink.failure[:2] == ("refused", Code.UPSTREAM_TLS)
    assert server.requests == 0


async def test_old_and_new_ca_may_overlap(server: Server, authority: Authority, tmp_path: Path) -> None:
    bundle = Authority(tmp_path, "old").crt.read_text() + authority.crt.read_text()
    assert (await ask(server, client_context(bundle))).body == b"hello"


@pytest.mark.parametrize("total", [400_000, 1_000_000, 4_000_000])
@pytest.mark.parametrize("how", ["close", "length", "chunked", "raw"])
async def test_what_came_before_the_upstream_closed_reaches_a_reader_that_was_slow(
    server: Server, authority: Authority, how: str, total: int
) -> None:
    written = asyncio.Event()

    async def burst(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" if how != "raw" else b"HTTP/1.1 101 Switching Protocols\r\n")
        if how == "length":
            writer.write(b"Content-Length: %d\r\n" % total)
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n" if how == "chunked" else b"\r\n")
        data = b"q" * total
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (total, data) if how == "chunked" else data)
        written.set()
        writer.close()

    server.handler = burst
    pool = Http1Pool(tcp_connector("127.0.0.1", server.port, client_context(authority.crt.read_text())), name="server")
    upgrade = [(b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1")] if how == "raw" else []
    sink = Client(pool, None).ask(headers=upgrade, consume=False)
    await until(lambda: sink.body and written.is_set())
    for _unused in range(50):  # the upstream has closed, and we have not read
        await asyncio.sleep(0)
    assert not sink.ended
    assert sink.request is not None
    sink.consume = True
    sink.request.consumed(len(sink.body))
    await sink.done()
    assert (len(sink.body), sink.failure) == (total, None)
    await pool.aclose()


async def test_a_raw_pipe_over_tls_ends_in_both_directions(server: Server, authority: Authority) -> None:
    got = bytearray()

    async def spdy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
        while data := await reader.read(65536):
            got.extend(data)

    server.handler = spdy
    context = client_context(authority.crt.read_text())
    pool = Http1Pool(tcp_connector("127.0.0.1", server.port, context), name="server")
    sink = Client(pool, None).ask(b"POST", headers=[(b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1")])
    await until(lambda: sink.head)
    assert sink.request is not None
    sink.request.write(b"z" * 1_000_000, fin=True)
    await until(lambda: len(got) == 1_000_000)
    await sink.done()
    assert sink.failure is None
    await until(lambda: pool.size == 0)
    await pool.aclose()


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_bundle_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadTrust, match="CA bundle"):
        client_context(text)


def test_a_client_certificate_that_does_not_load_is_named(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(BadTrust, match="client certificate"):
        client_context(authority.crt.read_text(), client_cert=tmp_path / "none", client_key=tmp_path / "none")


def test_failures_are_told_in_words() -> None:
    assert explain(TimeoutError()) == "timed out"
    assert explain(ConnectionRefusedError(111, "x")) == "connection refused"
    assert explain(OSError("no route")) == "no route"
    assert explain(ssl.SSLError(1, "bad")).startswith("TLS failed")


@pytest.fixture
async def reused(server: Server) -> list[bool]:
    """Of each connection of the server, in turn, whether its handshake resumed a session."""
    seen: list[bool] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("ssl_object").session_reused)
        await server.hello(reader, writer)

    server.handler = handler
    return seen


async def ask_anew(pool: Http1Pool) -> Recorder:
    """A request on a connection of its own."""
    sink = Client(pool, None).ask()
    await sink.done()
    await until(lambda: not pool.size)
    return sink


async def test_the_next_connection_resumes_the_session(
    server: Server, authority: Authority, reused: list[bool]
) -> None:
    pool = Http1Pool(
        tcp_connector("127.0.0.1", server.port, client_context(authority.crt.read_text())),
        name="x",
        limits=PoolLimits(max_idle=0),
    )
    for _unused in range(3):
        assert (await ask_anew(pool)).body == b"hello"
    assert reused == [False, True, True]
    await pool.aclose()


async def test_a_certificate_is_checked_again_after_minutes(
    server: Server, authority: Authority, reused: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Resumption, "LIFE", 0.0)
    pool = Http1Pool(
        tcp_connector("127.0.0.1", server.port, client_context(authority.crt.read_text())),
        name="x",
        limits=PoolLimits(max_idle=0),
    )
    for _unused in range(2):
        await ask_anew(pool)
    assert reused == [False, False]
    await pool.aclose()


async def test_a_session_is_not_offered_under_another_name_or_trust(
    server: Server, authority: Authority, reused: list[bool]
) -> None:
    for name in (None, "127.0.0.1"):
        assert (await ask(server, client_context(authority.crt.read_text()), name)).body == b"hello"
    assert reused == [False, False]
