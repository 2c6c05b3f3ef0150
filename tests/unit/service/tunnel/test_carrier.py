# SPDX-License-Identifier: Apache-2.0
"""Sessions over real sockets on uvloop, TCP and TLS: bulk, death, back-pressure, and handshakes that must fail."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest
from mooring.lib.tasks import Supervisor
from mooring.tunnel.carrier import ConnectFailed, ServerCarrier, connect_client
from mooring.tunnel.pace import MAX_BATCH
from mooring.tunnel.session import Session
from mooring.tunnel.stream import Code, Stream, StreamSink, pack_open
from mooring.wire import frames
from mooring.wire.flow import Limits
from mooring.wire.hello import Hello
from support.tunnel_ends import EdgeLike, Ends, Recorder

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
GET = pack_open("apiserver", b"GET / HTTP/1.1\r\n\r\n")
BULK = 100 * 1024 * 1024
PIECE = bytes(range(256)) * 256
DEADLINE = 60.0


class Echo(Recorder):
    """The agent's half of a stream that sends back what it is sent."""

    def on_data(self, data: bytes) -> None:
        assert self.stream is not None
        self.stream.write(data)
        self.stream.consumed(len(data))

    def on_end(self) -> None:
        assert self.stream is not None
        self.stream.end()


class Source(Recorder):
    """The agent's half of a stream that sends BULK bytes as fast as it may."""

    def __init__(self) -> None:
        super().__init__()
        self.left = BULK
        self.most_queued = 0

    def pump(self) -> None:
        assert self.stream is not None
        while self.left:
            self.left -= len(PIECE)
            if not self.stream.write(PIECE, fin=not self.left):
                break

    def on_writable(self) -> None:
        self.pump()


class Counter(Recorder):
    """The server's half of a bulk stream: counts and hashes instead of keeping."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.hash = hashlib.sha256()

    def on_data(self, data: bytes) -> None:
        self.count += len(data)
        self.hash.update(data)
        if self.greedy and self.stream is not None:
            self.stream.consumed(len(data))


def serve(stream: Stream, payload: bytes, fin: bool) -> StreamSink:
    """The agent of these tests."""
    stream.opened(HEAD)
    sink: Recorder = Source() if b"bulk" in payload else Echo()
    sink.stream = stream
    if isinstance(sink, Source):
        sink.pump()
    return sink


def start(ends: Ends, sink: Recorder, what: bytes = b"echo", fin: bool = False) -> Stream:
    sink.stream = ends.server.open(pack_open("apiserver", what), sink, fin)
    return sink.stream


async def until(condition: Callable[[], bool]) -> None:
    """Poll with a deadline, for what has no event of its own."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_both_sides_know_each_other(connect: Any) -> None:
    ends: Ends = await connect(serve)
    assert ends.server.peer is not None
    assert ends.agent.peer is not None
    assert (ends.server.peer.instance, ends.agent.peer.instance) == ("agt", "srv")


