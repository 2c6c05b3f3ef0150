# SPDX-License-Identifier: Apache-2.0
"""The edge over real TLS connections, driven byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import tracemalloc
from typing import cast

import pytest
from mooring.proxy.ports import Client
from mooring.wire.frames import Code
from mooring.wire.headers import ResponseHead
from mooring.wire.http1_request import Request
from support.edgebed import Edge, MakeEdge, until

PODS = "/k8s/clusters/alpha/api/v1/pods"
EXEC = "/k8s/clusters/alpha/api/v1/namespaces/d/pods/p/exec"


async def test_get_goes_through_and_comes_back(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS + "?limit=5", "bob"))
    await edge.stream()
    stream = edge.world.stream
    assert (stream.head.method, stream.head.target, stream.fin) == (b"GET", b"/api/v1/pods?limit=5", True)
    assert stream.header("impersonate-user") == "mooring:bob"
    assert stream.header("authorization") is None
    stream.answer(200, [("Content-Type", "application/json"), ("Content-Length", "5"), ("Warning", '299 - "old"')])
    stream.data(b"hello")
    stream.done()
    head = await peer.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 X\r\n")
    assert b'Warning: 299 - "old"\r\n' in head
    assert b"X-Request-Id: " in head
    assert await peer.exactly(5) == b"hello"
    assert stream.take() == [("consumed", 5)]


async def test_real_client_keeps_its_connection(edge: Edge) -> None:
    connection = http.client.HTTPSConnection("localhost", edge.listener.port, context=edge.tls.client, timeout=10)

    def call(path: str) -> tuple[int, bytes]:
        connection.request("GET", path, headers={"Authorization": f"Bearer {edge.world.bearer('bob')}"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    for number in range(1, 4):
        task = asyncio.create_task(asyncio.to_thread(call, PODS))
        await edge.stream(number)
        edge.world.stream.answer(200)  # no length: chunked
        for piece in (b"a" * 10_000, b"b" * 50_000):
            edge.world.stream.data(piece)
        edge.world.stream.done()
        assert await task == (200, b"a" * 10_000 + b"b" * 50_000)
    assert await asyncio.to_thread(call, "/version") == (200, b'{"name":"mooring","version":"0.1.0"}\n')
    connection.close()


async def test_reading_a_small_request_makes_no_large_buffer(edge: Edge) -> None:
    """A buffer of 256 KiB for each read cost a fifth of a request: a mapping made, touched and given back."""
    connection = http.client.HTTPSConnection("localhost", edge.listener.port, context=edge.tls.client, timeout=10)

    def calls(count: int) -> None:
        for _unused in range(count):
            connection.request("GET", "/version")
            assert connection.getresponse().read().startswith(b"{")

    await asyncio.to_thread(calls, 2)
    tracemalloc.start()
    try:
        before, _unused = tracemalloc.get_traced_memory()
        await asyncio.to_thread(calls, 20)
        _unused, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    connection.close()
    assert peak - before < 200 * 1024


async def test_what_clients_send_at_the_same_time_stays_apart(edge: Edge) -> None:
    """All connections read into one buffer."""
    peers = [await edge.connect() for _unused in range(4)]
    for number, peer in enumerate(peers):
        await peer.send(edge.get(PODS, "bob", "Content-Length: 60000", method="POST"))
        await edge.stream(number + 1)
    for part in b"abcdef":
        for number, peer in enumerate(peers):
            await peer.send(b"%d%c" % (number, part) * 5000)

    def body(number: int) -> bytes:
        return b"".join(cast(bytes, entry[1]) for entry in edge.world.agent.streams[number].log if entry[0] == "write")

    for number in range(4):
        await until(lambda number=number: len(body(number)) == 60000)  # type: ignore[misc]
        assert body(number) == b"".join(b"%d%c" % (number, part) * 5000 for part in b"abcdef")


async def test_watch_events_leave_one_by_one(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS + "?watch=1"))
    await edge.stream()
    edge.world.stream.answer(200)
    await peer.until(b"\r\n\r\n")
    for event in (b'{"a":1}\n', b'{"b":22}\n'):
        edge.world.stream.data(event)
        assert await peer.until(event + b"\r\n") == b"%x\r\n" % len(event) + event + b"\r\n"
    assert [record.stage for record in edge.world.audit.records] == ["start"]


async def test_client_that_leaves_ends_its_watch(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS + "?watch=1"))
    await edge.stream()
    edge.world.stream.answer(200)
    await peer.until(b"\r\n\r\n")
    peer.abort()
    await until(lambda: edge.world.stream.closed)
    assert edge.world.stream.take() == [("reset", "CANCEL")]
    await until(lambda: len(edge.world.registry) == 0)
    assert edge.world.audit.records[-1].outcome == "client gone"


@pytest.mark.parametrize("take_away", ["token", "expiry"])
async def test_open_watch_ends_when_the_right_does(edge: Edge, take_away: str) -> None:
    who = "bob-brief"
    peer = await edge.connect()
    await peer.send(edge.get(PODS + "?watch=1", who))
    await edge.stream()
    edge.world.stream.answer(200)
    await peer.until(b"\r\n\r\n")
    if take_away == "token":
        edge.world.revoke(who)
    else:
        edge.world.clock.advance(61)
    assert b"0\r\n\r\n" not in await peer.rest()
    assert edge.world.stream.closed
    assert edge.world.audit.records[-1].outcome == "cut: token"


async def test_body_is_streamed_with_back_pressure(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS, "bob", "Content-Length: 300000", method="POST"))
    await edge.stream()
    stream = edge.world.stream
    assert not stream.fin
    assert stream.header("content-length") == "300000"
    stream.full = True
    sender = asyncio.create_task(peer.send(b"x" * 300_000))
    await until(lambda: len(stream.log) > 0)
    stream.full = False
    stream.sink.on_writable()
    await until(lambda: ("end",) in stream.log)
    await sender
    assert b"".join(entry[1] for entry in stream.log if entry[0] == "write") == b"x" * 300_000  # type: ignore[misc]
    stream.answer(201, fin=True)
    assert b" 201 " in await peer.until(b"\r\n\r\n")


async def test_client_that_leaves_is_noticed_also_while_nobody_reads_it(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_timeout=600)
    peer = await edge.connect()
    await peer.send(edge.get(PODS, "bob", "Content-Length: 100000000", method="POST"))
    await edge.stream()
    edge.world.stream.full = True
    peer.writer.write(b"x" * 300_000)  # more would close the window, and the news of the end could not come
    await until(lambda: len(edge.world.stream.log) > 0)
    await until(lambda: cast(asyncio.Transport, peer.writer.transport).get_write_buffer_size() == 0)
    peer.abort()
    await until(lambda: edge.world.stream.closed)
    assert edge.world.audit.records[-1].outcome == "client gone"


@pytest.mark.parametrize("ending", ["close", "upgrade"])
async def test_slow_client_gets_the_last_byte_of_a_connection_that_is_closed(make_edge: MakeEdge, ending: str) -> None:
    edge = await make_edge(linger_timeout=0.05, write_high=64 * 1024)
    peer = await edge.connect()
    upgrade = ending == "upgrade"
    await peer.send(
        edge.get(EXEC, "bob", *(["Connection: Upgrade", "Upgrade: websocket"] if upgrade else ["Connection: close"]))
    )
    await edge.stream()
    stream = edge.world.stream
    if upgrade:
        stream.answer(101, [("Upgrade", "websocket")])
    else:
        stream.answer(200, [("Content-Length", str(200 * 32_768))])
    await peer.until(b"\r\n\r\n")
    peer.stop_reading()
    for _unused in range(200):
        stream.data(b"z" * 32_768)
        await asyncio.sleep(0)
    stream.done()
    (connection,) = edge.listener._connections
    sweeps = edge.listener.now
    await until(lambda: edge.listener.now > sweeps + 0.2)
    assert connection in edge.listener._connections
    peer.read_on()
    assert len(await peer.rest(20)) == 200 * 32_768


async def test_slow_client_takes_no_more_credit(make_edge: MakeEdge) -> None:
    edge = await make_edge(write_high=64 * 1024)
    peer = await edge.connect()
    peer.stop_reading()
    await peer.send(edge.get(PODS))
    await edge.stream()
    stream = edge.world.stream
    stream.answer(200)
    given = 0
    consumed = 0
    while given - consumed < 1_000_000 and given < 64_000_000:
        stream.data(b"z" * 32_768)
        given += 32_768
        await asyncio.sleep(0)
        consumed = sum(entry[1] for entry in stream.log if entry[0] == "consumed")  # type: ignore[misc]
    assert given - consumed >= 1_000_000, "credit was given although nobody read"
    peer.read_on()

    async def drain() -> None:
        while True:
            await peer.reader.read(1 << 20)

    reading = asyncio.create_task(drain())
    await until(lambda: sum(e[1] for e in stream.log if e[0] == "consumed") == given)  # type: ignore[misc]
    reading.cancel()


async def test_expect_continue_is_answered_before_the_body(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS, "bob", "Content-Length: 2", "Expect: 100-continue", method="POST"))
    assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await peer.send(b"{}")
    await until(lambda: ("end",) in edge.world.stream.log)
    assert edge.world.stream.header("expect") is None


async def test_expect_continue_of_a_stranger_gets_the_refusal_only(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS, None, "Content-Length: 2", "Expect: 100-continue", method="POST"))
    answer = await peer.until(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close" in answer


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS + "?n=1") + edge.get(PODS + "?n=2") + edge.get("/healthz", None))
    await edge.stream(1)
    assert len(edge.world.agent.streams) == 1
    edge.world.stream.answer(200, [("Content-Length", "3")])
    edge.world.stream.data(b"one")
    edge.world.stream.done()
    await edge.stream(2)
    edge.world.stream.answer(200, [("Content-Length", "3")])
    edge.world.stream.data(b"two")
    edge.world.stream.done()
    everything = await peer.until(b"ok\n")
    assert everything.index(b"one") < everything.index(b"two") < everything.index(b"ok\n")


async def test_hundreds_of_pipelined_refusals_neither_recurse_nor_stall(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n" * 2_000)
    await peer.send(edge.get("/healthz", None, "Connection: close"))
    answers = await peer.rest(20)
    assert answers.count(b"HTTP/1.1 404 ") == 2_000
    assert answers.endswith(b"ok\n")


async def test_answer_before_the_end_of_a_large_body_arrives_whole(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get("/k8s/clusters/nowhere/api", "bob", "Content-Length: 1000000", method="POST"))
    await peer.send(b"x" * 1_000_000)
    answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["message"].startswith('there is no cluster "nowhere"')


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"\x16\x03\x01\x00\n", 400),
    ],
)
async def test_malformed_request_is_answered_and_the_connection_closed(edge: Edge, sent: bytes, status: int) -> None:
    peer = await edge.connect()
    await peer.send(sent + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close\r\n" in answer
    assert answer.count(b"X-Request-Id: ") == 1
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["code"] == status


class Faulty:
    """An exchange that has a fault where it is told so. `told` is what it heard."""

    def __init__(self, at: str) -> None:
        self._at = at
        self.told: list[str] = []

    def _hear(self, name: str) -> None:
        self.told.append(name)
        if name == self._at:
            raise ZeroDivisionError(name)

    def client_data(self, data: bytes) -> None:
        self._hear("data")

    def client_end(self) -> None:
        self._hear("end")

    def client_drained(self) -> None:
        self._hear("drained")

    def client_gone(self) -> None:
        self._hear("gone")


@pytest.mark.parametrize("at", ["data", "end"])
@pytest.mark.parametrize("answered", [False, True])
async def test_a_fault_while_a_body_came_dropped_the_connection_without_an_answer(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, at: str, answered: bool
) -> None:
    """It went up into the event loop, which closed the transport: no answer, no line that names the request."""
    unhandled: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _unused, context: unhandled.append(context))
    faulty = Faulty(at)

    class Taker:
        def handle(self, client: Client, request: Request, /) -> Faulty:
            if answered:
                client.respond(ResponseHead(200, b"OK", []), fin=False)
            return faulty

    monkeypatch.setattr(edge.routes, "_chain", Taker())  # not its method: of a compiled class none can be replaced
    peer = await edge.connect()
    await peer.send(edge.get(PODS, "bob", "Content-Length: 2", method="POST"))
    if answered:
        assert b"200 OK" in await peer.until(b"\r\n\r\n")
    await peer.send(b"ab")
    answer = await peer.rest()
    if answered:
        assert answer == b""  # not even the end of its body: a break that can be seen
    else:
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"Connection: close\r\n" in answer
        assert "the server's log has it under" in json.loads(answer.split(b"\r\n\r\n", 1)[1])["message"]
    assert faulty.told == ["data", *(["end"] if at == "end" else []), "gone"]
    assert unhandled == []
    peer.close()
    await until(lambda: not edge.listener._connections)


async def test_malformed_chunk_within_a_body_resets_the_stream(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS, "bob", "Transfer-Encoding: chunked", method="POST") + b"2\r\nab\r\n")
    await edge.stream()
    await until(lambda: ("write", b"ab") in edge.world.stream.log)
    await peer.send(b"zz\r\n")
    assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
    assert edge.world.stream.log[-1] == ("reset", "CANCEL")


async def test_slow_head_gets_408(make_edge: MakeEdge) -> None:
    edge = await make_edge(head_timeout=0.1)
    peer = await edge.connect()
    await peer.send(b"GET / HT")
    assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")


async def test_silent_connection_is_closed_without_a_word(make_edge: MakeEdge) -> None:
    edge = await make_edge(head_timeout=0.1)
    peer = await edge.connect()
    assert await peer.rest() == b""


async def test_idle_connection_is_closed_after_the_idle_timeout(make_edge: MakeEdge) -> None:
    edge = await make_edge(idle_timeout=0.1)
    peer = await edge.connect()
    await peer.send(edge.get("/healthz", None))
    assert (await peer.rest()).endswith(b"ok\n")


async def test_stalled_body_gets_408_and_resets_the_stream(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_timeout=0.1)
    peer = await edge.connect()
    await peer.send(edge.get(PODS, "bob", "Content-Length: 10", method="POST") + b"abc")
    assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
    assert edge.world.stream.log[-1] == ("reset", "CANCEL")


async def test_body_that_trickles_gets_408(make_edge: MakeEdge) -> None:
    """A byte before each deadline kept a connection, and an open request in the cluster, for days."""
    edge = await make_edge(body_timeout=0.3, body_rate=1_000)
    peer = await edge.connect()
    await peer.send(edge.get(PODS, "bob", "Content-Length: 100000", method="POST"))
    answer = asyncio.create_task(peer.rest(20))
    with contextlib.suppress(ConnectionError):
        while not answer.done():
            await peer.send(b"x")
            await asyncio.sleep(0.02)
    assert (await answer).startswith(b"HTTP/1.1 408 ")
    assert edge.world.stream.closed


async def test_body_that_the_cluster_does_not_take_may_wait(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_timeout=0.1, body_rate=1_000)
    peer = await edge.connect()
    await peer.send(edge.get(PODS, "bob", "Content-Length: 20", method="POST"))
    await edge.stream()
    stream = edge.world.stream
    stream.full = True
    await peer.send(b"x" * 10)
    await until(lambda: len(stream.log) == 1)
    beats = []
    edge.listener._sweep_also = lambda: beats.append(1)
    await until(lambda: len(beats) > 20, 20)  # several times the deadline
    assert not stream.closed
    stream.full = False
    stream.sink.on_writable()
    await peer.send(b"x" * 10)
    await until(lambda: ("end",) in stream.log)


async def test_user_at_the_bound_of_connections_gets_429_and_others_get_through(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections_per_user=2)
    first, second, third, root = [await edge.connect() for _unused in range(4)]
    for number, peer in enumerate((first, second, first)):
        await peer.send(edge.get(PODS))
        await edge.stream(number + 1)
        edge.world.stream.answer(200, [("Content-Length", "0")], fin=True)
        assert b" 200 " in await peer.until(b"\r\n\r\n")
    await third.send(edge.get(PODS))
    answer = await third.rest(20)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: 1\r\n" in answer
    assert b"Connection: close\r\n" in answer
    await root.send(edge.get(PODS, "root"))
    await edge.stream(4)
    first.close()
    await first.rest(20)
    await until(lambda: edge.listener._by_user["u-bob"] == 1)
    fourth = await edge.connect()
    await fourth.send(edge.get(PODS))
    await edge.stream(5)


async def test_upgrade_without_a_byte_ends_and_one_in_use_does_not(make_edge: MakeEdge) -> None:
    edge = await make_edge(upgrade_idle_timeout=0.4)
    upgrades = []
    for number in range(2):
        peer = await edge.connect()
        await peer.send(edge.get(EXEC, "bob", "Connection: Upgrade", "Upgrade: SPDY/3.1", method="POST"))
        await edge.stream(number + 1)
        edge.world.stream.answer(101, [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")])
        await peer.until(b"\r\n\r\n")
        upgrades.append((peer, edge.world.stream))
    (idle, forgotten), (busy, used) = upgrades
    end = asyncio.create_task(idle.rest(20))
    while not end.done():
        await busy.send(b"x")
        used.data(b"y")
        await busy.exactly(1)
        await asyncio.sleep(0.02)
    assert forgotten.closed
    assert not used.closed


async def test_client_that_never_reads_is_cut(make_edge: MakeEdge) -> None:
    edge = await make_edge(write_timeout=0.1, write_high=64 * 1024)
    peer = await edge.connect()
    peer.stop_reading()
    await peer.send(edge.get(PODS))
    await edge.stream()
    edge.world.stream.answer(200)
    for _unused in range(2_000):
        if edge.world.stream.closed:
            break
        edge.world.stream.data(b"z" * 32_768)
        await asyncio.sleep(0.001)
    assert edge.world.stream.closed


async def test_upgrade_becomes_raw_both_ways(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(
        edge.get(
            EXEC,
            "bob",
            "Connection: Upgrade",
            "Upgrade: SPDY/3.1",
            "X-Stream-Protocol-Version: v4.channel.k8s.io",
            method="POST",
        )
    )
    await edge.stream()
    stream = edge.world.stream
    assert not stream.fin
    assert (stream.header("upgrade"), stream.header("connection")) == ("SPDY/3.1", "Upgrade")
    stream.answer(101, [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v4")])
    head = await peer.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"X-Stream-Protocol-Version: v4\r\n" in head
    assert b"Upgrade: SPDY/3.1\r\n" in head
    await peer.send(b"\x80\x03ping")
    await until(lambda: ("write", b"\x80\x03ping") in stream.log)
    stream.data(b"\x80\x03pong")
    assert await peer.exactly(6) == b"\x80\x03pong"
    stream.done()
    assert await peer.rest() == b""
    await until(lambda: len(edge.world.registry) == 0)
    assert [record.stage for record in edge.world.audit.records] == ["start", "end"]
    assert edge.world.audit.records[-1].bytes_in == 6


async def test_refused_upgrade_is_an_ordinary_answer(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(EXEC, "bob", "Connection: Upgrade", "Upgrade: websocket"))
    await edge.stream()
    edge.world.stream.answer(403, [("Content-Length", "2")])
    edge.world.stream.data(b"no")
    edge.world.stream.done()
    answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"no")


async def test_lost_tunnel_before_the_head_is_a_status(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS))
    await edge.stream()
    edge.world.stream.sink.on_reset(Code.UPSTREAM_UNREACHABLE, "tunnel lost")
    head = await peer.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After" not in head


async def test_lost_tunnel_within_the_body_is_a_visible_break(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS))
    await edge.stream()
    edge.world.stream.answer(200)
    edge.world.stream.data(b"half")
    await peer.until(b"half\r\n")
    edge.world.stream.sink.on_reset(Code.UPSTREAM_UNREACHABLE, "tunnel lost")
    assert b"0\r\n\r\n" not in await peer.rest()


async def test_only_http_1_1_is_offered_and_old_tls_refused(edge: Edge) -> None:
    context = ssl.create_default_context(cafile=str(edge.tls.ca))
    context.set_alpn_protocols(["h2", "http/1.1"])
    _unused, writer = await asyncio.open_connection(
        "127.0.0.1", edge.listener.port, ssl=context, server_hostname="localhost"
    )
    chosen = writer.get_extra_info("ssl_object")
    assert (chosen.selected_alpn_protocol(), chosen.version()) == ("http/1.1", "TLSv1.3")
    writer.transport.abort()
    assert edge.tls.server.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_no_tickets_are_given_out(edge: Edge) -> None:
    connection = http.client.HTTPSConnection("localhost", edge.listener.port, context=edge.tls.client, timeout=10)

    def ticket() -> bool:
        connection.request("GET", "/version")
        assert connection.getresponse().read()
        session = cast(ssl.SSLSocket, connection.sock).session
        return session is not None and session.has_ticket

    assert not await asyncio.to_thread(ticket)
    connection.close()


async def test_one_connection_too_many_gets_503(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections=1)
    first = await edge.connect()
    await first.send(edge.get("/healthz", None))
    await first.until(b"ok\n")
    second = await edge.connect()
    answer = await second.rest()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    first.close()
    await first.rest()
    await until(lambda: not edge.listener._connections)
    third = await edge.connect()
    await third.send(edge.get("/healthz", None))
    await third.until(b"ok\n")


async def test_stop_lets_the_open_request_finish(edge: Edge) -> None:
    peer = await edge.connect()
    idle = await edge.connect()
    await idle.send(edge.get("/healthz", None))
    await idle.until(b"ok\n")
    await peer.send(edge.get(PODS))
    await edge.stream()
    stopping = asyncio.create_task(edge.listener.stop(5))
    assert await idle.rest() == b""
    edge.world.stream.answer(200, [("Content-Length", "2")])
    edge.world.stream.data(b"ok")
    edge.world.stream.done()
    answer = await peer.rest()
    assert b"Connection: close\r\n" in answer
    assert answer.endswith(b"ok")
    await stopping


async def test_stop_cuts_what_does_not_finish(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get(PODS + "?watch=1"))
    await edge.stream()
    edge.world.stream.answer(200)
    await peer.until(b"\r\n\r\n")
    await edge.listener.stop(0.05)
    assert await peer.rest() == b""
    assert edge.world.stream.closed


async def test_a_worker_that_retires_answers_what_comes_on_its_connections_once_more(edge: Edge) -> None:
    idle, busy = await edge.connect(), await edge.connect()
    await busy.send(edge.get(PODS))
    await edge.stream()
    retiring = asyncio.create_task(edge.listener.retire(30))
    await until(lambda: edge.listener.stopping)
    with pytest.raises(ConnectionRefusedError):
        await edge.connect()
    await idle.send(edge.get(PODS))  # sent before the client could know
    await edge.stream(2)
    for stream in edge.world.agent.streams:
        stream.answer(200, [("Content-Length", "2")])
        stream.data(b"ok")
        stream.done()
    # The one that was asked before goes on being kept until it is told; the other one was told with its answer.
    assert b"Connection: close" in await idle.until(b"\r\n\r\nok")
    assert await idle.rest() == b""
    await busy.until(b"\r\n\r\nok")
    await busy.send(edge.get("/healthz"))
    assert b"Connection: close" in await busy.until(b"\r\n\r\nok\n")
    assert await busy.rest() == b""
    await asyncio.wait_for(retiring, 30)
