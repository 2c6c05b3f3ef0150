# SPDX-License-Identifier: Apache-2.0
"""Two sessions over a link in memory: who is called, when, and what happens when something fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from mooring.tunnel.session import Session
from mooring.tunnel.stream import Code, SessionBusy, SessionClosed, Stream, StreamSink, pack_open
from mooring.wire import frames
from mooring.wire.flow import Limits
from mooring.wire.hello import Hello
from support.tunnel_ends import Recorder

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
GET = pack_open("apiserver", b"GET / HTTP/1.1\r\n\r\n")


class MemoryLink:
    """Carries frames to another session, one turn of the loop later."""

    def __init__(self) -> None:
        self.other: Session | None = None
        self.free = 1 << 20
        self.writes: list[list[bytes]] = []
        self.closed: tuple[Code, str] | None = None

    def room(self) -> int:
        return self.free

    def write(self, written: list[bytes]) -> None:
        self.writes.append(written)
        asyncio.get_running_loop().call_soon(self._deliver, written)

    def _deliver(self, written: list[bytes]) -> None:
        if self.other is not None:
            for number, frame in enumerate(written, 1):
                self.other.frame_received(memoryview(frame), number == len(written))

    def delivered(self) -> bool:
        return True

    def close(self, code: Code, reason: str) -> None:
        self.closed = code, reason


class Pair:
    """`server` and `agent`, connected; `accepted` are the agent's sinks of the streams it was given."""

    def __init__(self, limits: Limits | None = None, on_open: Callable[..., Any] | None = None, **hello: Any) -> None:
        self.accepted: list[Recorder] = []
        self.server = Session("server", Hello(instance="srv", version="0", **hello), limits=limits)
        self.agent = Session("agent", Hello(instance="agt", version="0", **hello), limits=limits)
        self.agent.on_open = on_open or self._accept
        self.to_agent, self.to_server = MemoryLink(), MemoryLink()
        self.to_agent.other, self.to_server.other = self.agent, self.server
        self.server.attach(self.to_agent)
        self.agent.attach(self.to_server)

    def _accept(self, stream: Stream, payload: bytes, fin: bool) -> StreamSink:
        sink = Recorder()
        sink.stream = stream
        sink.head = payload
        self.accepted.append(sink)
        return sink

    async def ready(self) -> Pair:
        await self.server.wait_ready()
        await self.agent.wait_ready()
        await settled()
        return self

    async def open(self, *, fin: bool = True) -> tuple[Recorder, Recorder]:
        """A new stream: the server's sink and the agent's."""
        sink = Recorder()
        sink.stream = self.server.open(GET, sink, fin)
        await settled()
        return sink, self.accepted[-1]


def at(recorder: Recorder) -> Stream:
    """The stream that belongs to a sink."""
    assert recorder.stream is not None
    return recorder.stream


async def settled() -> None:
    """Let everything that is due happen: a memory link needs a few turns of the loop, and no time."""
    for _unused in range(20):
        await asyncio.sleep(0)


async def test_an_exchange_calls_each_sink_once_per_thing_that_happened() -> None:
    pair = await Pair().ready()
    client, upstream = await pair.open(fin=False)
    assert upstream.head == GET
    at(client).write(b"question", fin=True)
    await settled()
    assert (bytes(upstream.data), upstream.calls) == (b"question", ["data", "end"])
    at(upstream).opened(HEAD)
    at(upstream).write(b"answer")
    at(upstream).end()
    await settled()
    assert (client.head, bytes(client.data), client.calls) == (HEAD, b"answer", ["head", "data", "end"])
    assert at(client).closed
    assert at(upstream).closed
    assert pair.server.streams == pair.agent.streams == 0


async def test_a_whole_answer_in_one_call() -> None:
    pair = await Pair().ready()
    client, upstream = await pair.open()
    at(upstream).respond(HEAD, b"the body")
    at(upstream).end()  # was ended already
    await settled()
    assert (client.head, bytes(client.data), client.calls) == (HEAD, b"the body", ["head", "data", "end"])
    assert pair.server.streams == pair.agent.streams == 0


async def test_what_is_queued_in_one_turn_leaves_in_one_write() -> None:
    pair = await Pair().ready()
    sinks = [await pair.open() for _unused in range(3)]
    before = len(pair.to_server.writes)
    for _unused, upstream in sinks:
        at(upstream).opened(HEAD)
        at(upstream).write(b"body", fin=True)
    await settled()
    assert [len(write) for write in pair.to_server.writes[before:]] == [6]