async def test_small_streams_echo_beside_100_mb_of_bulk(connect: Any) -> None:
    ends: Ends = await connect(serve)
    bulk = Counter()
    start(ends, bulk, b"bulk", fin=True)
    echoes = 0
    while not bulk.over.is_set():
        small = Recorder()
        stream = start(ends, small)
        stream.write(b"hello %d" % echoes, fin=True)
        await asyncio.wait_for(small.over.wait(), DEADLINE)
        assert small.data == b"hello %d" % echoes
        echoes += 1
    assert bulk.calls == ["head", "end"]
    assert bulk.count == BULK
    assert bulk.hash.digest() == hashlib.sha256(PIECE * (BULK // len(PIECE))).digest()
    assert echoes > 10
    assert ends.server.streams == ends.agent.streams == 0


async def test_many_streams_at_once_do_not_mix(connect: Any) -> None:
    ends: Ends = await connect(serve)
    sinks = []
    for number in range(300):
        sink = Recorder()
        stream = start(ends, sink)
        stream.write(b"%d," % number * 50, fin=True)
        sinks.append(sink)
    for number, sink in enumerate(sinks):
        await asyncio.wait_for(sink.over.wait(), DEADLINE)
        assert sink.data == b"%d," % number * 50
    assert ends.agent.stats().streams_total == 300


async def test_a_head_of_100_kb_passes(connect: Any) -> None:
    seen: list[bytes] = []

    def accept(stream: Stream, payload: bytes, fin: bool) -> StreamSink:
        seen.append(payload)
        stream.opened(payload[::-1], True)
        return Recorder()

    ends: Ends = await connect(accept)
    sink = Recorder()
    payload = pack_open("apiserver", bytes(range(256)) * 400)
    ends.server.open(payload, sink, True)
    await asyncio.wait_for(sink.over.wait(), DEADLINE)
    assert seen == [payload]
    assert sink.head == payload[::-1]


async def test_a_reader_that_stops_holds_one_window_and_stops_the_writer(connect: Any) -> None:
    sources: list[Source] = []

    def accept(stream: Stream, payload: bytes, fin: bool) -> StreamSink:
        stream.opened(HEAD)
        source = Source()
        source.stream = stream
        sources.append(source)
        source.pump()
        return source

    ends: Ends = await connect(accept, limits=Limits(send_buffer=256 * 1024), window=512 * 1024)
    slow = Counter()
    slow.greedy = False
    stream = start(ends, slow, b"bulk", fin=True)
    await until(lambda: slow.count == 512 * 1024)
    small = Recorder()
    start(ends, small).write(b"others pass", fin=True)  # a second source: its first window arrives
    await until(lambda: len(small.data) >= 256 * 1024)
    assert slow.count == 512 * 1024
    assert BULK - sources[0].left <= 512 * 1024 + 256 * 1024 + len(PIECE)
    slow.greedy = True
    stream.consumed(512 * 1024)
    await asyncio.wait_for(slow.over.wait(), DEADLINE)
    assert slow.count == BULK


async def test_a_link_that_takes_nothing_buffers_little(connect: Any) -> None:
    ends: Ends = await connect(serve, window=16 * 1024 * 1024, limits=Limits(send_buffer=4 * 1024 * 1024))
    ends.server_transport.pause_reading()
    bulk = Counter()
    start(ends, bulk, b"bulk", fin=True)
    link: Any = ends.agent._link
    seen: list[int] = []

    def stuck() -> bool:
        seen.append(link._unsent())
        return len(seen) > 20 and seen[-1] > 0 and len(set(seen[-20:])) == 1

    await until(stuck)
    assert link._pace.held
    assert max(seen) <= 2 * MAX_BATCH + frames.MAX_FRAME
    ends.server_transport.resume_reading()
    await asyncio.wait_for(bulk.over.wait(), DEADLINE)
    assert bulk.count == BULK


@pytest.mark.parametrize("who", ["server", "agent"])
async def test_a_connection_that_dies_ends_every_stream_on_both_sides(connect: Any, who: str) -> None:
    upstreams: list[Recorder] = []

    def accept(stream: Stream, payload: bytes, fin: bool) -> StreamSink:
        stream.opened(HEAD)
        upstreams.append(Recorder())
        return upstreams[-1]

    ends: Ends = await connect(accept)
    sinks = [Recorder() for _unused in range(5)]
    for sink in sinks:
        start(ends, sink)
    for sink in sinks:
        await sink.wait(lambda sink=sink: sink.head is not None)  # type: ignore[misc]
    link: Any = ends.agent._link
    (ends.server_transport if who == "server" else link._buffer.transport).abort()
    for sink in [*sinks, *upstreams]:
        await asyncio.wait_for(sink.over.wait(), DEADLINE)
        assert sink.calls[-1] == "reset"
        assert sink.code is Code.UPSTREAM_UNREACHABLE
    await asyncio.wait_for(ends.server.wait_closed(), DEADLINE)
    await asyncio.wait_for(ends.agent.wait_closed(), DEADLINE)


@pytest.mark.parametrize(("code", "reset"), [(Code.TIMEOUT, 1), (Code.SHUTDOWN, 0)])
async def test_a_peer_that_is_given_up_is_told_by_a_reset(connect: Any, code: Code, reset: int) -> None:
    """A half-open link: the FIN of an agent waited behind its PING, which nobody acknowledged. The server took the
    agent for connected until its own kernel gave up, 15 s after the next PULSE."""
    ends: Ends = await connect(serve)
    link: Any = ends.agent._link
    sock = link._buffer.transport.get_extra_info("socket")
    ends.agent.close(code, "nothing was received for 20 s")
    assert struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0] == reset
    await asyncio.wait_for(ends.server.wait_closed(), DEADLINE)


@pytest.mark.parametrize("who", ["server", "agent"])
async def test_a_session_that_is_closed_tells_the_other_side_why(connect: Any, who: str) -> None:
    ends: Ends = await connect(serve)
    one, other = (ends.server, ends.agent) if who == "server" else (ends.agent, ends.server)
    one.close(Code.CREDENTIAL, "the cluster was removed")
    await asyncio.wait_for(other.wait_closed(), DEADLINE)
    assert "the cluster was removed" in other.close_reason
    assert one.close_code is Code.CREDENTIAL


async def test_a_drained_session_closes_when_its_streams_are_done(connect: Any) -> None:
    ends: Ends = await connect(serve)
    sink = Recorder()
    stream = start(ends, sink)
    await sink.wait(lambda: sink.head is not None)
    draining = asyncio.ensure_future(ends.server.drain(DEADLINE))
    await until(lambda: ends.agent.mux.peer_going_away)
    stream.write(b"last words", fin=True)
    await asyncio.wait_for(draining, DEADLINE)
    assert sink.data == b"last words"
    await asyncio.wait_for(ends.agent.wait_closed(), DEADLINE)


@pytest.mark.parametrize("kind", ["text", "fragment", "too long", "not a frame"])
async def test_a_websocket_message_that_is_no_frame_ends_the_session(connect: Any, kind: str) -> None:
    from picows import WSMsgType

    ends: Ends = await connect(serve)
    link: Any = ends.agent._link
    if kind == "text":
        link._ws.send(WSMsgType.TEXT, b"hello")
    elif kind == "fragment":
        link._ws.send(WSMsgType.BINARY, frames.frame(frames.PING, 0, bytes(8)), fin=False)
    elif kind == "too long":
        link._ws.send(WSMsgType.BINARY, bytes(frames.MAX_FRAME + 1))
    else:
        link._ws.send(WSMsgType.BINARY, b"abc")
    link._buffer.flush()
    await asyncio.wait_for(ends.server.wait_closed(), DEADLINE)
    await asyncio.wait_for(ends.agent.wait_closed(), DEADLINE)


# -- handshakes


@contextlib.asynccontextmanager
async def listening(
    answer: Callable[[asyncio.Transport, bytes], None], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server that calls `answer` with each request head; gives its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EdgeLike(answer), "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def agent_session() -> Session:
    return Session("agent", Hello(instance="agt", version="0"))


async def fail_to_connect(url: str, **options: Any) -> ConnectFailed:
    session = agent_session()
    with pytest.raises(ConnectFailed) as caught:
        await connect_client(url, session, **options)
    assert session.closed
    return caught.value


@pytest.mark.parametrize(("status", "text"), [(401, "the token has expired"), (503, "busy"), (302, "elsewhere")])
async def test_a_refusal_by_the_server_is_told_with_status_and_text(status: int, text: str) -> None:
    def refuse(transport: asyncio.Transport, raw: bytes) -> None:
        head = f"HTTP/1.1 {status} No\r\nLocation: /there\r\nContent-Length: {len(text)}\r\n\r\n{text}"
        transport.write(head.encode())
        transport.close()

    async with listening(refuse) as port:
        error = await fail_to_connect(f"ws://127.0.0.1:{port}/tunnel/connect")
    assert error.status == status
    assert text in error.reason


async def test_the_upgrade_request_is_what_the_specification_says() -> None:
    heads: list[bytes] = []

    def note(transport: asyncio.Transport, raw: bytes) -> None:
        heads.append(raw)
        transport.close()

    async with listening(note) as port:
        headers = [("Authorization", "Bearer a.b.c")]
        await fail_to_connect(f"ws://user:pw@127.0.0.1:{port}/tunnel/connect?x=1", headers=headers)
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "GET /tunnel/connect?x=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{port}" in lines
    assert "Authorization: Bearer a.b.c" in lines
    assert "Sec-WebSocket-Protocol: mooring-tunnel.1" in lines


@pytest.mark.parametrize("offered", [b"", b"Sec-WebSocket-Protocol: other\r\n"])
async def test_a_client_without_our_subprotocol_is_refused(offered: bytes) -> None:
    accepted: list[tuple[bool, Session]] = []

    def take(transport: asyncio.Transport, raw: bytes) -> None:
        session = Session("server", Hello(instance="srv", version="0"))
        accepted.append((ServerCarrier.accept(transport, raw, session), session))

    async with listening(take) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /tunnel/connect HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + offered + b"\r\n"
        )
        answer = await asyncio.wait_for(reader.read(), DEADLINE)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    ((taken, session),) = accepted
    assert not taken
    assert session.closed


async def test_a_server_without_our_subprotocol_is_left() -> None:
    import base64

    def wrong(transport: asyncio.Transport, raw: bytes) -> None:
        key = raw.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    async with listening(wrong) as port:
        error = await fail_to_connect(f"ws://127.0.0.1:{port}/")
    assert "mooring-tunnel.1" in error.reason


async def test_a_certificate_that_is_not_trusted_is_refused(certificate: Any) -> None:
    async with listening(lambda transport, raw: None, certificate.server) as port:
        error = await fail_to_connect(f"wss://127.0.0.1:{port}/", ssl_context=certificate.stranger)
        assert "not trusted" in error.reason


async def test_a_trusted_certificate_of_another_name_is_refused(certificate: Any) -> None:
    async with listening(lambda transport, raw: None, certificate.server) as port:
        error = await fail_to_connect(
            f"wss://127.0.0.1:{port}/", ssl_context=certificate.client, server_hostname="mooring.example.org"
        )
        assert "not trusted" in error.reason


async def test_nobody_there_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await fail_to_connect(f"ws://127.0.0.1:{taken.getsockname()[1]}/")
    assert "cannot connect" in error.reason
    assert error.status is None


async def test_a_server_that_says_nothing_is_left_at_the_deadline() -> None:
    async with listening(lambda transport, raw: None) as port:
        error = await fail_to_connect(f"ws://127.0.0.1:{port}/", timeout=0.05)
    assert error.reason == "no answer in time"


@pytest.mark.parametrize("url", ["https://x/", "ws:///nowhere", "wss://127.0.0.1/"])
async def test_a_url_that_cannot_be_dialled_is_told(url: str) -> None:
    await fail_to_connect(url)


async def test_frames_that_came_with_the_request_head_are_not_lost() -> None:
    """A client that does not wait for the 101 may have its HELLO in the same segment as its request."""
    sessions: list[Session] = []

    def take(transport: asyncio.Transport, raw: bytes) -> None:
        session = Session("server", Hello(instance="srv", version="0"))
        sessions.append(session)
        ServerCarrier.accept(transport, raw, session)

    hello = frames.pack_hello(Hello(instance="hasty" * 30, version="0"))
    async with listening(take) as port:
        _unused, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /tunnel/connect HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Protocol: mooring-tunnel.1\r\n\r\n"
            # a final binary message of 126 bytes or more, masked with zeros
            + b"\x82"
            + bytes([0x80 | 126])
            + len(hello).to_bytes(2, "big")
            + bytes(4)
            + hello
        )
        await until(lambda: bool(sessions))
        peer = await asyncio.wait_for(sessions[0].wait_ready(), DEADLINE)
        assert peer.instance == "hasty" * 30
        writer.close()
        await asyncio.wait_for(sessions[0].wait_closed(), DEADLINE)


