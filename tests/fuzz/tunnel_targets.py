# SPDX-License-Identifier: Apache-2.0
"""Frames and the mux: whatever a peer sends, RemoteError and nothing else; between two of ours, no error at all."""

from __future__ import annotations

import contextlib

from mooring.wire import frames
from mooring.wire.events import DataReceived, Event, HeadReceived, StreamOpened, StreamRefused, StreamReset
from mooring.wire.flow import Limits
from mooring.wire.frames import Code, LocalError, RemoteError
from mooring.wire.hello import Hello
from mooring.wire.mux import Busy, Mux
from support.mux_pipe import Pipe

from fuzz.source import Source

LIMITS = Limits(send_buffer=20_000, growth_budget=100_000, max_window=60_000, control_buffer=100_000, reset_memory=4)
PAYLOADS = (b'{"kind":"x"}', bytes(8), b"\0\0\0\1", bytes(20_000), b"\x7f\xff\xff\xff", bytes(6), b"\0\3late")
STREAMS = (0, 1, 2, 3, 5, 7, 9, 2**31 - 1, 2**31, 2**32 - 1)
MAX_STEPS = 200


def frame_parsers(data: bytes) -> None:
    """Each function of `wire.frames` that takes the peer's bytes; what it takes, it packs back to the same."""
    source = Source(data)
    which = source.byte() % 9
    payload = source.rest()
    with contextlib.suppress(RemoteError):
        if which == 0:
            kind, flags, stream = frames.split(payload)
            assert frames.frame(kind, stream, payload[frames.HEADER_SIZE :], flags) == payload
        elif which == 1:
            hello = frames.unpack_hello(payload)
            try:
                packed = frames.pack_hello(hello)
            except LocalError:
                return  # longer than one frame when written anew
            assert frames.unpack_hello(packed[frames.HEADER_SIZE :]) == hello
        elif which == 2:
            request = frames.unpack_open(payload)
            if "?" not in request.target:
                assert frames.pack_open(request.target, request.head) == payload
        elif which == 3:
            code, text = frames.unpack_reason(payload)
            assert isinstance(code, Code)
            assert text.isprintable() or not text
            frames.pack_reason(frames.RESET, 1, code, text)
        elif which == 4:
            assert frames.pack_window(1, frames.unpack_window(payload))[frames.HEADER_SIZE :] == payload
        elif which == 5:
            last, code, text = frames.unpack_goaway(payload)
            assert len(frames.pack_goaway(last, code, text)) <= frames.MAX_FRAME
        elif which == 6:
            message = frames.unpack_message(payload)
            assert isinstance(message["kind"], str)
        elif which == 7:
            _pieces(Source(payload))
        else:
            parts = frames.heads(frames.OPEN, 1, payload, frames.FIN)
            whole = frames.Pieces()
            for number, part in enumerate(parts):
                kind, flags, stream = frames.split(part)
                got = whole.add(kind, flags, stream, part[frames.HEADER_SIZE :])
                assert (got is None) is (number < len(parts) - 1)
            assert got == payload


def _pieces(source: Source) -> None:
    pieces = frames.Pieces()
    held = 0
    while not source.empty:
        size = source.one_of((0, 1, 100, 32_768))
        flags = source.byte() & 3
        whole = pieces.add(source.one_of((frames.OPEN, frames.MESSAGE)), flags, source.one_of((0, 1, 3)), bytes(size))
        held = 0 if whole is not None else held + size
        assert held <= frames.MAX_HEAD


