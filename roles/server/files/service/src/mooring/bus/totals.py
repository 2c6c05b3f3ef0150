# SPDX-License-Identifier: Apache-2.0
"""One page of metrics out of those of all processes.

Counters, histograms and gauges are added up; what describes a process (`process_*`) gets a label that names it. What a
process that ended had counted is kept, so that a counter never goes back. A process that was killed takes with it what
it counted since it was last asked.

It must not: talk to anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from mooring.bus.messages import Family
from mooring.lib import metrics

_KEPT: Final = ("counter", "histogram")
Key = tuple[str, tuple[tuple[str, str], ...]]


def sample() -> list[Family]:
    """The metrics of this process as they are now."""
    return [
        Family(
            family.name, family.type, family.documentation, [(s.name, dict(s.labels), s.value) for s in family.samples]
        )
        for family in metrics.REGISTRY.collect()
    ]


class Totals:
    """Remembers what each process said last, and what those that ended had counted."""

    def __init__(self) -> None:
        self._last: dict[str, list[Family]] = {}
        self._ended: dict[str, dict[Key, float]] = {}

    def heard(self, process: str, families: list[Family]) -> None:
        """A process has sent its metrics."""
        self._last[process] = families

    def ended(self, process: str) -> None:
        """A process is no more: keep what it had counted."""
        for family in self._last.pop(process, []):
            if family.kind in _KEPT and not family.name.startswith("process_"):
                into = self._ended.setdefault(family.name, {})
                _add(into, family, "")

    def render(self, now: Mapping[str, list[Family]]) -> bytes:
        """The Prometheus text format of the processes in `now` (name to metrics), and of all that ended."""
        about: dict[str, Family] = {}
        sums: dict[str, dict[Key, float]] = {name: dict(values) for name, values in self._ended.items()}
        for process, families in now.items():
            for family in families:
                about.setdefault(family.name, family)
                into = sums.setdefault(family.name, {})
                _add(into, family, process if family.name.startswith("process_") else "")
        return generate_latest(_page(_metrics(about, sums)))


def _add(into: dict[Key, float], family: Family, process: str) -> None:
    for name, labels, value in family.samples:
        key = (name, tuple(sorted({**labels, "process": process}.items() if process else labels.items())))
        if family.kind == "info":
            into[key] = value
        elif name.endswith("_created"):
            into[key] = min(value, into.get(key, value))
        else:
            into[key] = into.get(key, 0.0) + value


def _metrics(about: Mapping[str, Family], sums: Mapping[str, Mapping[Key, float]]) -> list[Metric]:
    result = []
    for name, family in sorted(about.items()):
        metric = Metric(family.name, family.help, family.kind)
        for (sample_name, labels), value in sums[name].items():
            metric.add_sample(sample_name, dict(labels), value)
        result.append(metric)
    return result


def _page(found: Iterable[Metric]) -> CollectorRegistry:
    class Collector:
        def collect(self) -> Iterable[Metric]:
            return found

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return registry
