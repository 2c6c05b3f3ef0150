# SPDX-License-Identifier: Apache-2.0
"""A TLS client transport that loses nothing while reading is paused.

Why: uvloop and asyncio drop what they hold undecrypted when the peer closes the TCP connection while `pause_reading` is
in force: with back-pressure, the end of an exec or of a large download is then missing. Here the TCP transport below is
paused too, what is held is decrypted first after a resume, and only then the end is told. The cost is the same calls
into OpenSSL, made from Python.

It must not: take the end of the TCP connection for the end of the data. Without a close_notify the connection was cut
(RFC 8446 section 6.1), and `connection_lost` gets an error.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import Any, cast

READ = 64 * 1024
"""Bytes handed to the protocol at once, at most."""
CLOSE_TIMEOUT = 10.0
"""Seconds after `close` for what was written to leave and for the peer to close too."""


_PLAIN = memoryview(bytearray(READ))
"""Decrypted bytes of whichever connection is read; they are copied before another one is."""
_ENCRYPTED = memoryview(bytearray(READ))
"""The same for what TCP brings."""


class Resumption:
    """The newest TLS session with one address, name and context, for the next handshake (RFC 8446 section 2.2).

    A resumed handshake proves the server by a key of the handshake in which its certificate was checked. So a holder
    must never be shared by addresses or names; OpenSSL itself refuses a session of another context. `LIFE` bounds for
    how many seconds it goes unseen that a certificate has expired or was replaced.

    Sessions are read once in `PAUSE` seconds at most: before 3.12.8 and 3.13.1, each time that `SSLObject.session` is
    read Python loses 6 KB for good (python/cpython#116810).
    """

    LIFE = 600.0
    PAUSE = 300.0

    def __init__(self) -> None:
        self._session: ssl.SSLSession | None = None
        self._checked = -math.inf  # when the certificate behind it was checked, in the loop's time
        self._read = -math.inf  # the same of the newest session that was looked at

    def offer(self, now: float) -> ssl.SSLSession | None:
        """The session to offer at the time `now`, or None."""
        return self._session if now - self._checked < self.LIFE else None

    def keep(self, tls: ssl.SSLObject, shaken: float) -> None:
        """Take the session of a connection that is at its end, when its tickets have come. `shaken`: up since then.

        Of a resumed connection nothing is taken: the time since its certificate was checked is another one's.
        """
        if tls.session_reused or shaken - self._read < self.PAUSE:
            return
        self._read = shaken
        session = tls.session
        if session is not None and session.has_ticket:
            self._session, self._checked = session, shaken


async def connect(
    factory: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    context: ssl.SSLContext,
    server_name: str,
    handshake_timeout: float,
    resumption: Resumption | None = None,
) -> TlsTransport:
    """Dials, shakes hands, and gives the transport to a protocol from `factory`.

    Raises OSError, ssl.SSLError (the certificate is not accepted), TimeoutError.
    """
    loop = asyncio.get_running_loop()
    transport = TlsTransport(loop, context, server_name, resumption)
    await loop.create_connection(lambda: transport, host, port)
    try:
        async with asyncio.timeout(handshake_timeout):
            await transport.ready
    except BaseException:
        if not transport.is_closing():
            transport.abort()
        raise
    transport.start(factory())
    return transport


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The transport that the protocol sees, and what the TCP transport talks to.

    What one read of the TCP transport may bring is held while reading is paused: so it is bounded.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        server_name: str,
        resumption: Resumption | None = None,
    ) -> None:
        super().__init__()
        self.ready: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = resumption.offer(loop.time()) if resumption is not None else None
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name, session=session)
        self._resumption = resumption
        self._shaken = 0.0
        self._below: asyncio.Transport | None = None
        self._protocol: asyncio.Protocol | None = None
        self._paused = False
        self._draining = False
        self._eof = False
        self._closing = False
        self._error: Exception | None = None
        self._closer: asyncio.TimerHandle | None = None

    def start(self, protocol: asyncio.Protocol) -> None:
        """The handshake is done: from here on `protocol` is served."""
        self._protocol = protocol
        protocol.connection_made(self)
        # What came together with the end of the handshake; and our own end of it, if nothing was written to go with it.
        self._loop.call_soon(self._drain)

    # --- asyncio.Transport -------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._closing or self._below is None:
            return
        try:
            sent = self._tls.write(data) if data else 0
            while sent < len(data):
                sent += self._tls.write(memoryview(data)[sent:])
        except ssl.SSLError as error:
            self._fail(error)
        self._flush()

    def pause_reading(self) -> None:
        if not self._paused and self._below is not None:
            self._paused = True
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and self._below is not None:
            self._paused = False
            self._below.resume_reading()
            self._loop.call_soon(self._drain)

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._closing or self._below is None

    def close(self) -> None:
        """Sends what was written and a close_notify, and waits a little for the peer's, dropping what else comes.

        Closing the TCP connection while the peer still sends would make it a reset, and the peer could lose our end.
        """
        if self._closing or self._below is None:
            return
        self._closing = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the peer has not answered yet, or there is data that nobody wants any more
        self._flush()
        self._closer = self._loop.call_later(CLOSE_TIMEOUT, self._below.abort)
        if self._paused:
            self._below.resume_reading()
        self._discard()

    def abort(self) -> None:
        self._closing = True
        if self._below is not None:
            self._below.abort()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size() if self._below is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        return self._below.get_extra_info(name, default) if self._below is not None else default

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    # --- asyncio.BufferedProtocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection stands."""
        self._below = cast(asyncio.Transport, transport)
        self._handshake()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _ENCRYPTED

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(_ENCRYPTED[:nbytes])
        if self._protocol is not None or self.ready.done():
            self._drain()
        else:
            self._handshake()

    def eof_received(self) -> bool:
        """The TCP connection brings no more."""
        self._eof = True
        if self.ready.done():
            self._drain()
        else:
            self.abort()  # in the middle of the handshake: `connection_lost` says so
        return True  # closing is for us: there may still be data that nobody has taken yet

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection is gone."""
        self._below = None
        if self._resumption is not None and self._shaken:
            self._resumption.keep(self._tls, self._shaken)
        if self._closer is not None:
            self._closer.cancel()
            self._closer = None
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionResetError("connection closed during the TLS handshake"))
            self.ready.exception()  # seen, also if nobody waits any more
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            # Once we close, what happens to the rest (a broken pipe under our close_notify) is nobody's loss.
            protocol.connection_lost(self._error or (None if self._closing else exc))

    # --- inside ------------------------------------------------------------------------------------------------

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert, so that the peer knows why
            self.ready.set_exception(error)
            self.ready.exception()
            self._closing = True
            if self._below is not None:
                self._below.close()
            return
        # Our last message goes with the first bytes that the protocol writes, else with the drain of `start`.
        self._shaken = self._loop.time()
        self.ready.set_result(None)

    def _drain(self) -> None:
        """Decrypts and hands on what there is, as long as it is wanted."""
        if self._closing:
            self._discard()
            return
        if self._draining or self._protocol is None:
            return
        self._draining = True
        try:
            while not (self._paused or self._closing):
                data, more = self._read()
                if data:
                    self._protocol.data_received(data)
                if not more:
                    break
        finally:
            self._draining = False
        if self._outgoing.pending > 0:
            self._flush()  # answers of TLS itself
        if self._closing:
            self._discard()

    def _read(self) -> tuple[bytes, bool]:
        """Up to READ bytes, and whether there may be more."""
        size = 0
        try:
            while size < READ:
                count: Any = self._tls.read(READ - size, _PLAIN[size:] if size else _PLAIN)
                if not count:  # close_notify
                    self._loop.call_soon(self._done)
                    return bytes(_PLAIN[:size]), False
                size += count
                # To ask for more when there is none is an exception, which costs more than to look. OpenSSL holds
                # back nothing decrypted unless the room was too small for it, which is then full.
                if not (self._incoming.pending or self._eof or size == READ):
                    return bytes(_PLAIN[:size]), False
        except ssl.SSLWantReadError:
            if self._eof:
                self._loop.call_soon(self._fail, ConnectionResetError("the peer closed without a close_notify"))
            return bytes(_PLAIN[:size]), False
        except ssl.SSLZeroReturnError:
            self._loop.call_soon(self._done)
            return bytes(_PLAIN[:size]), False
        except ssl.SSLError as error:
            self._loop.call_soon(self._fail, error)
            return bytes(_PLAIN[:size]), False
        return bytes(_PLAIN), True

    def _discard(self) -> None:
        """After `close`: drops what comes, and closes the TCP connection when the peer has closed too."""
        try:
            while self._tls.read(READ):
                pass
        except ssl.SSLWantReadError:
            if not self._eof:
                return
        except ssl.SSLError:
            pass
        if self._below is not None:
            self._below.close()

    def _done(self) -> None:
        """The peer has ended, properly. What it sent has been handed on."""
        if self._paused or self._closing or self._protocol is None:
            return  # asked again by the drain that follows a resume
        self._protocol.eof_received()
        self.close()

    def _fail(self, error: Exception) -> None:
        if self._paused and not self._closing:
            return  # asked again by the drain that follows a resume
        self._error = self._error or error
        self.abort()

    def _flush(self) -> None:
        if self._below is not None and self._outgoing.pending:
            self._below.write(self._outgoing.read())
