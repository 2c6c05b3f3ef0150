# SPDX-License-Identifier: Apache-2.0
"""The TLS transport against a peer that writes, closes and is gone, as Go's servers do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from mooring.net.sockets import tcp_connector
from mooring.net.tls import client_context
from testbed.pki import Authority

from .conftest import until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that we trust."""
    return Authority(tmp_path_factory.mktemp("pki"), "ca")


class Peer:
    """A blocking TLS server in a thread that serves one connection."""

    def __init__(self, authority: Authority) -> None:
        pair = authority.issue("server", "server", names=["127.0.0.1"], server=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair.crt, pair.key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        self.port = self.listener.getsockname()[1]
        self.thread: threading.Thread | None = None
        self.closed = threading.Event()
        self.received = b""

    def serve(self, script: Callable[[ssl.SSLSocket], None]) -> None:
        def run() -> None:
            raw, _unused = self.listener.accept()
            raw.settimeout(20)
            with contextlib.suppress(OSError), self.context.wrap_socket(raw, server_side=True) as connection:
                script(connection)
            self.closed.set()

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def stop(self) -> None:
        self.listener.close()
        if self.thread is not None:
            self.thread.join(30)
            assert not self.thread.is_alive()


@pytest.fixture
def peer(authority: Authority) -> Iterator[Peer]:
    """Listening."""
    peer = Peer(authority)
    yield peer
    peer.stop()


def goodbye(connection: ssl.SSLSocket) -> None:
    """Sends close_notify and does not wait for the other side's."""
    connection.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.unwrap()


class Protocol(asyncio.Protocol):
    """Counts, and pauses at the first bytes when told to."""

    def __init__(self, pause: bool) -> None:
        self.pause = pause
        self.received = bytearray()
        self.eof = False
        self.lost: list[Exception | None] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert not self.eof
        assert not self.lost
        self.received += data
        if self.pause and self.transport is not None:
            self.pause = False
            self.transport.pause_reading()

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


async def connect(peer: Peer, authority: Authority, pause: bool = False) -> Protocol:
    """A connection to the peer."""
    protocol = Protocol(pause)
    await tcp_connector("127.0.0.1", peer.port, client_context(authority.crt.read_text()))(lambda: protocol)
    return protocol


@pytest.mark.parametrize("size", [1, 100_000, 150_000, 300_000, 600_000, 3_000_000])
async def test_a_peer_that_has_closed_while_we_paused_is_still_read_to_its_end(
    peer: Peer, authority: Authority, size: int
) -> None:
    data = bytes(range(251)) * (size // 251 + 1)

    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(data[:size])
        goodbye(connection)

    peer.serve(script)
    protocol = await connect(peer, authority, pause=True)
    await until(lambda: protocol.received)
    if size < 1_000_000:  # it fits into the buffers of the kernel
        await until(peer.closed.is_set)
        for _unused in range(50):  # turns in which the loop can see that the TCP connection has ended
            await asyncio.sleep(0)
    assert not protocol.eof
    assert protocol.transport is not None
    protocol.transport.resume_reading()
    await until(lambda: protocol.lost)
    assert bytes(protocol.received) == data[:size]
    assert protocol.eof
    assert protocol.lost == [None]


async def test_a_connection_that_is_cut_is_not_taken_for_an_end(peer: Peer, authority: Authority) -> None:
    peer.serve(lambda connection: connection.sendall(b"x" * 1000))  # and closes without a close_notify
    protocol = await connect(peer, authority)
    await until(lambda: protocol.lost)
    assert len(protocol.received) == 1000
    assert not protocol.eof
    assert isinstance(protocol.lost[0], ConnectionResetError)
    assert "close_notify" in str(protocol.lost[0])


async def test_what_was_written_before_close_arrives_although_the_peer_still_sends(
    peer: Peer, authority: Authority
) -> None:
    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"y" * 50_000)
        while piece := connection.recv(65536):
            peer.received += piece

    peer.serve(script)
    protocol = await connect(peer, authority, pause=True)
    assert protocol.transport is not None
    protocol.transport.write(b"z" * 2_000_000)
    protocol.transport.close()
    protocol.transport.write(b"not sent any more")
    assert protocol.transport.is_closing()
    await until(lambda: protocol.lost)
    await until(peer.closed.is_set)
    assert peer.received == b"z" * 2_000_000
    assert protocol.lost == [None]


async def test_abort_closes_at_once_and_tells_it_once(peer: Peer, authority: Authority) -> None:
    def script(connection: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)

    peer.serve(script)
    protocol = await connect(peer, authority)
    assert protocol.transport is not None
    protocol.transport.abort()
    protocol.transport.abort()
    await until(lambda: protocol.lost)
    await until(peer.closed.is_set)
    assert protocol.lost == [None]


async def test_a_peer_that_does_not_speak_tls_is_an_error(peer: Peer, authority: Authority) -> None:
    def run() -> None:
        raw, _unused = peer.listener.accept()
        with raw:
            raw.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            raw.recv(10_000)
        peer.closed.set()

    peer.thread = threading.Thread(target=run)
    peer.thread.start()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(peer, authority)


async def test_a_peer_that_closes_during_the_handshake_is_an_error(peer: Peer, authority: Authority) -> None:
    def run() -> None:
        raw, _unused = peer.listener.accept()
        raw.close()
        peer.closed.set()

    peer.thread = threading.Thread(target=run)
    peer.thread.start()
    with pytest.raises((ssl.SSLError, OSError)):
        await connect(peer, authority)
