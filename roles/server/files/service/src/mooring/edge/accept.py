# SPDX-License-Identifier: Apache-2.0
"""The gate before TLS: counts connections from the moment they are accepted, and handshakes that are under way.

Why: a connection that never finishes its handshake costs a socket, a TLS state and a timer, and no request names it;
one that finishes it costs a signature, and may come again at once. So the listening sockets are read here, each
connection is counted by its address, and only then is TLS begun, with a deadline. What is over the bound of connections
still gets its handshake, so that it can be told (503); of these, and of all half-open ones, there are few. What is over
that, or comes too often, is reset.

It must not: read a byte of a client's, or hold a socket that it has not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Final

from mooring.edge.settings import EdgeSettings
from mooring.lib import bounds, logging, metrics
from mooring.lib.addresses import bucket
from mooring.lib.tasks import Supervisor

BACKLOG: Final = 1024
BURST: Final = 64
"""Connections taken in one turn of the loop."""
TOLD: Final = 32
"""Connections over a bound, from one address, that are given a handshake to be told so."""
TOLD_ALL: Final = 512
"""... and from all addresses."""
REST_SECONDS: Final = 1.0
"""How long nothing is accepted when the process has no more descriptors."""

_SPENT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_RESET: Final = struct.pack("ii", 1, 0)
_EVERYBODY: Final = ""

_Taken = tuple[tuple[bounds.Slots, str], ...]

_log = logging.get("mooring.edge")


class Gate:
    """Counts sockets and handshakes. Addresses are counted by `lib.addresses.bucket`."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._sockets = bounds.Slots(settings.max_connections + TOLD_ALL)
        self._sockets_of = bounds.Slots(settings.max_connections_per_source + TOLD)
        self._handshakes = bounds.Slots(settings.max_handshakes)
        self._handshakes_of = bounds.Slots(settings.max_handshakes_per_source)
        self._rate_of = bounds.Rate(settings.handshakes_per_minute, 60.0)

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return self._handshakes[_EVERYBODY]

    @property
    def sockets(self) -> int:
        """Connections that are open, in whatever state."""
        return self._sockets[_EVERYBODY]

    def enter(self, address: str, now: float) -> Ticket | str:
        """A connection has been accepted. A ticket: it may begin its handshake. A name: the bound that it is over.

        `now` is in the seconds of any clock that does not go back.
        """
        source = bucket(address)
        if self._handshakes.full(_EVERYBODY):
            return "handshakes"
        if self._handshakes_of.full(source):
            return "handshakes_per_address"
        if self._sockets.full(_EVERYBODY):
            return "connections"
        if self._sockets_of.full(source):
            return "connections_per_address"
        if self._rate_of.take(source, now) > 0:  # last: what the other bounds refuse costs no handshake
            return "handshake_rate_per_address"
        handshake = ((self._handshakes, _EVERYBODY), (self._handshakes_of, source))
        place = ((self._sockets, _EVERYBODY), (self._sockets_of, source))
        for slots, key in handshake + place:
            slots.take(key)
        return Ticket(source, handshake, place)


class Ticket:
    """What one connection takes up. Each part is given back once, however often it is said."""

    __slots__ = ("_handshake", "_place", "source")

    def __init__(self, source: str, handshake: _Taken = (), place: _Taken = ()) -> None:
        self.source = source
        """What the address counts as."""
        self._handshake = handshake
        self._place = place

    def shaken(self) -> None:
        """The handshake is over, well or badly."""
        for slots, key in self._handshake:
            slots.free(key)
        self._handshake = ()

    def leave(self) -> None:
        """The socket is closed, or is no client's any more."""
        self.shaken()
        for slots, key in self._place:
            slots.free(key)
        self._place = ()


class Acceptor:
    """Reads listening sockets, and gives each connection that passes the gate to a protocol over TLS."""

    def __init__(
        self,
        gate: Gate,
        context: ssl.SSLContext,
        settings: EdgeSettings,
        factory: Callable[[Ticket], asyncio.BaseProtocol],
    ) -> None:
        """`factory` makes the protocol of a connection, which leaves the ticket when it ends."""
        self._gate = gate
        self._context = context
        self._settings = settings
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._tasks = Supervisor("accept")

    def start(self, sockets: list[socket.socket]) -> None:
        """Accept on these listening sockets, which are closed by `stop`."""
        self._sockets = sockets
        metrics.EDGE_HANDSHAKES.set_function(lambda: self._gate.handshakes)
        for listener in sockets:
            listener.setblocking(False)
            self._loop.add_reader(listener.fileno(), self._ready, listener)

    def stop(self) -> None:
        """Accept no more. Handshakes under way go on to their end or deadline."""
        sockets, self._sockets = self._sockets, []
        for timer in self._resting.values():
            timer.cancel()
        self._resting.clear()
        for listener in sockets:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    async def aclose(self) -> None:
        """Stop, and give up the handshakes that are under way."""
        self.stop()
        await self._tasks.aclose()

    def _ready(self, listener: socket.socket) -> None:
        for _unused in range(BURST):
            try:
                client, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _SPENT:
                    self._rest(listener, error)
                return
            self._accepted(client, str(address[0]))

    def _accepted(self, client: socket.socket, address: str) -> None:
        ticket = self._gate.enter(address, self._loop.time())
        if isinstance(ticket, str):
            bounds.met(ticket)
            # A reset: the kernel keeps nothing of a connection that nobody here will miss.
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        client.setblocking(False)
        self._tasks.spawn(self._shake(client, ticket), "handshake")

    async def _shake(self, client: socket.socket, ticket: Ticket) -> None:
        settings = self._settings
        began = self._loop.time()
        up = False
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._factory(ticket),
                client,
                ssl=self._context,
                ssl_handshake_timeout=settings.handshake_timeout,
                # Until then a slow client may take what was written; afterwards the connection is reset under it.
                ssl_shutdown_timeout=settings.close_timeout,
            )
            up = True
        except (OSError, ssl.SSLError, TimeoutError):
            if self._loop.time() - began >= settings.handshake_timeout * 0.99:
                bounds.met("handshake_timeout")
        finally:
            ticket.shaken()
            if not up:
                ticket.leave()
                client.close()

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """No descriptors: wait for connections to end, instead of being asked again at once."""
        _log.error("no connection can be accepted", error=error.strerror)
        self._loop.remove_reader(listener.fileno())
        self._resting[listener] = self._loop.call_later(REST_SECONDS, self._again, listener)

    def _again(self, listener: socket.socket) -> None:
        self._resting.pop(listener, None)
        self._loop.add_reader(listener.fileno(), self._ready, listener)


async def bind(host: str | None, port: int) -> list[socket.socket]:
    """Listening sockets for an address (None or "": all, IPv4 and IPv6) and port (0: a free one). Raises OSError."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _kind, _protocol, _name, address in dict.fromkeys(infos):
            try:
                listener = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # a kernel without IPv6
                    continue
                raise
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if not port and len(sockets) > 1:  # the free port that the first one found is meant for all
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    if not sockets:
        raise OSError(errno.EADDRNOTAVAIL, "no address to listen on")
    return sockets


def raise_open_files(connections: int) -> None:
    """Let this process hold descriptors for so many connections, as far as the hard limit allows; says if it does not.

    Each exchange may hold a second one (the REST API), and files and the database need some.
    """
    wanted = 2 * connections + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < connections + 256:
            _log.warning("fewer open files are allowed than limits.max_connections needs", allowed=most, needed=wanted)
