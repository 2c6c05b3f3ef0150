# SPDX-License-Identifier: Apache-2.0
"""The bench's arithmetic and what it reads: a wrong figure is worse than none."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import builds, goals, options, processes, stats, table, wrk
from bench.processes import Failed
from bench.results import Results


def test_a_ratio_pairs_what_was_measured_in_one_round() -> None:
    # The machine became three times slower in the second round: the ratio of medians would not notice, the sum would.
    assert stats.paired_ratio([200, 60, 190], [100, 30, 100]) == 2.0
    with pytest.raises(ValueError, match="beside"):
        stats.paired_ratio([1, 2], [1])
    with pytest.raises(ValueError, match="nothing"):
        stats.paired_ratio([1], [0])


def test_no_measurement_is_not_a_zero() -> None:
    for call in (stats.median, lambda values: stats.percentile(values, 0.5)):
        with pytest.raises(ValueError, match="no measurement"):
            call([])


def test_percentiles_are_values_that_occurred() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [stats.percentile(values, part) for part in (0, 0.5, 0.81, 1)] == [1, 3, 5, 5]


def test_growth_is_told_from_warming_up() -> None:
    warm = [10.0] * 20
    assert stats.growth(warm + [50.0] * 80) == 1.0
    assert stats.growth(warm + [50.0 + i for i in range(80)]) > 1.5
    with pytest.raises(ValueError, match="too few"):
        stats.growth([1.0] * 6)


def test_a_goal_that_was_not_measured_is_not_met() -> None:
    found = goals.assess({"watch_events_lost": 0, "exec_per_s": 499.9})
    assert list(found) == [
        "cpu_per_request_ratio", "p50_c1_ratio", "added_latency_ms", "throughput_c32_ratio", "bulk_ratio",
        "p99_c32_ratio", "small_beside_bulk_ms", "exec_per_s", "idle_tunnel_kb", "reconnect_500_s",
        "agent_idle_rss_mb", "agent_idle_mb_per_day", "watch_events_lost", "tokenreview_p99_ms", "tokenreview_rss_mb",
        "tokenreview_start_s", "direct_added_ms", "soak_rss_growth_ratio",
    ]  # fmt: skip
    assert found["watch_events_lost"] == {"value": 0, "goal": 0, "unit": "events", "met": True}
    assert found["exec_per_s"]["met"] is False
    assert found["bulk_ratio"] == {"value": None, "goal": 1.2, "unit": "x peer", "met": False}
    with pytest.raises(KeyError):
        goals.assess({"latency": 1})


def test_a_scenario_that_failed_shows_and_gives_no_figure(tmp_path: Path) -> None:
    found = Results(tmp_path / "results.json")
    facts = {"at": "now", "commit": "c", "load_before": 0.1, "took_s": 1.0}
    found.put("exec", rows=[], values={"exec_per_s": 900.0}, error="the peer is missing", facts=facts)
    assert found.goals()["exec_per_s"]["value"] is None
    assert "ERROR: the peer is missing" in table.text(found, ["exec"])
    assert next(row for row in table.goal_rows(found) if row[0] == "exec_per_s")[4] == "ERROR"
    assert "ERROR: the peer is missing" in table.page(found, {})


def test_other_builds_stand_beside_the_goals_and_are_none(tmp_path: Path) -> None:
    found = Results(tmp_path / "results.json", afresh=True)
    facts = {"at": "now", "commit": "c", "load_before": 0.1, "took_s": 1.0}
    found.put("exec", rows=[], values={"exec_per_s": 700.0}, error="", facts=facts)
    assert table.other_rows(found) == []
    assert "the same for" not in table.page(found, {})
    others = {"compiled": {"throughput_c32_ratio": 1.25}, "mooring-1": {"throughput_c32_ratio": 0.9}}
    found.put("rates", rows=[], values={"throughput_c32_ratio": 1.0}, others=others, error="", facts=facts)
    found.put("bulk", rows=[], values={}, others={"compiled": {"bulk_ratio": 1.5}}, error="", facts=facts)
    assert table.other_rows(found) == [
        ["the same for", "compiled", "mooring-1"],
        ["throughput_c32_ratio", "1.25", "0.9"],
        ["bulk_ratio", "1.5", ""],
    ]
    assert found.goals()["throughput_c32_ratio"] == {"value": 1.0, "goal": 1.2, "unit": "x peer", "met": False}
    assert "| throughput_c32_ratio | 1.25 | 0.9 |" in table.page(found, {})
    assert "the same for" in table.text(found, ["rates"])


def test_wrk_output_is_read_or_refused() -> None:
    load = wrk.parse(
        'Running 3s test\nBENCH {"requests":300,"seconds":3.0,"bytes":3000000,"errors":0,"latency":{"50":1.5}}\n'
    )
    assert (load.rate, load.megabytes, load.latency["50"]) == (100.0, 1.0, 1.5)
    for output in ("", 'BENCH {"requests":0,"seconds":3.0,"bytes":0,"errors":9,"latency":{}}'):
        with pytest.raises(Failed):
            wrk.parse(output)


def test_proc_is_read_as_the_manual_says() -> None:
    # A name may hold blanks and parentheses; utime, stime, cutime and cstime are fields 14 to 17.
    ticks = processes.TICKS
    stat = f"7 (a) b)) S 1 7 7 0 -1 4194304 100 0 0 0 {2 * ticks} {ticks} {3 * ticks} {4 * ticks} 20 0 1 0"
    assert processes.cpu_of(stat) == 10.0
    assert processes.memory_of("00400000-7fff [rollup]\nRss:   2048 kB\nPss:  1024 kB\nPss_Anon: 1 kB\n") == {
        "rss": 2048 * 1024.0,
        "pss": 1024 * 1024.0,
    }


def test_options_are_read_or_refused() -> None:
    asked = options.read({"ONLY": "rates, exec", "ROUNDS": "5", "SOAK": "0.5"}, ["rates", "exec"])
    assert (asked.only, asked.rounds, asked.soak_minutes, asked.quick) == (("rates", "exec"), 5, 0.5, False)
    for wrong in ({"ONLY": "rate"}, {"ROUNDS": "many"}, {"SOAK": "-1"}, {"SOURCE": "/nowhere"}):
        with pytest.raises(options.BadOption):
            options.read(wrong, ["rates"])


def test_another_source_makes_another_program(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text("package main")
    before = builds.digest(tmp_path / "main.go", "go1.26")
    (tmp_path / "main.go").write_text("package main // changed")
    assert before != builds.digest(tmp_path / "main.go", "go1.26")
