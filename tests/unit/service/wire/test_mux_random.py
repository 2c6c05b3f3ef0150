# SPDX-License-Identifier: Apache-2.0
"""Any order of calls, any schedule of the pipe, and any bytes: a model beside the real thing, and rubbish into it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mooring.wire import frames
from mooring.wire.events import DataReceived, Event, HeadReceived, StreamOpened, StreamRefused, StreamReset
from mooring.wire.flow import Limits
from mooring.wire.frames import Code, RemoteError
from mooring.wire.hello import Hello
from mooring.wire.mux import Busy, Mux
from support.mux_pipe import Pipe

LIMITS = Limits(send_buffer=20_000, growth_budget=100_000, max_window=60_000)


class Half:
    """What one direction of one stream was given, and what came out of it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.read = bytearray()
        self.unread = 0
        self.write_ended = self.read_ended = False


class Model:
    """One stream as its two users see it."""

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.to_agent, self.to_server = Half(), Half()
        self.seen = self.answered = self.heard = self.broken = False


class Conversation(RuleBasedStateMachine):
    """Both users do anything that they may at any time; what arrives is always a prefix of what was written."""

    @initialize(window=st.integers(frames.MIN_WINDOW, 40_000))
    def connect(self, window: int) -> None:
        self.pipe = Pipe(limits=LIMITS, server={"window": window}, agent={"window": window, "max_streams": 6})
        self.window = window
        self.models: dict[int, Model] = {}

    @rule(fin=st.booleans(), size=st.sampled_from([0, 10, 40_000]))
    def open(self, fin: bool, size: int) -> None:
        # The tag is the id that the stream is going to get.
        tag = len(self.models) * 2 + 1
        try:
            stream_id = self.pipe.server.open(bytes(size), fin, tag)
        except Busy:
            assert self.pipe.server.streams == 6
            return
        assert stream_id == tag
        model = self.models[stream_id] = Model(stream_id)
        model.to_agent.write_ended = fin

    def pick(self, data: st.DataObject, seen: bool) -> Model | None:
        models = [model for model in self.models.values() if not model.broken and (model.seen or not seen)]
        return data.draw(st.sampled_from(models)) if models else None

    @rule(data=st.data(), fin=st.booleans())
    def answer(self, data: st.DataObject, fin: bool) -> None:
        model = self.pick(data, seen=True)
        if model and not model.answered:
            self.pipe.agent.opened(model.id, b"head %d" % model.id, fin)
            model.answered = True
            model.to_server.write_ended = fin

    @rule(data=st.data(), size=st.integers(0, 50_000), fin=st.booleans(), by_server=st.booleans())
    def write(self, data: st.DataObject, size: int, fin: bool, by_server: bool) -> None:
        model = self.pick(data, seen=not by_server)
        if model is None or not (by_server or model.answered):
            return
        half = model.to_agent if by_server else model.to_server
        mux = self.pipe.server if by_server else self.pipe.agent
        if half.write_ended or len(half.written) - len(half.read) > 4 * LIMITS.send_buffer:
            return
        text = (b"%d:%d;" % (model.id, len(half.written)) * (size // 4 + 1))[:size]
        mux.send_data(model.id, text, fin)
        half.written += text
        half.write_ended = fin

    @rule(data=st.data(), by_server=st.booleans(), part=st.floats(0, 1))
    def consume(self, data: st.DataObject, by_server: bool, part: float) -> None:
        model = self.pick(data, seen=False)
        if model is not None:
            half = model.to_server if by_server else model.to_agent
            size = int(half.unread * part)
            half.unread -= size
            (self.pipe.server if by_server else self.pipe.agent).consume(model.id, size, self.pipe.now)

    @rule(data=st.data(), by_server=st.booleans(), refuse=st.booleans())
    def break_off(self, data: st.DataObject, by_server: bool, refuse: bool) -> None:
        model = self.pick(data, seen=not by_server)
        if model is None:
            return
        model.broken = True
        if by_server:
            self.pipe.server.reset(model.id, Code.CANCEL)
        elif refuse and not model.answered:
            self.pipe.agent.refuse(model.id, Code.BUSY)
        else:
            self.pipe.agent.reset(model.id, Code.INTERNAL)

    @rule(size=st.integers(1, 100_000), seconds=st.floats(0, 0.2))
    def deliver_to_agent(self, size: int, seconds: float) -> None:
        self.pipe.now += seconds
        for event in self.pipe.to_agent(size):
            self.at_agent(event)

    @rule(size=st.integers(1, 100_000), seconds=st.floats(0, 0.2))
    def deliver_to_server(self, size: int, seconds: float) -> None:
        self.pipe.now += seconds
        for event in self.pipe.to_server(size):
            self.at_server(event)

    def at_agent(self, event: Event) -> None:
        if isinstance(event, StreamOpened):
            self.models[event.id].seen = True
            self.models[event.id].to_agent.read_ended = event.fin
        elif isinstance(event, DataReceived):
            self.arrived(self.models[event.tag].to_agent, event)
        elif isinstance(event, StreamReset):
            assert self.models[event.tag].broken

    def at_server(self, event: Event) -> None:
        if isinstance(event, HeadReceived):
            model = self.models[event.tag]
            assert event.payload == b"head %d" % model.id
            assert not model.heard
            model.heard = True
            model.to_server.read_ended = event.fin
        elif isinstance(event, DataReceived):
            assert self.models[event.tag].heard
            self.arrived(self.models[event.tag].to_server, event)
        elif isinstance(event, StreamReset | StreamRefused):
            assert self.models[event.tag].broken

    def arrived(self, half: Half, event: DataReceived) -> None:
        assert not half.read_ended
        half.read += event.data
        half.unread += len(event.data)
        half.read_ended = event.fin
        assert half.written.startswith(half.read)
        assert half.unread <= LIMITS.max_window
        if event.fin:
            assert half.write_ended
            assert half.read == half.written

    @precondition(lambda self: self.models)
    @rule()
    def let_everything_finish(self) -> None:
        for _unused in range(1000):
            for model in self.models.values():
                if not model.broken:
                    self.pipe.server.consume(model.id, model.to_server.unread, self.pipe.now)
                    self.pipe.agent.consume(model.id, model.to_agent.unread, self.pipe.now)
                    model.to_server.unread = model.to_agent.unread = 0
            at_server, at_agent = self.pipe.settle()
            for event in at_agent:
                self.at_agent(event)
            for event in at_server:
                self.at_server(event)
            if not (at_server or at_agent):
                break
        for model in self.models.values():
            if not model.broken:
                assert model.seen
                assert model.to_agent.read == model.to_agent.written
                assert model.to_server.read == model.to_server.written
                over = model.to_agent.write_ended and model.to_server.write_ended
                assert (model.id in self.pipe.server) is (model.id in self.pipe.agent) is not over

    @invariant()
    def the_budget_is_kept(self) -> None:
        if hasattr(self, "pipe"):
            for mux in (self.pipe.server, self.pipe.agent):
                grown = sum(stream.window - self.window for stream in mux._streams.values())
                assert 0 <= grown <= LIMITS.growth_budget
                assert not mux.overflowing


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


# -- rubbish

HELLO = frames.pack_hello(Hello(instance="x", version="0"))
PAYLOADS = [b'{"kind":"x"}', bytes(8), b"\0\0\0\1", bytes(20_000), HELLO[frames.HEADER_SIZE :]]
KINDS = st.one_of(st.integers(0, 13), st.integers(0, 255))
FRAMES = st.builds(
    frames.frame,
    KINDS,
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.binary(max_size=40), st.sampled_from([b'{"kind":"x"}', bytes(8), b"\0\0\0\1", bytes(20_000), HELLO[6:]])
    ),
    st.one_of(st.integers(0, 3), st.integers(0, 255)),
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["server", "agent"]), st.lists(st.one_of(FRAMES, st.binary(max_size=30)), max_size=40), st.data()
)
def test_no_frames_raise_anything_but_the_peers_error(side: str, sent: list[bytes], data: st.DataObject) -> None:
    mux = Mux("server" if side == "server" else "agent", Hello(instance="me", version="0"), LIMITS, 0.0)
    with contextlib.suppress(RemoteError):
        mux.receive_frame(HELLO, 0.0)
        if side == "server":
            for fin in (True, False, False):
                mux.open(b"x", fin)
            mux.frames_to_send(data.draw(st.integers(1, 60)))
        for frame in sent:
            event = mux.receive_frame(memoryview(frame), 1.0)
            if isinstance(event, StreamOpened):
                mux.opened(event.id, b"", data.draw(st.booleans()))
            mux.frames_to_send(1000)
    assert mux.streams <= mux.hello.max_streams


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.integers(0, 2**32))
def test_a_body_is_the_same_however_it_was_cut(cuts: list[int], seed: int) -> None:
    pipe = Pipe(server={"window": frames.MIN_WINDOW}, limits=Limits(send_buffer=1 << 20))
    stream_id = pipe.opened()
    body = b"".join(seed.to_bytes(5, "big") + bytes([n % 256]) * n for n in cuts)
    at = 0
    for size in cuts:
        pipe.agent.send_data(stream_id, body[at : at + size])
        at += size
    pipe.agent.send_data(stream_id, body[at:], True)
    got = b""
    while stream_id in pipe.server:
        for event in pipe.to_server(cuts[len(got) % len(cuts)]):
            assert isinstance(event, DataReceived)
            got += event.data
            pipe.server.consume(stream_id, len(event.data), pipe.now)
        pipe.to_agent()
    assert got == body


def test_a_frame_after_an_error_does_not_revive_the_session() -> None:
    pipe = Pipe()
    pipe.opened()
    for _unused in range(2):
        with pytest.raises(RemoteError):
            pipe.server.receive_frame(frames.frame(frames.DATA, 99, b"x"), pipe.now)
