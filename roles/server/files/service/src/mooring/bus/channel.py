# SPDX-License-Identifier: Apache-2.0
"""Typed messages over a local stream socket: four bytes of length, then MessagePack.

Exists so that the processes of one server share state without a database between them. Both ends are processes of
ours, of one user; what arrives is checked against its type all the same, since a version that was just replaced may
still be at the other end. A peer that does not read is dropped at a bound: it comes back and starts from a snapshot.

It must not: know what the messages mean, or wait.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from mooring.lib import logging

MAX_FRAME = 8 * 1024 * 1024
"""Bytes of one message. Larger things go in parts."""
MAX_WAITING = 256 * 1024 * 1024
"""Bytes that may wait for a peer that reads slowly; more, and it is dropped."""

_LENGTH = struct.Struct("!I")
_encoder = msgspec.msgpack.Encoder()
_log = logging.get("mooring.bus")

In = TypeVar("In")


class Channel(asyncio.Protocol, Generic[In]):
    """One end. `expects` is the type (a union of tagged structs) of what the peer may send."""

    def __init__(
        self,
        expects: Any,
        on_message: Callable[[Channel[In], In], None],
        on_lost: Callable[[Channel[In]], None],
        on_open: Callable[[Channel[In]], None] | None = None,
    ) -> None:
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(expects)
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_open = on_open
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._lost = False

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None and not self._lost

    def send(self, message: msgspec.Struct) -> None:
        """Send a message. It is dropped when the channel is closed: the peer starts anew anyway."""
        transport = self._transport
        if transport is None or self._lost or transport.is_closing():
            return
        data = _encoder.encode(message)
        if len(data) > MAX_FRAME:
            raise ValueError(f"a message of {len(data)} bytes, at most {MAX_FRAME} can be sent")
        transport.write(_LENGTH.pack(len(data)) + data)
        if transport.get_write_buffer_size() > MAX_WAITING:
            _log.error("a process does not read what it is told; its channel is closed", message=type(message).__name__)
            transport.abort()

    def socket(self) -> socket.socket | None:
        """The socket, to ask the kernel who is at the other end."""
        return None if self._transport is None else self._transport.get_extra_info("socket")

    def close(self) -> None:
        """Close once what was sent has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._on_open is not None:
            self._on_open(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            size: int = _LENGTH.unpack_from(buffer, at)[0]
            if size > MAX_FRAME:
                self._broken(f"a message of {size} bytes")
                return
            end = at + _LENGTH.size + size
            if len(buffer) < end:
                break
            try:
                message = self._decoder.decode(memoryview(buffer)[at + _LENGTH.size : end])
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self._broken(str(error)[:200])
                return
            at = end
            try:
                self._on_message(self, message)
            except Exception as error:  # one message's fault must not end the channel that carries revocations
                _log.exception("a message could not be handled", message=type(message).__name__, error=repr(error))
            if self._lost:
                return
        if at:
            del buffer[:at]

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._lost:
            self._lost = True
            self._on_lost(self)

    def _broken(self, why: str) -> None:
        _log.error("a process sent what cannot be read; its channel is closed", reason=why)
        self._buffer.clear()
        self.abort()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, the first not blocking and for this process, the second to be given to a child."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    return ours, theirs
