# SPDX-License-Identifier: Apache-2.0
"""The state machine over a memory pipe: who may send what, when, and what comes of it."""

from __future__ import annotations

import pytest
from mooring.wire import frames
from mooring.wire.events import (
    DataReceived,
    GoAwayReceived,
    HeadReceived,
    HelloReceived,
    MessageReceived,
    StreamOpened,
    StreamRefused,
    StreamReset,
)
from mooring.wire.flow import Limits
from mooring.wire.frames import Code, LocalError, RemoteError
from mooring.wire.hello import Hello
from mooring.wire.mux import Busy, Mux
from support.mux_pipe import Pipe

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def raw(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return frames.frame(kind, stream, payload, flags)


def refused_by(mux: Mux, frame: bytes, code: Code = Code.PROTOCOL) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        mux.receive_frame(frame, 100.0)
    assert caught.value.code is code
    return caught.value


# -- HELLO


def test_both_sides_say_hello_at_once_without_waiting() -> None:
    pipe = Pipe(greet=False)
    (at_agent,) = pipe.to_agent()
    (at_server,) = pipe.to_server()
    assert isinstance(at_agent, HelloReceived)
    assert at_agent.hello.instance == "srv"
    assert isinstance(at_server, HelloReceived)
    assert at_server.hello.instance == "agt"


@pytest.mark.parametrize("kind", [frames.OPEN, frames.DATA, frames.PING, frames.MESSAGE, frames.GOAWAY, 77])
def test_anything_but_hello_as_the_first_frame_ends_the_session(kind: int) -> None:
    pipe = Pipe(greet=False)
    stream = 1 if kind in (frames.OPEN, frames.DATA) else 0
    hello = frames.pack_hello(Hello(instance="srv", version="0"))[frames.HEADER_SIZE :]
    for payload in (b"12345678", hello):  # nor what would be one in another frame
        refused_by(pipe.agent, raw(kind, stream, payload))
        pipe = Pipe(greet=False)


def test_a_second_hello_ends_the_session() -> None:
    refused_by(Pipe().agent, frames.pack_hello(Hello(instance="srv", version="0")))


def test_no_stream_is_opened_before_hello() -> None:
    pipe = Pipe(greet=False)
    with pytest.raises(LocalError):
        pipe.server.open(b"x")


# -- an exchange


def test_a_get_is_one_frame_out_and_two_back() -> None:
    pipe = Pipe()
    stream_id = pipe.server.open(b"request", True, "get")
    out = pipe.server.frames_to_send(1 << 20)
    assert len(out) == 1
    assert pipe.agent.receive_frame(out[0], pipe.now) == StreamOpened(stream_id, b"request", True)
    pipe.agent.opened(stream_id, HEAD)
    pipe.agent.send_data(stream_id, b"body", True)
    back = pipe.agent.frames_to_send(1 << 20)
    assert len(back) == 2
    assert [pipe.server.receive_frame(frame, pipe.now) for frame in back] == [
        HeadReceived("get", HEAD, False),
        DataReceived("get", b"body", True),
    ]
    assert pipe.server.streams == pipe.agent.streams == 0


def test_a_response_without_a_body_is_one_frame() -> None:
    pipe = Pipe()
    stream_id = pipe.open("head")
    pipe.agent.opened(stream_id, HEAD, fin=True)
    assert pipe.to_server() == [HeadReceived("head", HEAD, True)]
    assert pipe.server.streams == pipe.agent.streams == 0


@pytest.mark.parametrize("body", [b"", b"body", bytes(70_000)], ids=["none", "small", "two-frames-and-more"])
def test_a_whole_response_is_a_head_then_a_body_and_its_end(body: bytes) -> None:
    pipe = Pipe()
    stream_id = pipe.open("get")
    pipe.agent.respond(stream_id, HEAD, body)
    head, *rest = pipe.to_server()
    assert head == HeadReceived("get", HEAD, not body)
    pieces = [event for event in rest if isinstance(event, DataReceived)]
    assert b"".join(event.data for event in pieces) == body
    assert [event.fin for event in pieces] == [False] * (len(pieces) - 1) + [True] * bool(body)
    assert pipe.server.streams == pipe.agent.streams == 0
    pipe.agent.respond(stream_id, HEAD, body)  # over: nothing happens
    assert not pipe.agent.has_output


def test_a_whole_response_waits_for_credit() -> None:
    pipe = Pipe(server={"window": 16_384})
    stream_id = pipe.open("get")
    pipe.agent.respond(stream_id, HEAD, bytes(20_000))
    assert [len(event.data) for event in pipe.to_server() if isinstance(event, DataReceived)] == [16_384]
    pipe.server.consume(stream_id, 16_384, pipe.now)
    pipe.to_agent()
    assert pipe.to_server() == [DataReceived("get", bytes(3_616), True)]


def test_a_request_body_may_leave_before_the_answer() -> None:
    pipe = Pipe()
    stream_id = pipe.server.open(b"post", False, "post")
    pipe.server.send_data(stream_id, b"one")
    pipe.server.send_data(stream_id, b"two", True)
    events = pipe.to_agent()
    assert events[0] == StreamOpened(stream_id, b"post", False)
    assert b"".join(event.data for event in events[1:] if isinstance(event, DataReceived)) == b"onetwo"
    assert isinstance(events[-1], DataReceived)
    assert events[-1].fin
    pipe.agent.opened(stream_id, HEAD, True)
    pipe.to_server()
    assert pipe.server.streams == pipe.agent.streams == 0


@pytest.mark.parametrize("order", ["agent first", "server first", "crossing"])
def test_each_half_ends_on_its_own(order: str) -> None:
    pipe = Pipe()
    stream_id = pipe.opened("ws", fin=False)
    if order == "agent first":
        pipe.agent.send_data(stream_id, b"", True)
        assert pipe.to_server() == [DataReceived("ws", b"", True)]
        assert pipe.server.streams == pipe.agent.streams == 1
        pipe.server.send_data(stream_id, b"late", True)
        assert pipe.to_agent() == [DataReceived("ws", b"late", True)]
    elif order == "server first":
        pipe.server.send_data(stream_id, b"", True)
        assert pipe.to_agent() == [DataReceived("ws", b"", True)]
        pipe.agent.send_data(stream_id, b"late", True)
        assert pipe.to_server() == [DataReceived("ws", b"late", True)]
    else:
        pipe.agent.send_data(stream_id, b"a", True)
        pipe.server.send_data(stream_id, b"b", True)
        assert pipe.settle() == ([DataReceived("ws", b"a", True)], [DataReceived("ws", b"b", True)])
    assert pipe.server.streams == pipe.agent.streams == 0


def test_an_end_of_its_own_counts_like_fin() -> None:
    pipe = Pipe()
    stream_id = pipe.opened("s")
    assert pipe.server.receive_frame(raw(frames.END, stream_id), pipe.now) == DataReceived("s", b"", True)
    assert pipe.server.streams == 0


def test_a_large_head_arrives_whole() -> None:
    pipe = Pipe()
    payload = bytes(range(256)) * 512
    stream_id = pipe.server.open(payload, True, "big")
    assert pipe.to_agent() == [StreamOpened(stream_id, payload, True)]
    pipe.agent.opened(stream_id, payload[::-1], True)
    assert pipe.to_server() == [HeadReceived("big", payload[::-1], True)]


def test_control_messages_pass_both_ways() -> None:
    pipe = Pipe()
    pipe.agent.message({"kind": "status", "node_count": 3})
    pipe.server.message({"kind": "hint", "text": "x" * 100_000})
    at_server, at_agent = pipe.settle()
    assert at_server == [MessageReceived({"kind": "status", "node_count": 3})]
    assert at_agent == [MessageReceived({"kind": "hint", "text": "x" * 100_000})]


# -- refusing and resetting


def test_a_refusal_ends_one_stream_and_never_the_session() -> None:
    pipe = Pipe()
    first, second = pipe.open("first", fin=False), pipe.open("second")
    pipe.server.send_data(first, b"body that nobody wants")
    pipe.agent.refuse(first, Code.UPSTREAM_UNREACHABLE, "connection refused")
    assert pipe.to_server() == [StreamRefused("first", Code.UPSTREAM_UNREACHABLE, "connection refused")]
    assert pipe.to_agent() == []
    pipe.agent.opened(second, HEAD, True)
    assert pipe.to_server() == [HeadReceived("second", HEAD, True)]


def test_a_stream_over_max_streams_is_refused_as_busy() -> None:
    pipe = Pipe(agent={"max_streams": 2})
    pipe.open("a")
    pipe.open("b")
    with pytest.raises(Busy):
        pipe.server.open(b"c")
    assert pipe.agent.receive_frame(raw(frames.OPEN, 99, b"x", frames.FIN), pipe.now) is None
    (frame,) = pipe.agent.frames_to_send(1 << 20)
    assert frames.split(frame) == (frames.REFUSED, 0, 99)
    assert frames.unpack_reason(frame[frames.HEADER_SIZE :])[0] is Code.BUSY


def test_the_server_has_a_bound_of_streams_of_its_own() -> None:
    pipe = Pipe(limits=Limits(max_streams=1))
    pipe.open("a")
    with pytest.raises(Busy):
        pipe.server.open(b"b")


def test_a_reset_of_the_server_ends_the_stream_at_the_agent_and_drops_what_was_queued() -> None:
    pipe = Pipe()
    stream_id = pipe.opened("watch")
    pipe.agent.send_data(stream_id, b"event")
    pipe.server.reset(stream_id, Code.CANCEL, "client went away")
    assert pipe.to_agent() == [StreamReset("watch", Code.CANCEL, "client went away")]
    assert pipe.to_server() == []
    assert pipe.server.streams == pipe.agent.streams == 0


def test_frames_that_crossed_a_reset_are_ignored() -> None:
    pipe = Pipe()
    stream_id = pipe.opened("watch")
    pipe.agent.send_data(stream_id, b"event")
    pipe.agent.send_data(stream_id, b"", True)
    late = pipe.agent.frames_to_send(1 << 20)
    pipe.server.reset(stream_id, Code.CANCEL)
    assert [pipe.server.receive_frame(frame, pipe.now) for frame in late] == [None] * len(late)
    assert pipe.server.receive_frame(frames.pack_window(stream_id, 5), pipe.now) is None
    assert pipe.server.receive_frame(frames.pack_reason(frames.RESET, stream_id, 3, ""), pipe.now) is None
    assert pipe.to_agent() == []  # the agent had ended and forgotten the stream: the RESET means nothing to it


def test_resets_that_cross_end_the_stream_on_both_sides() -> None:
    pipe = Pipe()
    stream_id = pipe.opened("s")
    pipe.server.reset(stream_id, Code.CANCEL)
    pipe.agent.reset(stream_id, Code.UPSTREAM_UNREACHABLE)
    assert pipe.settle() == ([], [])
    assert pipe.server.streams == pipe.agent.streams == 0


def test_a_reset_of_a_stream_that_has_not_left_sends_nothing() -> None:
    pipe = Pipe()
    first = pipe.server.open(b"first", True, "first")
    second = pipe.server.open(b"second", True, "second")
    pipe.server.reset(first, Code.CANCEL)
    assert pipe.to_agent() == [StreamOpened(second, b"second", True)]


def test_opens_that_were_taken_back_do_not_count_as_waiting() -> None:
    pipe = Pipe(limits=Limits(open_backlog=1000))
    for _unused in range(100):
        pipe.server.reset(pipe.server.open(bytes(900), True), Code.CANCEL)
    assert pipe.open("still possible")


def test_a_late_answer_to_a_reset_stream_is_ignored() -> None:
    pipe = Pipe()
    opened, refused = pipe.open("a"), pipe.open("b")
    pipe.server.reset(opened, Code.CANCEL)
    pipe.server.reset(refused, Code.CANCEL)
    pipe.agent.opened(opened, HEAD)
    pipe.agent.refuse(refused, Code.BUSY, "")
    assert pipe.to_server() == []


@pytest.mark.parametrize("half", ["opening", "open", "agent ended", "server ended"])
@pytest.mark.parametrize("by", ["server", "agent"])
def test_a_reset_ends_a_stream_in_every_state(half: str, by: str) -> None:
    pipe = Pipe()
    stream_id = pipe.open("s", fin=half == "server ended")
    if half != "opening":
        pipe.agent.opened(stream_id, HEAD, half == "agent ended")
        pipe.to_server()
    (pipe.server if by == "server" else pipe.agent).reset(stream_id, Code.INTERNAL, "boom")
    at_server, at_agent = pipe.settle()
    expected = [StreamReset("s", Code.INTERNAL, "boom")]
    assert (at_server, at_agent) == (([], expected) if by == "server" else (expected, []))
    assert pipe.server.streams == pipe.agent.streams == 0


# -- what the peer must not do


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (raw(frames.OPEN, 2, b"x"), Code.PROTOCOL),  # an even id
        (raw(frames.OPEN, 1, b"x"), Code.PROTOCOL),  # an id twice
        (raw(frames.OPENED, 1, b"x"), Code.PROTOCOL),
        (frames.pack_reason(frames.REFUSED, 1, 0, ""), Code.PROTOCOL),
        (raw(frames.DATA, 5, b"x"), Code.PROTOCOL),  # never opened
        (raw(frames.DATA, 2, b"x"), Code.PROTOCOL),  # an id that the agent would open
        (raw(frames.DATA, 1, b"x"), Code.PROTOCOL),  # after FIN
        (raw(frames.END, 1), Code.PROTOCOL),
        (raw(frames.END, 5), Code.PROTOCOL),
        (raw(frames.END, 1, b"x"), Code.PROTOCOL),
        (frames.pack_reason(frames.RESET, 5, 0, ""), Code.PROTOCOL),
        (frames.pack_reason(frames.RESET, 2, 0, ""), Code.PROTOCOL),
        (raw(frames.RESET, 1, b"\x00"), Code.PROTOCOL),
        (frames.pack_window(5, 1), Code.PROTOCOL),
        (frames.pack_window(2, 1), Code.PROTOCOL),
        (frames.pack_window(1, 2**31 - 1), Code.FLOW_CONTROL),
        (raw(frames.PING, 0, b"short"), Code.PROTOCOL),
        (raw(frames.PONG, 0, b"short"), Code.PROTOCOL),
        (raw(frames.GOAWAY, 0, b"short"), Code.PROTOCOL),
        (raw(frames.MESSAGE, 0, b"{}"), Code.PROTOCOL),
        (raw(0), Code.PROTOCOL),
        (raw(200), Code.PROTOCOL),
    ],
)
def test_the_agent_closes_on_what_a_server_must_not_send(frame: bytes, code: Code) -> None:
    pipe = Pipe()
    pipe.opened("one")
    pipe.opened("three")
    refused_by(pipe.agent, frame, code)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (raw(frames.OPEN, 3, b"x"), Code.PROTOCOL),
        (raw(frames.OPENED, 1, b"x"), Code.PROTOCOL),  # a second answer
        (frames.pack_reason(frames.REFUSED, 1, 0, ""), Code.PROTOCOL),
        (raw(frames.OPENED, 5, b"x"), Code.PROTOCOL),  # never opened
        (raw(frames.DATA, 3, b"x"), Code.PROTOCOL),  # before OPENED
        (raw(frames.END, 3), Code.PROTOCOL),
        (raw(frames.DATA, 1, b""), Code.PROTOCOL),  # empty, without FIN
        (raw(frames.DATA, 4, b"x"), Code.PROTOCOL),
    ],
)
def test_the_server_closes_on_what_an_agent_must_not_send(frame: bytes, code: Code) -> None:
    pipe = Pipe()
    pipe.opened("open")
    pipe.open("opening")
    refused_by(pipe.server, frame, code)


