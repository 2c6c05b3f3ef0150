# SPDX-License-Identifier: Apache-2.0
"""Moves the frames of a session in WebSocket binary messages (RFC 6455), one frame each, over TCP or TLS.

Exists so that one file knows picows. It bounds what lies in the transport below it, so that the scheduler of the
session, and not a long buffer, decides what leaves next. It must not look into frames, nor know whose session it is:
the peer is authenticated before `accept` is called.

picows writes each message on its own. `_Buffer` stands between it and the transport and collects them, so that all
frames of one turn leave in one TLS write and one system call.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging as std_logging
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]

from mooring.lib.errors import MooringError
from mooring.tunnel.pace import Pace
from mooring.tunnel.session import Session
from mooring.wire.frames import MAX_FRAME, SUBPROTOCOL, Code

NOTSENT_LOWAT = 16 * 1024  # unsent bytes in the kernel above which it takes no more
HIGH_WATER = 16 * 1024  # ... and in the transport, above which it says pause; the pace stops before that
CLOSE_TIMEOUT = 3.0  # seconds for what was written to leave after `close`
HANDSHAKE_TIMEOUT = 10.0
READ_BUFFER = 2 * 1024  # bytes for what comes, of an idle connection; picows doubles it while reads fill it
USER_TIMEOUT_MS = 15_000  # TCP gives up when sent bytes stay unacknowledged for so long
SIOCOUTQ = 0x5411  # linux/sockios.h: bytes in the send queue that were not acknowledged yet
SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes in the send queue that were not sent yet
_HANDSHAKE_HEADERS = frozenset(
    (b"host", b"upgrade", b"connection", b"sec-websocket-version", b"sec-websocket-key", b"sec-websocket-protocol")
)
_INT = struct.Struct("i")
_LINGER = struct.Struct("ii")
SMALL = 8 * 1024  # bytes: a copy of so much costs less than a view of it
# Members of picows' enumerations are looked up by name in Python: a third of a microsecond each time.
_BINARY = WSMsgType.BINARY
_PING = WSMsgType.PING
_PONG = WSMsgType.PONG
_CLOSE = WSMsgType.CLOSE
MAX_REASON = 100  # bytes of text in a WebSocket CLOSE (RFC 6455 allows 123)

# picows logs each connection at INFO and heads at a debug level; sessions are logged where they are known by name.
# Behind an adapter: of a Logger picows makes a child for each connection.
_picows_log = std_logging.LoggerAdapter(std_logging.getLogger("mooring.tunnel.picows"))
_picows_log.setLevel(std_logging.WARNING)


class ConnectFailed(MooringError):
    """No session came about. `status` is the HTTP status of a server that answered but refused, else None; `date` is
    the time that it put into its answer (RFC 9110 section 6.6.1), in Unix seconds, if it did."""

    def __init__(self, reason: str, status: int | None = None, date: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.date = date


class _Buffer:
    """The transport that picows sees: collects writes until `flush`."""

    __slots__ = ("_chunks", "transport", "write")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._chunks: list[bytes] = []
        self.write: Callable[[bytes], None] = self._chunks.append

    def writelines(self, parts: Iterable[bytes | memoryview]) -> None:
        # The header comes as a view of memory that picows uses again at once.
        self._chunks.extend([bytes(part) for part in parts])

    def flush(self) -> int:
        """Hand everything down in one write. Returns how many bytes that were."""
        chunks = self._chunks
        if not chunks:
            return 0
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        if not self.transport.is_closing():
            self.transport.write(data)
        return len(data)

    def get_write_buffer_size(self) -> int:
        return 1  # never 0: picows would write to the socket past us

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()


class _Connection(WSListener):
    """One WebSocket connection: the `Link` of its session."""

    __slots__ = (
        "_buffer",
        "_closer",
        "_closing",
        "_looker",
        "_loop",
        "_pace",
        "_paused",
        "_ws",
        "connected",
        "session",
    )

    def __init__(self, session: Session) -> None:
        self.session = session
        self.connected = False
        self._buffer: _Buffer | None = None
        self._ws: WSTransport | None = None
        self._paused = False
        self._closing = False
        self._pace = Pace()
        self._loop = asyncio.get_running_loop()
        self._looker: asyncio.TimerHandle | None = None
        self._closer: asyncio.TimerHandle | None = None

    # -- called by the session

    def room(self) -> int:
        return 0 if self._paused or self._closing or self._pace.held else self._pace.batch

    def write(self, frames: list[bytes]) -> None:
        ws, buffer = self._ws, self._buffer
        assert ws is not None
        assert buffer is not None
        send = ws.send
        for frame in frames:
            send(_BINARY, frame)
        size = buffer.flush()
        if size >= self._pace.notice:  # bulk: do not let it run ahead of the link
            self._look_again(self._pace.wrote(self._unsent(), self.session.time()))

    def delivered(self) -> bool:
        return self._queue(SIOCOUTQ, 1) == 0

    def _unsent(self) -> int:
        """How many bytes wait in the transport and in the kernel."""
        return self._queue(SIOCOUTQNSD, 0)

    def _queue(self, question: int, unknown: int) -> int:
        """How many bytes wait in the transport and, by `question`, in the kernel. `unknown`: what to add when the
        kernel does not say."""
        if self._buffer is None:
            return unknown
        transport = self._buffer.transport
        size = transport.get_write_buffer_size()
        try:
            number = transport.get_extra_info("socket").fileno()
            kernel: int = _INT.unpack(fcntl.ioctl(number, question, bytes(_INT.size)))[0]
        except (OSError, ValueError):  # not TCP, or closed meanwhile
            return size + unknown
        return size + kernel

    def _look_again(self, delay: float | None) -> None:
        self._looker = None if delay is None else self._loop.call_later(delay, self._look)

    def _look(self) -> None:
        if self._closing:
            return
        self._look_again(self._pace.look(self._unsent(), self.session.time()))
        if not self._pace.held:
            self.session.link_writable()

    def close(self, code: Code, reason: str) -> None:
        ws = self._ws
        if self._closing or ws is None:
            return
        self._closing = True
        clean = code in (Code.NO_ERROR, Code.SHUTDOWN)
        text = reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
        ws.send_close(WSCloseCode.GOING_AWAY if clean else WSCloseCode.POLICY_VIOLATION, text.encode())
        if code is Code.TIMEOUT:
            self._end_by_reset()
        ws.disconnect()
        self._closer = self._loop.call_later(CLOSE_TIMEOUT, ws.disconnect, False)

    def _end_by_reset(self) -> None:
        """Close by RST, not FIN. While sent bytes are not acknowledged TCP sends nothing new, nor a FIN; but a peer
        that we do not hear any more may hear us, and would learn of the end when its own kernel gives up."""
        if self._buffer is not None:
            with contextlib.suppress(OSError, ValueError):  # not TCP, or closed meanwhile
                sock = self._buffer.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, 0))

    # -- called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.connected = True
        self._ws = transport
        buffer = transport.underlying_transport
        assert isinstance(buffer, _Buffer)
        self._buffer = buffer
        buffer.transport.set_write_buffer_limits(high=HIGH_WATER, low=0)
        buffer.flush()  # the handshake
        for kept in (transport.request, transport.response):  # by picows, for as long as the connection lives
            if kept is not None:
                kept.headers.clear()
        self.session.attach(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self._closing:
            return
        kind = frame.msg_type
        if kind is _BINARY and frame.fin and not (frame.rsv1 or frame.rsv2 or frame.rsv3):
            small = frame.payload_size <= SMALL
            data = frame.get_payload_as_bytes() if small else frame.get_payload_as_memoryview()
            self.session.frame_received(data, frame.last_in_buffer != 0)
            return
        if kind is _PING:
            if not self._paused:  # whoever does not read gets no answers to keep for him
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind is _CLOSE:
            self.session.link_lost(_close_text(frame))
            self.close(Code.NO_ERROR, "")
            return
        elif kind is not _PONG:
            self.session.close(Code.PROTOCOL, "a WebSocket message that is not one whole binary frame")
            return
        if frame.last_in_buffer:
            self.session.batch_done()
            if self._buffer is not None:
                self._buffer.flush()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for timer in (self._closer, self._looker):
            if timer is not None:
                timer.cancel()
        self._closer = self._looker = None
        self._closing = True
        self.session.link_lost("the connection was closed")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.session.link_writable()


def _close_text(frame: WSFrame) -> str:
    raw = (frame.get_close_message() or b"").decode("utf-8", "replace")
    text = "".join(char if char.isprintable() else " " for char in raw)
    return f"the peer closed the connection: {text}" if text else "the peer closed the connection"


class _Picows(Protocol):
    """The part of picows' protocol class that is used here."""

    def connection_made(self, transport: object) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    async def wait_until_handshake_complete(self) -> None: ...


