# SPDX-License-Identifier: Apache-2.0
"""The endpoint's audit records on disk, until the server has them.

Why: the server may be away for days, and a call that nobody can account for must not be made. So records are written as
the server writes its own (`proxy.audit`: a thread, a spool that outlives `kill -9`, refusals when nothing can be
written), into a journal: one endless row of lines, of which each byte has a number that never changes, cut into files.

    <folder>/current.log         what is written now
    <folder>/<start>.log         older parts, named by the number of their first byte (16 hexadecimal digits)
    <folder>/state.json          the journal's name, how far the server has taken it, where current.log began
    <folder>/lock, spool/        one process per folder; what a killed one had not written yet

It is bounded: at its limit nothing new is accepted (or, where records are not required, nothing new is kept), and what
is there stays: the oldest calls are the ones that nobody knows of yet.

It must not: know the server, or take back a number that it has given.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from mooring.lib import metrics
from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder, write_atomic
from mooring.lib.ids import new_id
from mooring.proxy.audit import Audit, AuditRecord

VIA: Final = "endpoint"
PART: Final = 4 * 1024 * 1024
"""Bytes at which a part of the journal is closed and the next one begun."""
_CURRENT: Final = "current.log"


class _State(msgspec.Struct, frozen=True, kw_only=True):
    journal: str
    taken: int = 0
    base: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole lines of the journal; `offset` is the number of their first byte."""

    journal: str
    offset: int
    lines: bytes


class Journal(Audit):
    """An `Audit` whose file is a journal. `open` before `start`; `batch` and `took` are for who takes it to the server.

    `limit`: bytes that wait at which nothing new is accepted.
    """

    def __init__(self, folder: Path, *, limit: int, required: bool = True, part: int = PART) -> None:
        super().__init__(folder / _CURRENT, required=required, spool=folder / "spool")
        self.folder = folder
        self.limit = limit
        self._part = part
        self._full = False
        self._lock = -1
        self._state = _State(journal="")

    def open(self) -> None:
        """Take the folder. Raises MooringError when it cannot be used, or another process has it."""
        private_folder(self.folder)
        try:
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise MooringError(
                f"another process writes its audit records to {self.folder}", "give each its own folder"
            ) from None
        except OSError as error:
            raise MooringError(f"the folder {self.folder} cannot be used: {error}") from None
        self._state = self._load()
        self.tidy()

    def shut(self) -> None:
        """Give the folder back; after `close`."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- Audit ---------------------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        return not self._full and super().healthy

    @property
    def problem(self) -> str:
        if self._full:
            return f"{self.limit} bytes of audit records wait for the server to take them"
        return super().problem

    def record(self, record: AuditRecord) -> None:
        if self._full and not self.required:
            metrics.AUDIT_FAILURES.inc()
            return
        record.via = VIA
        super().record(record)

    # -- taking it away ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The journal's name: its records are known by it and the number of their first byte."""
        return self._state.journal

    @property
    def taken(self) -> int:
        """The number up to which the server has everything."""
        return self._state.taken

    def waiting(self) -> int:
        """Bytes that the server has not taken."""
        parts = self._parts()
        return max(0, parts[-1][1] + parts[-1][2] - self._state.taken) if parts else 0

    def batch(self, most: int) -> Batch | None:
        """The oldest lines that were not taken, at most so many bytes; None: there are none. Raises OSError."""
        taken = self._state.taken
        for path, start, size in self._parts():
            if start + size <= taken:
                continue
            at = max(taken, start)
            with path.open("rb") as file:
                file.seek(at - start)
                data = file.read(most)
            end = data.rfind(b"\n") + 1
            if not end and len(data) == most:  # no record is that long; something else wrote here
                self._log.error("an audit record is too long and passed over", path=str(path), bytes=len(data))
                end = len(data)
            if end:
                return Batch(self.name, at, data[:end])
            if path.name != _CURRENT and self.path.exists():  # the torn end of a part that nobody writes to any more
                self.took(start + size)
        return None

    def took(self, offset: int) -> None:
        """The server has everything before this number. Raises OSError."""
        self._keep(msgspec.structs.replace(self._state, taken=max(offset, self._state.taken)))

    def tidy(self) -> None:
        """Close the current part if it is large enough, drop the parts that were taken, look at the limit. Raises
        OSError."""
        parts = self._parts()
        # Until there is a new file the writer may add to the newest of the old ones.
        for path, start, size in parts[:-1]:
            if start + size > self._state.taken:
                continue
            if start + size > self._state.base:
                self._keep(msgspec.structs.replace(self._state, base=start + size))
            path.unlink()
        if parts and parts[-1][0].name == _CURRENT and parts[-1][2] >= self._part:
            os.rename(self.path, self.folder / f"{parts[-1][1]:016x}.log")
        self._full = self.waiting() >= self.limit

    # -- inside --------------------------------------------------------------------------------------------------------

    def _parts(self) -> list[tuple[Path, int, int]]:
        """The files in the order of their lines: path, number of the first byte, size."""
        try:
            current = self.path.stat().st_size  # first: once it is there, nothing is added to the old ones any more
        except FileNotFoundError:
            current = -1
        found: list[tuple[Path, int, int]] = []
        for path in sorted(self.folder.glob("?" * 16 + ".log")):
            try:
                found.append((path, int(path.stem, 16), path.stat().st_size))
            except (ValueError, FileNotFoundError):
                continue
        if current >= 0:
            base = max([self._state.base, *(start + size for _path, start, size in found)])
            found.append((self.path, base, current))
        return found

    def _load(self) -> _State:
        path = self.folder / "state.json"
        try:
            state = msgspec.json.decode(path.read_bytes(), type=_State)
            if state.journal:
                return state
        except FileNotFoundError:
            pass
        except (msgspec.MsgspecError, OSError) as error:
            # Better twice in the server's log, under another name, than not at all.
            self._log.error("the state of the audit journal cannot be read; it begins anew", error=str(error))
        fresh = _State(journal=new_id("a"))
        self._keep(fresh)
        return fresh

    def _keep(self, state: _State) -> None:
        if state != self._state:
            write_atomic(self.folder / "state.json", msgspec.json.encode(state))
            self._state = state
