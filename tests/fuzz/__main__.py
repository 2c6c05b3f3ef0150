# SPDX-License-Identifier: Apache-2.0
"""`make fuzz SECONDS=60 [ONLY=a,b] [JOBS=2]`: every target for its share of the time, from the corpus of earlier runs.

Prints executions by target and together, and writes build/fuzz.json. A finding is saved in build/fuzz/findings with the
command that runs it again; the exit status is then 1. `totals` in build/fuzz.json adds up over runs until `make clean`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from fuzz.registry import TARGETS, Target

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "fuzz"
RESULT = ROOT / "build" / "fuzz.json"
ENGINE = ROOT / ".cache" / "fuzz"  # where `make fuzz` installs requirements/fuzz.lock
GUIDED_BY_ORACLE = 0.2  # of the time of a target that has one


def prepare(name: str, target: Target) -> tuple[Path, Path]:
    """The corpus and the dictionary of a target; seeds are written into the corpus when they are not there."""
    corpus = HOME / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        path = corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()
        if not path.exists():
            path.write_bytes(seed)
    words = HOME / f"{name}.dict"
    lines = ["".join(map("\\x{:02x}".format, word)) for word in target.words]
    words.write_text("".join(f'"{line}"\n' for line in lines))
    return corpus, words


def run(name: str, target: Target, seconds: int) -> dict[str, Any]:
    """One target for so many seconds: executions, size of the corpus, and the finding if there is one.

    A target with an oracle spends the first part on finding inputs that take other ways through either reader, and the
    rest on mutations of all that were kept, three times as fast. What is compared is the same in both.
    """
    if not target.oracle:
        return _run(name, target, seconds, oracle=False)
    first = _run(name, target, max(1, int(seconds * GUIDED_BY_ORACLE)), oracle=True)
    if "finding" in first:
        return first
    rest = _run(name, target, max(1, seconds - int(seconds * GUIDED_BY_ORACLE)), oracle=False)
    return rest | {key: round(first[key] + rest[key], 1) for key in ("executions", "seconds")}


def _run(name: str, target: Target, seconds: int, oracle: bool) -> dict[str, Any]:
    corpus, words = prepare(name, target)
    findings = HOME / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    log = HOME / f"{name}.log"
    options = [
        str(corpus),
        *([f"-dict={words}"] if target.words else []),
        f"-max_total_time={seconds}",
        f"-max_len={target.max_len}",
        f"-artifact_prefix={findings}/{name}-",
        "-timeout=20",
        "-rss_limit_mb=1500",
        "-print_final_stats=1",
        "-len_control=20",
        "-keep_seed=1",  # inputs that only the branches of the oracle tell apart stay in the corpus
    ]
    path = os.pathsep.join([str(ENGINE), *filter(None, [os.environ.get("PYTHONPATH")])])
    begin = time.monotonic()
    with log.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "fuzz.engine", name, *(["--oracle"] if oracle else []), "--", *options],
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            timeout=seconds * 3 + 120,
        )
    text = log.read_text(errors="replace")
    match = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text)
    executed = int(match[-1]) if match else _last_count(text)
    result: dict[str, Any] = {
        "executions": executed,
        "seconds": round(time.monotonic() - begin, 1),
        "corpus": len(list(corpus.iterdir())),
    }
    if done.returncode:
        saved = re.search(r"Test unit written to (\S+)", text)
        file = os.path.relpath(saved[1], ROOT) if saved else ""
        result["finding"] = {
            "file": file,
            "says": _says(text),
            "again": f"PYTHONPATH=tests .venv/bin/python -m fuzz.engine {name} {file or 'FILE'}",
        }
    return result


def _last_count(text: str) -> int:
    counts = re.findall(r"^#(\d+)\s", text, re.MULTILINE)
    return int(counts[-1]) if counts else 0


def _says(text: str) -> str:
    lines = re.findall(r"^[\w.]*(?:Error|Disagreement|Exception|Trust|Refused|Message)\b.*", text, re.MULTILINE)
    return str(lines[0] if lines else text.strip()[-300:])[:600]


def _tell(name: str, result: dict[str, Any]) -> None:
    """One line for people, and two more for a finding."""
    print(
        f"{name:16} {result['executions']:>10,} executions  {result['seconds']:>6} s  corpus {result['corpus']:>5}",
        flush=True,
    )
    if "finding" in result:
        print(f"  FINDING {result['finding']['says']}\n  again: {result['finding']['again']}", flush=True)


def _write(results: dict[str, Any], totals: dict[str, int]) -> None:
    """build/fuzz.json, anew after each target, so that a run that is broken off leaves what it has."""
    written = {
        "targets": results,
        "executions": sum(result["executions"] for result in results.values()),
        "findings": [name for name, result in results.items() if "finding" in result],
        "totals": totals,
        "executions_over_all_runs": sum(totals.values()),
    }
    RESULT.write_text(json.dumps(written, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--only", default="", help="names of targets, with commas between")
    parser.add_argument("--jobs", type=int, default=1, help="targets side by side")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name] or list(TARGETS)
    unknown = set(names) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    share = max(1, options.seconds * options.jobs // len(names))
    HOME.mkdir(parents=True, exist_ok=True)
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    totals: dict[str, int] = before.get("totals", {})
    results: dict[str, Any] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = {pool.submit(run, name, TARGETS[name], share): name for name in names}
        for done in as_completed(runs):
            name = runs[done]
            result = results[name] = done.result()
            totals[name] = totals.get(name, 0) + result["executions"]
            _tell(name, result)
            _write(results, totals)
    found = [name for name, result in results.items() if "finding" in result]
    executed = sum(r["executions"] for r in results.values())
    print(f"{'all':16} {executed:>10,} executions; over all runs {sum(totals.values()):,}")
    print(f"{len(found)} findings" + (f": {', '.join(found)}" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