def _picows_protocol(
    listener_factory: Callable[..., object],
    *,
    client: bool,
    netloc: str | None = None,
    path: str | None = None,
    headers: Sequence[tuple[str, str]] | None = None,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
) -> Any:
    return WSProtocol(
        netloc,
        path,
        client,
        listener_factory,
        _picows_log,
        True,  # disconnect_on_exception
        handshake_timeout,
        False,  # enable_auto_ping: the session has its own
        10,
        10,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # enable_auto_pong: it would answer without a bound
        MAX_FRAME,
        headers,
        READ_BUFFER,
    )


def _tune(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # The session asks for signs of life itself, and more rarely than the kernel would.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
    for option, value in (("TCP_NOTSENT_LOWAT", NOTSENT_LOWAT), ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS)):
        number = getattr(socket, option, None)
        if number is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


class ServerCarrier:
    """The server half: takes over connections on which an HTTP server has read the upgrade request."""

    @staticmethod
    def accept(transport: asyncio.Transport, raw: bytes, session: Session) -> bool:
        """Make `transport` carry `session` from now on.

        `raw` is the request head as it came, whole, and what followed it. The caller has authenticated the agent and
        must not touch the transport afterwards. Returns False, with the session closed and an HTTP error sent, when
        the request is not an upgrade to our subprotocol. Works on the transports of uvloop and asyncio.
        """
        _tune(transport)
        connection = _Connection(session)

        def listener(request: WSUpgradeRequest) -> object:
            offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
            if SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
                text = f"the subprotocol {SUBPROTOCOL} is required".encode()
                return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(400, text), None)
            response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": SUBPROTOCOL})
            return WSUpgradeResponseWithListener(response, connection)

        protocol = _picows_protocol(listener, client=False)
        transport.set_protocol(protocol)
        protocol.connection_made(_Buffer(transport))
        transport.resume_reading()
        _feed(protocol, _upgrade_part(raw))
        if not connection.connected:
            session.link_lost("the upgrade request was refused")
            transport.close()
        return connection.connected


