# SPDX-License-Identifier: Apache-2.0
"""Each fault of the catalogue, on one running road: nothing hangs, nothing is wrong, nothing acknowledged is lost."""

from __future__ import annotations

import pytest
from testbed.state import Run

from faults.bed import Bed
from faults.catalogue import FAULTS, ON_POSTGRESQL, Fault
from faults.drill import Result, drill
from faults.probe import Probes

from .conftest import LONG

CHOSEN = [fault for fault in FAULTS if fault.quick or LONG]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", CHOSEN, ids=[fault.name for fault in CHOSEN])
def test_fault(fault: Fault, probes: Probes, results: list[Result]) -> None:
    result = drill(probes, fault)
    results.append(result)
    assert result.problems == []


if LONG:  # a second road

    @pytest.mark.timeout(600)
    def test_faults_on_postgresql(testbed_run: Run, results: list[Result]) -> None:
        bed = Bed(testbed_run, postgres=True)
        bed.up()
        probes = Probes(bed)
        probes.start()
        for fault in ON_POSTGRESQL:
            result = drill(probes, fault)
            results.append(result)
            assert result.problems == []
        probes.stop()
