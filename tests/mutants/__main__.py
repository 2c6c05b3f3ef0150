# SPDX-License-Identifier: Apache-2.0
"""Switch each guard off in turn and see that a test notices: `python -m mutants [--only NAME,...] [--jobs 2]`.

ONLY takes names, or a class as a number. `--changed COMMIT` takes the rows whose own text, whose source or whose tests
are not as they were then; a whole run also sees what a change elsewhere did to a guard. `--again` goes on with a run
that was broken off (or ended by `--minutes`): what was noticed counts as long as not a byte of the service, of the
tests and of the row has changed since.
`build/mutants.json` has the lists `noticed` (with the tests that did), `survivors` (all tests passed: the guard is not
proved) and `broken` (nothing was asserted: a set-up failed, or the run came to its deadline). The exit code is 0 only
when the last two are empty; 3 when guards are left.

The clusters are not what is tested: each lane keeps its two for all its runs, and only server and agents start anew.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.controlplane import ControlPlane
from testbed.state import Run

from mutants.changed import changed
from mutants.guard import ROOT, SOURCE, Guard, problems
from mutants.table import GUARDS
from mutants.warm import PLUGINS, Warm

DEADLINE = 240.0  # seconds for the tests of one guard
OUT = ROOT / "build" / "mutants"
RESULT = ROOT / "build" / "mutants.json"
LISTS = {"survivor": "survivors", "noticed": "noticed", "broken": "broken"}  # verdicts, and their lists in the result
_said = threading.Lock()


@dataclass
class Outcome:
    guard: Guard
    verdict: str  # noticed, survivor or broken
    seconds: float
    tests: list[str] = field(default_factory=list)
    why: str = ""


def overlay(guard: Guard, folder: Path) -> Path:
    """A copy of the package with the guard switched off; returns what goes in front of the import path."""
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "src" / "mooring"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in guard.edits:
        path = package / edit.file
        path.write_text(path.read_text().replace(edit.old, edit.new))
    return folder / "src"


def judge(guard: Guard, code: int | None, report: Path, seconds: float) -> Outcome:
    """What the run of a guard's tests says. Only a failed test proves anything; an error is not a failure."""
    if code is None:
        return Outcome(guard, "broken", seconds, why=f"no end within {DEADLINE:.0f} s")
    try:
        cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 our own file
    except (OSError, ET.ParseError):
        return Outcome(guard, "broken", seconds, why=f"pytest ended with {code} and no report")
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("failure") is not None]
    errors = [f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("error") is not None]
    if failed:
        return Outcome(guard, "noticed", seconds, failed)
    if errors or code != 0 or not cases:
        return Outcome(guard, "broken", seconds, errors, why=f"pytest ended with {code}, no test failed")
    return Outcome(guard, "survivor", seconds, why=f"{len(cases)} tests passed")


class Lanes:
    """A pair of control planes for each run that goes on at a time; made at first use."""

    def __init__(self, jobs: int) -> None:
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(jobs):
            self._free.put(number)
        self._run = Run.create()
        self._made: dict[int, Path] = {}
        self._warm: dict[int, Warm] = {}

    def close(self) -> None:
        for warm in self._warm.values():
            warm.close()
        self._run.teardown()

    def __call__(self, guard: Guard) -> Outcome:
        """Run the tests of one guard in a free lane."""
        number = self._free.get()
        try:
            if number not in self._warm:
                self._warm[number] = Warm(ROOT, {**os.environ, "PYTHONPATH": str(ROOT / "tests")})
            planes = self._planes(number) if guard.on_the_road and not guard.own_clusters else None
            return run(guard, planes, self._warm[number])
        finally:
            self._free.put(number)

    def _planes(self, number: int) -> Path:
        if number not in self._made:
            names = [f"lane{number}-{name}" for name in "ab"]
            planes = [ControlPlane(name, audit=True, run=self._run).up() for name in names]
            path = OUT / f"planes{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([plane.facts() for plane in planes]))
            self._made[number] = path
        return self._made[number]


