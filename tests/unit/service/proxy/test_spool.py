# SPDX-License-Identifier: Apache-2.0
"""The spool of audit records: what one process put is there for the next, and starting processes do not meet."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from mooring.proxy.spool import Spool, recover


def die(spool: Spool) -> None:
    """What the kernel does at the death of the owner: the lock goes, the file stays."""
    spool._map.close()
    os.close(spool._fd)


def test_what_a_dead_process_left_is_handed_on_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for line in (b"one\n", b"two\n", b"three\n"):
        assert spool.put(line)
    spool.release(len(b"one\n"))
    found: list[bytes] = []
    assert recover(tmp_path, lambda lines: not found.append(lines)) == 0  # its owner lives
    die(spool)
    assert recover(tmp_path, lambda lines: not found.append(lines)) == 2
    assert found == [b"two\nthree\n"]
    assert recover(tmp_path, lambda lines: not found.append(lines)) == 0


def test_what_could_not_be_written_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(b"one\n")
    die(spool)
    assert recover(tmp_path, lambda lines: False) == 0
    assert recover(tmp_path, lambda lines: lines == b"one\n") == 1


def test_a_full_ring_says_so_and_goes_round(tmp_path: Path) -> None:
    spool = Spool(tmp_path, size=10)
    assert spool.put(b"1234567\n")
    assert not spool.put(b"abc\n")
    spool.release(8)
    assert spool.put(b"abcd\n")
    die(spool)
    assert recover(tmp_path, lambda lines: lines == b"abcd\n") == 1


@pytest.mark.parametrize("when", ["before the lock", "while the other holds it"])
def test_a_worker_that_starts_while_another_recovers_has_its_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    lock, calls = fcntl.flock, 0

    def late(fd: int, how: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:  # the other process comes between making the file and locking it
            recover(tmp_path, lambda lines: True)
            if when == "while the other holds it":
                raise BlockingIOError
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    spool = Spool(tmp_path)
    assert spool.put(b"line\n")
    assert [path.suffix for path in tmp_path.iterdir()] == [".spool"]
    spool.close()
