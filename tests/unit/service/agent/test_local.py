# SPDX-License-Identifier: Apache-2.0
"""Streams within one process behave as those of a tunnel: the bodies are those of tunnel/test_session.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from mooring.agent import local
from mooring.agent.local import LocalSession
from mooring.tunnel.stream import Code, SessionBusy, SessionClosed, Stream, StreamSink, pack_open
from support.tunnel_ends import Recorder

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
GET = pack_open("apiserver", b"GET / HTTP/1.1\r\n\r\n")


class Pair:
    """A session and the sinks of those who serve its streams."""

    def __init__(self, on_open: Callable[..., Any] | None = None, max_streams: int = 8) -> None:
        self.accepted: list[Recorder] = []
        self.session = LocalSession(on_open or self._accept, max_streams)

    def _accept(self, stream: Stream, payload: bytes, fin: bool) -> StreamSink:
        sink = Recorder()
        sink.stream, sink.head = stream, payload
        self.accepted.append(sink)
        return sink

    async def open(self, *, fin: bool = True) -> tuple[Recorder, Recorder]:
        sink = Recorder()
        sink.stream = self.session.open(GET, sink, fin)
        await settled()
        return sink, self.accepted[-1]


def at(recorder: Recorder) -> Stream:
    assert recorder.stream is not None
    return recorder.stream


async def settled() -> None:
    for _unused in range(10):
        await asyncio.sleep(0)


async def test_an_exchange_calls_each_sink_once_per_thing_that_happened() -> None:
    pair = Pair()
    client, upstream = await pair.open(fin=False)
    assert upstream.head == GET
    at(client).write(b"question", fin=True)
    assert upstream.calls == [], "it was called from within a call to the stream"
    await settled()
    assert (bytes(upstream.data), upstream.calls) == (b"question", ["data", "end"])
    at(upstream).opened(HEAD)
    at(upstream).write(b"answer")
    at(upstream).end()
    await settled()
    assert (client.head, bytes(client.data), client.calls) == (HEAD, b"answer", ["head", "data", "end"])
    assert at(client).closed
    assert at(upstream).closed
    assert pair.session.streams == 0


async def test_a_head_that_ends_its_stream_is_the_end() -> None:
    pair = Pair()
    client, upstream = await pair.open()
    at(upstream).opened(HEAD, fin=True)
    await settled()
    assert client.calls == ["head"]
    assert at(client).closed
    assert pair.session.streams == 0


async def test_either_half_may_end_long_before_the_other() -> None:
    pair = Pair()
    client, upstream = await pair.open(fin=False)
    at(upstream).opened(HEAD)
    at(upstream).end()
    await settled()
    assert client.calls == ["head", "end"]
    assert not at(client).closed
    at(client).write(b"still")
    at(client).end()
    await settled()
    assert upstream.calls == ["data", "end"]
    assert pair.session.streams == 0


@pytest.mark.parametrize("towards", ["agent", "client"])
async def test_a_writer_stops_at_the_window_and_hears_when_there_is_room(towards: str) -> None:
    pair = Pair()
    client, upstream = await pair.open(fin=False)
    at(upstream).opened(HEAD)
    await settled()
    writer, reader = (client, upstream) if towards == "agent" else (upstream, client)
    reader.greedy = False
    assert at(writer).write(bytes(local.WINDOW - 1))
    assert not at(writer).write(b"x")
    await settled()
    assert "writable" not in writer.calls
    at(reader).consumed(local.WINDOW // 2 - 1)
    await settled()
    assert "writable" not in writer.calls
    at(reader).consumed(1)
    await settled()
    assert writer.calls[-1] == "writable"
    assert len(reader.data) == local.WINDOW


async def test_a_writer_that_does_not_stop_loses_its_stream_and_hears_of_it() -> None:
    pair = Pair()
    client, upstream = await pair.open()
    client.greedy = False
    at(upstream).opened(HEAD)
    for _unused in range(6):
        at(upstream).write(bytes(local.WINDOW))
    assert upstream.calls == []
    await settled()
    assert (upstream.calls, upstream.code) == (["reset"], Code.INTERNAL)
    assert (client.calls[-1], client.code) == ("reset", Code.INTERNAL)
    assert pair.session.streams == 0
    assert pair.session.usable


async def test_a_reset_reaches_the_other_side_and_not_our_own_sink() -> None:
    pair = Pair()
    client, upstream = await pair.open()
    at(upstream).opened(HEAD)
    at(client).reset(Code.CANCEL, "client went away")
    at(upstream).write(b"crosses it")
    await settled()
    assert (upstream.calls, upstream.code, upstream.message) == (["reset"], Code.CANCEL, "client went away")
    assert client.calls == []
    assert at(client).write(b"nothing happens", fin=True)
    at(client).consumed(5)
    assert pair.session.streams == 0


async def test_a_sink_that_resets_in_on_data_does_not_hear_the_end() -> None:
    pair = Pair()
    client, upstream = await pair.open(fin=False)

    def on_data(data: bytes) -> None:
        at(client).reset(Code.CANCEL, "enough")

    client.on_data = on_data  # type: ignore[method-assign]
    at(upstream).opened(HEAD)
    at(upstream).write(b"data", fin=True)
    await settled()
    assert client.calls == ["head"]


async def test_a_refusal_reaches_the_opener_only_and_keeps_its_code() -> None:
    pair = Pair()
    client, upstream = await pair.open()
    at(upstream).refuse(Code.REFUSED_TARGET, "not on the list")
    await settled()
    assert (client.calls, client.code, client.message) == (["refused"], Code.REFUSED_TARGET, "not on the list")
    assert upstream.calls == []
    assert pair.session.streams == 0


@pytest.mark.parametrize("how", ["raises", "returns nothing", "answers and raises", "refuses at once"])
async def test_a_stream_that_nobody_handles_is_given_back(how: str) -> None:
    def on_open(stream: Stream, payload: bytes, fin: bool) -> StreamSink | None:
        if how == "refuses at once":
            stream.refuse(Code.INTERNAL, "no")
            return None
        if how == "answers and raises":
            stream.opened(HEAD)
        if how != "returns nothing":
            raise RuntimeError("a bug")
        return None

    pair = Pair(on_open)
    client = Recorder()
    client.stream = pair.session.open(GET, client, True)
    assert client.calls == [], "it was called before `open` had returned"
    await settled()
    assert (client.calls[-1], client.code) == ("reset" if how == "answers and raises" else "refused", Code.INTERNAL)
    assert pair.session.streams == 0


@pytest.mark.parametrize("callback", ["on_head", "on_data", "on_end"])
async def test_a_sink_that_raises_loses_its_stream_and_nothing_else(callback: str) -> None:
    pair = Pair()
    client, upstream = await pair.open(fin=False)
    other, other_upstream = await pair.open()

    def fail(*args: object) -> None:
        raise RuntimeError("a bug")

    setattr(client, callback, fail)
    at(upstream).opened(HEAD)
    at(upstream).write(b"data", fin=True)
    at(other_upstream).opened(HEAD, fin=True)
    await settled()
    assert (client.calls[-1], client.code) == ("reset", Code.INTERNAL)
    assert (upstream.calls[-1], upstream.code) == ("reset", Code.INTERNAL)
    assert other.calls == ["head"]
    assert pair.session.streams == 0


async def test_a_full_session_is_busy_and_a_closed_one_is_closed() -> None:
    pair = Pair(max_streams=1)
    client, upstream = await pair.open()
    with pytest.raises(SessionBusy):
        pair.session.open(GET, Recorder())
    at(upstream).opened(HEAD, fin=True)
    await settled()
    client, upstream = await pair.open()
    pair.session.close()
    await settled()
    assert (client.calls, client.code) == (["reset"], Code.SHUTDOWN)
    assert (upstream.calls, upstream.code) == (["reset"], Code.SHUTDOWN)
    with pytest.raises(SessionClosed):
        pair.session.open(GET, Recorder())
