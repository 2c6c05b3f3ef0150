# SPDX-License-Identifier: Apache-2.0
"""The audit log: what is in it, and what happens when it cannot be written."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mooring.proxy import audit as module
from mooring.proxy import spool
from mooring.proxy.audit import Audit, AuditRecord


def record(number: int = 0, **changes: object) -> AuditRecord:
    values: dict[str, object] = {
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "stage": "complete",
        "request_id": f"r{number}",
        "source": "192.0.2.7",
        "user": "bob",
        "uid": "u",
        "groups": ("devs",),
        "token_id": "t-1",
        "cluster": "alpha",
        "cluster_id": "c-1",
        "verb": "list",
        "path": "/api/v1/pods",
        "code": 200,
        "resource_request": True,
        **changes,
    }
    return AuditRecord(**values)  # type: ignore[arg-type]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


@pytest.fixture(autouse=True)
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Audit]:
    audit = Audit(tmp_path / "audit.jsonl", queue_max=50)
    audit.start()
    yield audit
    audit.close()


def test_records_become_lines_in_order_and_empty_fields_are_left_out(log: Audit) -> None:
    for number in range(40):
        log.record(record(number))
    until(lambda: len(lines(log.path)) == 40)
    written = lines(log.path)
    assert [line["request_id"] for line in written] == [f"r{number}" for number in range(40)]
    assert written[0]["groups"] == ["devs"]
    assert written[0]["time"] == "2026-01-01T00:00:00Z"
    assert "subresource" not in written[0]
    assert log.healthy
    assert stat.S_IMODE(os.stat(log.path).st_mode) == 0o600


def test_name_with_a_line_break_cannot_forge_a_line(log: Audit) -> None:
    log.record(record(user='eve\n{"user":"root"}', user_agent="\u2028\x1b[2J"))
    until(lambda: len(lines(log.path)) == 1)
    assert lines(log.path)[0]["user"] == 'eve\n{"user":"root"}'


def test_close_writes_what_waits(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "a")
    audit.start()
    for number in range(100):
        audit.record(record(number))
    audit.close()
    assert len(lines(tmp_path / "a")) == 100


def test_rotated_file_is_left_and_a_new_one_begun(log: Audit) -> None:
    log.record(record(1))
    until(lambda: len(lines(log.path)) == 1)
    old = log.path.with_suffix(".1")
    log.path.rename(old)
    log.record(record(2))
    until(lambda: len(lines(log.path)) == 1)
    assert (lines(old)[0]["request_id"], lines(log.path)[0]["request_id"]) == ("r1", "r2")


def test_failing_disk_turns_health_off_and_loses_nothing(log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.record(record(1))
        until(lambda: not log.healthy)
        assert not log.accepting
        assert log.problem == "the audit log cannot be written: No space left on device"
        log.record(record(2))
    until(lambda: log.healthy)
    until(lambda: len(lines(log.path)) == 2)
    assert log.problem == ""


def test_full_queue_turns_health_off_and_is_bounded(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "a", queue_max=10)  # not started: nobody writes
    audit._file_ok = True
    for number in range(9):
        audit.record(record(number))
    assert audit.healthy
    for number in range(100):
        audit.record(record(number))
    assert not audit.healthy
    assert len(audit._queue) == 20
    assert "wait to be written" in audit.problem


def test_log_that_cannot_be_opened_refuses_to_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Audit(tmp_path / "missing" / "a").start()


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Audit(tmp_path / "a").start()


def test_log_that_is_not_required_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    audit = Audit(folder / "a", required=False)
    audit.start()
    assert (audit.healthy, audit.accepting) == (False, True)
    audit.record(record(1))
    folder.mkdir()
    until(lambda: len(lines(folder / "a")) == 1)
    audit.close()


def test_writer_that_fails_turns_health_off_loses_nothing_and_goes_on(
    log: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's thread once ended with an error that nobody had foreseen: requests went on, unrecorded."""

    def broken(_seconds: float) -> None:
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(module.time, "sleep", broken)
        patch.setattr(module, "RETRY_SECONDS", 0.2)
        log.record(record(1))
        deadline = time.monotonic() + 10
        while log.accepting:
            assert time.monotonic() < deadline, "requests are still taken"
        log.record(record(2))
    until(lambda: log.healthy)
    until(lambda: len(lines(log.path)) == 2)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_audit import record
