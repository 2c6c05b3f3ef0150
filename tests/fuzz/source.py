# SPDX-License-Identifier: Apache-2.0
"""Decisions from a fuzzer's bytes: numbers, choices and slices, until there are none left.

Why not the fuzzer's own provider: the same targets run under libFuzzer, under hypothesis and on saved files, and an
input has to mean the same in each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Reads an input from its front; past its end everything is 0 and empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def empty(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        at = self._at
        if at >= len(self._data):
            return 0
        self._at = at + 1
        return self._data[at]

    def number(self, low: int, high: int) -> int:
        """A number within the two bounds."""
        span = high - low
        value = self.byte()
        while span > 255:
            value = value << 8 | self.byte()
            span >>= 8
        return low + value % (high - low + 1)

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.byte() % len(choices)]

    def take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        return data

    def rest(self) -> bytes:
        return self.take(len(self._data))


def pieces(data: bytes, cuts: int) -> list[bytes]:
    """`data` cut in a way that the number `cuts` (a byte) stands for: whole, single bytes, or uneven pieces."""
    if cuts == 0 or len(data) < 2:
        return [data]
    if cuts == 1:
        return [data[i : i + 1] for i in range(len(data))]
    out, at, step = [], 0, cuts
    while at < len(data):
        step = (step * 31 + 7) % 61
        size = 1 + step % (cuts + 1)
        out.append(data[at : at + size])
        at += size
    return out
