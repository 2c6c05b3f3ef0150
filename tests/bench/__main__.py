# SPDX-License-Identifier: Apache-2.0
"""`make bench`: run the scenarios in turn, print the table, write results.json and the plot.

Ends with 1 when a scenario failed: a figure that could not be measured is an error in the table, never a row that is
not there. A goal that was missed is no failure of the bench.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import builds, options, plot, results, table
from bench.context import Bench
from bench.options import OUT, Options
from bench.processes import Failed
from bench.scenarios import beside, direct, execs, idle, rates, soak, tokenreview, tunnels, watches
from bench.upstream import Trust

SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "rates": rates.run,
    "bulk": rates.run_bulk,
    "beside": beside.run,
    "exec": execs.run,
    "tunnels": tunnels.run,
    "reconnect": tunnels.run_reconnect,
    "idle": idle.run,
    "watches": watches.run,
    "tokenreview": tokenreview.run,
    "direct": direct.run,
    "soak": soak.run,
}
QUICK = "quick"


def chosen(asked: Options) -> list[str]:
    """The scenarios of a run."""
    if asked.only:
        return list(asked.only)
    if asked.quick:
        return [QUICK]
    return [name for name in SCENARIOS if name != "soak" or asked.soak_minutes]


def prepare(asked: Options) -> tuple[Path, builds.Build, list[builds.Build]]:
    """Programs and environments. Raises Failed."""
    programs = builds.go_programs()
    build = builds.service("mooring", asked.source)
    more = []
    if asked.quick:
        commit = builds.base_commit(asked.base, asked.source)
        print(f"[bench] base is {commit[:12]}", flush=True)
        more.append(builds.service("base", builds.worktree(commit)))
    if asked.compiled:
        more.append(builds.service("compiled", asked.source, compiled=True))
    return programs, build, more


def run(name: str, asked: Options, made: tuple[Path, builds.Build, list[builds.Build]], found: results.Results) -> bool:
    """One scenario; says whether it worked."""
    facts = results.run_facts(asked)
    folder = Path(tempfile.mkdtemp(prefix="mooring-bench-"))
    programs, build, more = made
    begin, error = time.monotonic(), ""
    print(f"[bench] {name}", flush=True)
    bench = Bench(asked, programs, build, more, folder, Trust.make(folder / "pki"))
    try:
        (rates.run_quick if name == QUICK else SCENARIOS[name])(bench)
    except Exception as problem:
        if not isinstance(problem, Failed):
            traceback.print_exc()
        error = str(problem).strip() or type(problem).__name__
    finally:
        logs = OUT / "logs" / name
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        for log in folder.rglob("*.log"):
            if log.name != "audit.log":
                shutil.copy(log, logs / f"{log.parent.name}-{log.name}")
        shutil.rmtree(folder, ignore_errors=True)
    facts["took_s"] = round(time.monotonic() - begin, 1)
    values, others = ({}, {}) if error else (bench.values, bench.others)
    found.put(name, rows=bench.rows, values=values, others=others, error=error, facts=facts)
    print(f"[bench] {name}: {f'FAILED: {error}' if error else 'done'} in {facts['took_s']:.0f} s", flush=True)
    return not error


def main() -> int:
    """The command."""
    try:
        asked = options.read(os.environ, list(SCENARIOS))
        made = prepare(asked)
    except (options.BadOption, Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    # A quick run is for one pair of eyes: it leaves the figures of the last whole run alone.
    found = results.Results(OUT / "quick.json", afresh=True) if asked.quick else results.Results()
    names = chosen(asked)
    machine = results.machine(made[1].python)
    worked = []
    for name in names:
        worked.append(run(name, asked, made, found))
        found.write(machine, asked)  # each time, so that a run that is broken off leaves what it had
    print(table.text(found, names))
    if asked.quick:
        print(table.comparison(found))
    else:
        plot.draw(found, OUT)
    print(f"[bench] {found.file}", flush=True)
    return 0 if all(worked) else 1


if __name__ == "__main__":
    sys.exit(main())
