# SPDX-License-Identifier: Apache-2.0
"""The bed and its probes, made once for all faults; LONG=1 takes those in that last minutes; results go to build/."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.state import Run

from faults.bed import Bed
from faults.drill import Result
from faults.probe import Probes

RESULTS = Path(__file__).resolve().parents[2] / "build" / "faults.json"
LONG = os.environ.get("LONG", "") not in ("", "0")


@pytest.fixture(scope="session")
def bed(testbed_run: Run) -> Bed:
    it = Bed(testbed_run)
    it.up()
    return it


@pytest.fixture(scope="session")
def probes(bed: Bed) -> Iterator[Probes]:
    them = Probes(bed)
    them.start()
    yield them
    them.stop()


@pytest.fixture(scope="session")
def results() -> Iterator[list[Result]]:
    """What the drills gave; those of an earlier run stay for faults that this run left out."""
    them: list[Result] = []
    yield them
    try:
        before = {row["name"]: row for row in json.loads(RESULTS.read_text())}
    except (OSError, ValueError):
        before = {}
    before.update({result.name: result.as_json() for result in them})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(list(before.values()), indent=1) + "\n")