@pytest.mark.parametrize("kind", [frames.OPENED, frames.REFUSED, frames.RESET, frames.WINDOW])
def test_an_answer_to_a_stream_that_has_not_left_yet_ends_the_session(kind: int) -> None:
    pipe = Pipe()
    stream_id = pipe.server.open(b"still queued", True, "s")
    refused_by(pipe.server, raw(kind, stream_id, b"\x00\x00\x00\x01"))


def test_an_unknown_frame_below_128_is_ignored() -> None:
    pipe = Pipe()
    assert pipe.agent.receive_frame(raw(77, 12, b"of a later version", 0xFF), pipe.now) is None
    assert pipe.opened("still works")


# -- what we must not do


def test_our_own_mistakes_raise_and_send_nothing() -> None:
    pipe = Pipe()
    stream_id = pipe.open("s", fin=False)
    with pytest.raises(LocalError, match="DATA before OPENED"):
        pipe.agent.send_data(stream_id, b"x")
    with pytest.raises(LocalError, match="only the server opens"):
        pipe.agent.open(b"x")
    with pytest.raises(LocalError, match="only the agent answers"):
        pipe.server.opened(stream_id, HEAD)
    with pytest.raises(LocalError, match="131073 bytes"):
        pipe.agent.opened(stream_id, bytes(128 * 1024 + 1))
    with pytest.raises(LocalError, match="131073 bytes"):
        pipe.server.open(bytes(128 * 1024 + 1))
    pipe.agent.opened(stream_id, HEAD, True)
    with pytest.raises(LocalError, match="a second answer"):
        pipe.agent.opened(stream_id, HEAD)
    with pytest.raises(LocalError, match="a second answer"):
        pipe.agent.refuse(stream_id, Code.BUSY)
    with pytest.raises(LocalError, match="write after end"):
        pipe.agent.send_data(stream_id, b"x")
    with pytest.raises(LocalError, match="more bytes consumed"):
        pipe.server.consume(stream_id, 1, pipe.now)
    with pytest.raises(LocalError, match="kind"):
        pipe.agent.message({"no": "kind"})
    assert pipe.settle() == ([HeadReceived("s", HEAD, True)], [])


