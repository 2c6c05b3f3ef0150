# SPDX-License-Identifier: Apache-2.0
"""Small requests, awaited."""

from __future__ import annotations

import asyncio

import pytest
from mooring.net.fetch import Download, FetchError, fetch
from mooring.wire.frames import Code
from mooring.wire.headers import RequestHead

from .conftest import Client, Peer, until

GET = RequestHead(b"GET", b"/", [(b"Host", b"x")])


async def test_an_answer_is_whole(client: Client) -> None:
    async def answer(peer: Peer) -> None:
        head = await peer.head()
        assert b"Content-Length: 4\r\n" in head
        assert await peer.reader.readexactly(4) == b"body"
        await peer.send(b"HTTP/1.1 201 Created\r\nContent-Type: Application/JSON; x=y\r\nContent-Length: 2\r\n\r\n{}")

    client.upstream.script = answer
    got = await fetch(client.pool, RequestHead(b"POST", b"/", [(b"Host", b"x")]), b"body")
    assert (got.status, got.body, got.media_type) == (201, b"{}", "application/json")


async def test_silence_ends_at_the_deadline_and_the_connection_is_closed(client: Client) -> None:
    async def silent(peer: Peer) -> None:
        await peer.head()
        await peer.closed()

    client.upstream.script = silent
    with pytest.raises(FetchError, match=r"0\.05 s") as caught:
        await fetch(client.pool, GET, deadline=0.05)
    assert caught.value.code == Code.TIMEOUT
    await until(lambda: client.pool.size == 0)


async def test_a_trickle_ends_at_the_deadline_too(client: Client) -> None:
    async def trickle(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        await peer.closed()

    client.upstream.script = trickle
    with pytest.raises(FetchError, match="did not answer within"):
        await fetch(client.pool, GET, deadline=0.1)
    await until(lambda: client.pool.size == 0)


async def test_a_body_over_the_bound_is_given_up(client: Client) -> None:
    async def endless(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.send(b"x" * 65536)

    client.upstream.script = endless
    with pytest.raises(FetchError, match="over 100000 bytes"):
        await fetch(client.pool, GET, max_body=100_000)
    await until(lambda: client.pool.size == 0)


async def test_whether_it_was_sent_is_known(client: Client) -> None:
    async def drop(peer: Peer) -> None:
        await peer.head()

    client.upstream.script = drop
    with pytest.raises(FetchError) as caught:
        await fetch(client.pool, GET)
    assert caught.value.sent
    await client.pool.aclose()
    with pytest.raises(FetchError) as caught:
        await fetch(client.pool, GET)
    assert not caught.value.sent


async def test_a_download_cut_short_is_an_error_after_its_pieces(client: Client) -> None:
    async def cut(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    client.upstream.script = cut
    download = Download(client.pool, GET, b"", 10.0)
    assert (await download.head()).status == 200
    assert await anext(download) == b"abc"
    with pytest.raises(FetchError, match="in the middle"):
        await anext(download)


async def test_cancelling_closes_the_connection(client: Client) -> None:
    async def silent(peer: Peer) -> None:
        await peer.head()
        await peer.closed()

    client.upstream.script = silent
    task = asyncio.ensure_future(fetch(client.pool, GET))
    await until(lambda: client.upstream.connections == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: client.pool.size == 0)