async def test_answers_to_a_batch_of_frames_leave_in_one_write() -> None:
    def answer(stream: Stream, payload: bytes, fin: bool) -> StreamSink:
        stream.opened(HEAD, True)
        return Recorder()

    pair = await Pair(on_open=answer).ready()
    before = len(pair.to_server.writes)
    for _unused in range(5):
        pair.server.open(GET, Recorder(), True)
    await settled()
    assert [len(write) for write in pair.to_server.writes[before:]] == [5]


async def test_nothing_is_written_to_a_link_without_room() -> None:
    pair = await Pair().ready()
    client, upstream = await pair.open()
    pair.to_server.free = 0
    at(upstream).opened(HEAD, fin=True)
    await settled()
    assert client.calls == []
    pair.to_server.free = 1000
    pair.agent.link_writable()
    await settled()
    assert client.calls == ["head"]


async def test_a_writer_hears_when_there_is_room_again() -> None:
    pair = await Pair(Limits(send_buffer=100_000)).ready()
    client, upstream = await pair.open()
    at(upstream).opened(HEAD)
    assert not at(upstream).write(bytes(100_000))
    await settled()
    assert upstream.calls == ["writable"]
    assert len(client.data) == 100_000


async def test_a_writer_that_does_not_stop_loses_its_stream_and_hears_of_it() -> None:
    pair = await Pair(Limits(send_buffer=1000), window=frames.MIN_WINDOW).ready()
    client, upstream = await pair.open()
    client.greedy = False
    at(upstream).opened(HEAD)
    for _unused in range(40):
        at(upstream).write(bytes(1000))
    assert upstream.calls == []  # not from within its own call
    await settled()
    assert (upstream.calls, upstream.code) == (["reset"], Code.INTERNAL)
    assert (client.calls[-1], client.code) == ("reset", Code.INTERNAL)
    assert pair.server.usable


async def test_a_reset_reaches_the_other_side_and_not_our_own_sink() -> None:
    pair = await Pair().ready()
    client, upstream = await pair.open()
    at(upstream).opened(HEAD)
    at(client).reset(Code.CANCEL, "client went away")
    at(upstream).write(b"crosses it")
    await settled()
    assert (upstream.calls, upstream.code, upstream.message) == (["reset"], Code.CANCEL, "client went away")
    assert client.calls == []
    assert at(client).closed
    assert at(client).write(b"nothing happens", fin=True)
    at(client).consumed(5)


async def test_a_sink_that_resets_in_on_data_does_not_hear_the_end() -> None:
    pair = await Pair().ready()
    client, upstream = await pair.open(fin=False)

    def on_data(data: bytes) -> None:
        at(client).reset(Code.CANCEL, "enough")

    client.on_data = on_data  # type: ignore[method-assign]
    at(upstream).opened(HEAD)
    at(upstream).write(b"data", fin=True)
    await settled()
    assert client.calls == ["head"]


async def test_a_refusal_reaches_the_opener_only() -> None:
    pair = await Pair().ready()
    client, upstream = await pair.open()
    at(upstream).refuse(Code.REFUSED_TARGET, "not on the list")
    await settled()
    assert (client.calls, client.code, client.message) == (["refused"], Code.REFUSED_TARGET, "not on the list")
    assert upstream.calls == []


@pytest.mark.parametrize("how", ["raises", "returns nothing", "answers and raises", "nobody serves"])
async def test_a_stream_that_nobody_handles_is_given_back(how: str) -> None:
    def on_open(stream: Stream, payload: bytes, fin: bool) -> StreamSink | None:
        if how == "answers and raises":
            stream.opened(HEAD)
        if how != "returns nothing":
            raise RuntimeError("a bug")
        return None

    pair = await Pair(on_open=on_open).ready()
    if how == "nobody serves":
        pair.agent.on_open = None
    client = Recorder()
    pair.server.open(GET, client, True)
    await settled()
    expected = ["head", "reset"] if how == "answers and raises" else ["refused"]
    assert (client.calls, client.code) == (expected, Code.INTERNAL)
    assert pair.server.usable


@pytest.mark.parametrize("callback", ["on_head", "on_data", "on_end"])
async def test_a_sink_that_raises_loses_its_stream_and_nothing_else(callback: str) -> None:
    pair = await Pair().ready()
    client, upstream = await pair.open(fin=False)
    other, other_upstream = await pair.open()

    def fail(*args: object) -> None:
        raise RuntimeError("a bug")

    setattr(client, callback, fail)
    at(upstream).opened(HEAD)
    at(upstream).write(b"data", fin=True)
    at(other_upstream).opened(HEAD, fin=True)
    await settled()
    before = {"on_head": [], "on_data": ["head"], "on_end": ["head", "data"]}[callback]
    assert (client.calls, client.code) == ([*before, "reset"], Code.INTERNAL)
    assert (upstream.calls[-1], upstream.code) == ("reset", Code.INTERNAL)
    assert other.calls == ["head"]


