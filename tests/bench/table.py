# SPDX-License-Identifier: Apache-2.0
"""The table: as text after a run, and as Markdown in docs/performance.md (`make bench-table`).

The page's table stands between two marks and is never edited by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from bench import goals
from bench.options import ROOT
from bench.results import FILE, Results, Row

PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- table: make bench-table -->", "<!-- end of table -->"

# Column of a row, its heading, and how its number is written.
_LOAD = (
    ("path", "path", "{}"),
    ("body", "body", "{}"),
    ("connections", "conns", "{}"),
    ("rate", "req/s", "{:.0f}"),
    ("mb_per_s", "MB/s", "{:.0f}"),
    ("p50", "p50 ms", "{:.2f}"),
    ("p90", "p90 ms", "{:.2f}"),
    ("p99", "p99 ms", "{:.2f}"),
    ("cpu_server_us", "server CPU us/req", "{:.0f}"),
    ("cpu_agent_us", "agent CPU us/req", "{:.0f}"),
)
BUSY = 4
"""Load average for each processor, before a scenario, above which others kept the machine busy: ours is less."""

Column = tuple[str, str, str]


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns of a scenario's rows: those of a load, or whatever the rows have."""
    if rows and "cpu_server_us" in rows[0]:
        return list(_LOAD)
    names = dict.fromkeys(name for row in rows for name in row if not isinstance(row[name], dict))
    return [(name, name.replace("_", " "), "{}") for name in names]


def cells(row: Row, shown: Sequence[Column]) -> list[str]:
    """A row as text."""
    out = []
    for name, _unused, form in shown:
        value = row.get(name)
        if value is None or (name.startswith("cpu_") and not value):
            out.append("")
        elif isinstance(value, float) and form == "{}":
            out.append(f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}")
        else:
            out.append(form.format(value))
    return out


def goal_rows(found: Results) -> list[list[str]]:
    """Each goal: name, value, what is wanted, whether it was met and of which run."""
    assessed = found.goals()
    out = []
    for goal in goals.GOALS:
        scenario = found.scenarios.get(goal.scenario) or found.scenarios.get("quick", {})
        value = assessed[goal.name]["value"]
        if scenario.get("error"):
            state, shown = "ERROR", "-"
        elif value is None:
            state, shown = "not run", "-"
        else:
            state, shown = "met" if assessed[goal.name]["met"] else "MISSED", f"{value:.3g}"
        out.append([goal.name, shown, goal.wanted, goal.unit, state, goal.about])
    return out


def other_rows(found: Results) -> list[list[str]]:
    """The same figures of other roads of ours, under a line of headings; empty when none was measured."""
    values: dict[str, dict[str, float]] = {}
    for scenario in found.scenarios.values():
        for road, figures in scenario.get("others", {}).items():
            values.setdefault(road, {}).update(figures)
    lines = [
        [goal.name, *(f"{figures[goal.name]:.3g}" if goal.name in figures else "" for figures in values.values())]
        for goal in goals.GOALS
    ]
    lines = [line for line in lines if any(line[1:])]
    return [["the same for", *values], *lines] if lines else []


GOAL_HEAD = ["goal", "value", "wanted", "unit", "", "what"]


def aligned(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns of text."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    )


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body]]
    return "\n".join(lines)


def text(found: Results, names: Sequence[str]) -> str:
    """What a person sees after a run."""
    out = []
    for name in names:
        scenario = found.scenarios[name]
        out += ["", name]
        if scenario["rows"]:
            shown = columns(scenario["rows"])
            out.append(
                aligned([head for _unused, head, _form in shown], [cells(row, shown) for row in scenario["rows"]])
            )
        if scenario["error"]:
            out.append(f"ERROR: {scenario['error']}")
    quick = [goal.name for goal in goals.GOALS if goal.scenario in ("rates", "bulk")]
    shown_goals = [line for line in goal_rows(found) if "quick" not in names or line[0] in quick]
    out += ["", aligned(GOAL_HEAD, shown_goals)]
    if (others := other_rows(found)) and {"rates", "bulk", "quick"} & set(names):
        out += ["", aligned(others[0], others[1:])]
    return "\n".join(out)


def comparison(found: Results) -> str:
    """QUICK: this tree over the base, one line for each load."""

    def cpu(row: Row) -> float:
        return float(row["cpu_server_us"]) + float(row["cpu_agent_us"])

    out = [""]
    rows = {(row["path"], row["body"], row["connections"]): row for row in found.scenarios["quick"]["rows"]}
    for (path, body, count), row in rows.items():
        base = rows.get(("base", body, count))
        if path == "mooring" and base is not None:
            ratios = {name: row[name] / base[name] for name in ("rate", "p50", "p99")}
            shown = ", ".join(f"{name} {value:.2f}" for name, value in ratios.items())
            out.append(f"this tree / base, {body}, {count} connections: {shown}, CPU {cpu(row) / cpu(base):.2f}")
    return "\n".join(out)


def page(found: Results, machine: dict[str, Any]) -> str:
    """The part of docs/performance.md that is made."""
    out = [BEGIN, "", markdown(GOAL_HEAD, goal_rows(found)), ""]
    if others := other_rows(found):
        out += [markdown(others[0], others[1:]), ""]
    order = [name for name in dict.fromkeys(goal.scenario for goal in goals.GOALS) if name in found.scenarios]
    if any(found.scenarios[name]["load_before"] > BUSY * machine.get("processors", 1) for name in order):
        out += [
            "The machine was busy with other programs before some of these parts: they say more of it than of us.",
            "",
        ]
    for name, scenario in ((name, found.scenarios[name]) for name in order):
        out += [f"### {name}", ""]
        if scenario["error"]:
            out += [f"ERROR: {scenario['error'].splitlines()[0]}", ""]
        if scenario["rows"]:
            shown = columns(scenario["rows"])
            out += [
                markdown([head for _unused, head, _form in shown], [cells(row, shown) for row in scenario["rows"]]),
                "",
            ]
        out += [
            f"Measured {scenario['at']} at commit {scenario['commit']}, {scenario['took_s']:.0f} s, "
            f"load average before it {scenario['load_before']}.",
            "",
        ]
    facts = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in machine.items() if value is not None)
    out += ["Machine: " + facts + ".", "", END]
    return "\n".join(out)


def main() -> int:
    """`make bench-table`."""
    try:
        machine = json.loads(FILE.read_text())["machine"]
        content = PAGE.read_text()
    except OSError as error:
        print(f"bench-table: {error}; run make bench first", file=sys.stderr)
        return 2
    before, mark, rest = content.partition(BEGIN)
    _unused, closing, after = rest.partition(END)
    if not mark or not closing:
        print(f"bench-table: {PAGE} lacks the marks of the table", file=sys.stderr)
        return 2
    PAGE.write_text(before + page(Results(), machine) + after)
    print(f"wrote the table in {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