def _upgrade_part(raw: bytes) -> bytes:
    """The request without the headers that the handshake does not need: picows keeps it while the connection lives,
    and the agent's JWT is nobody's to keep."""
    head, end, rest = raw.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() in _HANDSHAKE_HEADERS]
    return b"\r\n".join([first, *kept]) + end + rest


def _feed(protocol: _Picows, data: bytes) -> None:
    view = memoryview(data)
    while view:
        buffer = protocol.get_buffer(-1)
        size = min(len(buffer), len(view))
        buffer[:size] = view[:size]
        view = view[size:]
        protocol.buffer_updated(size)


async def connect_client(
    url: str,
    session: Session,
    *,
    headers: Sequence[tuple[str, str]] = (),
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    timeout: float = HANDSHAKE_TIMEOUT,  # noqa: ASYNC109 - the deadline is the point
) -> None:
    """Dial `url` (ws:// or wss://) and give the connection to `session`.

    `headers` go with the upgrade request (Authorization); redirects are not followed. `server_hostname` is the name
    that the certificate must have, when it is not the host of the URL. `timeout` covers all of it, in seconds. On
    return the WebSocket is up and HELLO is sent; `session.wait_ready` waits for the peer's. Raises ConnectFailed, and
    then the session is closed.
    """
    connection = _Connection(session)
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(timeout):
            parts = urlsplit(url)
            if parts.scheme not in ("ws", "wss") or not parts.hostname:
                raise ConnectFailed(f"not a ws:// or wss:// URL: {url}")
            if parts.scheme == "wss" and ssl_context is None:
                raise ConnectFailed("a TLS context is required for wss://")
            transport = await _dial(parts.scheme == "wss", parts.hostname, parts.port, ssl_context, server_hostname)
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            protocol = _picows_protocol(
                lambda request, response: _checked(response, connection),
                client=True,
                netloc=parts.netloc.rpartition("@")[2],
                path=path,
                headers=[*headers, ("Sec-WebSocket-Protocol", SUBPROTOCOL)],
                handshake_timeout=timeout,
            )
            _tune(transport)
            transport.set_protocol(protocol)
            buffer = _Buffer(transport)
            protocol.connection_made(buffer)
            buffer.flush()
            await protocol.wait_until_handshake_complete()
            if not connection.connected:
                raise ConnectFailed("the connection was closed during the handshake")
    except BaseException as exc:
        if transport is not None:
            transport.abort()
        failure = _explain(exc)
        session.link_lost(str(failure or exc))
        if failure is None:
            raise
        raise failure from None


