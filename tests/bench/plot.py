# SPDX-License-Identifier: Apache-2.0
"""The plot of the rates: latency distribution at 32 connections, and throughput by the number of connections."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from bench.results import Results

mpl.use("Agg")
import matplotlib.pyplot as plt

CONNECTIONS = 32
NAME = "rates.png"


def draw(found: Results, folder: Path) -> Path | None:
    """Write the plot, if rates were measured; returns its path."""
    scenario = found.scenarios.get("rates", {})
    rows = scenario.get("rows", [])
    if not rows or scenario.get("error"):
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for path in dict.fromkeys(row["path"] for row in rows):
        mine = [row for row in rows if row["path"] == path]
        for row in mine:
            if row["connections"] == CONNECTIONS:
                points = sorted((float(p), value) for p, value in row["latency"].items() if float(p) < 100)
                # Distance from the 100th percentile on a logarithmic scale, so that the tail can be seen.
                left.plot(
                    [100 / (100 - p) for p, _unused in points],
                    [value for _unused, value in points],
                    marker=".",
                    label=path,
                )
        right.plot([row["connections"] for row in mine], [row["rate"] for row in mine], marker="o", label=path)
    left.set(
        xscale="log", yscale="log", xlabel="percentile", ylabel="ms", title=f"Latency, {CONNECTIONS} connections, 3 KB"
    )
    left.set_xticks([100 / (100 - p) for p in (0, 50, 90, 99, 99.9)], ["0", "50", "90", "99", "99.9"])
    right.set(xscale="log", xlabel="connections", ylabel="requests per second", title="Throughput, 3 KB")
    ticks = sorted({row["connections"] for row in rows})
    right.set_xticks(ticks, [str(tick) for tick in ticks])
    right.set_ylim(bottom=0)
    right.minorticks_off()
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAME
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file
