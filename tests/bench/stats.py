# SPDX-License-Identifier: Apache-2.0
"""The bench's arithmetic: medians, percentiles and ratios of what was measured side by side. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """The median. Raises ValueError when there is nothing: no measurement is not a zero."""
    if not values:
        raise ValueError("no measurement")
    return statistics.median(values)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` (0 to 1) of the values do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no measurement")
    ordered = sorted(values)
    return ordered[min(max(math.ceil(part * len(ordered)) - 1, 0), len(ordered) - 1)]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of measurements that were made in the same round.

    A machine whose speed drifts between the rounds changes both sides of each ratio alike.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} measurements beside {len(theirs)}")
    if any(value <= 0 for value in theirs):
        raise ValueError("a ratio to nothing")
    return median([a / b for a, b in zip(ours, theirs, strict=True)])


def growth(samples: Sequence[float], warm: float = 0.2, tail: float = 0.1) -> float:
    """How much a series grew after its warm-up: the median of its last part over that of the first part after `warm`.

    `warm` and `tail` are parts of the series (0 to 1). Raises ValueError when it is too short to say.
    """
    width = max(3, int(len(samples) * tail))
    begin = int(len(samples) * warm)
    if begin + width > len(samples) - width:
        raise ValueError(f"{len(samples)} samples are too few")
    return median(samples[-width:]) / median(samples[begin : begin + width])
