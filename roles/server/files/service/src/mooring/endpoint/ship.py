# SPDX-License-Identifier: Apache-2.0
"""Takes the endpoint's audit records to the server, in order, each once, as long as it takes.

    POST /api/v1/agents/audit        NDJSON; which journal and which byte of it the first line is, in two headers
    200 {"taken": <lines>, "offset": <number>}       everything before this number is in the server's audit log

The server knows by the number what it has, so that an answer which got lost costs no record and doubles none.

It must not: drop a record that the server did not take, or hold more than one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from mooring.agent.identity import BadIdentity, Identity
from mooring.agent.serverapi import addresses, head_of, pool_of, why
from mooring.agent.servertime import ServerTime
from mooring.endpoint.journal import Batch, Journal
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeError
from mooring.lib import logging
from mooring.lib.backoff import Backoff
from mooring.lib.errors import MooringError
from mooring.net.fetch import Answer, FetchError, fetch
from mooring.net.tls import BadTrust

PATH: Final = "/api/v1/agents/audit"
BATCH: Final = 512 * 1024
"""Bytes that are sent at once."""
EVERY: Final = 1.0
"""Seconds between two looks at the journal."""
DEADLINE: Final = 30.0
ANSWER_MAX: Final = 64 * 1024

_FAILURES: Final = (MooringError, KubeError, FetchError, BadConfig, BadTrust, BadIdentity, OSError)

Send = Callable[[str, Identity, float, Batch], Awaitable[int]]
"""Sends a batch to the server at a URL; returns the number up to which it has everything."""


class NotTaken(MooringError):
    """The server did not take the records."""


class _Taken(msgspec.Struct, frozen=True):
    taken: int
    offset: int


async def post(base: str, identity: Identity, now: float, batch: Batch) -> int:
    """See `Send`. `now`: the time at the server. Raises NotTaken, FetchError, BadTrust."""
    pool = pool_of(base, identity)
    place = [(b"Mooring-Journal", batch.journal.encode("ascii")), (b"Mooring-Offset", b"%d" % batch.offset)]
    head = head_of(base, identity, now, "POST", PATH, "application/json", "application/x-ndjson", place)
    try:
        answer = await fetch(pool, head, batch.lines, deadline=DEADLINE, max_body=ANSWER_MAX)
    finally:
        await pool.aclose()
    return _read(answer, batch)


def _read(answer: Answer, batch: Batch) -> int:
    if answer.status not in (200, 201):
        raise NotTaken(f"the server does not take audit records: {why(answer)}")
    try:
        said = msgspec.json.decode(answer.body, type=_Taken)
    except msgspec.MsgspecError:
        raise NotTaken("the server's answer to audit records cannot be read") from None
    if not batch.offset < said.offset <= batch.offset + len(batch.lines):
        raise NotTaken(f"the server claims to have taken everything up to {said.offset}, which was not sent")
    return said.offset


class Shipper:
    """`run` for as long as the agent does."""

    def __init__(
        self,
        journal: Journal,
        load: Callable[[], Awaitable[Identity]],
        time: ServerTime,
        *,
        send: Send = post,
        every: float = EVERY,
    ) -> None:
        """`load` gives the agent's identity; it is kept while it works."""
        self._journal = journal
        self._load = load
        self._time = time
        self._send = send
        self._every = every
        self._identity: Identity | None = None
        self._log = logging.get("mooring.endpoint")
        self.problem = ""
        """Why the last batch was not taken; empty if it was."""

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(self._every, 30.0)
        while True:
            try:
                moved = await self.step()
            except _FAILURES as error:
                self._failed(str(error))
                self._identity = None  # it may have changed: another server, another key
                await self._rest(backoff.next())
                continue
            backoff.reset()
            if not moved:
                await asyncio.sleep(self._every)

    async def step(self) -> bool:
        """Take one batch away; whether there was one. Raises what went wrong."""
        batch = await asyncio.to_thread(self._next)
        if batch is None:
            return False
        if self._identity is None:
            identity = await self._load()
            if not identity.registered:
                raise NotTaken("this cluster has not joined a server")
            self._identity = identity
        await asyncio.to_thread(self._journal.took, await self._anywhere(self._identity, batch))
        await asyncio.to_thread(self._journal.tidy)
        if self.problem:
            self._log.info("audit records are taken by the server again", waiting=self._journal.waiting())
            self.problem = ""
        return True

    def _next(self) -> Batch | None:
        """In a thread, since it waits for the disk; nobody else moves the journal meanwhile."""
        self._journal.tidy()
        return self._journal.batch(BATCH)

    async def _rest(self, seconds: float) -> None:
        """Wait, with an eye on the journal's bound."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, self._every))
            try:
                await asyncio.to_thread(self._journal.tidy)
            except OSError as error:
                self._failed(str(error))

    async def _anywhere(self, identity: Identity, batch: Batch) -> int:
        last: MooringError = NotTaken("the registration names no address of the server")
        for base in addresses(identity):
            try:
                return await self._send(base, identity, self._time.now(), batch)
            except (MooringError, FetchError) as error:
                last = error
        raise last

    def _failed(self, why: str) -> None:
        if why != self.problem:
            self._log.warning("audit records wait for the server", reason=why, waiting=self._journal.waiting())
        self.problem = why
