# SPDX-License-Identifier: Apache-2.0
"""The frames of `mooring-tunnel/1`, byte by byte, and the two error roots of the protocol.

Exists so that everything that knows the layout of a frame stands in one file; docs/protocol/tunnel.md is its
specification and changes in the same commit. It must not know the order in which frames are legal (that is `mux`), and
must not raise anything but LocalError (our bug) and RemoteError (the peer's) whatever bytes it is given.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mooring.wire.hello import PROTOCOL, Hello

SUBPROTOCOL: Final = "mooring-tunnel.1"  # the same name as a WebSocket subprotocol, where "/" is not a token character

HEADER: Final = struct.Struct("!BBI")  # type, flags, stream id
HEADER_SIZE: Final = HEADER.size
MAX_PAYLOAD: Final = 32 * 1024
MAX_FRAME: Final = HEADER_SIZE + MAX_PAYLOAD
MAX_HEAD: Final = 128 * 1024  # bytes of an OPEN, OPENED or MESSAGE put together from its MORE pieces
MAX_TEXT: Final = 1024  # bytes of the message in REFUSED, RESET and GOAWAY
MAX_STREAM_ID: Final = 2**31 - 1
MAX_WINDOW: Final = 2**31 - 1
MIN_WINDOW: Final = 16 * 1024
MAX_INITIAL_WINDOW: Final = 16 * 1024 * 1024
MAX_PEERS: Final = 64
MAX_FEATURES: Final = 64

# Plain integers, not an IntEnum: they are compared for every frame.
HELLO: Final = 1
OPEN: Final = 2
OPENED: Final = 3
REFUSED: Final = 4
DATA: Final = 5
END: Final = 6
RESET: Final = 7
WINDOW: Final = 8
GOAWAY: Final = 9
PING: Final = 10
PONG: Final = 11
MESSAGE: Final = 12
PULSE: Final = 13
CRITICAL: Final = 0x80  # an unknown type with this bit set ends the session; one without it is ignored

FIN: Final = 1
MORE: Final = 2

_FLAGS_ALLOWED: Final = {OPEN: FIN | MORE, OPENED: FIN | MORE, DATA: FIN, MESSAGE: MORE}
# By type, the flags that are an error: none for a type of a later version that may be ignored.
_FLAGS_FORBIDDEN: Final = tuple(
    0xFF & ~_FLAGS_ALLOWED.get(kind, 0) if kind <= PULSE or kind & CRITICAL else 0 for kind in range(256)
)
_CODE: Final = struct.Struct("!H")
_U32: Final = struct.Struct("!I")
_GOAWAY: Final = struct.Struct("!IH")
PING_SIZE: Final = 8


class Code(enum.IntEnum):
    """Why a stream was refused or reset, or a session closed (docs/protocol/tunnel.md, section "Codes")."""

    NO_ERROR = 0
    PROTOCOL = 1
    INTERNAL = 2
    CANCEL = 3
    REFUSED_TARGET = 4
    UPSTREAM_UNREACHABLE = 5
    UPSTREAM_TLS = 6
    BUSY = 7
    FLOW_CONTROL = 8
    TIMEOUT = 9
    BAD_REQUEST = 10
    CREDENTIAL = 11
    SHUTDOWN = 12

    @classmethod
    def of(cls, value: int) -> Code:
        """The code with this number; INTERNAL for a number that a newer peer may know and we do not."""
        return _CODES.get(value, cls.INTERNAL)


_CODES: Final = {int(code): code for code in Code}


class TunnelProtocolError(Exception):
    """Base of the two roots; never raised itself."""


class LocalError(TunnelProtocolError):
    """This side used the tunnel in a way that the protocol forbids: a bug of ours. Nothing was sent."""


class RemoteError(TunnelProtocolError):
    """The peer sent what the protocol forbids. The session must be closed with `code`.

    `code` is what GOAWAY tells the peer, `message` why, for a log of either side.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


@dataclass(slots=True)
class OpenRequest:
    """The payload of an OPEN: the name of a target on the agent's allow-list, and a request head as HTTP/1.1 bytes."""

    target: str
    head: bytes


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    """One whole frame. The caller answers for the sizes."""
    return HEADER.pack(kind, flags, stream) + payload