async def _dial(
    secure: bool, host: str, port: int | None, ssl_context: ssl.SSLContext | None, server_hostname: str | None
) -> asyncio.Transport:
    # The loop's own TLS. aiofastnet's is faster and keeps the peer's certificate in a temporary file on the way: where
    # the root file system is read-only, its handshake never ends.
    transport, _unused = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol,
        host,
        port or (443 if secure else 80),
        ssl=ssl_context if secure else None,
        server_hostname=(server_hostname or host) if secure else None,
    )
    return transport


def _checked(response: WSUpgradeResponse, connection: _Connection) -> _Connection:
    if response.headers.get("Sec-WebSocket-Protocol") != SUBPROTOCOL:
        raise ConnectFailed(f"the server does not speak {SUBPROTOCOL}")
    return connection


def _explain(exc: BaseException) -> ConnectFailed | None:
    """What to tell about a failed dial; None for what is not ours to explain (cancellation, bugs)."""
    if isinstance(exc, ConnectFailed):
        return exc
    if isinstance(exc, TimeoutError):
        return ConnectFailed("no answer in time")
    if isinstance(exc, WSHandshakeError):
        status = int(exc.response.status) if exc.response is not None else None
        body = (exc.raw_body or b"")[:500].decode("utf-8", "replace").strip()
        text = "".join(char if char.isprintable() else " " for char in body)
        if status is None or exc.response is None:
            return ConnectFailed("not a WebSocket server")
        return ConnectFailed(f"refused with status {status}: {text}", status, _date(exc.response.headers.get("Date")))
    if isinstance(exc, ssl.SSLCertVerificationError):
        return ConnectFailed(f"the server's certificate is not trusted: {exc.verify_message}")
    if isinstance(exc, OSError):
        return ConnectFailed(f"cannot connect: {exc.strerror or exc}")
    return None


def _date(text: str | None) -> float | None:
    """An HTTP date in Unix seconds; None if it is not one."""
    if text is None or len(text) > 64:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
