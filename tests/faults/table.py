# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/faults.md from what `make faults` measured: `python -m faults.table`.

What clients saw is put into words from the outcomes themselves. It must not round a loss away: a row with a problem is
shown as such.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faults.catalogue import FAULTS, ON_POSTGRESQL

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS = ROOT / "docs" / "faults.md", ROOT / "build" / "faults.json"
BEGIN, END = "<!-- table: make faults-table -->", "<!-- end of table -->"
WORDS = {"write": "writes", "read": "reads", "rest": "REST", "watch": "watches", "talk": "upgraded"}


def seen(row: dict[str, Any]) -> str:
    """What the clients saw, in words: what each kind of client met beside what worked."""
    by_view: dict[str, list[str]] = {}
    for channel, outcomes in row["seen"].items():
        bad = sorted(kind for kind in outcomes if kind != "ok")
        view = ", ".join("connection ended" if kind == "closed" else kind for kind in bad) or "nothing"
        by_view.setdefault(view, []).append(WORDS[channel])
    if set(by_view) == {"nothing"}:
        return "nothing"
    return "; ".join(f"{', '.join(channels)}: {view}" for view, channels in by_view.items())


def table(rows: list[dict[str, Any]]) -> str:
    """The table, in the order of the catalogue."""
    by_name = {row["name"]: row for row in rows}
    lines = [
        "| fault | clients see | bad news after | works again after | goal | lost, wrong or hung |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for fault in (*FAULTS, *ON_POSTGRESQL):
        row = by_name.get(fault.name)
        if row is None:
            lines.append(f"| {fault.title} | not measured (`make faults LONG=1`) | | | {fault.bound:.0f} s | |")
            continue
        wrong = "none" if not row["problems"] else "; ".join(row["problems"]).replace("|", "/")
        news = f"{row['longest']:.1f} s" if row.get("noticed") is None else f"{row['noticed']:.1f} s, unasked"
        cells = [fault.title, seen(row), news, f"{row['recovery']:.1f} s"]
        lines.append(f"| {' | '.join(cells)} | {fault.bound:.0f} s | {wrong} |")
    return "\n".join(lines)


def main() -> None:
    before, _begin, rest = PAGE.read_text().partition(BEGIN)
    _old, _end, after = rest.partition(END)
    text = table(json.loads(RESULTS.read_text()))
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