from mooring.proxy import audit as module
from mooring.proxy import spool
folder = Path(sys.argv[1])
module._BATCH_SECONDS = 60.0  # the writer will not come to write
audit = module.Audit(folder / "audit.jsonl", spool=folder / "spool")
audit.start()
for number in range(300):
    audit.record(record(number, user_agent="x" * 200))
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent)], timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL


def test_records_of_a_killed_process_are_written_by_the_next(tmp_path: Path) -> None:
    """A worker that was killed took the records of the last 20 ms with it, those of answered requests too."""
    killed(tmp_path)
    killed(tmp_path)  # the second one writes what the first one left, and dies as well
    audit = Audit(tmp_path / "audit.jsonl", spool=tmp_path / "spool")
    audit.start()
    audit.close()
    written = [line["request_id"] for line in lines(tmp_path / "audit.jsonl")]
    # The second one's records are the same lines as the first one's: they are taken for written.
    assert written == [f"r{number}" for number in range(300)]
    assert not list((tmp_path / "spool").iterdir())


def test_records_of_a_living_process_are_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_SECONDS", 0.5)
    one = Audit(tmp_path / "a", spool=tmp_path / "spool")
    one.start()
    one.record(record(1))
    two = Audit(tmp_path / "a", spool=tmp_path / "spool")
    two.start()
    two.close()
    one.close()
    assert [line["request_id"] for line in lines(tmp_path / "a")] == ["r1"]


def test_line_that_a_kill_tore_is_ended_and_follows_once_more(tmp_path: Path) -> None:
    killed(tmp_path)
    (tmp_path / "audit.jsonl").write_bytes(b'{"time":"2026-01-01T00:0')
    audit = Audit(tmp_path / "audit.jsonl", spool=tmp_path / "spool")
    audit.start()
    audit.close()
    torn, *whole = (tmp_path / "audit.jsonl").read_text().split("\n")[:-1]
    assert torn == '{"time":"2026-01-01T00:0'
    assert [json.loads(line)["request_id"] for line in whole] == [f"r{number}" for number in range(300)]


def test_a_line_that_another_worker_wrote_was_ended_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees a long append of another process page by page: an empty line came into the log."""
    path = tmp_path / "a"
    path.write_bytes(b'{"request_id":"oth')
    read = os.pread

    def meanwhile(fd: int, size: int, offset: int) -> bytes:
        found = read(fd, size, offset)
        if found != b"\n":
            with path.open("ab") as other:
                other.write(b'er"}\n')
        return found

    monkeypatch.setattr(os, "pread", meanwhile)
    audit = Audit(path)
    audit.start()
    audit.record(record(1))
    audit.close()
    assert [json.loads(line)["request_id"] for line in path.read_text().split("\n")[:-1]] == ["other", "r1"]


def test_disk_that_fills_within_a_line_leaves_whole_records(log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = os.write, []

    def fills(fd: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(fd, data[: len(data) * 2 // 3])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fills)
        log.record(record(1))
        log.record(record(2))
        until(lambda: not log.healthy)
    until(lambda: log.healthy)
    texts = log.path.read_text().split("\n")[:-1]
    whole = [json.loads(text)["request_id"] for text in texts if text.endswith("}")]
    assert whole == ["r1", "r2"]
    assert len(texts) == 3


def test_full_spool_refuses_until_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.Spool.__init__, "__defaults__", (2000,))
    audit = Audit(tmp_path / "a", spool=tmp_path / "spool")
    audit.start()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for number in range(20):
            audit.record(record(number))
        until(lambda: not audit.healthy)
    until(lambda: audit.healthy)
    for number in range(20, 40):  # around the ring, many times
        audit.record(record(number))
        until(lambda: audit.healthy)
    until(lambda: len(lines(tmp_path / "a")) == 40)
    audit.close()
    assert not list((tmp_path / "spool").iterdir())


def test_audit_does_not_start_without_room_for_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Audit(tmp_path / "a", spool=tmp_path / "spool").start()
    assert not list((tmp_path / "spool").iterdir())
