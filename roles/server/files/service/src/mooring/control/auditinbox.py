# SPDX-License-Identifier: Apache-2.0
"""Audit records of the endpoints that clusters serve themselves: into the server's audit log, each once.

An agent sends lines of its journal and says which byte the first one is; a line is known by its journal and its byte
(`record_id`). What is there already is passed over: this process remembers how far each journal has come, and what it
does not remember (it was restarted) it reads from the end of the audit log, where the numbers stand.

It must not: believe a record about its cluster, or count one as taken that is only in memory.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Final

import msgspec

from mooring.authn.index import ClusterView
from mooring.lib import logging, metrics
from mooring.lib.bounds import Rate
from mooring.proxy.audit import Audit, AuditRecord

JOURNALS: Final = 64
"""Journals of one cluster that are remembered: each pod of its agent has one."""
LOOK_BACK: Final = 64 * 1024 * 1024
"""Bytes of the audit log that are searched for a journal that is not remembered."""
LINE_MAX: Final = 64 * 1024
PER_MINUTE: Final = 240
"""Requests of one cluster: 120 MiB of records, so that one cluster does not fill the disk before somebody looks."""
VIA: Final = "endpoint"


class AuditInbox:
    """Takes them. `audit` is open and has a spool."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._known: dict[str, OrderedDict[str, int]] = {}
        self._rate = Rate(PER_MINUTE, 60.0)
        self._decoder = msgspec.json.Decoder(AuditRecord)
        self._log = logging.get("mooring.control")

    async def take(self, cluster: ClusterView, journal: str, offset: int, lines: bytes) -> tuple[int, int] | None:
        """See `api.services.AuditInbox`. `lines` end with a line's end."""
        if self._rate.take(cluster.id, asyncio.get_running_loop().time()) > 0:
            return None
        known = self._known.setdefault(cluster.id, OrderedDict())
        if journal not in known:
            # Its own agent's journals only: the cluster's id in a line is ours, not the agent's.
            found = await asyncio.to_thread(last_taken, self._audit.path, cluster.id, journal)
            known.setdefault(journal, found)
        known.move_to_end(journal)
        while len(known) > JOURNALS:
            known.popitem(last=False)
        if not self._audit.healthy:
            return None
        taken = self._write(cluster, known, journal, offset, lines)
        # Some may be in memory only: the agent asks again, and is told so when they are not.
        return taken if self._audit.healthy else None

    def forget(self, cluster_id: str) -> None:
        """The cluster was deleted."""
        self._known.pop(cluster_id, None)

    def _write(
        self, cluster: ClusterView, known: OrderedDict[str, int], journal: str, offset: int, lines: bytes
    ) -> tuple[int, int]:
        taken = bad = 0
        at = offset
        for line in lines.splitlines(keepends=True):
            start, at = at, at + len(line)
            if start < known[journal] or line == b"\n":
                continue
            record = self._read(line)
            if record is None:
                bad += 1
            else:
                record.cluster, record.cluster_id = cluster.name, cluster.id
                record.via, record.record_id = VIA, f"{journal}/{start}"
                self._audit.record(record)
                taken += 1
            known[journal] = at
        if bad:
            metrics.AUDIT_FAILURES.inc(bad)
            self._log.warning("audit records of an endpoint cannot be read", cluster=cluster.name, records=bad)
        known[journal] = max(known[journal], at)
        return taken, at

    def _read(self, line: bytes) -> AuditRecord | None:
        if len(line) > LINE_MAX:
            return None
        try:
            return self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


def last_taken(path: Path, cluster_id: str, journal: str) -> int:
    """Up to which byte of the journal the audit log has everything, as its end tells; 0 if it tells nothing.

    Quotes within a value are escaped, so that nothing a client sends can look like a field of ours.
    """
    ours = re.compile(rb'"cluster_id":"%b".*,"record_id":"%b/([0-9]{1,15})"' % (cluster_id.encode(), journal.encode()))
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LOOK_BACK))
            found = -1
            for line in file:
                if b'"record_id":"' in line and (match := ours.search(line)):
                    found = max(found, int(match[1]))
    except FileNotFoundError:
        return 0
    return found + 1  # within that line: the next one begins later
