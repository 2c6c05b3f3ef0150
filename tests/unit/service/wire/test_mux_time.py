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


def run_until(mux: Mux, end: float) -> list[tuple[float, list[int]]]:
    """Tick at each deadline up to `end`, alone; returns what was sent when."""
    sent = []
    while mux.next_deadline() <= end:
        now = mux.next_deadline()
        mux.tick(now)
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


def test_two_idle_sides_stay_connected_for_a_day_on_a_megabyte() -> None:
    # What a frame costs on top in WebSocket (2 bytes, 6 when masked) and TLS 1.3 (22 bytes).
    overhead = 2 + 22, 6 + 22
    pipe = Pipe()
    pipe.server.frames_out = pipe.agent.frames_out = pipe.server.bytes_out = pipe.agent.bytes_out = 0
    while pipe.now < 100 + 86_400:
        pipe.now = min(pipe.server.next_deadline(), pipe.agent.next_deadline())
        pipe.server.tick(pipe.now)
        pipe.agent.tick(pipe.now)
        pipe.settle()
    sent = pipe.server.bytes_out + pipe.server.frames_out * overhead[0]
    sent += pipe.agent.bytes_out + pipe.agent.frames_out * overhead[1]
    assert sent < 1_000_000


def test_the_round_trip_is_measured() -> None:
    pipe = Pipe()
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