def test_nothing_happens_on_a_stream_that_is_over() -> None:
    pipe = Pipe()
    stream_id = pipe.opened("s")
    pipe.agent.reset(stream_id, Code.INTERNAL)
    pipe.settle()
    for mux in (pipe.server, pipe.agent):
        assert mux.send_data(stream_id, b"x", True)
        mux.reset(stream_id, Code.CANCEL)
        assert not mux.consume(stream_id, 5, pipe.now)
    pipe.agent.opened(stream_id, HEAD)
    pipe.agent.refuse(stream_id, Code.BUSY)
    assert not pipe.server.has_output
    assert not pipe.agent.has_output


# -- GOAWAY and the end


def test_goaway_of_the_agent_lets_open_streams_finish_and_gives_back_unseen_ones() -> None:
    pipe = Pipe()
    running = pipe.opened("running")
    answered_late = pipe.open("seen")
    sent = pipe.server.open(b"sent", True, "sent")
    in_flight = pipe.server.frames_to_send(1 << 20)
    pipe.server.open(b"queued", True, "queued")
    pipe.agent.goaway(Code.SHUTDOWN, "node drained")
    assert pipe.to_server() == [
        GoAwayReceived(answered_late, Code.SHUTDOWN, "node drained", ["sent", "queued"]),
    ]
    with pytest.raises(LocalError):
        pipe.server.open(b"no more")
    for frame in in_flight:  # crossed the GOAWAY
        assert pipe.agent.receive_frame(frame, pipe.now) is None
    assert pipe.settle() == ([], [])  # its REFUSED is for a stream that is over
    assert sent not in pipe.server
    pipe.agent.send_data(running, b"rest", True)
    pipe.agent.opened(answered_late, HEAD, True)
    assert pipe.to_server() == [HeadReceived("seen", HEAD, True), DataReceived("running", b"rest", True)]
    assert pipe.server.streams == pipe.agent.streams == 0