def run(guard: Guard, planes: Path | None, warm: Warm) -> Outcome:
    """The tests of one guard, against a copy without it; `planes` are the clusters of the attack book's road."""
    folder = OUT / guard.name
    source = overlay(guard, folder)
    report, log = folder / "report.xml", folder / "pytest.log"
    report.unlink(missing_ok=True)
    words = ["-x", "-q", "--assert=plain", f"--junitxml={report}", "--timeout=120", "-o", f"pythonpath=tests {source}"]
    words += ["-o", "addopts=--strict-markers --import-mode=importlib", "-o", "cache_dir=", "-p", "no:cacheprovider"]
    words += [word for plugin in PLUGINS for word in ("-p", plugin)]
    words += [*(["-k", guard.keyword] if guard.keyword else []), *guard.tests]
    # In front of everything, so that the processes that the tests start run the copy too.
    path = [source, ROOT / "tests"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment["MOORING_ATTACKED_PLANES"] = str(planes or "")
    begin = time.monotonic()
    code = warm.run(words, path, environment, log, DEADLINE)
    outcome = judge(guard, code, report, time.monotonic() - begin)
    shutil.rmtree(folder / "src", ignore_errors=True)
    return outcome


def fingerprint() -> str:
    """Of all that verdicts rest on but the rows themselves: the service, the tests, and what they run with."""
    digest = hashlib.sha256()
    tests = [ROOT / "tests" / name for name in ("security", "support", "testbed", "unit/service")]
    for folder in (SOURCE, *tests, ROOT / "plugins", ROOT / "requirements"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".lock", ".yml") and path.is_file():
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def of(guard: Guard, base: str) -> str:
    """What the verdict on a guard is of: the row, and the fingerprint."""
    return hashlib.sha256(f"{base}{guard}".encode()).hexdigest()[:20]


def last_run(*lists: str) -> list[dict[str, Any]]:
    """Rows of the last result."""
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    return [row for name in lists for row in before.get(name, ())]


def keep(it: Outcome, base: str) -> None:
    """Write one verdict down at once, so that a run that is killed leaves what it has. Two runs may do so in turn."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    with RESULT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = {name: [row for row in last_run(name) if row["name"] != it.guard.name] for name in LISTS.values()}
        before[LISTS[it.verdict]].append(row_of(it, base))
        scratch = RESULT.with_suffix(".new")
        scratch.write_text(json.dumps(before, indent=1) + "\n")
        scratch.replace(RESULT)


def row_of(it: Outcome, base: str) -> dict[str, Any]:
    """An outcome as it stands in the result."""
    row = {"name": it.guard.name, "class": it.guard.attack, "files": [edit.file for edit in it.guard.edits]}
    return {**row, "tests": it.tests, "why": it.why, "seconds": round(it.seconds, 1), "of": of(it.guard, base)}


def known(base: str) -> list[Outcome]:
    """What an earlier run has seen noticed, of the same bytes."""
    rows = last_run("noticed")
    guards = {guard.name: guard for guard in GUARDS}
    return [
        Outcome(guards[row["name"]], "noticed", row["seconds"], row["tests"])
        for row in rows
        if row["name"] in guards and row.get("of") == of(guards[row["name"]], base)
    ]


def say(text: str) -> None:
    with _said:
        print(text, flush=True)


def chosen(only: str, where: str = "", since: str = "") -> list[Guard]:
    """Guards by name or class, of the kind `where` (unit or road; empty: both), that have changed since a commit."""
    wanted = {word.strip() for word in only.split(",") if word.strip()}
    guards = [guard for guard in GUARDS if not wanted or guard.name in wanted or str(guard.attack) in wanted]
    if where:
        guards = [guard for guard in guards if guard.on_the_road == (where == "road")]
    return changed(guards, since) if since else guards


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mutants")
    parser.add_argument("--only", default="", help="names of guards, or numbers of classes, separated by commas")
    parser.add_argument("--where", default="", choices=("", "unit", "road"), help="only those that unit tests notice, "
                        "or only those that need clusters")  # fmt: skip
    parser.add_argument("--changed", default="", metavar="COMMIT", help="only those whose row, source or tests are not "
                        "as they were at a commit")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs side by side")
    parser.add_argument("--again", action="store_true", help="go on with the last run")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin with no other guard after so long")
    options = parser.parse_args(arguments)
    base = fingerprint()
    outcomes = known(base) if options.again else []
    done = {it.guard.name for it in outcomes}
    guards = [guard for guard in chosen(options.only, options.where, options.changed) if guard.name not in done]
    again = {row["name"] for row in last_run("survivors", "broken")}
    guards.sort(key=lambda guard: guard.name in again)  # what has no verdict yet goes first
    if done and not guards:
        return report(outcomes, 0.0, base)
    if not guards and options.changed:
        say(f"no guard has changed since {options.changed}")
        return 0
    if not guards:
        parser.error(f"no guard is called {options.only!r}")
    rotten = [problem for guard in guards for problem in problems(guard)]
    if rotten:
        print(*rotten, sep="\n", file=sys.stderr)
        return 2
    begin = time.monotonic()
    before = len(outcomes)
    say(f"{len(guards)} guards, {options.jobs} side by side; the log of each stands in {OUT.relative_to(ROOT)}/NAME/")
    lanes = Lanes(options.jobs)

    def judged(guard: Guard) -> Outcome | None:
        late = options.minutes and time.monotonic() - begin > options.minutes * 60
        return None if late else lanes(guard)

    signal.signal(signal.SIGTERM, lambda *_unused: sys.exit(1))  # ends through `finally`
    pool = ThreadPoolExecutor(options.jobs)
    try:
        for future in as_completed([pool.submit(judged, guard) for guard in guards]):
            it = future.result()
            if it is None:
                continue
            outcomes.append(it)
            keep(it, base)
            what = it.tests[0].rpartition(".")[2] if it.verdict == "noticed" else it.why
            say(f"[{len(outcomes):3}/{before + len(guards)} {time.monotonic() - begin:5.0f} s] "
                f"{it.verdict:8} {it.guard.attack:2} {it.guard.name:34} {it.seconds:4.0f} s  {what}")  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)
        lanes.close()
    left = before + len(guards) - len(outcomes)
    if options.again:  # another run of other guards may have ended meanwhile
        judged_here = {it.guard.name for it in outcomes}
        outcomes += [it for it in known(base) if it.guard.name not in judged_here]
    if left:
        say(f"{left} guards are left; go on with --again")
    code = report(outcomes, time.monotonic() - begin, base)
    return 3 if left else code


def report(outcomes: list[Outcome], seconds: float, base: str) -> int:
    """Write the result, print the summary; the exit code."""
    outcomes.sort(key=lambda it: (it.guard.attack, it.guard.name))
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS.values()}
    for it in outcomes:
        lists[LISTS[it.verdict]].append(row_of(it, base))
    classes = sorted({it.guard.attack for it in outcomes if it.verdict == "noticed"})
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({**lists, "classes": classes, "seconds": round(seconds, 1)}, indent=1) + "\n")
    print()
    for name in ("survivors", "broken"):
        for row in lists[name]:
            print(f"{name}: {row['name']} (class {row['class']}): {row['why']}")
    print(f"{len(lists['noticed'])} of {len(outcomes)} guards noticed, {len(lists['survivors'])} survivors, "
          f"{len(lists['broken'])} broken, classes {', '.join(map(str, classes))}, in {seconds:.0f} s")  # fmt: skip
    return 1 if lists["survivors"] or lists["broken"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
