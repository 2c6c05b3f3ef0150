# SPDX-License-Identifier: Apache-2.0
"""Deadlines in virtual time: HELLO, signs of life, a process that stood still."""

from __future__ import annotations

import pytest
from mooring.wire import frames
from mooring.wire.events import PongReceived
from mooring.wire.frames import Code, RemoteError
from mooring.wire.mux import Mux
from support.mux_pipe import Pipe


def kinds(taken: list[bytes]) -> list[int]:
    return [frames.split(frame)[0] for frame in taken]


def run_until(mux: Mux, end: float, delivered: bool = False) -> list[tuple[float, list[int]]]:
    """Tick at each deadline up to `end`, alone; returns what was sent when."""
    sent = []
    while mux.next_deadline() <= end:
        now = mux.next_deadline()
        mux.tick(now, delivered)
        sent.append((now, kinds(mux.frames_to_send(1 << 20))))
    return sent


def test_a_peer_that_says_no_hello_is_given_up_after_10_s() -> None:
    pipe = Pipe(greet=False)
    assert pipe.server.next_deadline() == 110.0
    pipe.server.tick(109.9)
    with pytest.raises(RemoteError) as caught:
        pipe.server.tick(110.0)
    assert caught.value.code is Code.TIMEOUT


def test_silence_is_asked_after_7_s_and_ends_the_session_after_15_s() -> None:
    pipe = Pipe()
    pipe.open()
    assert run_until(pipe.server, 114.9) == [(107.0, [frames.PING]), (114.0, [frames.PING])]
    assert pipe.server.next_deadline() == 115.0
    with pytest.raises(RemoteError) as caught:
        pipe.server.tick(115.0)
    assert caught.value.code is Code.TIMEOUT


def test_any_frame_is_a_sign_of_life() -> None:
    pipe = Pipe()
    for second in range(101, 160, 4):
        pipe.server.receive_frame(frames.pack_message({"kind": "status"})[0], float(second))
        pipe.server.tick(second + 3.9)
        assert not pipe.server.has_output


def rested() -> Pipe:
    """At rest since 107.0, when the server gave a PULSE and the agent got it."""
    pipe = Pipe()
    pipe.now = 107.0
    pipe.server.tick(107.0)
    assert kinds(pipe.server.frames_to_send(1 << 20)) == [frames.PULSE]
    pipe.agent.receive_frame(frames.frame(frames.PULSE), 107.0)
    pipe.agent.tick(114.5)
    assert pipe.server.resting
    assert pipe.agent.resting
    return pipe


def test_at_rest_only_the_server_speaks_and_nobody_answers() -> None:
    pipe = rested()
    for pulse in (122.0, 137.0, 152.0):
        assert run_until(pipe.server, pulse, True)[-1] == (pulse, [frames.PULSE])
        pipe.agent.receive_frame(frames.frame(frames.PULSE), pulse)
        assert run_until(pipe.agent, pulse + 14.9) == []


def test_a_server_that_says_nothing_at_rest_is_asked_and_given_up_after_20_s() -> None:
    agent = rested().agent
    assert run_until(agent, 126.9) == [(123.0, [frames.PING])]
    with pytest.raises(RemoteError) as caught:
        agent.tick(127.0)
    assert caught.value.code is Code.TIMEOUT


def test_an_agent_whose_machine_acknowledges_nothing_at_rest_is_given_up_after_20_s() -> None:
    pipe = rested()
    assert run_until(pipe.server, 121.9, True) == [(110.0, [])]  # the PULSE of 107 was delivered
    sent = run_until(pipe.server, 126.9, False)
    assert sent == [(122.0, [frames.PULSE]), (125.0, [frames.PING])]
    with pytest.raises(RemoteError):
        pipe.server.tick(127.0, False)


def test_an_agent_that_hangs_on_a_machine_that_lives_is_found_out() -> None:
    """TCP acknowledges in its name; so it is asked every ten minutes."""
    server = rested().server
    assert (707.0, [frames.PING]) in run_until(server, 720.0, True)
    with pytest.raises(RemoteError) as caught:
        run_until(server, 730.0, True)
    assert "not answered" in caught.value.message


def test_an_agent_that_answers_every_ten_minutes_stays() -> None:
    pipe = rested()
    while pipe.now < 107 + 3600:
        pipe.now = min(pipe.server.next_deadline(), pipe.agent.next_deadline())
        pipe.server.tick(pipe.now, True)
        pipe.agent.tick(pipe.now)
        pipe.settle()


