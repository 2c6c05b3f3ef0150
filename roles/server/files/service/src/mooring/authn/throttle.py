# SPDX-License-Identifier: Apache-2.0
"""Guessing gets slower with each failure: of one subject (a user, a join token) from one address, and of the address.

Nobody is ever locked out for good, and failures from one address do not slow the same subject down elsewhere. What is
remembered is bounded; when the table is full, the key that was quiet longest goes first. In memory only, in the one
process that checks passwords and join tokens.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from mooring.lib.addresses import bucket
from mooring.lib.config import AttemptsSection

LEAK: Final = 30.0
"""Seconds in which one failure of an address is forgotten: many people, or agents, may share it."""


@dataclass(slots=True)
class _Entry:
    failures: float = 0.0
    last: float = 0.0


class Throttle:
    """Tells how long a caller must wait. Times are any clock's seconds, the same one for all calls."""

    def __init__(self, settings: AttemptsSection, *, free: int, free_per_address: int) -> None:
        """`free`: failures of a subject from an address that cost nothing; `free_per_address`: of all subjects."""
        self._settings = settings
        self._free = free
        self._free_per_address = free_per_address
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    @classmethod
    def of_logins(cls, settings: AttemptsSection) -> Throttle:
        """For passwords."""
        return cls(settings, free=settings.login_free_per_user, free_per_address=settings.login_free_per_address)

    @classmethod
    def of_joins(cls, settings: AttemptsSection) -> Throttle:
        """For join tokens."""
        return cls(settings, free=settings.join_free_per_token, free_per_address=settings.join_free_per_address)

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._entries)

    def delay(self, subject: str, address: str, now: float) -> float:
        """Seconds until the next try is looked at; 0 means now."""
        source = bucket(address)
        return max(
            self._wait((source, subject), self._free, now),
            self._wait((source, ""), self._free_per_address, now),
        )

    def begin(self, subject: str, address: str, now: float) -> None:
        """A try begins. It counts as a failure until `succeeded` or `not_tried`: tries side by side gain nothing."""
        source = bucket(address)
        for key in dict.fromkeys(((source, subject), (source, ""))):
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
            entry.failures = self._failures(key, entry, now) + 1.0
            entry.last = now
            self._entries.move_to_end(key)
        while len(self._entries) > self._settings.max_remembered:
            self._entries.popitem(last=False)

    def succeeded(self, subject: str, address: str) -> None:
        """The right one: that subject's failures from there are forgotten; of the address's, only this try is."""
        source = bucket(address)
        self._entries.pop((source, subject), None)
        self._take_back((source, ""))

    def not_tried(self, subject: str, address: str) -> None:
        """The try came to nothing, for a reason of ours: it does not count."""
        source = bucket(address)
        for key in dict.fromkeys(((source, subject), (source, ""))):
            self._take_back(key)

    def _take_back(self, key: tuple[str, str]) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.failures = max(0.0, entry.failures - 1.0)

    def _failures(self, key: tuple[str, str], entry: _Entry, now: float) -> float:
        """How many still count."""
        quiet = now - entry.last
        if quiet > self._settings.forget_after_seconds:
            return 0.0
        return entry.failures if key[1] else max(0.0, entry.failures - quiet / LEAK)

    def _wait(self, key: tuple[str, str], free: int, now: float) -> float:
        entry = self._entries.get(key)
        if entry is None or math.ceil(self._failures(key, entry, now)) < free:
            return 0.0
        settings = self._settings
        # By what counted at the last failure: what leaks meanwhile ends a wait, it does not shorten it.
        doubled: float = 2.0 ** min(entry.failures - free, 32.0)
        delay = min(settings.max_delay_seconds, settings.first_delay_seconds * doubled)
        return max(0.0, entry.last + delay - now)
