# SPDX-License-Identifier: Apache-2.0
"""How sockets are opened: addresses, options and the connectors that the HTTP/1.1 pool dials with.

Why: a peer that is gone must be noticed also on a connection where we only wait (a watch), and small messages must
leave at once. TCP_USER_TIMEOUT is not used: it would also cut an exec whose program does not read its input.
It must not: choose an address. Each connector knows exactly one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from mooring.net import tlstransport

Connector: TypeAlias = Callable[[Callable[[], asyncio.Protocol]], Awaitable[asyncio.Transport]]
"""Dials its one address and makes the protocol; raises OSError, ssl.SSLError or TimeoutError."""

KEEPALIVE_IDLE = 15
"""Seconds of silence before the kernel asks whether the peer is there."""
KEEPALIVE_INTERVAL = 5
KEEPALIVE_PROBES = 3
HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a TLS handshake."""


def tune(transport: asyncio.BaseTransport) -> None:
    """Sets TCP_NODELAY and keep-alive (dead peer noticed in 30 s) on a TCP transport; others are left as they are."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def tcp_connector(
    host: str, port: int, context: ssl.SSLContext | None = None, server_name: str | None = None
) -> Connector:
    """Dials `host`:`port`; with a context by TLS, checking the certificate against `server_name` (default `host`), or
    resuming a session in whose handshake it was checked, minutes ago at most."""
    resumption = tlstransport.Resumption()

    async def connect(factory: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        transport: asyncio.Transport
        if context is None:
            transport, _unused = await asyncio.get_running_loop().create_connection(factory, host, port)
        else:
            transport = await tlstransport.connect(
                factory, host, port, context, server_name or host, HANDSHAKE_TIMEOUT, resumption
            )
        tune(transport)
        return transport

    return connect


def unix_connector(path: str) -> Connector:
    """Dials the unix socket at `path`."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        transport, _unused = await asyncio.get_running_loop().create_unix_connection(factory, path)
        return transport

    return connect