class Peer:
    """A mux that gets anything: what its user sees has to make sense all the same."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.side = "server" if source.flag() else "agent"
        self.mux = Mux(
            "server" if self.side == "server" else "agent",
            Hello(instance="m", version="0", window=frames.MIN_WINDOW, max_streams=4),
            LIMITS,
            0.0,
        )
        self.now = 0.0
        self.unread: dict[object, int] = {}
        self.ended: set[object] = set()
        self.heads: set[object] = set()
        self.greeted = False

    def run(self) -> None:
        for _unused in range(MAX_STEPS):
            if self.source.empty:
                return
            self.step()
            assert self.mux.streams <= (4 if self.side == "agent" else 10_000)
            if self.mux.overflowing:
                return  # a session is closed here

    def step(self) -> None:
        what = self.source.byte()
        if what < 160:
            self.receive(self.frame(what))
        elif what < 176:
            self.receive(self.source.take(self.source.number(0, 20)))
        else:
            with contextlib.suppress(LocalError):
                self.act(what % 9)

    def frame(self, what: int) -> bytes:
        source = self.source
        if not self.greeted and what > 8:
            self.greeted = True
            peer = Hello(
                instance="p", version="0", window=source.one_of((16_384, 40_000)), max_streams=source.number(0, 9)
            )
            return frames.pack_hello(peer)
        kind = what % 14 if what < 140 else source.byte()
        payload = source.one_of(PAYLOADS) if source.flag() else source.take(source.number(0, 40))
        return frames.frame(kind, source.one_of(STREAMS), payload, source.one_of((0, 0, 1, 2, 3, 128)))

    def receive(self, frame: bytes) -> None:
        self.now += self.source.one_of((0.0, 0.001, 0.5, 20.0))
        event = self.mux.receive_frame(memoryview(frame), self.now)
        if isinstance(event, StreamOpened):
            self.mux.tag(event.id, event.id)
            self.unread[event.id] = 0
            if event.fin:
                self.ended.add(event.id)
        elif isinstance(event, HeadReceived):
            assert event.tag not in self.heads
            self.heads.add(event.tag)
            if event.fin:
                self.ended.add(event.tag)
        elif isinstance(event, DataReceived):
            assert event.tag not in self.ended
            assert self.side == "agent" or event.tag in self.heads
            self.unread[event.tag] += len(event.data)
            assert self.unread[event.tag] <= LIMITS.max_window
            if event.fin:
                self.ended.add(event.tag)
        elif isinstance(event, StreamReset | StreamRefused):
            self.ended.add(event.tag)
            assert event.message.isprintable() or not event.message

    def act(self, what: int) -> None:
        mux, source = self.mux, self.source
        stream = source.one_of((1, 3, 5, 7))
        if what == 0:
            tag = mux.open(source.take(source.number(0, 9)), source.flag(), self.mux._last_id + 2)
            self.unread[tag] = 0
        elif what == 1:
            if source.flag():
                mux.respond(stream, b"head", bytes(source.one_of((0, 1, 5000, 30_000))))
            else:
                mux.opened(stream, b"head", source.flag())
        elif what == 2:
            mux.refuse(stream, Code.BUSY, "no")
        elif what == 3:
            mux.send_data(stream, bytes(source.one_of((0, 1, 5000, 30_000))), source.flag())
        elif what == 4:
            size = min(self.unread.get(stream, 0), source.one_of((1, 100, 20_000)))
            if stream in mux:
                mux.consume(stream, size, self.now)
                self.unread[stream] -= size
        elif what == 5:
            mux.reset(stream, Code.CANCEL, "gone")
        elif what == 6:
            mux.goaway(Code.SHUTDOWN, "bye")
        elif what == 7:
            mux.tick(self.now)
        else:
            for frame in mux.frames_to_send(source.one_of((1, 50, 5000, 100_000))):
                frames.split(frame)
            mux.take_writable()


def mux_alone(data: bytes) -> None:
    """A hostile peer: any frame in any state, mixed with what our own side does."""
    with contextlib.suppress(RemoteError):
        Peer(Source(data)).run()


class Pair:
    """Two of ours, joined by a pipe that delivers when the input says: nobody may ever be at fault."""

    def __init__(self, source: Source) -> None:
        self.source = source
        window = source.number(frames.MIN_WINDOW, 40_000)
        self.pipe = Pipe(limits=LIMITS, server={"window": window}, agent={"window": window, "max_streams": 4})
        self.sent: dict[tuple[str, object], int] = {}
        self.got: dict[tuple[str, object], int] = {}
        self.unread: dict[tuple[str, object], int] = {}
        self.done: set[tuple[str, object]] = set()
        self.broken: set[object] = set()
        self.seen: set[int] = set()
        self.answered: set[int] = set()
        self.opened = 0

    def run(self) -> None:
        for _unused in range(MAX_STEPS):
            if self.source.empty:
                break
            self.step(self.source.byte() % 8)
        for _unused in range(400):
            for (side, tag), size in list(self.unread.items()):
                self.consume(side, tag, size)
            at_server, at_agent = self.pipe.settle()
            for event in at_agent:
                self.arrived("agent", event)
            for event in at_server:
                self.arrived("server", event)
            if not at_server and not at_agent:
                break
        for key, size in self.sent.items():
            if key[1] not in self.broken:
                assert self.got.get(key, 0) == size, f"{key}: {self.got.get(key, 0)} of {size} bytes arrived"

    def step(self, what: int) -> None:
        source, pipe = self.source, self.pipe
        if what == 0:
            fin = source.flag()
            try:
                tag = pipe.server.open(bytes(source.one_of((0, 10, 40_000))), fin, self.opened * 2 + 1)
            except Busy:
                return
            assert tag == self.opened * 2 + 1
            self.opened += 1
            self.sent["agent", tag] = 0
            if fin:
                self.done.add(("agent", tag))
        elif what == 1:
            stream = self.pick()
            if stream in self.seen and stream not in self.answered and stream not in self.broken:
                fin = source.flag()
                pipe.agent.opened(stream, b"head", fin)
                self.answered.add(stream)
                self.sent["server", stream] = 0
                if fin:
                    self.done.add(("server", stream))
        elif what in (2, 3):
            self.write("agent" if what == 2 else "server")
        elif what == 4:
            pipe.now += source.one_of((0.0, 0.01, 0.2))
            for event in pipe.to_agent(source.one_of((1, 1000, 100_000))):
                self.arrived("agent", event)
        elif what == 5:
            pipe.now += source.one_of((0.0, 0.01, 0.2))
            for event in pipe.to_server(source.one_of((1, 1000, 100_000))):
                self.arrived("server", event)
        elif what == 6:
            side, stream = source.one_of(("server", "agent")), self.pick()
            self.consume(side, stream, source.one_of((1, 8000, 40_000)))
        elif source.byte() < 40:
            stream = self.pick()
            if source.flag():
                pipe.server.reset(stream, Code.CANCEL)
                self.broken.add(stream)
            elif stream in self.seen:
                pipe.agent.reset(stream, Code.INTERNAL)
                self.broken.add(stream)

    def pick(self) -> int:
        return self.source.number(0, max(self.opened - 1, 0)) * 2 + 1

    def write(self, towards: str) -> None:
        stream = self.pick()
        key = (towards, stream)
        if key not in self.sent or key in self.done or stream in self.broken:
            return
        size, fin = self.source.one_of((0, 1, 3000, 30_000)), self.source.flag()
        if self.sent[key] - self.got.get(key, 0) > 3 * LIMITS.send_buffer:
            return
        mux = self.pipe.server if towards == "agent" else self.pipe.agent
        mux.send_data(stream, bytes(size), fin)
        self.sent[key] += size
        if fin:
            self.done.add(key)

    def consume(self, side: str, tag: object, size: int) -> None:
        size = min(size, self.unread.get((side, tag), 0))
        if not size or tag in self.broken:
            return
        mux = self.pipe.server if side == "server" else self.pipe.agent
        assert isinstance(tag, int)
        mux.consume(tag, size, self.pipe.now)
        self.unread[side, tag] -= size

    def arrived(self, side: str, event: Event) -> None:
        if isinstance(event, StreamOpened):
            self.seen.add(event.id)
        elif isinstance(event, DataReceived):
            key = (side, event.tag)
            self.got[key] = self.got.get(key, 0) + len(event.data)
            self.unread[key] = self.unread.get(key, 0) + len(event.data)
            assert self.unread[key] <= LIMITS.max_window
            if event.fin and event.tag not in self.broken:
                assert key in self.done
        elif isinstance(event, StreamReset | StreamRefused):
            assert event.tag in self.broken


def mux_pair(data: bytes) -> None:
    """Both ends of ours: no RemoteError, no byte lost, no window overdrawn."""
    Pair(Source(data)).run()