def test_goaway_of_the_server_lets_open_streams_finish() -> None:
    pipe = Pipe()
    stream_id = pipe.opened("s")
    pipe.server.goaway(Code.NO_ERROR, "shutting down")
    pipe.server.goaway(Code.NO_ERROR, "only said once")
    assert pipe.to_agent() == [GoAwayReceived(stream_id, Code.NO_ERROR, "shutting down")]
    with pytest.raises(LocalError):
        pipe.server.open(b"x")
    pipe.agent.send_data(stream_id, b"rest", True)
    assert pipe.to_server() == [DataReceived("s", b"rest", True)]


def test_a_lost_session_tells_which_streams_never_left() -> None:
    pipe = Pipe()
    pipe.opened("answered")
    pipe.open("sent")
    pipe.server.open(b"x", True, "queued")
    assert pipe.server.abandon() == [("answered", True), ("sent", True), ("queued", False)]
    assert pipe.server.streams == 0


def test_stream_ids_that_are_used_up_end_in_an_error_of_ours_not_of_the_peer() -> None:
    pipe = Pipe()
    pipe.server._last_id = frames.MAX_STREAM_ID - 2
    pipe.open("last")
    assert pipe.server.exhausted
    with pytest.raises(LocalError):
        pipe.server.open(b"x")


def test_a_peer_that_does_not_read_cannot_make_us_queue_for_ever() -> None:
    pipe = Pipe(limits=Limits(control_buffer=10_000, open_backlog=1000))
    for _unused in range(10):
        pipe.server.open(bytes(100), True)
    with pytest.raises(Busy):
        pipe.server.open(b"one more")
    pipe.to_agent()
    assert not pipe.agent.overflowing
    for stream_id in range(1, 20, 2):
        pipe.agent.opened(stream_id, bytes(1100))
    assert pipe.agent.overflowing
    pipe.to_server()
    assert not pipe.agent.overflowing


def test_a_flood_of_pings_gets_one_answer() -> None:
    pipe = Pipe()
    for number in range(1000):
        pipe.agent.receive_frame(raw(frames.PING, 0, number.to_bytes(8, "big")), pipe.now)
    assert pipe.agent.frames_to_send(1 << 20) == [raw(frames.PONG, 0, (999).to_bytes(8, "big"))]
