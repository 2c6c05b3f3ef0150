# SPDX-License-Identifier: Apache-2.0
"""Delays between attempts, random so that a thousand agents do not return at the same moment."""

from __future__ import annotations

import random


class Backoff:
    """Full jitter: each delay is drawn between `first` and a limit that doubles up to `most` (seconds)."""

    def __init__(self, first: float = 0.5, most: float = 10.0) -> None:
        self._first = first
        self._most = most
        self._attempts = 0

    def next(self) -> float:
        """The delay before the next attempt."""
        limit = min(self._most, self._first * 2.0 ** min(self._attempts + 1, 16))
        self._attempts += 1
        return random.uniform(self._first, limit)  # noqa: S311 - spreads load, protects nothing

    def reset(self) -> None:
        """It worked: start over."""
        self._attempts = 0