async def test_a_lost_link_resets_what_was_sent_and_gives_back_what_was_not() -> None:
    pair = await Pair().ready()
    sent, _unused = await pair.open()
    pair.to_agent.free = 0
    unsent = Recorder()
    pair.server.open(GET, unsent, True)
    ended: list[tuple[Code, str]] = []
    pair.server.on_close = lambda session, code, reason: ended.append((code, reason))
    pair.server.link_lost("the connection was closed")
    assert (sent.calls, sent.code) == (["reset"], Code.UPSTREAM_UNREACHABLE)
    assert sent.message == "tunnel lost: the connection was closed"
    assert unsent.calls == ["refused"]
    assert ended == [(Code.UPSTREAM_UNREACHABLE, "the connection was closed")]
    assert not pair.server.usable
    with pytest.raises(SessionClosed):
        pair.server.open(GET, Recorder())
    assert at(sent).write(b"nothing happens")
    pair.server.link_lost("again")
    assert len(ended) == 1
    await pair.server.wait_closed()


async def test_a_peer_that_breaks_the_protocol_is_told_and_left() -> None:
    pair = await Pair().ready()
    client, _unused = await pair.open()
    pair.server.frame_received(frames.frame(frames.DATA, 99, b"x"), True)
    assert pair.server.close_code is Code.PROTOCOL
    assert pair.to_agent.closed == (Code.PROTOCOL, "stream 99 was never opened")
    (goaway,) = pair.to_agent.writes[-1]
    assert frames.unpack_goaway(goaway[frames.HEADER_SIZE :])[1] is Code.PROTOCOL
    assert client.calls == ["reset"]
    pair.server.frame_received(frames.frame(frames.DATA, 99, b"x"), True)  # what was still on its way


async def test_a_peer_that_does_not_read_is_left() -> None:
    pair = await Pair(Limits(control_buffer=10_000)).ready()
    pair.to_server.free = 0
    sinks = [await pair.open() for _unused in range(3)]
    for _unused, upstream in sinks:
        at(upstream).opened(bytes(5000))
    await settled()
    assert pair.agent.close_code is Code.FLOW_CONTROL


async def test_a_session_that_is_full_says_busy() -> None:
    pair = await Pair(max_streams=2).ready()
    await pair.open()
    await pair.open()
    with pytest.raises(SessionBusy):
        pair.server.open(GET, Recorder())


async def test_a_session_is_not_usable_before_hello() -> None:
    session = Session("server", Hello(instance="srv", version="0"))
    session.attach(MemoryLink())
    assert not session.usable
    with pytest.raises(SessionClosed):
        session.open(GET, Recorder())
    session.link_lost("gone")
    with pytest.raises(SessionClosed):
        await session.wait_ready()


async def test_drain_lets_open_streams_finish() -> None:
    pair = await Pair().ready()
    client, upstream = await pair.open()
    going: list[Session] = []
    pair.agent.on_going_away = going.append
    drained = asyncio.ensure_future(pair.server.drain(30))
    await settled()
    assert going == [pair.agent]
    assert not pair.server.usable
    assert not drained.done()
    at(upstream).opened(HEAD)
    at(upstream).write(b"finished", fin=True)
    async with asyncio.timeout(20):
        await drained
    assert bytes(client.data) == b"finished"
    assert client.calls == ["head", "data", "end"]
    assert pair.server.close_code is Code.SHUTDOWN


async def test_drain_has_a_deadline() -> None:
    pair = await Pair().ready()
    client, _unused = await pair.open()
    async with asyncio.timeout(20):
        await pair.server.drain(0.01)
    assert client.calls == ["reset"]
    assert pair.server.closed


async def test_an_agent_that_goes_away_gives_back_what_it_did_not_see() -> None:
    pair = await Pair().ready()
    pair.to_agent.other = None  # what the server sends from now on is lost
    client = Recorder()
    pair.server.open(GET, client, True)
    await settled()
    pair.agent.mux.goaway(Code.SHUTDOWN, "node drained")
    pair.agent.wake()
    await settled()
    assert (client.calls, client.code) == (["refused"], Code.SHUTDOWN)
    assert not pair.server.usable


