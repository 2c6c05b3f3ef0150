# SPDX-License-Identifier: Apache-2.0
"""Every bound of the server by name: the setting that sets it, what is answered at it, and how often it was met.

Why: a bound that nobody can name, set or see is a riddle at three in the morning. The names here are the values of the
label `bound` of `mooring_bound_refused_total`; docs/edge.md lists them, and a test compares the two.

    bounds = Bounds.from_settings(config, share=N)      once per process: what this process may hold of the whole

With N processes on one port each gets its part of a bound that counts what is open, but never less than the bound's
floor. Not divided are bounds of one thing (a head, a session), times, and those of agents' arrival: hundreds of them
may sit behind one address and reach one process.

It must not: count. Who counts keeps the counter; the types for that are below, and hold no more than they must.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mooring.lib import metrics
from mooring.lib.config import AttemptsSection, Config, LimitsSection, TunnelSection

CLOSED: Final = 0
"""In place of a status: the connection, or the session, is closed without one."""


@dataclass(frozen=True, slots=True)
class Bound:
    """`code`: the HTTP status at the bound, or CLOSED. `floor`: what a process gets at least, if it is divided."""

    name: str
    setting: str
    code: int
    floor: int | None = None

    @property
    def divided(self) -> bool:
        """Whether processes on one port share it."""
        return self.floor is not None


BOUNDS: Final = (
    Bound("connections", "limits.max_connections", 503, floor=100),
    Bound("connections_per_address", "limits.max_connections_per_address", 503, floor=50),
    Bound("connections_per_user", "limits.max_connections_per_user", 429, floor=50),
    Bound("handshakes", "limits.max_handshakes", CLOSED),
    Bound("handshakes_per_address", "limits.max_handshakes_per_address", CLOSED),
    Bound("handshake_rate_per_address", "limits.handshakes_per_address", CLOSED),
    Bound("handshake_timeout", "limits.handshake_timeout_seconds", CLOSED),
    Bound("head_bytes", "limits.head_bytes", 431),
    Bound("headers", "limits.headers", 431),
    Bound("head_timeout", "limits.head_timeout_seconds", 408),
    Bound("body_timeout", "limits.body_timeout_seconds", 408),
    Bound("write_timeout", "limits.write_timeout_seconds", CLOSED),
    Bound("upgrade_idle_timeout", "limits.upgrade_idle_timeout_seconds", CLOSED),
    Bound("api_body", "limits.api_body_bytes", 413),
    Bound("api_answer_timeout", "limits.api_answer_timeout_seconds", 504),
    Bound("api_requests", "limits.max_api_requests", 503, floor=64),
    Bound("api_requests_per_address", "limits.max_api_requests_per_address", 429, floor=16),
    Bound("answer_timeout", "limits.answer_timeout_seconds", 504),
    Bound("streams_per_cluster", "limits.max_streams_per_cluster", 429, floor=100),
    Bound("streams_per_user", "limits.max_streams_per_user", 429, floor=50),
    Bound("streams_per_user_and_cluster", "limits.max_streams_per_user_and_cluster", 429, floor=50),
    Bound("sessions_per_cluster", "tunnel.max_sessions_per_cluster", CLOSED),
    Bound("streams_per_session", "tunnel.max_streams_per_session", 429),
    Bound("agent_handshakes", "attempts.agent_handshakes_per_address", 429),
    Bound("login_attempts", "attempts.login_free_per_user", 429),
    Bound("passwords_waiting", "attempts.max_passwords_waiting", 503),
    Bound("join_attempts", "attempts.join_free_per_token", 429),
)

BY_NAME: Final = {bound.name: bound for bound in BOUNDS}
# Made once, so that all of them stand in /metrics, at 0, before the first is met.
_COUNTERS: Final = {bound.name: metrics.BOUND_REFUSED.labels(bound.name) for bound in BOUNDS}


def met(name: str) -> Bound:
    """Something is refused at this bound: count it. Returns the bound, for its status."""
    _COUNTERS[name].inc()
    return BY_NAME[name]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one server process may hold."""

    limits: LimitsSection
    tunnel: TunnelSection
    attempts: AttemptsSection

    @classmethod
    def from_settings(cls, config: Config, *, share: int = 1) -> Bounds:
        """The part of one of `share` processes on one port. Raises ValueError for a share below 1."""
        if share < 1:
            raise ValueError("a server has at least one process")
        parts: dict[str, dict[str, Any]] = {"limits": {}, "tunnel": {}, "attempts": {}}
        for bound in BOUNDS:
            if bound.floor is None:
                continue
            section, _unused, field = bound.setting.partition(".")
            whole: int = getattr(getattr(config, section), field)
            parts[section][field] = min(whole, max(math.ceil(whole / share), bound.floor))
        replace = msgspec.structs.replace
        return cls(
            limits=replace(config.limits, **parts["limits"]),
            tunnel=replace(config.tunnel, **parts["tunnel"]),
            attempts=replace(config.attempts, **parts["attempts"]),
        )


class Slots:
    """Counts what is open, by key, against one bound. A key that holds nothing takes no memory."""

    __slots__ = ("_open", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()

    def __getitem__(self, key: str) -> int:
        return self._open[key]

    def __len__(self) -> int:
        """Keys that hold something."""
        return len(self._open)

    def full(self, key: str) -> bool:
        """Whether the key may not take another one."""
        return self._open[key] >= self.most

    def take(self, key: str) -> bool:
        """Take one. False, and nothing taken, at the bound."""
        if self._open[key] >= self.most:
            return False
        self._open[key] += 1
        return True

    def free(self, key: str) -> None:
        """Give one back."""
        left = self._open[key] - 1
        if left > 0:
            self._open[key] = left
        else:
            del self._open[key]


class Rate:
    """At most `most` events per key within `seconds`, refilled evenly (a token bucket). Bounded memory.

    Times are any clock's seconds, the same one for all calls. A key whose bucket is full again is forgotten; when more
    than `max_keys` are not, the one that was longest quiet goes.
    """

    def __init__(self, most: int, seconds: float, max_keys: int = 10_000) -> None:
        self._most = float(most)
        self._per_second = most / seconds
        self._max_keys = max_keys
        self._left: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._left)

    def take(self, key: str, now: float) -> float:
        """Count an event. 0: it may be; otherwise the seconds until the next one may."""
        left, at = self._left.pop(key, (self._most, now))
        left = min(self._most, left + (now - at) * self._per_second)
        wait = 0.0
        if left >= 1.0:
            left -= 1.0
        else:
            wait = (1.0 - left) / self._per_second
        self._left[key] = (left, now)  # moved to the end: the first key is the one that was longest quiet
        while len(self._left) > 1:
            first = next(iter(self._left))
            left, at = self._left[first]
            if len(self._left) <= self._max_keys and left + (now - at) * self._per_second < self._most:
                break
            del self._left[first]
        return wait
