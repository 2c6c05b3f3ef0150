# SPDX-License-Identifier: Apache-2.0
"""Many faults at random, one after the other: `python -m faults.soak --seed 1 --minutes 20`.

The plan follows from the seed alone: the same seed gives the same faults with the same lengths in the same order,
however fast the machine is; the minutes say only how far it goes. After each fault all must be well again and nothing
acknowledged may be lost. What it did goes to build/soak-<seed>.json as it happens; it ends with 1 at the first problem.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from testbed.state import Run

from faults.bed import Bed
from faults.catalogue import FAULTS, Fault
from faults.drill import drill
from faults.probe import Probes

OUTPUT = Path(__file__).resolve().parents[2] / "build"
MOST_HOLD = 60.0  # seconds; a fault that only makes sense longer is not for a soak


def plan(seed: int) -> Iterator[tuple[Fault, float]]:
    """Faults and how long each lasts, without end."""
    chance = random.Random(seed)
    able = [fault for fault in FAULTS if fault.hold <= MOST_HOLD]
    while True:
        fault = chance.choice(able)
        yield fault, round(chance.uniform(min(fault.hold, 0.5), max(fault.hold, fault.hold_max)), 1)


def soak(seed: int, minutes: float) -> int:
    """Run it; returns the exit code."""
    log = OUTPUT / f"soak-{seed}.json"
    OUTPUT.mkdir(exist_ok=True)
    register = Run.create()
    done: list[dict[str, object]] = []
    try:
        bed = Bed(register, seed)
        bed.up()
        probes = Probes(bed)
        probes.start()
        began = time.monotonic()
        for number, (fault, hold) in enumerate(plan(seed), 1):
            if time.monotonic() - began >= minutes * 60:
                break
            try:
                result = drill(probes, fault, hold)
                problems, row = result.problems, result.as_json()
            except AssertionError as error:
                problems, row = [str(error)], {"name": fault.name, "hold": hold, "problems": [str(error)]}
            done.append({"number": number, "at": round(time.monotonic() - began, 1), **row})
            log.write_text(json.dumps({"seed": seed, "minutes": minutes, "faults": done}, indent=1) + "\n")
            again = f"again after {row['recovery']} s" if "recovery" in row else "not again"
            print(
                f"[{time.monotonic() - began:6.0f} s] {number:3} {fault.name:18} for {hold:5.1f} s: {again}", flush=True
            )
            for problem in problems:
                print(f"    {problem}", flush=True)
            if problems:
                return 1
        probes.stop()
        write, watch = probes.write, probes.watch
        print(
            f"seed {seed}: {len(done)} faults, "
            f"{write.number} writes, {len(write.acknowledged)} acknowledged, none lost; "
            f"{len(watch.seen)} watch events over {len(watch.request_ids)} watches, none missing or twice; "
            f"{len(probes.rest.acknowledged)} groups, none lost"
        )
        return 0
    finally:
        register.teardown()


def main() -> None:
    parser = argparse.ArgumentParser(description="Faults at random, reproducible by the seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--plan", type=int, default=0, help="only print so many faults of the plan")
    words = parser.parse_args()
    if words.plan:
        for (fault, hold), _unused in zip(plan(words.seed), range(words.plan), strict=False):
            print(f"{fault.name} {hold}")
        return
    sys.exit(soak(words.seed, words.minutes))


if __name__ == "__main__":
    main()
