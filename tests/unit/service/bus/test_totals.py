# SPDX-License-Identifier: Apache-2.0
"""Metrics of several processes on one page."""

from __future__ import annotations

from mooring.bus.messages import Family
from mooring.bus.totals import Totals


def requests(count: float, born: float = 5.0) -> list[Family]:
    return [
        Family(
            "mooring_x",
            "counter",
            "Xs.",
            [("mooring_x_total", {"code": "200"}, count), ("mooring_x_created", {}, born)],
        ),
        Family("mooring_open", "gauge", "Open.", [("mooring_open", {}, count)]),
        Family("mooring_build", "info", "Build.", [("mooring_build_info", {"version": "1"}, 1.0)]),
        Family("process_threads", "gauge", "Threads.", [("process_threads", {}, 3.0)]),
    ]


def test_counters_and_gauges_are_added_and_processes_keep_apart() -> None:
    text = Totals().render({"worker-0": requests(2, 7.0), "worker-1": requests(3)}).decode()
    assert 'mooring_x_total{code="200"} 5.0' in text
    assert "mooring_x_created 5.0" in text
    assert "mooring_open 5.0" in text
    assert 'mooring_build_info{version="1"} 1.0' in text
    assert 'process_threads{process="worker-0"} 3.0' in text
    assert 'process_threads{process="worker-1"} 3.0' in text


def test_a_counter_never_goes_back_when_a_process_ends() -> None:
    totals = Totals()
    totals.heard("i-1", requests(4))
    totals.ended("i-1")
    totals.ended("i-never-heard-of")
    text = totals.render({"worker-0": requests(1)}).decode()
    assert 'mooring_x_total{code="200"} 5.0' in text
    assert "mooring_open 1.0" in text
