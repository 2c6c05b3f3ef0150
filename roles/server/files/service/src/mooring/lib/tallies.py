# SPDX-License-Identifier: Apache-2.0
"""Counters and histograms that one thread changes, for what is counted with each proxied request.

Why: the client library of Prometheus takes a lock for each number, and each request changed five. A process of ours
counts its requests on one thread, the event loop's; a scrape that comes from another one reads numbers that are right,
if perhaps not of the same moment. What is shown is the same, line by line.

It must not: be used by code that runs in several threads.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import inf

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry


class Tally:
    """One number. Where a call counts, `tally.count += 1` does without."""

    __slots__ = ("count", "created")

    def __init__(self) -> None:
        self.count = 0
        self.created = time.time()

    def inc(self) -> None:
        """One more."""
        self.count += 1


class Tallies(Collector):
    """A counter with labels: `name` ends in "_total"."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._tallies: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """The number with these values of the labels; made when it is asked for. Keep it."""
        tally = self._tallies.get(values)
        if tally is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {', '.join(self._labels)}")
            tally = self._tallies[values] = Tally()
        return tally

    def collect(self) -> Iterable[Metric]:
        """What a scrape gets."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, tally in list(self._tallies.items()):
            family.add_metric(values, tally.count, created=tally.created)
        return [family]


class Spread(Collector):
    """A histogram; `bounds` are the upper ends of its buckets, ascending, from 0.0001 to below a million."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = list(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._created = time.time()
        registry.register(self)

    def observe(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        """What a scrape gets."""
        family = HistogramMetricFamily(self._name, self._documentation)
        buckets: list[tuple[str, float]] = []
        count = 0
        for bound, number in zip([*self._bounds, inf], self._counts, strict=True):
            count += number
            buckets.append(("+Inf" if bound == inf else str(float(bound)), count))
        family.add_metric([], buckets, self._sum)
        family.add_sample(self._name + "_created", {}, self._created)
        return [family]
