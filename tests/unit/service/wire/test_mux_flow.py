# SPDX-License-Identifier: Apache-2.0
"""Credit, buffers and turns: a slow reader costs a window, a bulk transfer costs nobody a long wait."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from mooring.wire import frames
from mooring.wire.events import DataReceived, Event, HeadReceived, StreamReset
from mooring.wire.flow import SMALL_QUEUE, Limits, Overrun
from mooring.wire.frames import Code, RemoteError
from mooring.wire.mux import Mux
from support.mux_pipe import Pipe

WINDOW = 64 * 1024


def received(events: Sequence[Event]) -> int:
    return sum(len(event.data) for event in events if isinstance(event, DataReceived))


def order(taken: list[bytes]) -> list[tuple[int, int]]:
    return [(kind, stream) for kind, _unused, stream in map(frames.split, taken)]


# -- credit


def test_a_reader_that_consumes_nothing_gets_one_window_and_no_more() -> None:
    pipe = Pipe(server={"window": WINDOW})
    stream_id = pipe.opened()
    while pipe.agent.send_data(stream_id, bytes(10_000)):
        pass
    assert received(pipe.to_server()) == WINDOW
    assert pipe.to_server() == []
    assert not pipe.agent.has_output


def test_the_window_of_each_direction_is_that_of_its_receiver() -> None:
    pipe = Pipe(server={"window": WINDOW}, agent={"window": 2 * WINDOW})
    stream_id = pipe.opened(fin=False)
    pipe.agent.send_data(stream_id, bytes(4 * WINDOW))
    pipe.server.send_data(stream_id, bytes(4 * WINDOW))
    assert received(pipe.to_server()) == WINDOW
    assert received(pipe.to_agent()) == 2 * WINDOW


def test_what_was_consumed_is_granted_again_when_half_the_window_is() -> None:
    pipe = Pipe(server={"window": WINDOW})
    stream_id = pipe.opened()
    pipe.agent.send_data(stream_id, bytes(3 * WINDOW), True)
    pipe.to_server()
    assert not pipe.server.consume(stream_id, WINDOW // 2 - 1, pipe.now)
    assert pipe.to_agent() == []
    assert pipe.server.consume(stream_id, 1, pipe.now)
    pipe.to_agent()
    assert received(pipe.to_server()) == WINDOW // 2


def test_nothing_is_granted_to_a_sender_that_has_ended() -> None:
    pipe = Pipe(server={"window": WINDOW}, limits=Limits())
    stream_id = pipe.opened(fin=False)
    pipe.agent.send_data(stream_id, bytes(WINDOW), True)
    pipe.to_server()
    assert not pipe.server.consume(stream_id, WINDOW, pipe.now)
    assert not pipe.server.has_output


def test_a_body_of_any_size_arrives_whole_through_a_small_window() -> None:
    pipe = Pipe(server={"window": frames.MIN_WINDOW})
    stream_id = pipe.opened()
    body = bytes(range(256)) * 5000
    pipe.agent.send_data(stream_id, body, True)
    got = bytearray()
    while stream_id in pipe.server:
        for event in pipe.to_server(50_000):
            assert isinstance(event, DataReceived)
            got += event.data
            pipe.server.consume(stream_id, len(event.data), pipe.now)
        pipe.to_agent()
    assert got == body


def test_the_end_needs_no_credit() -> None:
    pipe = Pipe(server={"window": WINDOW})
    stream_id = pipe.opened()
    pipe.agent.send_data(stream_id, bytes(WINDOW))
    pipe.to_server()
    pipe.agent.send_data(stream_id, b"", True)
    assert pipe.to_server() == [DataReceived("s", b"", True)]


def test_data_over_the_credit_ends_the_session() -> None:
    pipe = Pipe(server={"window": frames.MIN_WINDOW})
    stream_id = pipe.opened()
    half = frames.frame(frames.DATA, stream_id, bytes(frames.MIN_WINDOW // 2))
    pipe.server.receive_frame(half, pipe.now)
    pipe.server.receive_frame(half, pipe.now)
    with pytest.raises(RemoteError) as caught:
        pipe.server.receive_frame(frames.frame(frames.DATA, stream_id, b"x"), pipe.now)
    assert caught.value.code is Code.FLOW_CONTROL


def test_late_data_on_a_stream_that_we_reset_still_has_a_bound() -> None:
    pipe = Pipe(server={"window": frames.MIN_WINDOW})
    stream_id = pipe.opened()
    pipe.server.reset(stream_id, Code.CANCEL)
    late = frames.frame(frames.DATA, stream_id, bytes(frames.MIN_WINDOW))
    assert pipe.server.receive_frame(late, pipe.now) is None
    with pytest.raises(RemoteError) as caught:
        pipe.server.receive_frame(frames.frame(frames.DATA, stream_id, b"x"), pipe.now)
    assert caught.value.code is Code.FLOW_CONTROL


def test_the_memory_of_reset_streams_is_bounded() -> None:
    pipe = Pipe(limits=Limits(reset_memory=10))
    for _unused in range(50):
        pipe.server.reset(pipe.opened(), Code.CANCEL)
        pipe.settle()
    assert len(pipe.server._was_reset) == 10
    assert pipe.server.receive_frame(frames.frame(frames.DATA, 1, bytes(frames.MAX_PAYLOAD)), pipe.now) is None


# -- windows that grow


def pump(pipe: Pipe, stream_id: int, rounds: int, seconds: float, tag: str = "s") -> list[int]:
    """Move bulk data from the agent for some rounds, each so long; returns what arrived in each."""
    amounts = []
    for _unused in range(rounds):
        while pipe.agent.send_data(stream_id, bytes(65536)):
            pass
        events = [event for event in pipe.to_server() if isinstance(event, DataReceived) and event.tag == tag]
        amounts.append(received(events))
        pipe.now += seconds
        for event in events:
            pipe.server.consume(stream_id, len(event.data), pipe.now)
        pipe.to_agent()
    return amounts


def test_a_window_that_holds_a_fast_reader_back_grows() -> None:
    limits = Limits(max_window=8 * WINDOW, send_buffer=32 * WINDOW)
    pipe = Pipe(limits=limits, server={"window": WINDOW})
    amounts = pump(pipe, pipe.opened(), 12, seconds=0.001)
    assert amounts[0] == WINDOW
    assert max(amounts) == 8 * WINDOW


def test_the_window_of_a_slow_reader_stays() -> None:
    limits = Limits(send_buffer=32 * WINDOW)
    pipe = Pipe(limits=limits, server={"window": WINDOW})
    assert max(pump(pipe, pipe.opened(), 12, seconds=5)) == WINDOW


def test_all_windows_of_a_session_share_one_budget_to_grow_and_give_it_back() -> None:
    limits = Limits(max_window=64 * WINDOW, growth_budget=3 * WINDOW, send_buffer=64 * WINDOW)
    pipe = Pipe(limits=limits, server={"window": WINDOW})
    greedy, second = pipe.opened("greedy"), pipe.opened("second")
    assert max(pump(pipe, greedy, 12, seconds=0.001, tag="greedy")) == 4 * WINDOW
    assert max(pump(pipe, second, 12, seconds=0.001, tag="second")) == WINDOW
    pipe.server.reset(greedy, Code.CANCEL)
    pipe.to_agent()
    assert max(pump(pipe, second, 12, seconds=0.001, tag="second")) == 4 * WINDOW


# -- the writer


def test_a_writer_is_told_to_stop_and_to_go_on() -> None:
    pipe = Pipe(limits=Limits(send_buffer=100_000), server={"window": WINDOW})
    stream_id = pipe.opened()
    assert pipe.agent.send_data(stream_id, bytes(99_999))
    assert not pipe.agent.send_data(stream_id, b"x")
    pipe.to_server(20_000)
    assert pipe.agent.take_writable() == []
    pipe.to_server()
    assert pipe.agent.take_writable() == ["s"]
    assert pipe.agent.take_writable() == []


def test_a_writer_that_has_ended_is_not_told_to_go_on() -> None:
    pipe = Pipe(limits=Limits(send_buffer=1000))
    stream_id = pipe.opened(fin=False)
    assert not pipe.agent.send_data(stream_id, bytes(2000), True)
    pipe.to_server()
    assert pipe.agent.take_writable() == []


def test_a_writer_that_goes_on_regardless_is_stopped() -> None:
    pipe = Pipe(limits=Limits(send_buffer=1000), server={"window": frames.MIN_WINDOW})
    stream_id = pipe.opened()
    for _unused in range(4):
        pipe.agent.send_data(stream_id, bytes(1000))
    with pytest.raises(Overrun):
        pipe.agent.send_data(stream_id, b"x")


def test_many_readers_that_stand_still_do_not_hold_a_whole_buffer_each() -> None:
    """One user with 400 unread lists took 320 MiB of the agent, more than its pod may have."""
    limits = Limits(send_buffer=100_000, send_total=150_000)
    pipe = Pipe(limits=limits, server={"window": frames.MIN_WINDOW})
    first, second, third = [pipe.opened(tag) for tag in ("first", "second", "third")]
    assert not pipe.agent.send_data(first, bytes(100_000))
    assert pipe.agent.send_data(second, bytes(45_000))
    assert pipe.agent.send_data(third, bytes(SMALL_QUEUE - 1)), "a small answer always finds room"
    assert not pipe.agent.send_data(third, b"x")
    pipe.agent.reset(first, Code.CANCEL)
    assert pipe.agent.send_data(second, b"x"), "what was dropped does not count any more"
    pipe.to_server()
    assert pipe.agent.take_writable() == ["third"]
    assert pipe.agent._out.data_bytes == sum(stream.queued for stream in pipe.agent._streams.values()) > 0
    for stream_id in (second, third):
        pipe.agent.reset(stream_id, Code.CANCEL)
    assert pipe.agent._out.data_bytes == 0


def test_nobody_is_told_to_write_on_a_stream_that_was_reset_meanwhile() -> None:
    pipe = Pipe(limits=Limits(send_buffer=1000))
    stream_id = pipe.opened()
    pipe.agent.send_data(stream_id, bytes(1000))
    pipe.to_server()
    pipe.agent.reset(stream_id, Code.INTERNAL)
    assert pipe.agent.take_writable() == []


def test_bytes_that_the_writer_changes_afterwards_do_not_change_on_the_wire() -> None:
    pipe = Pipe()
    stream_id = pipe.opened()
    buffer = bytearray(b"before")
    pipe.agent.send_data(stream_id, buffer)  # type: ignore[arg-type]
    buffer[:] = b"after!"
    assert pipe.to_server() == [DataReceived("s", b"before", False)]


# -- turns


def test_a_bulk_stream_does_not_starve_a_small_one() -> None:
    pipe = Pipe(server={"window": 1 << 22}, limits=Limits(send_buffer=1 << 22))
    bulk, small = pipe.opened("bulk"), pipe.open("small")
    pipe.agent.send_data(bulk, bytes(1 << 22))
    pipe.agent.frames_to_send(100_000)
    pipe.agent.opened(small, b"HTTP/1.1 200 OK\r\n\r\n")
    pipe.agent.send_data(small, b"answer", True)
    taken = order(pipe.agent.frames_to_send(100_000))
    assert taken[0] == (frames.OPENED, small)
    assert taken.index((frames.DATA, small)) <= 2


def test_bulk_streams_take_turns() -> None:
    pipe = Pipe(server={"window": 1 << 20}, limits=Limits(send_buffer=1 << 20))
    streams = [pipe.opened(name) for name in "abcd"]
    for stream_id in streams:
        pipe.agent.send_data(stream_id, bytes(8 * frames.MAX_PAYLOAD))
    taken = order(pipe.agent.frames_to_send(1 << 30))
    assert [stream for _unused, stream in taken] == streams * 8


def test_control_frames_and_new_streams_go_before_data() -> None:
    pipe = Pipe(agent={"window": 1 << 20}, limits=Limits(send_buffer=1 << 20))
    upload = pipe.opened("upload", fin=False)
    pipe.server.send_data(upload, bytes(1 << 20))
    pipe.server.frames_to_send(1)
    new = pipe.server.open(b"new", True, "new")
    pipe.server.message({"kind": "x"})
    assert order(pipe.server.frames_to_send(40_000))[:3] == [
        (frames.MESSAGE, 0),
        (frames.OPEN, new),
        (frames.DATA, upload),
    ]


def test_a_reset_overtakes_the_data_of_its_stream() -> None:
    pipe = Pipe()
    stream_id = pipe.opened()
    pipe.agent.send_data(stream_id, bytes(200_000))
    pipe.to_server(1)
    pipe.agent.reset(stream_id, Code.UPSTREAM_UNREACHABLE, "gone")
    assert pipe.to_server() == [StreamReset("s", Code.UPSTREAM_UNREACHABLE, "gone")]


def test_the_caller_decides_how_much_leaves() -> None:
    pipe = Pipe(server={"window": 1 << 20}, limits=Limits(send_buffer=1 << 20))
    stream_id = pipe.opened()
    pipe.agent.send_data(stream_id, bytes(1 << 19))
    while pipe.agent.has_output:
        assert 0 < sum(map(len, pipe.agent.frames_to_send(16 * 1024))) <= 16 * 1024 + frames.MAX_FRAME


def test_small_pieces_leave_together() -> None:
    pipe = Pipe()
    stream_id = pipe.opened()
    for _unused in range(100):
        pipe.agent.send_data(stream_id, b"log line\n")
    assert pipe.to_server() == [DataReceived("s", b"log line\n" * 100, False)]


def test_a_stream_without_credit_does_not_hold_up_others() -> None:
    pipe = Pipe(server={"window": frames.MIN_WINDOW})
    stuck, free = pipe.opened("stuck"), pipe.opened("free")
    pipe.agent.send_data(stuck, bytes(10 * frames.MIN_WINDOW))
    pipe.to_server()
    pipe.agent.send_data(free, b"passes", True)
    assert pipe.to_server() == [DataReceived("free", b"passes", True)]


def test_a_head_in_pieces_goes_before_the_data_of_its_stream() -> None:
    pipe = Pipe()
    stream_id = pipe.open()
    pipe.agent.opened(stream_id, bytes(100_000))
    pipe.agent.send_data(stream_id, b"body", True)
    events: list[Event] = []
    while pipe.agent.has_output:
        events += pipe.to_server(1000)
    assert events == [HeadReceived("s", bytes(100_000), False), DataReceived("s", b"body", True)]


def test_counters_count() -> None:
    pipe = Pipe()
    pipe.opened()

    def counters(mux: Mux) -> tuple[int, int, int, int]:
        return mux.frames_in, mux.bytes_in, mux.frames_out, mux.bytes_out

    assert counters(pipe.server)[:2] == counters(pipe.agent)[2:]
    assert counters(pipe.server)[2:] == counters(pipe.agent)[:2]
    assert pipe.server.streams_total == pipe.agent.streams_total == 1