def split(data: bytes | memoryview) -> tuple[int, int, int]:
    """Type, flags and stream id of the frame in `data`, checked as far as one frame alone can be.

    Raises RemoteError for a frame that is too short or too long, a stream id over 2**31 - 1, a stream id where none
    belongs or none where one does, and a flag that the type does not have.
    """
    size = len(data)
    if size < HEADER_SIZE:
        raise RemoteError(Code.PROTOCOL, "frame shorter than its header")
    if size > MAX_FRAME:
        raise RemoteError(Code.PROTOCOL, "frame longer than 32 KiB")
    kind, flags, stream = HEADER.unpack_from(data)
    if flags & _FLAGS_FORBIDDEN[kind]:
        raise RemoteError(Code.PROTOCOL, f"flags {flags:#x} are not defined for frame type {kind}")
    if OPEN <= kind <= WINDOW:
        if not 0 < stream <= MAX_STREAM_ID:
            raise RemoteError(Code.PROTOCOL, f"frame type {kind} with stream id {stream}")
    elif stream and 0 < kind <= PULSE:
        raise RemoteError(Code.PROTOCOL, f"frame type {kind} with stream id {stream}, must be 0")
    return kind, flags, stream


def heads(kind: int, stream: int, payload: bytes, flags: int = 0) -> list[bytes]:
    """The frames of an OPEN, OPENED or MESSAGE, cut into MORE pieces. Raises LocalError over 128 KiB."""
    size = len(payload)
    if size <= MAX_PAYLOAD:
        return [HEADER.pack(kind, flags, stream) + payload]
    if size > MAX_HEAD:
        raise LocalError(f"payload of {size} bytes, at most {MAX_HEAD} can be sent")
    cuts = range(0, size, MAX_PAYLOAD)
    return [
        HEADER.pack(kind, flags if at + MAX_PAYLOAD >= size else MORE, stream) + payload[at : at + MAX_PAYLOAD]
        for at in cuts
    ]


