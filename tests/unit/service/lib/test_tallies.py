# SPDX-License-Identifier: Apache-2.0
"""What our own counters show is what the client library would."""

from __future__ import annotations

import re

import pytest
from mooring.lib.tallies import Spread, Tallies
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

CREATED = re.compile(rb"^(\S+_created\S*) \S+$", re.MULTILINE)
BOUNDS = (0.001, 0.0025, 0.5, 1, 60)


def shown(registry: CollectorRegistry) -> bytes:
    return CREATED.sub(rb"\1 then", generate_latest(registry))


def test_a_scrape_sees_what_the_client_library_would_show() -> None:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    tallies = Tallies("a_calls_total", "Calls.", ["route", "code"], ours)
    counter = Counter("a_calls_total", "Calls.", ["route", "code"], registry=theirs)
    spread = Spread("b_seconds", "Time.", BOUNDS, ours)
    histogram = Histogram("b_seconds", "Time.", buckets=BOUNDS, registry=theirs)
    assert shown(ours) == shown(theirs)
    for route, code, times in (("proxy", "200", 3), ("api", "404", 1), ("proxy", "503", 2)):
        for _unused in range(times):
            tallies.labels(route, code).inc()
            counter.labels(route, code).inc()
    tallies.labels("proxy", "200").count += 1
    counter.labels("proxy", "200").inc()
    for value in (0, 0.001, 0.00101, 0.75, 1, 60, 61, 1e9):
        spread.observe(value)
        histogram.observe(value)
    assert shown(ours) == shown(theirs)
    assert b'a_calls_total{code="200",route="proxy"} 4.0' in shown(ours)


def test_labels_are_all_given() -> None:
    tallies = Tallies("a_calls_total", "Calls.", ["route", "code"], CollectorRegistry())
    with pytest.raises(ValueError, match="route, code"):
        tallies.labels("proxy")
