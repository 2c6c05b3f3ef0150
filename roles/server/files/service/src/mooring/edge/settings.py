# SPDX-License-Identifier: Apache-2.0
"""The bounds and deadlines of the edge, as its code uses them: the server's `[limits]`, and a few that are no setting.

docs/edge.md lists the settings; tests compare it with the configuration, and the configuration with this.
"""

from __future__ import annotations

from dataclasses import dataclass

from mooring.lib.config import LimitsSection


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
    max_connections_per_user: int = 1_200
    """Open connections on which a user asked for a cluster. More get a 429 and are closed."""
    max_handshakes: int = 2_000
    """TLS handshakes under way. More connections are closed at once."""
    max_handshakes_per_source: int = 600
    """TLS handshakes under way from one address. More connections are closed at once."""
    handshakes_per_minute: int = 12_000
    """TLS handshakes that one address may begin within a minute, evenly. More connections are closed at once."""
    handshake_timeout: float = 10.0
    """For the TLS handshake."""
    head_timeout: float = 15.0
    """From the connection, or the first byte of a later request, to the end of the head. Then a 408."""
    idle_timeout: float = 120.0
    """Between two requests on a connection. Then it is closed."""
    body_timeout: float = 60.0
    """With less of an announced body than `body_rate`. Then a 408, or the end of the connection."""
    body_rate: int = 256
    """Bytes of a body per second, on average over `body_timeout`."""
    write_timeout: float = 600.0
    """Without progress while a client does not read what waits for it. Then the end of the connection."""
    upgrade_idle_timeout: float = 14_400.0
    """Without a byte either way on an upgraded connection. Then its end."""
    linger_timeout: float = 5.0
    """For reading the rest of a request that was answered early, so that the answer is not lost in a reset."""
    linger_max: int = 32 * 1024 * 1024
    """Bytes of such a rest."""
    close_timeout: float = 60.0
    """For a client to take what it was sent last, once the connection is closed from here."""
    write_high: int = 256 * 1024
    """Bytes waiting for a client at which its exchange stops taking more from upstream."""
    api_body_max: int = 1024 * 1024
    """Body of a request to the REST API. More is a 413."""
    api_answer_timeout: float = 60.0
    """Until the head of an answer of the REST API. Then a 504."""
    api_requests: int = 1_024
    """Open requests to the REST API. More get a 503."""
    api_requests_per_source: int = 100
    """Open requests to the REST API from one address. More get a 429."""
    metrics_public: bool = False
    """Whether /metrics is open to everybody. By default it needs the token of an administrator."""
    sweep_interval: float = 0.5
    """How often deadlines, and expired rights, are looked at. Not a setting: rights end within a second."""

    @classmethod
    def from_limits(cls, limits: LimitsSection, *, metrics_public: bool = False) -> EdgeSettings:
        """What the configuration says."""
        return cls(
            head_max=limits.head_bytes,
            headers_max=limits.headers,
            max_connections=limits.max_connections,
            max_connections_per_source=limits.max_connections_per_address,
            max_connections_per_user=limits.max_connections_per_user,
            max_handshakes=limits.max_handshakes,
            max_handshakes_per_source=limits.max_handshakes_per_address,
            handshakes_per_minute=limits.handshakes_per_address,
            handshake_timeout=limits.handshake_timeout_seconds,
            head_timeout=limits.head_timeout_seconds,
            idle_timeout=limits.idle_timeout_seconds,
            body_timeout=limits.body_timeout_seconds,
            body_rate=limits.body_bytes_per_second,
            write_timeout=limits.write_timeout_seconds,
            upgrade_idle_timeout=limits.upgrade_idle_timeout_seconds,
            linger_timeout=limits.linger_timeout_seconds,
            linger_max=limits.linger_bytes,
            close_timeout=limits.close_timeout_seconds,
            write_high=limits.client_buffer_bytes,
            api_body_max=limits.api_body_bytes,
            api_answer_timeout=limits.api_answer_timeout_seconds,
            api_requests=limits.max_api_requests,
            api_requests_per_source=limits.max_api_requests_per_address,
            metrics_public=metrics_public,
        )
