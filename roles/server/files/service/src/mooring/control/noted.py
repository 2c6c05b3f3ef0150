# SPDX-License-Identifier: Apache-2.0
"""What agents say often is noted in memory and written seldom: the one loop that does so.

It must not: know what is noted, or end because a write failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from mooring.lib import logging
from mooring.store.ports import StoreUnavailable

WRITE_EVERY: Final = 1.0  # seconds between two writes, at least
RETRY: Final = 30.0  # seconds until what could not be written is tried again


async def write_noted(noted: asyncio.Event, flush: Callable[[], Awaitable[None]], failure: str) -> None:
    """Call `flush` whenever `noted` was set, until cancelled. `failure` is what the log says of a fault in it."""
    log = logging.get("mooring.control")
    while True:
        await noted.wait()
        noted.clear()
        pause = WRITE_EVERY
        try:
            await flush()
        except StoreUnavailable:
            noted.set()
            pause = RETRY
        except Exception as error:
            # One bad row must not end the only writer; what was noted is tried again with the next change.
            log.exception(failure, error=repr(error))
        await asyncio.sleep(pause)