def test_the_first_stream_after_a_rest_has_the_deadlines_of_one_in_use() -> None:
    pipe = rested()
    run_until(pipe.server, 200.0, True)
    pipe.server.stir(200.0)
    pipe.open()
    assert run_until(pipe.server, 214.9) == [(207.0, [frames.PING]), (214.0, [frames.PING])]
    with pytest.raises(RemoteError):
        pipe.server.tick(215.0)


def test_a_peer_in_doubt_at_rest_has_5_s_to_answer() -> None:
    pipe = rested()
    for mux in (pipe.server, pipe.agent):
        mux.tick(115.0, True)
        mux.doubt(115.0)
        assert kinds(mux.frames_to_send(1 << 20)) == [frames.PING]
    pipe.agent.receive_frame(frames.frame(frames.PONG, 0, bytes(8)), 119.0)  # any frame will do
    pipe.agent.tick(120.0)
    with pytest.raises(RemoteError):
        run_until(pipe.server, 120.0, True)


def test_in_use_doubt_changes_nothing() -> None:
    pipe = Pipe()
    pipe.open()
    pipe.server.doubt(101.0)
    assert not pipe.server.has_output
    assert pipe.server.next_deadline() == 107.0


@pytest.mark.parametrize(("wanted", "given"), [(60.0, 60.0), (0.0, 5.0), (-1.0, 5.0), (1e300, 300.0)])
def test_the_agent_says_how_often_within_bounds(wanted: float, given: float) -> None:
    pipe = rested()
    pipe.server.tick(110.0, True)
    pipe.server.rest(wanted, 110.0)
    assert pipe.server.next_deadline() == 107.0 + given
    pipe.agent.rest(wanted, 116.0)
    assert pipe.agent.next_deadline() == 116.0 + given + 1


def test_two_sessions_of_an_idle_agent_cost_a_megabyte_a_day() -> None:
    packet = 20 + 20 + 12  # IPv4, TCP, its time stamps
    below = 22 + 2  # a record of TLS 1.3, a WebSocket header
    sent = 0
    for interval in (15.0, 60.0):
        pipe = rested()
        pipe.server.rest(interval, pipe.now)
        pipe.agent.rest(interval, pipe.now)
        pipe.server.frames_out = pipe.agent.frames_out = pipe.server.bytes_out = pipe.agent.bytes_out = 0
        while pipe.now < 107 + 86_400:
            pipe.now = min(pipe.server.next_deadline(), pipe.agent.next_deadline())
            pipe.server.tick(pipe.now, True)
            pipe.agent.tick(pipe.now)
            pipe.settle()
        # Each PULSE is acknowledged by a packet of its own, and so is each PONG, which acknowledges its PING.
        sent += pipe.server.bytes_out + pipe.server.frames_out * (packet + below + packet)
        sent += pipe.agent.bytes_out + pipe.agent.frames_out * (packet + below + 4)  # the agent's frames are masked
    assert 950_000 < sent < 1_000_000


def test_the_round_trip_is_measured() -> None:
    pipe = Pipe()
    pipe.open()
    pipe.now = pipe.server.next_deadline()
    pipe.server.tick(pipe.now)
    pipe.to_agent()
    pipe.now += 0.08
    (event,) = pipe.to_server()
    assert isinstance(event, PongReceived)
    assert event.rtt == pytest.approx(0.08)
    assert pipe.server.rtt == pytest.approx(0.08)


def test_an_answer_to_another_ping_is_not_a_round_trip() -> None:
    pipe = Pipe()
    pipe.open()
    pipe.server.tick(107.0)
    assert pipe.server.receive_frame(frames.frame(frames.PONG, 0, b"whatever"), 107.1) is None
    assert pipe.server.rtt == 0.0  # of the PING after HELLO, in a pipe that takes no time


def test_a_process_that_stood_still_asks_before_it_gives_up() -> None:
    pipe = Pipe()
    pipe.server.tick(100 + 3600.0)
    assert kinds(pipe.server.frames_to_send(1 << 20)) == [frames.PING]
    assert pipe.server.next_deadline() == pytest.approx(100 + 3600.0 + 2)
    with pytest.raises(RemoteError):
        pipe.server.tick(100 + 3600.0 + 2)


def test_a_process_that_stood_still_and_hears_the_peer_goes_on() -> None:
    pipe = Pipe()
    pipe.now += 3600.0
    pipe.server.tick(pipe.now)
    pipe.settle()
    assert pipe.server.next_deadline() == pipe.now + 7
