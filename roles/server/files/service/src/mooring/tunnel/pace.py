# SPDX-License-Identifier: Apache-2.0
"""How many bytes may lie unsent below the scheduler of a session.

What was handed to the transport and the kernel cannot be overtaken: on a link of 2 MB/s, 100 KB there are 50 ms of
delay for every small request behind a bulk transfer. TCP_NOTSENT_LOWAT alone does not prevent it, since the kernel
fills a segment of 64 KiB before it looks at the mark. So the carrier measures what is unsent, and this decides: hand
on, or wait how long. It must not read a clock or a socket.
"""

from __future__ import annotations

from typing import Final

SLOW_BATCH: Final = 4 * 1024  # a link that was seen to be slow gets no less at once
MIN_BATCH: Final = 16 * 1024  # ... and one of which nothing is known
MAX_BATCH: Final = 256 * 1024
DELAY: Final = 0.003  # seconds worth of unsent bytes that a link may hold while there is more to send
SHORTEST, LONGEST = 0.001, 0.02  # seconds between two looks at a link that is held


class Pace:
    """The pace of one connection.

    After a write, ask `wrote`; when that says to wait, ask `look` after the time it gave, again and again until it
    says go on. `batch` is how many bytes to hand down at once.
    """

    __slots__ = ("_at", "_rate", "_unsent", "batch", "held")

    def __init__(self) -> None:
        self.batch = MIN_BATCH
        self.held = False
        self._rate = 0.0  # bytes per second that left while the link was held
        self._unsent = 0
        self._at = 0.0

    def wrote(self, unsent: int, now: float) -> float | None:
        """After a write, with `unsent` bytes below us. Returns None to go on, or the seconds until `look`."""
        if unsent <= self.notice // 2:
            # The link takes it all: larger batches save work and delay nobody.
            self.batch = min(self.batch * 2, MAX_BATCH)
            return None
        self.held = True
        self._unsent, self._at = unsent, now
        self.batch = self._target()
        return self._wait(unsent)

    def look(self, unsent: int, now: float) -> float | None:
        """Some time after `wrote` said to wait. Returns None to go on, or the seconds until the next `look`."""
        elapsed = now - self._at
        if elapsed > 0:
            sample = max(self._unsent - unsent, 0) / elapsed
            if unsent == 0:
                sample = max(sample * 2, self._rate)  # it ran dry: faster than we could see
            self._rate = sample if self._rate == 0 else self._rate + (sample - self._rate) / 4
        self._unsent, self._at = unsent, now
        self.batch = self._target()
        if unsent <= self.batch // 2:
            self.held = False
            return None
        return self._wait(unsent)

    @property
    def notice(self) -> int:
        """A write of so many bytes is bulk: `wrote` must be asked."""
        return min(self.batch, MIN_BATCH)

    def _target(self) -> int:
        if self._rate <= 0:
            return MIN_BATCH
        return min(max(int(self._rate * DELAY), SLOW_BATCH), MAX_BATCH)

    def _wait(self, unsent: int) -> float:
        if self._rate <= 0:
            return SHORTEST
        return min(max((unsent - self.batch // 2) / self._rate, SHORTEST), LONGEST)
