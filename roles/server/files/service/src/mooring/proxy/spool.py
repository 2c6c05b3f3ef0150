# SPDX-License-Identifier: Apache-2.0
"""Audit records that wait to be written, where the death of this process does not reach them.

Why: a client that has its answer may rely on the record of it. The queue in memory dies with `kill -9`; a file that is
mapped into memory belongs to the kernel, so that what was put into it is there for the next process, without a system
call for each record. (A power cut is another matter: the audit log itself is not synced either.)

    <folder>/<random>.spool    magic, two counters, a ring of lines; locked by its owner for as long as it lives

The blocks of the file are allocated before it is mapped: a full disk must not be a SIGBUS. It must not know what a line
holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

SIZE: Final = 8 * 1024 * 1024
"""Bytes of lines that one process can have waiting."""
_MAGIC: Final = b"mrgspl01"
_COUNTERS: Final = struct.Struct("<QQ")  # bytes ever put, bytes ever written to the log
_PUT: Final = struct.Struct("<Q")
_START: Final = 64
_TRIES: Final = 20


class Spool:
    """The ring of this process. `put` on one thread, `release` on another; no lock is needed between the two."""

    def __init__(self, folder: Path, size: int = SIZE) -> None:
        """Make the file. Raises OSError, also when there is no room for it."""
        self._size = size
        self._put = 0
        self._released = 0
        aside, self._fd = _open_locked(folder)
        self.path = aside.with_suffix(".spool")
        try:
            os.posix_fallocate(self._fd, 0, _START + size)
            os.pwrite(self._fd, _MAGIC, 0)
            self._map = mmap.mmap(self._fd, _START + size)
            os.rename(aside, self.path)  # nobody sees one that is not locked and whole
        except BaseException:
            os.close(self._fd)
            aside.unlink(missing_ok=True)
            raise

    def put(self, line: bytes) -> bool:
        """Keep a line; False when there is no room for it."""
        length = len(line)
        if self._put - self._released + length > self._size:
            return False
        at = self._put % self._size
        first = min(length, self._size - at)
        self._map[_START + at : _START + at + first] = line[:first]
        if first < length:
            self._map[_START : _START + length - first] = line[first:]
        self._put += length
        # The counter last: a line counts when it is whole.
        _PUT.pack_into(self._map, 8, self._put)
        return True

    def release(self, count: int) -> None:
        """So many bytes, the oldest, are in the log."""
        self._released += count
        _PUT.pack_into(self._map, 16, self._released)

    def close(self) -> None:
        """Let go of it; the file stays only if something waits in it."""
        if self._fd < 0:
            return
        self._map.close()
        if self._put == self._released:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


def _open_locked(folder: Path) -> tuple[Path, int]:
    """A new file that this process has locked. Raises OSError."""
    for _unused in range(_TRIES):
        path = folder / f"{secrets.token_hex(8)}.new"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        # Between the two calls a process that recovers may have taken it for a dead one's: then that one removes it.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return path, fd
        os.close(fd)
    raise OSError(errno.EAGAIN, "another process removes every new file", str(folder))


def recover(folder: Path, write: Callable[[bytes], bool]) -> int:
    """Hand what dead processes left to `write`, which says whether it is in the log now; how many lines that were.

    Files of living processes are passed over. Raises OSError.
    """
    count = 0
    for path in sorted([*folder.glob("*.spool"), *folder.glob("*.new")]):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lines = _waiting(fd) if path.suffix == ".spool" else b""
                if not lines or write(lines):
                    path.unlink(missing_ok=True)
                    count += lines.count(b"\n")
            finally:
                os.close(fd)
    return count


def _waiting(fd: int) -> bytes:
    """The lines in a spool; none in a file that is not one."""
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    size = len(content) - _START
    if size <= 0 or content[:8] != _MAGIC:
        return b""
    put, released = _COUNTERS.unpack_from(content, 8)
    if not 0 <= put - released <= size:
        return b""
    at = released % size
    ring = content[_START:]
    return (ring[at:] + ring[:at])[: put - released]
