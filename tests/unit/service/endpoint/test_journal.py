# SPDX-License-Identifier: Apache-2.0
"""What the endpoint did is on disk until the server has it: in order, bounded, each record once, also after kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mooring.endpoint.journal import Batch, Journal
from mooring.lib.errors import MooringError
from support.auditrecords import audit_record as make_record

WIDE = 1 << 30


def record(number: int) -> Any:
    return make_record(path=f"/api/{number}")


def written(journal: Journal, count: int) -> None:
    """Waits until so many lines are in the files."""
    until(lambda: sum(p.read_bytes().count(b"\n") for p in journal.folder.glob("*.log")) >= count)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def paths(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [msgspec.json.decode(line)["path"] for line in batch.lines.splitlines()]


@pytest.fixture
def made() -> Iterator[list[Journal]]:
    journals: list[Journal] = []
    yield journals
    for journal in journals:
        journal.close()
        journal.shut()


def start(made: list[Journal], folder: Path, *, limit: int = WIDE, part: int = WIDE, required: bool = True) -> Journal:
    journal = Journal(folder, limit=limit, part=part, required=required)
    journal.open()
    journal.start()
    made.append(journal)
    return journal


def stop(made: list[Journal]) -> None:
    journal = made.pop()
    journal.close()
    journal.shut()


def test_records_go_in_order_and_each_once(tmp_path: Path, made: list[Journal]) -> None:
    journal = start(made, tmp_path / "audit")
    assert journal.batch(1000) is None
    for number in range(20):
        journal.record(record(number))
    written(journal, 20)
    seen: list[str] = []
    while (batch := journal.batch(1000)) is not None:
        assert len(batch.lines) <= 1000
        assert batch.offset == journal.taken
        seen += paths(batch)
        journal.took(batch.offset + len(batch.lines))
    assert seen == [f"/api/{number}" for number in range(20)]
    assert journal.waiting() == 0


def test_every_record_says_that_it_came_by_the_endpoint(tmp_path: Path, made: list[Journal]) -> None:
    journal = start(made, tmp_path / "audit")
    journal.record(record(1))
    written(journal, 1)
    batch = journal.batch(1000)
    assert batch is not None
    assert msgspec.json.decode(batch.lines)["via"] == "endpoint"


def test_numbers_go_on_over_parts_and_restarts(tmp_path: Path, made: list[Journal]) -> None:
    journal = start(made, tmp_path / "audit", part=1000)
    name = journal.name
    total = 0
    for number in range(12):
        journal.record(record(number))
        written(journal, number + 1)
        journal.tidy()
        if number % 4 == 3:
            stop(made)
            journal = start(made, tmp_path / "audit", part=1000)
            assert journal.name == name
    assert len(list(journal.folder.glob("?" * 16 + ".log"))) > 1
    seen: list[str] = []
    while (batch := journal.batch(700)) is not None:
        assert batch.offset == total
        total += len(batch.lines)
        seen += paths(batch)
        journal.took(total)
        journal.tidy()
    assert seen == [f"/api/{number}" for number in range(12)]
    assert len(list(journal.folder.glob("*.log"))) <= 2, "what was taken is not kept"
    journal.record(record(99))
    until(lambda: journal.batch(1000) is not None)
    last = journal.batch(1000)
    assert last is not None
    assert last.offset == total
    assert paths(last) == ["/api/99"]


def test_no_record_is_lost_or_doubled_while_it_is_written_cut_and_taken_at_once(
    tmp_path: Path, made: list[Journal]
) -> None:
    journal = start(made, tmp_path / "audit", part=3000)
    count, seen, expected = 3000, [], 0
    writer = threading.Thread(
        target=lambda: [(journal.record(record(n)), time.sleep(0.002) if n % 20 == 0 else None) for n in range(count)]
    )
    writer.start()
    end = time.monotonic() + 30
    while len(seen) < count:
        assert time.monotonic() < end, len(seen)
        journal.tidy()
        batch = journal.batch(2000)
        if batch is None:
            continue
        assert batch.offset == expected, "a number was given twice, or never"
        expected += len(batch.lines)
        seen += paths(batch)
        journal.took(expected)
    writer.join()
    assert seen == [f"/api/{number}" for number in range(count)]


def test_at_the_limit_nothing_new_is_accepted_and_the_oldest_stay(tmp_path: Path, made: list[Journal]) -> None:
    journal = start(made, tmp_path / "audit", limit=2000)
    assert journal.accepting
    for number in range(8):
        journal.record(record(number))
    written(journal, 8)
    journal.tidy()
    assert not journal.accepting
    assert "wait for the server" in journal.problem
    assert paths(journal.batch(WIDE))[0] == "/api/0"
    journal.took(journal.waiting())
    journal.record(record(8))  # of a call that was under way
    written(journal, 9)
    stop(made)
    journal = start(made, tmp_path / "audit", limit=2000, part=100)
    journal.tidy()
    journal.record(record(9))
    until((journal.folder / "current.log").exists)
    while (batch := journal.batch(WIDE)) is not None:
        journal.took(batch.offset + len(batch.lines))
    journal.tidy()
    assert journal.accepting


@pytest.mark.parametrize("part", [10, WIDE])
def test_what_was_taken_does_not_count_and_nothing_stays_shut(tmp_path: Path, made: list[Journal], part: int) -> None:
    """At the limit no record is written, so that no new file comes either: the taken one must not count for ever."""
    journal = start(made, tmp_path / "audit", limit=1500, part=part)
    for number in range(8):
        journal.record(record(number))
    written(journal, 8)
    journal.tidy()
    journal.tidy()
    assert not journal.accepting
    while (batch := journal.batch(WIDE)) is not None:
        journal.took(batch.offset + len(batch.lines))
    journal.tidy()
    assert journal.accepting
    journal.record(record(8))
    until(lambda: journal.batch(WIDE) is not None)
    assert paths(journal.batch(WIDE)) == ["/api/8"]
    journal.tidy()
    assert len(list(journal.folder.glob("*.log"))) <= 2


def test_where_records_are_not_required_new_ones_are_left_out_at_the_limit(tmp_path: Path, made: list[Journal]) -> None:
    journal = start(made, tmp_path / "audit", limit=500, required=False)
    for number in range(3):
        journal.record(record(number))
    written(journal, 3)
    journal.tidy()
    assert journal.accepting
    journal.record(record(3))
    time.sleep(0.1)
    assert paths(journal.batch(WIDE)) == ["/api/0", "/api/1", "/api/2"]


def test_two_processes_do_not_share_a_folder(tmp_path: Path, made: list[Journal]) -> None:
    start(made, tmp_path / "audit")
    with pytest.raises(MooringError, match="another process"):
        Journal(tmp_path / "audit", limit=WIDE).open()


def test_a_state_that_cannot_be_read_begins_anew_and_loses_nothing(tmp_path: Path, made: list[Journal]) -> None:
    journal = start(made, tmp_path / "audit")
    journal.record(record(1))
    written(journal, 1)
    name = journal.name
    stop(made)
    (tmp_path / "audit/state.json").write_bytes(b"{")
    journal = start(made, tmp_path / "audit")
    assert journal.name != name
    assert paths(journal.batch(WIDE)) == ["/api/1"]


def test_records_survive_kill_9(tmp_path: Path, made: list[Journal]) -> None:
    folder = tmp_path / "audit"
    program = (
        "import sys, time\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from mooring.endpoint.journal import Journal\n"
        "from support.auditrecords import audit_record\n"
        f"journal = Journal(Path({str(folder)!r}), limit=1 << 30)\n"
        "journal.open(); journal.start()\n"
        "for number in range(500): journal.record(audit_record(path=f'/api/{number}'))\n"
        "print('done', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    journal = start(made, folder)
    written(journal, 500)
    assert paths(journal.batch(WIDE)) == [f"/api/{number}" for number in range(500)]
