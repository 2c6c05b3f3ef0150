# SPDX-License-Identifier: Apache-2.0
"""Guessing passwords gets slower with each wrong one, per user and source and per source alone.

Nobody is ever locked out for good, and failures from one source do not slow the same user down elsewhere. What is
remembered is bounded; when the table is full, the key that was quiet longest goes first. In memory only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

FREE_PER_USER: Final = 3  # wrong passwords of one user from one source that cost nothing
FREE_PER_SOURCE: Final = 20  # wrong passwords from one source, whatever the user
MAX_DELAY: Final = 60.0  # seconds
FORGET_AFTER: Final = 900.0  # seconds without a failure


@dataclass(slots=True)
class _Entry:
    failures: int = 0
    last: float = 0.0


class LoginThrottle:
    """Tells how long a caller must wait. Times are any clock's seconds, the same one for all calls."""

    def __init__(self, max_entries: int = 10_000) -> None:
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._max = max_entries

    def delay(self, user: str, source: str, now: float) -> float:
        """Seconds until the next try is looked at; 0 means now."""
        return max(
            self._wait((source, user), FREE_PER_USER, now),
            self._wait((source, ""), FREE_PER_SOURCE, now),
        )

    def begin(self, user: str, source: str, now: float) -> None:
        """A try begins. It counts as a wrong password until `succeeded`, so that tries side by side gain nothing."""
        for key in dict.fromkeys(((source, user), (source, ""))):
            entry = self._entries.get(key)
            if entry is None or now - entry.last > FORGET_AFTER:
                entry = self._entries[key] = _Entry()
            entry.failures += 1
            entry.last = now
            self._entries.move_to_end(key)
        while len(self._entries) > self._max:
            self._entries.popitem(last=False)

    def succeeded(self, user: str, source: str) -> None:
        """The right password: that user's failures from there are forgotten; of the source's, only this try is."""
        self._entries.pop((source, user), None)
        entry = self._entries.get((source, ""))
        if entry is not None:
            entry.failures -= 1

    def _wait(self, key: tuple[str, str], free: int, now: float) -> float:
        entry = self._entries.get(key)
        if entry is None or now - entry.last > FORGET_AFTER or entry.failures < free:
            return 0.0
        delay = min(MAX_DELAY, 2.0 ** min(entry.failures - free, 16))
        return max(0.0, entry.last + delay - now)
