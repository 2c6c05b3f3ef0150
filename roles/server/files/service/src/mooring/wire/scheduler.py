# SPDX-License-Identifier: Apache-2.0
"""What leaves next: control frames first, then new streams, then data, a frame per stream in turn.

Exists so that no bulk transfer can hold up a small request: a stream with much to send gets one frame, and then every
other stream that has data and credit gets one. It must not know what a frame means to the peer, and holds no bytes
back by itself: the caller says how many may leave, and hands them to a carrier that bounds what it buffers.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from mooring.wire.flow import StreamState
from mooring.wire.frames import DATA, END, FIN, HEADER, HEADER_SIZE, MAX_PAYLOAD

MIN_SLICE: Final = 4 * 1024  # do not cut DATA smaller than this only because the caller's allowance ends here


class Outbox:
    """Everything of one session that waits to be sent."""

    __slots__ = (
        "_control",
        "_opens",
        "_ring",
        "_send_buffer",
        "control_bytes",
        "data_bytes",
        "ended",
        "open_bytes",
        "taken",
        "writable",
    )

    def __init__(self, send_buffer: int) -> None:
        # Lists where all that is there mostly leaves at once: an empty deque is 700 bytes, and most sessions are idle.
        self._control: list[bytes] = []
        self._opens: list[StreamState] = []
        self._ring: deque[StreamState] | None = None
        self._send_buffer = send_buffer
        self.control_bytes = 0
        self.open_bytes = 0
        self.data_bytes = 0  # queued on all streams; the caller adds, and takes off what it drops
        self.taken = 0  # bytes of the frames that `take` returned last
        self.ended: list[StreamState] = []  # streams whose END or FIN left since the caller last looked
        self.writable: list[StreamState] = []  # streams that were full and have room again

    def __bool__(self) -> bool:
        return bool(self._control or self._opens or self._ring)

    def control(self, frame: bytes) -> None:
        """Queue a frame that goes before all data."""
        self._control.append(frame)
        self.control_bytes += len(frame)

    def open(self, stream: StreamState, head: list[bytes]) -> None:
        """Queue the frames of an OPEN. They are dropped with the stream if it is reset before they leave."""
        stream.head = head
        for frame in head:
            self.open_bytes += len(frame)
        self._opens.append(stream)

    def cancel_open(self, stream: StreamState) -> None:
        """Take back an OPEN that has not left."""
        for frame in stream.head or ():
            self.open_bytes -= len(frame)
        stream.head = None

    def wake(self, stream: StreamState) -> None:
        """The stream may have something to send, or credit to send it with."""
        if not stream.in_ring and stream.sendable():
            stream.in_ring = True
            if self._ring is None:
                self._ring = deque()
            self._ring.append(stream)

    def take(self, max_bytes: int) -> list[bytes]:
        """The next frames, whole ones, about `max_bytes` together: the last may go over by its own size."""
        out: list[bytes] = []
        size = 0
        control = self._control
        if control:
            for frame in control:
                out.append(frame)
                size += len(frame)
                if size >= max_bytes:
                    break
            self.control_bytes -= size
            del control[: len(out)]
        opens = self._opens
        if opens and size < max_bytes:
            taken = 0
            for stream in opens:
                taken += 1
                head = stream.head
                if head is not None:
                    stream.head = None
                    for frame in head:
                        out.append(frame)
                        length = len(frame)
                        self.open_bytes -= length
                        size += length
                    if size >= max_bytes:
                        break
            del opens[:taken]
        ring = self._ring
        while ring and size < max_bytes:
            stream = ring.popleft()
            frame = self._next_frame(stream, max_bytes - size)
            if frame:
                out.append(frame)
                size += len(frame)
            if stream.send_open and stream.sendable():
                ring.append(stream)
            else:
                stream.in_ring = False
        self.taken = size
        return out

    def _next_frame(self, stream: StreamState, room: int) -> bytes:
        """The next DATA or END of a stream; empty when it is not `sendable` (any more)."""
        chunks = stream.chunks
        if not chunks:
            if not stream.sendable():
                return b""
            self._ended(stream)
            return HEADER.pack(END, 0, stream.id)
        if stream.credit <= 0:
            return b""
        limit = room - HEADER_SIZE  # compared by hand: `min` and `max` cost as much as all the rest
        if limit < MIN_SLICE:
            limit = MIN_SLICE
        elif limit > MAX_PAYLOAD:
            limit = MAX_PAYLOAD
        if limit > stream.credit:
            limit = stream.credit
        chunk = chunks[0]
        size = len(chunk)
        payload: bytes | memoryview
        if size > limit:
            view = memoryview(chunk)
            payload, chunks[0], size = view[:limit], view[limit:], limit
        else:
            payload = chunks.popleft()
            if chunks and size + len(chunks[0]) <= limit:
                parts = [payload]
                while chunks and size + len(chunks[0]) <= limit:
                    size += len(chunks[0])
                    parts.append(chunks.popleft())
                payload = b"".join(parts)
        stream.credit -= size
        stream.queued -= size
        self.data_bytes -= size
        if stream.full and stream.queued * 2 <= self._send_buffer:
            stream.full = False
            if not stream.fin_queued:
                self.writable.append(stream)
        flags = 0
        if stream.fin_queued and not chunks:
            flags = FIN
            self._ended(stream)
        return HEADER.pack(DATA, flags, stream.id) + payload

    def _ended(self, stream: StreamState) -> None:
        stream.send_open = False
        self.ended.append(stream)
