# SPDX-License-Identifier: Apache-2.0
"""Requests over a pool of real connections to a scripted upstream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from mooring.net.http1client import Http1Pool, PoolLimits
from mooring.net.http1connection import READ_HIGH, WRITE_HIGH
from mooring.net.sockets import unix_connector
from mooring.wire.frames import Code
from mooring.wire.headers import RequestHead

from .conftest import Client, Peer, Recorder, until

UPGRADE = [(b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1")]
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"


async def test_requests_one_after_the_other_share_a_connection(client: Client) -> None:
    for _unused in range(5):
        sink = await client.get()
        assert sink.head is not None
        assert (sink.head.status, sink.body) == (200, b"hello")
    assert client.upstream.connections == 1
    assert (client.pool.size, client.pool.idle) == (1, 1)


async def test_requests_at_once_have_a_connection_each_and_leave_them_to_the_next(client: Client) -> None:
    sinks = [client.ask() for _unused in range(4)]
    for sink in sinks:
        await sink.done()
    assert client.upstream.connections == 4
    await client.get()
    assert client.upstream.connections == 4


async def test_the_sink_hears_nothing_while_the_request_is_made(client: Client) -> None:
    await client.get()
    sink = client.ask()
    assert (sink.head, sink.failure) == (None, None)
    await sink.done()


async def test_an_idle_connection_that_the_upstream_closed_is_not_used(client: Client) -> None:
    async def once(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    client.upstream.script = once
    await client.get()
    await until(lambda: client.pool.size == 0)
    sink = await client.get()
    assert sink.failure is None
    assert client.upstream.connections == 2


async def close_on_second_request(peer: Peer) -> None:
    """Answers once; takes the second request on the connection without an answer, as when it closes an idle one."""
    await peer.head()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    if peer.number == 1:
        await peer.head()
    else:
        await peer.closed()


async def test_a_get_that_meets_a_closing_connection_is_repeated_on_a_new_one(client: Client) -> None:
    client.upstream.script = close_on_second_request
    await client.get()
    sink = await client.get()
    assert sink.failure is None
    assert client.upstream.connections == 2


async def test_a_post_that_meets_a_closing_connection_is_never_repeated(client: Client) -> None:
    client.upstream.script = close_on_second_request
    await client.get()
    sink = client.ask(b"POST", headers=[(b"Content-Length", b"2")])
    assert sink.request is not None
    sink.request.write(b"{}", fin=True)
    await sink.done()
    assert sink.failure is not None
    assert sink.failure[:2] == ("reset", Code.UPSTREAM_UNREACHABLE)
    assert client.upstream.connections == 1


async def test_a_get_on_a_new_connection_is_not_repeated(client: Client) -> None:
    async def drop(peer: Peer) -> None:
        await peer.head()

    client.upstream.script = drop
    sink = await client.get()
    assert sink.failure == ("reset", Code.UPSTREAM_UNREACHABLE, "connection closed")
    assert client.upstream.connections == 1


async def test_nobody_listening_is_a_refusal_because_nothing_was_sent(tmp_path: Path) -> None:
    pool = Http1Pool(unix_connector(str(tmp_path / "nothing.sock")), name="nothing")
    sink = Recorder()
    sink.request = pool.request(RequestHead(b"GET", b"/", [(b"Host", b"x")]), sink)
    await sink.done()
    assert sink.failure is not None
    assert sink.failure[:2] == ("refused", Code.UPSTREAM_UNREACHABLE)
    assert "cannot connect to nothing" in sink.failure[2]
    assert pool.size == 0
    await pool.aclose()


async def test_a_response_cut_in_the_middle_is_a_reset_and_not_an_end(client: Client) -> None:
    async def cut(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    client.upstream.script = cut
    sink = await client.get()
    assert sink.body == b"hello"
    assert sink.failure is not None
    assert sink.failure[1] == Code.UPSTREAM_UNREACHABLE
    assert not sink.ended


async def test_a_malformed_response_closes_the_connection(client: Client) -> None:
    async def nonsense(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await peer.closed()

    client.upstream.script = nonsense
    sink = await client.get()
    assert sink.failure is not None
    assert "both Transfer-Encoding and Content-Length" in sink.failure[2]
    await until(lambda: client.upstream.ended == 1)


async def test_unasked_bytes_on_an_idle_connection_close_it(client: Client) -> None:
    async def poison(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        if peer.number == 1:
            await asyncio.sleep(0)
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await peer.closed()

    client.upstream.script = poison
    await client.get()
    await until(lambda: client.pool.size == 0)
    sink = await client.get()
    assert sink.body == b""


async def test_events_of_a_watch_are_handed_on_one_by_one(client: Client) -> None:
    told = asyncio.Event()

    async def watch(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in (b"3\r\none\r\n", b"3\r\ntwo\r\n"):
            await peer.send(event)
            await told.wait()
            told.clear()
        await peer.send(b"0\r\n\r\n")

    client.upstream.script = watch
    sink = client.ask()
    await until(lambda: sink.body == b"one")
    told.set()
    await until(lambda: sink.body == b"onetwo")
    assert not sink.ended
    told.set()
    await sink.done()


async def test_a_watch_that_is_given_up_is_closed_upstream_at_once(client: Client) -> None:
    gone = asyncio.Event()

    async def watch(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert await peer.closed()
        gone.set()

    client.upstream.script = watch
    sink = client.ask()
    await until(lambda: sink.body)
    assert sink.request is not None
    sink.request.reset()
    async with asyncio.timeout(10):
        await gone.wait()
    await until(lambda: client.pool.size == 0)
    assert sink.finals == 0


async def test_a_request_given_up_while_it_dials_leaves_nothing(client: Client) -> None:
    sink = client.ask()
    assert sink.request is not None
    sink.request.reset()
    await until(lambda: client.pool.size == client.pool.idle)
    assert sink.finals == 0
    await client.get()


async def test_reading_stops_while_nobody_consumes_and_goes_on_after(client: Client) -> None:
    total = 8 * 1024 * 1024
    sent = 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            await peer.send(b"x" * 65536)
            sent += 65536

    client.upstream.script = flood
    sink = client.ask(consume=False)
    await until(lambda: len(sink.body) >= READ_HIGH)
    before = -1
    while before != sent:  # until the upstream is stuck
        before = sent
        await asyncio.sleep(0.05)
    assert len(sink.body) < READ_HIGH + 512 * 1024
    assert sent < total
    assert sink.request is not None
    sink.consume = True
    sink.request.consumed(len(sink.body))
    await sink.done()
    assert len(sink.body) == total


async def test_write_says_stop_while_the_upstream_does_not_read(client: Client) -> None:
    go = asyncio.Event()
    total = 10 * 1024 * 1024
    got = 0

    async def slow(peer: Peer) -> None:
        nonlocal got
        await peer.head()
        await go.wait()
        while got < total:
            got += len(await peer.reader.read(65536))
        await peer.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    client.upstream.script = slow
    sink = client.ask(b"PUT", headers=[(b"Content-Length", b"%d" % total)])
    request = sink.request
    assert request is not None
    piece = b"y" * 32768
    sent = 0
    while request.write(piece):
        sent += len(piece)
        await asyncio.sleep(0)
    sent += len(piece)
    assert sent < WRITE_HIGH + 2 * 1024 * 1024  # our bound, and what the kernel takes
    assert sink.writable == 0
    go.set()
    while sent < total:
        await until(lambda: sink.writable)
        sink.writable = 0
        room = True
        while sent < total and room:
            room = request.write(piece)
            sent += len(piece)
    request.end()
    await sink.done()
    assert got == total
    assert sink.head is not None
    assert sink.head.status == 201


async def test_body_given_before_the_connection_stands_is_bounded_by_the_answer_of_write(client: Client) -> None:
    async def read_all(peer: Peer) -> None:
        await peer.head()
        await peer.reader.readexactly(WRITE_HIGH)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    client.upstream.script = read_all
    sink = client.ask(b"PUT", headers=[(b"Content-Length", b"%d" % WRITE_HIGH)])
    assert sink.request is not None
    assert sink.request.write(b"a" * 10)
    assert not sink.request.write(b"a" * (WRITE_HIGH - 10), fin=True)
    await sink.done()
    assert sink.failure is None


async def test_a_chunked_upload_arrives_as_chunks(client: Client) -> None:
    seen = b""

    async def chunks(peer: Peer) -> None:
        nonlocal seen
        await peer.head()
        seen = await peer.reader.readuntil(b"0\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    client.upstream.script = chunks
    sink = client.ask(b"POST", headers=[(b"Transfer-Encoding", b"chunked")])
    assert sink.request is not None
    sink.request.write(b"abc")
    sink.request.write(b"")
    sink.request.write(b"de", fin=True)
    await sink.done()
    assert seen == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


@pytest.mark.parametrize(("body", "fin"), [(b"abcdef", True), (b"ab", True)])
async def test_a_body_of_another_length_than_declared_is_never_completed(
    client: Client, body: bytes, fin: bool
) -> None:
    async def wait(peer: Peer) -> None:
        await peer.head()
        await peer.closed()

    client.upstream.script = wait
    sink = client.ask(b"POST", headers=[(b"Content-Length", b"4")])
    assert sink.request is not None
    sink.request.write(body, fin=fin)
    await sink.done()
    assert sink.failure is not None
    assert sink.failure[:2] == ("reset", Code.BAD_REQUEST)
    await until(lambda: client.pool.size == 0)


async def test_body_on_a_request_that_declared_none_is_not_sent(client: Client) -> None:
    sink = client.ask(b"GET")
    assert sink.request is not None
    sink.request.write(b"GET /smuggled HTTP/1.1\r\n\r\n")
    await sink.done()
    assert sink.failure is not None
    assert sink.failure[1] == Code.BAD_REQUEST


async def test_an_answer_before_the_body_is_complete_ends_the_connection(client: Client) -> None:
    async def early(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await peer.closed()

    client.upstream.script = early
    sink = client.ask(b"POST", headers=[(b"Content-Length", b"1000")])
    assert sink.request is not None
    sink.request.write(b"a" * 10)
    await sink.done()
    assert (sink.ended, sink.body) == (True, b"big")
    assert sink.request.write(b"a" * 990, fin=True)  # dropped, without harm
    await until(lambda: client.pool.size == 0)


async def test_silence_after_a_complete_request_ends_at_its_deadline(client: Client) -> None:
    async def silent(peer: Peer) -> None:
        await peer.head()
        await peer.closed()

    client.upstream.script = silent
    sink = client.ask(head_timeout=0.05)
    await sink.done()
    assert sink.failure == ("reset", Code.TIMEOUT, "no response within 0.05 s")


async def test_a_request_that_ends_after_its_answer_began_waits_for_no_other_head(client: Client) -> None:
    """The deadline for a head was set then, and ended a long answer as one that had not begun."""

    async def early(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        assert await peer.reader.readexactly(2) == b"xy"
        await peer.send(b"cd")
        await peer.closed()

    client.upstream.script = early
    sink = client.ask(b"POST", headers=[(b"Content-Length", b"2")])
    await until(lambda: sink.body == b"ab")
    assert sink.request is not None
    sink.request.write(b"xy", fin=True)
    assert len(client.pool.deadlines) == 0
    await sink.done()
    assert (sink.body, sink.failure) == (b"abcd", None)


async def test_an_upgrade_is_raw_both_ways_and_may_be_half_closed(client: Client) -> None:
    async def spdy(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH + b"first")
        assert await peer.reader.read() == b"early\x00late"  # until we send no more
        await peer.send(b"last")

    client.upstream.script = spdy
    sink = client.ask(b"POST", headers=UPGRADE)
    assert sink.request is not None
    assert not sink.request.write(b"early")  # held back until the 101
    await until(lambda: sink.body == b"first")
    await until(lambda: sink.writable == 1)
    assert sink.head is not None
    assert sink.head.status == 101
    sink.request.write(b"\x00late", fin=True)
    await sink.done()
    assert sink.body == b"firstlast"
    await until(lambda: client.pool.size == 0)


async def test_a_peer_that_half_closes_an_upgrade_can_still_be_written_to(client: Client) -> None:
    got = b""

    async def spdy(peer: Peer) -> None:
        nonlocal got
        await peer.head()
        await peer.send(SWITCH)
        peer.writer.write_eof()
        got = await peer.reader.read()

    client.upstream.script = spdy
    sink = client.ask(b"POST", headers=UPGRADE)
    await sink.done()
    assert sink.request is not None
    sink.request.write(b"after", fin=True)
    await until(lambda: client.pool.size == 0)
    await until(lambda: got == b"after")


async def test_a_declined_upgrade_is_an_ordinary_response_on_a_reusable_connection(client: Client) -> None:
    async def decline(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    client.upstream.script = decline
    sink = client.ask(b"POST", headers=UPGRADE)
    assert sink.request is not None
    sink.request.write(b"never sent")
    await sink.done()
    assert sink.head is not None
    assert (sink.head.status, sink.body) == (403, b"no")
    assert client.pool.idle == 1


async def test_an_upgrade_that_is_lost_is_told(client: Client) -> None:
    async def spdy(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH)
        peer.writer.transport.abort()

    client.upstream.script = spdy
    sink = client.ask(b"POST", headers=UPGRADE)
    await sink.done()
    assert sink.ended or sink.failure is not None


async def test_closing_the_pool_resets_what_runs_and_leaves_nothing(client: Client) -> None:
    async def watch(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await peer.closed()

    client.upstream.script = watch
    running = client.ask()
    await until(lambda: running.body)
    await client.pool.aclose()
    assert running.failure == ("reset", Code.SHUTDOWN, "shutting down")
    late = client.ask()
    await late.done()
    assert late.failure == ("refused", Code.SHUTDOWN, "shutting down")
    await until(lambda: client.pool.size == 0)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")],
        [(b"Content-Length", b"1"), (b"Content-Length", b"1")],
        [(b"Content-Length", b"-1")],
        [(b"Transfer-Encoding", b"gzip")],
        [(b"X", b"a\r\nImpersonate-User: root")],
    ],
)
async def test_a_head_with_unclear_framing_is_not_sent(client: Client, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match=r"declares|Length|Encoding|control character"):
        client.ask(b"POST", headers=headers)
    assert client.pool.size == 0


class TestBounds:
    """With small limits."""

    @pytest.fixture
    def limits(self) -> PoolLimits:
        return PoolLimits(max_connections=2, max_idle=1, idle_timeout=0.05)

    async def test_at_the_limit_of_connections_a_request_is_refused_as_busy(self, client: Client) -> None:
        hold = asyncio.Event()

        async def wait(peer: Peer) -> None:
            await peer.head()
            await hold.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await peer.closed()

        client.upstream.script = wait
        running = [client.ask(), client.ask()]
        refused = await client.get()
        assert refused.failure == ("refused", Code.BUSY, "2 connections are in use")
        hold.set()
        for sink in running:
            await sink.done()
        assert client.pool.idle <= 1
        await client.get()

    async def test_free_connections_are_closed_after_their_time(self, client: Client) -> None:
        await client.get()
        assert client.pool.idle == 1
        await until(lambda: client.pool.size == 0)
        await until(lambda: client.upstream.ended == 1)
