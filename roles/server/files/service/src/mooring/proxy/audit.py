# SPDX-License-Identifier: Apache-2.0
"""The audit log: who did what in which cluster, one JSON object per line.

Why: the clusters see one service account; only this log ties each call to a person. So it fails closed: when records
cannot be written, `healthy` turns false, readiness fails, and the chain refuses requests (setting `audit.required`).

A thread of its own writes in batches, so that a slow disk never holds the event loop. The queue is bounded: at the mark
new requests are refused, while the records of those under way still fit above it.

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

QUEUE_MAX: Final = 10_000
"""Records waiting at which new requests are refused."""
QUEUE_HARD_MAX: Final = 2 * QUEUE_MAX
"""Records waiting beyond which records are dropped (and counted): exchanges that ended while the disk failed."""
RETRY_SECONDS: Final = 1.0
_BATCH_SECONDS: Final = 0.02
_BATCH_MAX: Final = 2_000


class AuditRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line. Fields with empty defaults are left out. Times are RFC 3339 in UTC.

    `stage` is "complete" for an ordinary exchange; a long one (watch, followed log, upgrade) has a "start" when the
    cluster has answered and an "end". `verb` and the fields after it are those of Kubernetes' own audit. `code` is what
    the client got, 0 if nothing. `outcome` says how it ended when it did not end by itself.
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


class Audit:
    """Takes records on the event loop and writes them in a thread. `start` before use, `close` at the end."""

    def __init__(self, path: Path, *, required: bool = True, queue_max: int = QUEUE_MAX) -> None:
        self.path = path
        self.required = required
        self._queue_max = queue_max
        self._hard_max = 2 * queue_max
        self._queue: deque[AuditRecord] = deque()
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
        return self._file_ok and len(self._queue) < self._queue_max

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
        """Open the file (made with mode 0600) and start the writer.

        Raises OSError when it cannot be opened, unless records are not required: the writer then goes on trying.
        """
        try:
            self._open()
        except OSError as error:
            if self.required:
                raise
            self._error = f"the audit log cannot be opened: {error.strerror}"
            self._log.error("requests go unrecorded", path=str(self.path), error=str(error))
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, at most `timeout` seconds, and close the file."""
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
        self._queue.append(record)
        if not self._wake.is_set():
            self._wake.set()

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pending = b""
        count = 0
        while True:
            self._wake.wait()
            if not self._stop.is_set():
                time.sleep(_BATCH_SECONDS)  # let a batch gather
            self._wake.clear()
            while self._queue or pending:
                if not pending:
                    pending, count = self._take()
                pending = self._write(pending)
                if pending:
                    if self._stop.wait(RETRY_SECONDS):
                        break
                else:
                    metrics.AUDIT_RECORDS.inc(count)
            metrics.AUDIT_QUEUED.set(len(self._queue))
            if self._stop.is_set():
                lost = len(self._queue) + (count if pending else 0)
                if lost:
                    metrics.AUDIT_FAILURES.inc(lost)
                    self._log.error("audit records were not written", records=lost, path=str(self.path))
                self._shut()
                return

    def _take(self) -> tuple[bytes, int]:
        lines: list[bytes] = []
        while self._queue and len(lines) < _BATCH_MAX:
            lines.append(self._encoder.encode(self._queue.popleft()))
        lines.append(b"")
        return b"\n".join(lines), len(lines) - 1

    def _write(self, data: bytes) -> bytes:
        """Write; gives back what could not be written."""
        try:
            if self._moved():
                self._open()
            while data:
                data = data[os.write(self._fd, data) :]
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
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o600)
        self._shut()
        self._fd = fd
        self._file_ok = True

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
