# SPDX-License-Identifier: Apache-2.0
"""What holds before a request is there: connections and half-open handshakes are counted, and have an end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

import pytest
from mooring.edge import accept
from mooring.edge.accept import Gate
from mooring.edge.settings import EdgeSettings
from mooring.lib import metrics
from mooring.lib.bounds import Rate
from support.edgebed import Edge, MakeEdge, Peer, until


def met(name: str) -> float:
    return float(metrics.BOUND_REFUSED.labels(name)._value.get())


async def half_open(edge: Edge, source: str = "127.0.0.1") -> asyncio.StreamReader:
    """A connection that never begins its handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.listener.port, local_addr=(source, 0))
    edge.peers.append(Peer(reader, writer))
    return reader


async def ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def turned_away(edge: Edge, source: str) -> None:
    with contextlib.suppress(ConnectionError):  # the reset may come before the connection is known here
        await ended(await half_open(edge, source))


async def works(edge: Edge, source: str) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", edge.listener.port, local_addr=(source, 0), ssl=edge.tls.client, server_hostname="localhost"
    )
    peer = Peer(reader, writer)
    edge.peers.append(peer)
    await peer.send(edge.get("/healthz", None))
    await peer.until(b"ok\n", 20)


async def test_half_open_handshakes_are_counted_by_address(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_handshakes_per_source=3, handshake_timeout=60.0)
    gate = edge.listener._gate
    for _unused in range(3):
        await half_open(edge)
    await until(lambda: gate.handshakes == 3)
    before = met("handshakes_per_address")
    await turned_away(edge, "127.0.0.1")
    assert met("handshakes_per_address") == before + 1
    await works(edge, "127.0.0.2")


async def test_half_open_handshakes_have_a_deadline_and_leave_nothing(make_edge: MakeEdge) -> None:
    edge = await make_edge(handshake_timeout=0.2)
    before = met("handshake_timeout")
    readers = [await half_open(edge) for _unused in range(5)]
    for reader in readers:
        await ended(reader)
    gate = edge.listener._gate
    await until(lambda: (gate.handshakes, gate.sockets) == (0, 0))
    assert met("handshake_timeout") == before + 5


async def test_half_open_handshakes_of_all_have_a_bound(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_handshakes=2, handshake_timeout=60.0)
    await half_open(edge, "127.0.0.2")
    await half_open(edge, "127.0.0.3")
    await until(lambda: edge.listener._gate.handshakes == 2)
    await turned_away(edge, "127.0.0.4")


async def test_what_is_not_tls_leaves_nothing(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.listener.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 20)
    writer.close()
    gate = edge.listener._gate
    await until(lambda: (gate.handshakes, gate.sockets) == (0, 0))


async def test_an_address_at_its_bound_is_told_so_and_others_get_in(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections_per_source=2, linger_timeout=0.2)
    for _unused in range(2):
        await works(edge, "127.0.0.1")
    before = met("connections_per_address")
    answer = await (await edge.connect()).rest(20)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    assert b"too many connections from your address" in answer
    assert met("connections_per_address") == before + 1
    await works(edge, "127.0.0.2")
    for peer in edge.peers:
        peer.abort()
    gate = edge.listener._gate
    await until(lambda: gate.sockets == 0)
    await works(edge, "127.0.0.1")


async def test_who_is_told_so_and_stays_is_cut_off(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections=1, linger_timeout=0.2)
    await works(edge, "127.0.0.1")

    def shake_and_stay() -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", edge.listener.port), timeout=20)
        return edge.tls.client.wrap_socket(plain, server_hostname="localhost")

    stays = await asyncio.to_thread(shake_and_stay)
    await until(lambda: edge.listener._gate.sockets == 1, 20)
    stays.close()


def test_over_the_bound_only_a_few_get_a_handshake() -> None:
    gate = Gate(EdgeSettings(max_connections_per_source=5, max_handshakes_per_source=10_000))
    tickets = [gate.enter("192.0.2.1", 0.0) for _unused in range(5 + accept.TOLD)]
    assert not any(isinstance(ticket, str) for ticket in tickets)
    assert gate.enter("192.0.2.1", 0.0) == "connections_per_address"
    assert not isinstance(gate.enter("192.0.2.2", 0.0), str)
    ticket = tickets[0]
    assert not isinstance(ticket, str)
    for _unused in range(2):  # said twice, given back once
        ticket.leave()
    assert not isinstance(gate.enter("192.0.2.1", 0.0), str)
    assert gate.enter("192.0.2.1", 0.0) == "connections_per_address"


def test_an_address_begins_so_many_handshakes_a_minute_and_others_are_left_alone() -> None:
    gate = Gate(EdgeSettings(handshakes_per_minute=60, max_handshakes=1_000))

    def come(address: str, now: float) -> str:
        """Connects, shakes hands and goes."""
        ticket = gate.enter(address, now)
        if isinstance(ticket, str):
            return ticket
        ticket.leave()
        return "in"

    assert [come("192.0.2.1", 0.0) for _unused in range(60)] == ["in"] * 60
    assert come("192.0.2.1", 0.5) == "handshake_rate_per_address"
    assert come("192.0.2.2", 0.5) == "in"
    assert [come("192.0.2.1", 2.0) for _unused in range(3)] == ["in", "in", "handshake_rate_per_address"]
    assert come("192.0.2.1", 70.0) == "in"


async def test_over_the_rate_a_connection_is_closed_before_its_handshake(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    edge.listener._gate._rate_of = Rate(2, 1e9)  # a machine that is slow gets no third one meanwhile
    await works(edge, "127.0.0.1")
    await works(edge, "127.0.0.1")
    before = met("handshake_rate_per_address")
    await turned_away(edge, "127.0.0.1")
    assert met("handshake_rate_per_address") == before + 1
    await works(edge, "127.0.0.2")


async def test_no_descriptors_left_is_a_pause_and_not_the_end(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "REST_SECONDS", 0.05)
    acceptor = edge.listener._acceptor
    assert acceptor is not None

    class Spent:
        """The listening socket while the process has no descriptors."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real
            self.asked = 0

        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            self.asked += 1
            if self.asked == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.real.accept()

        def fileno(self) -> int:
            return self.real.fileno()

    spent = Spent(acceptor._sockets[0])
    acceptor._ready(spent)  # type: ignore[arg-type]
    assert acceptor._resting
    await works(edge, "127.0.0.1")
    assert spent.asked > 1


async def test_a_free_port_is_the_same_for_ipv4_and_ipv6() -> None:
    sockets = await accept.bind(None, 0)
    try:
        assert len({listener.getsockname()[1] for listener in sockets}) == 1
        assert socket.AF_INET in {listener.family for listener in sockets}
    finally:
        for listener in sockets:
            listener.close()


async def test_an_address_in_use_is_an_error_and_holds_nothing() -> None:
    sockets = await accept.bind("127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use"):
            await accept.bind("127.0.0.1", sockets[0].getsockname()[1])
    finally:
        sockets[0].close()