async def test_bytes_that_arrive_in_any_pieces_make_the_same_frames() -> None:
    """A relay between the two sides cuts what passes at random, also within headers."""
    random = Random(20260801)
    pumps = Supervisor("relay")
    sessions: list[Session] = []

    def take(transport: asyncio.Transport, raw: bytes) -> None:
        sessions.append(Session("server", Hello(instance="srv", version="0")))
        assert ServerCarrier.accept(transport, raw, sessions[-1])

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            at = 0
            while at < len(data):
                size = random.choice((1, 3, 7, 100, 5000, 1 << 16))
                writer.write(data[at : at + size])
                await writer.drain()
                await asyncio.sleep(0)
                at += size
        writer.close()

    async with listening(take) as port:

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream = await asyncio.open_connection("127.0.0.1", port)
            pumps.spawn(pump(reader, upstream[1]), "to the server")
            pumps.spawn(pump(upstream[0], writer), "to the agent")

        between = await asyncio.start_server(relay, "127.0.0.1", 0)
        agent = Session("agent", Hello(instance="agt", version="0"), on_open=serve)
        await connect_client(f"ws://127.0.0.1:{between.sockets[0].getsockname()[1]}/", agent)
        async with asyncio.timeout(DEADLINE):
            await agent.wait_ready()
            await sessions[0].wait_ready()
        ends = Ends(sessions[0], agent)
        body = bytes(random.getrandbits(8) for _unused in range(300_000))
        sink = Recorder()
        stream = start(ends, sink)
        for at in range(0, len(body), 10_000):
            stream.write(body[at : at + 10_000])
        stream.end()
        await asyncio.wait_for(sink.over.wait(), DEADLINE)
        assert bytes(sink.data) == body
        await ends.aclose()
        between.close()
        await pumps.aclose()


async def test_the_kernel_says_whether_the_peer_has_what_was_written(connect: Any) -> None:
    ends: Ends = await connect(serve, window=16 * 1024 * 1024)
    link: Any = ends.server._link
    ends.server.message({"kind": "anything"})
    await until(link.delivered)
    # A peer whose machine takes nothing more: its buffers are full.
    ends.server_transport.pause_reading()
    sending: Any = ends.agent._link
    start(ends, Counter(), b"bulk", fin=True)
    await until(lambda: sending._pace.held and not sending.delivered())
    ends.server_transport.resume_reading()
    await until(sending.delivered)