async def test_a_session_whose_ids_are_used_up_retires_and_closes_when_its_streams_are_done() -> None:
    pair = await Pair().ready()
    pair.server.mux._last_id = pair.agent.mux._last_id = frames.MAX_STREAM_ID - 2
    _unused, upstream = await pair.open()
    with pytest.raises(SessionClosed):
        pair.server.open(GET, Recorder())
    await settled()
    assert not pair.server.closed
    assert pair.agent.mux.peer_going_away
    at(upstream).opened(HEAD, fin=True)
    await settled()
    assert pair.server.closed


async def test_control_messages_reach_the_callback() -> None:
    pair = await Pair().ready()
    seen: list[dict[str, Any]] = []
    pair.server.on_message = lambda session, message: seen.append(message)
    pair.agent.message({"kind": "status", "node_count": 2})
    await settled()
    assert seen == [{"kind": "status", "node_count": 2}]
    pair.agent.close()
    pair.agent.message({"kind": "too late"})
    await settled()
    assert len(seen) == 1


async def test_a_silent_peer_is_given_up_at_its_deadline() -> None:
    now = 100.0
    session = Session("server", Hello(instance="srv", version="0"), clock=lambda: now)
    link = MemoryLink()
    session.attach(link)
    session.frame_received(frames.pack_hello(Hello(instance="agt", version="0")), True)
    client = Recorder()
    session.open(GET, client, True)
    ticks: list[Session] = []
    session.on_tick = ticks.append
    now = 107.0
    session._tick()
    assert ticks == [session]
    assert frames.split(link.writes[-1][0])[0] == frames.PING
    now = 115.0
    session._tick()
    assert session.close_code is Code.TIMEOUT
    assert link.closed is not None
    assert client.calls == ["reset"]


def last_kind(link: MemoryLink) -> int:
    return frames.split(link.writes[-1][-1])[0]


async def test_a_session_at_rest_pulses_as_its_agent_wants_and_wakes_with_a_stream() -> None:
    now = 100.0
    session = Session("server", Hello(instance="srv", version="0"), clock=lambda: now)
    link = MemoryLink()
    session.attach(link)
    session.frame_received(frames.pack_hello(Hello(instance="agt", version="0")), True)
    seen: list[dict[str, Any]] = []
    session.on_message = lambda session, message: seen.append(message)
    for seconds in (10**400, "soon", None, 60):  # what is not a time is ignored, and what is too long is bounded
        session.frame_received(frames.pack_message({"kind": "pulse", "seconds": seconds})[0], True)
    assert seen == []
    now = 107.0
    session._tick()
    assert last_kind(link) == frames.PULSE
    now = 110.0
    session._tick()
    assert session.mux.next_deadline() == 167.0
    session.open(GET, Recorder(), True)
    assert session.mux.next_deadline() == 117.0
    session.close()


async def test_a_session_in_doubt_is_asked_at_once() -> None:
    now = 100.0
    session = Session("server", Hello(instance="srv", version="0"), clock=lambda: now)
    link = MemoryLink()
    session.attach(link)
    session.frame_received(frames.pack_hello(Hello(instance="agt", version="0")), True)
    now = 107.0
    session._tick()
    now = 111.0
    session._tick()
    session.doubt()
    await settled()
    assert last_kind(link) == frames.PING
    now = 116.0
    session._tick()
    assert session.close_code is Code.TIMEOUT
    session.doubt()  # too late, and harmless


async def test_closing_before_the_link_is_there_closes_the_link() -> None:
    session = Session("agent", Hello(instance="agt", version="0"))
    session.close(Code.SHUTDOWN, "not needed any more")
    link = MemoryLink()
    session.attach(link)
    assert link.closed == (Code.SHUTDOWN, "not needed any more")
    assert link.writes == []


async def test_a_bulk_stream_lets_the_loop_go_on() -> None:
    pair = await Pair(Limits(send_buffer=8 << 20), window=16 << 20).ready()
    pair.to_server.free = 64 * 1024
    _unused, upstream = await pair.open()
    at(upstream).opened(HEAD)
    at(upstream).write(bytes(8 << 20))
    before = len(pair.to_server.writes)
    await asyncio.sleep(0)
    first_turn = sum(len(frame) for write in pair.to_server.writes[before:] for frame in write)
    assert first_turn <= (1 << 20) + 2 * 64 * 1024
    await settled()
    assert pair.agent.stats().bytes_out > 8 << 20