class Pieces:
    """Puts the MORE pieces of OPEN, OPENED and MESSAGE together: one payload at a time, so 128 KiB a session."""

    __slots__ = ("_kind", "_stream", "_whole")

    def __init__(self) -> None:
        self._whole: bytearray | None = None
        self._kind = self._stream = 0

    def add(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes | None:
        """The whole payload, or None while pieces are missing. Raises RemoteError for pieces that do not fit."""
        whole = self._whole
        if flags & MORE and (flags & FIN or not payload):
            raise RemoteError(Code.PROTOCOL, "a piece with MORE is empty, or has FIN")
        if whole is None:
            if not flags & MORE:
                return payload
            self._kind, self._stream, self._whole = kind, stream, bytearray(payload)
            return None
        if self._kind != kind or self._stream != stream:
            raise RemoteError(Code.PROTOCOL, "a payload begins before the pieces of another one are complete")
        whole += payload
        if len(whole) > MAX_HEAD:
            raise RemoteError(Code.PROTOCOL, "the pieces are over 128 KiB")
        if flags & MORE:
            return None
        self._whole = None
        return bytes(whole)


def pack_hello(hello: Hello) -> bytes:
    """The HELLO frame. Raises LocalError when it breaks the limits that the peer will check."""
    payload = msgspec.json.encode(hello)
    problem = _hello_problem(hello)
    if len(payload) > MAX_PAYLOAD:
        problem = "longer than one frame"
    if problem:
        raise LocalError(f"HELLO: {problem}")
    return HEADER.pack(HELLO, 0, 0) + payload


def unpack_hello(payload: bytes | memoryview) -> Hello:
    """Parse the payload of HELLO. Raises RemoteError when it is not one, or names another protocol."""
    try:
        hello = msgspec.json.decode(payload, type=Hello)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise RemoteError(Code.PROTOCOL, f"HELLO cannot be read: {_short(exc)}") from None
    problem = _hello_problem(hello)
    if problem:
        raise RemoteError(Code.PROTOCOL, f"HELLO: {problem}")
    return hello


def _hello_problem(hello: Hello) -> str | None:
    if hello.protocol != PROTOCOL:
        return f"protocol is not {PROTOCOL}"
    if not MIN_WINDOW <= hello.window <= MAX_INITIAL_WINDOW:
        return f"window is not within {MIN_WINDOW} and {MAX_INITIAL_WINDOW}"
    if not 0 <= hello.max_streams <= MAX_STREAM_ID:
        return "max_streams is out of range"
    if not 0 < len(hello.instance) <= 253 or len(hello.version) > 64:
        return "instance or version is empty or too long"
    if len(hello.peers) > MAX_PEERS or any(len(url) > 2048 for url in hello.peers):
        return "too many or too long peers"
    if len(hello.instances) > MAX_PEERS or any(not 0 < len(name) <= 253 for name in hello.instances):
        return "too many, too long or empty instances"
    if len(hello.features) > MAX_FEATURES or any(len(word) > 64 for word in hello.features):
        return "too many or too long features"
    return None


def pack_open(target: str, head: bytes) -> bytes:
    """The payload of an OPEN for a target and a request head (request line, headers, blank line).

    Raises LocalError when the target is not 1 to 63 ASCII characters or the whole is over 128 KiB.
    """
    name = target.encode("ascii", "replace")
    if not 0 < len(name) <= 63 or b"?" in name:
        raise LocalError("a target is 1 to 63 ASCII characters")
    if 1 + len(name) + len(head) > MAX_HEAD:
        raise LocalError(f"request head of {len(head)} bytes does not fit in an OPEN")
    return bytes((len(name),)) + name + head


def unpack_open(payload: bytes) -> OpenRequest:
    """Target and request head of an OPEN. Raises RemoteError(BAD_REQUEST): refuse the stream, keep the session."""
    size = payload[0] if payload else 0
    name = payload[1 : 1 + size]
    if not 0 < size <= 63 or len(name) != size or not name.isascii():
        raise RemoteError(Code.BAD_REQUEST, "OPEN does not name a target")
    return OpenRequest(name.decode("ascii"), payload[1 + size :])


def pack_reason(kind: int, stream: int, code: int, message: str) -> bytes:
    """A REFUSED or RESET frame; the message is cut at 1 KiB, on a character."""
    return HEADER.pack(kind, 0, stream) + _CODE.pack(code) + _clip(message)


def unpack_reason(payload: bytes | memoryview) -> tuple[Code, str]:
    """Code and message of a REFUSED or RESET. Raises RemoteError when there is no code or the text is too long."""
    if len(payload) < _CODE.size or len(payload) > _CODE.size + MAX_TEXT:
        raise RemoteError(Code.PROTOCOL, "a reason is a code and at most 1 KiB of text")
    return Code.of(_CODE.unpack_from(payload)[0]), _text(payload[_CODE.size :])


def pack_window(stream: int, increment: int) -> bytes:
    """A WINDOW frame that grants `increment` bytes more."""
    return HEADER.pack(WINDOW, 0, stream) + _U32.pack(increment)


def unpack_window(payload: bytes | memoryview) -> int:
    """The increment of a WINDOW. Raises RemoteError unless it is 1 to 2**31 - 1."""
    if len(payload) != _U32.size:
        raise RemoteError(Code.PROTOCOL, "WINDOW is not 4 bytes long")
    increment: int = _U32.unpack(payload)[0]
    if not 0 < increment <= MAX_WINDOW:
        raise RemoteError(Code.FLOW_CONTROL, "WINDOW with an increment out of range")
    return increment


def pack_goaway(last: int, code: int, message: str) -> bytes:
    """A GOAWAY frame: no stream after `last` was or will be looked at."""
    return HEADER.pack(GOAWAY, 0, 0) + _GOAWAY.pack(last, code) + _clip(message)


def unpack_goaway(payload: bytes | memoryview) -> tuple[int, Code, str]:
    """Last stream id, code and message of a GOAWAY. Raises RemoteError when it is too short or too long."""
    if not _GOAWAY.size <= len(payload) <= _GOAWAY.size + MAX_TEXT:
        raise RemoteError(Code.PROTOCOL, "GOAWAY has a wrong length")
    last, code = _GOAWAY.unpack_from(payload)
    return last, Code.of(code), _text(payload[_GOAWAY.size :])


def pack_message(message: dict[str, Any]) -> list[bytes]:
    """The frames of a control message. Raises LocalError when it has no `kind` or is over 128 KiB."""
    if not isinstance(message.get("kind"), str):
        raise LocalError("a control message has a kind")
    return heads(MESSAGE, 0, msgspec.json.encode(message))


def unpack_message(payload: bytes) -> dict[str, Any]:
    """Parse a whole control message. Raises RemoteError when it is not a JSON object with a `kind`."""
    try:
        message = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise RemoteError(Code.PROTOCOL, f"MESSAGE cannot be read: {_short(exc)}") from None
    if not isinstance(message.get("kind"), str):
        raise RemoteError(Code.PROTOCOL, "MESSAGE without a kind")
    return message


def _clip(message: str) -> bytes:
    raw = message.encode("utf-8", "replace")
    return raw if len(raw) <= MAX_TEXT else raw[:MAX_TEXT].decode("utf-8", "ignore").encode()


def _text(raw: bytes | memoryview) -> str:
    # What a peer says of a failure goes to logs and to users: no control characters, and no error for bad UTF-8.
    text = bytes(raw).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in text)


def _short(exc: BaseException) -> str:
    return str(exc)[:200]
