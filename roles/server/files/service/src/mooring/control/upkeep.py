# SPDX-License-Identifier: Apache-2.0
"""Small regular work: when tokens were last used, when agents were last seen, and the removal of what ended long ago.

Nothing here decides anything: a token is dead at its end whether or not its row is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from mooring.authn.index import Index
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.store.ports import Store, StoreUnavailable

TICK: Final = 10.0  # seconds: last use of tokens
SEEN_EVERY: Final = 30.0  # seconds: last seen of connected agents
PURGE_EVERY: Final = 3600.0  # seconds
KEEP_ENDED: Final = 30 * 86400.0  # seconds that revoked and expired tokens stay readable
KEEP_ENDPOINT: Final = 2 * 86400.0  # the same for those of endpoints, of which a client makes one each hour


class Upkeep:
    """`start` it once the index is loaded; `aclose` writes the last uses once more."""

    def __init__(self, store: Store, index: Index, clock: Clock, connected_ids: Callable[[], list[str]]) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._connected_ids = connected_ids
        self._seen_next = 0.0
        self._purge_next = 0.0
        self._tasks = Supervisor("upkeep")
        self._log = logging.get("mooring.control")

    def start(self) -> None:
        self._tasks.spawn(self._run(), "tick")

    async def aclose(self) -> None:
        """Write what is still to be written, if the database answers within 5 seconds."""
        await self._tasks.aclose()
        try:
            async with asyncio.timeout(5):
                await self._write_used()
        except (StoreUnavailable, TimeoutError):
            self._log.warning("the last uses of some tokens were not written")

    async def tick(self) -> None:
        """What is due now. Raises StoreUnavailable."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        self._index.drop_expired(now)
        await self._write_used()
        if monotonic >= self._seen_next:
            self._seen_next = monotonic + SEEN_EVERY
            connected = self._connected_ids()
            if connected:
                async with self._store.write() as tx:
                    await tx.clusters.seen(connected, now)
        if monotonic >= self._purge_next:
            self._purge_next = monotonic + PURGE_EVERY
            async with self._store.write() as tx:
                ended = await tx.tokens.purge(now - KEEP_ENDED)
                ended += await tx.tokens.purge(now - KEEP_ENDPOINT, "endpoint")
                joins = await tx.join_tokens.purge(now - KEEP_ENDED)
            if ended or joins:
                self._log.info("removed what ended long ago", tokens=ended, join_tokens=joins)

    async def _write_used(self) -> None:
        used = self._index.take_used()
        if not used:
            return
        try:
            async with self._store.write() as tx:
                await tx.tokens.used(used)
        except BaseException:
            for token_id, when in used.items():
                self._index.note_used(token_id, when)
            raise

    async def _run(self) -> None:
        while True:
            try:
                await self.tick()
            except StoreUnavailable:
                self._log.warning("the database is away; regular work waits")
            except Exception as error:
                self._log.exception("regular work failed", error=repr(error))
            await asyncio.sleep(TICK)
