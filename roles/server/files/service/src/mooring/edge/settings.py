# SPDX-License-Identifier: Apache-2.0
"""The bounds and deadlines of the edge, in one place. docs/edge.md lists them; a test compares the two."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Sizes in bytes, times in seconds."""

    head_max: int = 64 * 1024
    """A request head: request line, headers, empty line. More is a 431."""
    headers_max: int = 256
    """Headers in a request. More is a 431."""
    max_connections: int = 10_000
    """Open client connections. More get a 503 and are closed."""
    max_connections_per_source: int = 1_000
    """Open client connections from one address. More get a 503 and are closed."""
    handshake_timeout: float = 10.0
    """For the TLS handshake."""
    head_timeout: float = 15.0
    """From the connection, or the first byte of a later request, to the end of the head. Then a 408."""
    idle_timeout: float = 120.0
    """Between two requests on a connection. Then it is closed."""
    body_timeout: float = 60.0
    """Without a byte of a request body that was announced. Then a 408, or the end of the connection."""
    write_timeout: float = 600.0
    """Without progress while a client does not read what waits for it. Then the end of the connection."""
    linger_timeout: float = 5.0
    """For reading the rest of a request that was answered early, so that the answer is not lost in a reset."""
    linger_max: int = 32 * 1024 * 1024
    """Bytes of such a rest."""
    close_timeout: float = 60.0
    """For a client to take what it was sent last, once the connection is closed from here."""
    write_high: int = 256 * 1024
    """Bytes waiting for a client at which its exchange stops taking more from upstream."""
    sweep_interval: float = 0.5
    """How often deadlines, and expired rights, are looked at."""
    api_body_max: int = 1024 * 1024
    """Body of a request to the REST API. More is a 413."""
    api_answer_timeout: float = 60.0
    """Until the head of an answer of the REST API. Then a 504."""
    metrics_public: bool = False
    """Whether /metrics is open to everybody. By default it needs the token of an administrator."""
