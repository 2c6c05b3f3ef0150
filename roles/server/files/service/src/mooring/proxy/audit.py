# SPDX-License-Identifier: Apache-2.0
"""The audit log: who did what in which cluster, one JSON object per line.

Why: the clusters see one service account; only this log ties each call to a person. So it fails closed: when records
cannot be written, `healthy` turns false, readiness fails, and the chain refuses requests (setting `audit.required`).

A thread of its own writes in batches, so that a slow disk never holds the event loop. The queue is bounded: at the mark
new requests are refused, while the records of those under way still fit above it. What waits is in a spool as well,
which outlives the process: after a `kill -9` the next process writes it.

Several processes may write to one file: each writes whole lines. The rest of a line that a full disk or a kill tore is
ended, and the record follows once more, whole.

It must not: write secrets (no header or body comes here), or lose records silently (each one is counted).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from mooring.lib import logging, metrics
from mooring.lib.files import private_folder
from mooring.proxy.spool import Spool, recover

QUEUE_MAX: Final = 10_000
"""Records waiting at which new requests are refused."""
QUEUE_HARD_MAX: Final = 2 * QUEUE_MAX
"""Records waiting beyond which records are dropped (and counted): exchanges that ended while the disk failed."""
RETRY_SECONDS: Final = 1.0
_BATCH_SECONDS: Final = 0.02
_BATCH_MAX: Final = 2_000
_TORN_LOOKS: Final = (0.001, 0.01, 0.05, 0.0)  # seconds between looks at a line that does not end
_LOOK_BACK: Final = 1024 * 1024  # bytes of the log that are searched for records which a dead process wrote itself


class ImpersonatedUser(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """Whom the client asked to act as (`kubectl --as`), in the form of Kubernetes' own audit log. What the API server
    adds by itself, such as the groups of a service account, is in its log only."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = {}


class AuditRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line. Fields with empty defaults are left out. Times are RFC 3339 in UTC.

    `stage` is "complete" for an ordinary exchange; a long one (watch, followed log, upgrade) has a "start" when the
    cluster has answered and an "end". `verb` and the fields after it are those of Kubernetes' own audit. `code` is what
    the client got, 0 if nothing. `outcome` says how it ended when it did not end by itself. `user` is always the owner
    of the token; `impersonatedUser` whom they asked to act as, also when the cluster refused that. `via` is "endpoint"
    for a call that a cluster's own endpoint took and its agent told us of, with the `record_id` that tells it from all
    others; both are left out for what came through this server.
    """

    time: datetime
    stage: str
    request_id: str
    source: str
    user: str
    uid: str
    groups: tuple[str, ...]
    token_id: str
    cluster: str
    cluster_id: str
    verb: str
    path: str
    code: int
    resource_request: bool
    api_group: str = ""
    api_version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    upgrade: str = ""
    user_agent: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    duration_ms: float = 0.0
    outcome: str = ""
    impersonated_user: ImpersonatedUser | None = msgspec.field(default=None, name="impersonatedUser")
    via: str = ""
    record_id: str = ""


class Audit:
    """Takes records on the event loop and writes them in a thread. `start` before use, `close` at the end.

    `spool` is the folder for what waits; processes that write to the same file share it. Without one, what waits dies
    with the process.
    """

    def __init__(
        self, path: Path, *, required: bool = True, queue_max: int = QUEUE_MAX, spool: Path | None = None
    ) -> None:
        self.path = path
        self.required = required
        self._queue_max = queue_max
        self._hard_max = 2 * queue_max
        self._queue: deque[tuple[bytes, bool]] = deque()  # a line, and whether it is in the spool too
        self._spool_folder = spool
        self._spool: Spool | None = None
        self._spool_full = False
        self._pending = b""
        self._pending_lines = 0
        self._pending_spooled = 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._file_ok = False
        self._error = "the audit log is not open"
        self._fd = -1
        self._thread: threading.Thread | None = None
        self._encoder = msgspec.json.Encoder()
        self._log = logging.get("mooring.audit")

    @property
    def healthy(self) -> bool:
        """Whether records are being written."""
        return self._file_ok and len(self._queue) < self._queue_max and not self._spool_full

    @property
    def accepting(self) -> bool:
        """Whether a request may go on: records are written, or the setting says that they need not be."""
        return self.healthy or not self.required

    @property
    def problem(self) -> str:
        """Why it is not healthy; empty if it is."""
        if not self._file_ok:
            return self._error
        return "" if self.healthy else f"{len(self._queue)} audit records wait to be written"

    def start(self) -> None:
        """Open the file (made with mode 0600), write what dead processes left, and start the writer.

        Raises OSError when it cannot be opened, unless records are not required: the writer then goes on trying.
        """
        try:
            self._open()
            if self._spool_folder is not None:
                private_folder(self._spool_folder)
                recovered = recover(self._spool_folder, self._write_again)
                if recovered:
                    self._log.warning("audit records of a process that was killed are written", records=recovered)
                self._spool = Spool(self._spool_folder)
        except OSError as error:
            if self.required:
                raise
            self._error = f"the audit log cannot be opened: {error.strerror}"
            self._log.error("requests go unrecorded", path=str(self.path), error=str(error))
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, at most `timeout` seconds, and close the file. What is left then stays in the spool."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    def record(self, record: AuditRecord) -> None:
        """Queue a record. Never blocks."""
        if len(self._queue) >= self._hard_max:
            metrics.AUDIT_FAILURES.inc()
            return
        line = self._encoder.encode(record) + b"\n"
        kept = self._spool is not None and self._spool.put(line)
        if self._spool is not None and not kept:
            self._spool_full = True  # nothing new is taken until the writer has made room
        self._queue.append((line, kept))
        if not self._wake.is_set():
            self._wake.set()

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Write until told to stop. Nothing may end this quietly: without it records would pile up, and be lost."""
        while True:
            try:
                self._work()
            except Exception as error:
                self._file_ok = False
                self._error = f"the audit log cannot be written: {error}"
                metrics.AUDIT_FAILURES.inc()
                self._log.exception("the writer of the audit log failed", path=str(self.path))
                if not self._stop.wait(RETRY_SECONDS):
                    self._wake.set()
                    continue
            self._end()
            return

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            if not self._stop.is_set():
                time.sleep(_BATCH_SECONDS)  # let a batch gather
            self._wake.clear()
            if not self._file_ok:
                self._write(b"")  # after a failure of the writer itself, nothing may wait
            while self._queue or self._pending:
                if not self._pending:
                    self._take()
                self._pending = self._write(self._pending)
                if self._pending:
                    if self._stop.wait(RETRY_SECONDS):
                        break
                else:
                    self._written()
            metrics.AUDIT_QUEUED.set(len(self._queue))

    def _end(self) -> None:
        lost = len(self._queue) + (self._pending_lines if self._pending else 0)
        if lost:
            metrics.AUDIT_FAILURES.inc(lost)
            self._log.error("audit records were not written", records=lost, path=str(self.path))
        self._shut()
        if self._spool is not None:
            self._spool.close()

    def _take(self) -> None:
        lines: list[bytes] = []
        spooled = 0
        while self._queue and len(lines) < _BATCH_MAX:
            line, kept = self._queue.popleft()
            lines.append(line)
            spooled += len(line) if kept else 0
        self._pending, self._pending_lines, self._pending_spooled = b"".join(lines), len(lines), spooled

    def _written(self) -> None:
        metrics.AUDIT_RECORDS.inc(self._pending_lines)
        if self._spool is not None:
            self._spool.release(self._pending_spooled)
            self._spool_full = False

    def _write(self, data: bytes) -> bytes:
        """Write whole lines; gives back those that could not be written."""
        try:
            if self._moved():
                self._open()
            while data:
                before = b"" if self._ends_a_line() else b"\n"
                done = os.write(self._fd, before + data) - len(before)
                if done < len(data):
                    done = data.rfind(b"\n", 0, max(done, 0)) + 1
                data = data[done:]
        except OSError as error:
            metrics.AUDIT_FAILURES.inc()
            if self._file_ok:
                self._log.error("the audit log cannot be written", path=str(self.path), error=str(error))
            self._file_ok = False
            self._error = f"the audit log cannot be written: {error.strerror}"
        else:
            if not self._file_ok:
                self._log.info("the audit log is written again", path=str(self.path))
            self._file_ok = True
        return data

    def _write_again(self, lines: bytes) -> bool:
        """Write what a dead process left, but for what it had written already; whether that worked."""
        size = os.fstat(self._fd).st_size
        span = min(size, 4 * len(lines) + _LOOK_BACK)
        have = set(os.pread(self._fd, span, size - span).split(b"\n"))
        return not self._write(b"".join(line + b"\n" for line in lines.split(b"\n") if line and line not in have))

    def _ends_a_line(self) -> bool:
        """Whether the file is empty or ends with a whole line: a writer that was killed may have torn one.

        What another worker is writing just now looks torn as well, for as long as its write takes.
        """
        for wait in _TORN_LOOKS:
            size = os.fstat(self._fd).st_size
            if size == 0 or os.pread(self._fd, 1, size - 1) == b"\n":
                return True
            time.sleep(wait)
        return False

    def _moved(self) -> bool:
        """Whether the file was rotated away, so that a new one has to be opened."""
        if self._fd < 0:
            return True
        try:
            at_path = os.stat(self.path)
        except FileNotFoundError:
            return True
        opened = os.fstat(self._fd)
        return (at_path.st_ino, at_path.st_dev) != (opened.st_ino, opened.st_dev)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o600)
        self._shut()
        self._fd = fd
        self._file_ok = True

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
