# SPDX-License-Identifier: Apache-2.0
"""Passwords: argon2id (RFC 9106), computed in threads, a few at a time.

A hash takes tens of milliseconds and 64 MiB on purpose. So it never runs on the event loop, at most `workers` run at
once, and when too many wait, the caller is told to come back: a flood of logins must not take the memory or the proxy's
time. Passwords are only hashed here; who has which is the store's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret

MAX_PASSWORD_BYTES: Final = 1024
T = TypeVar("T")


class Busy(MooringError):
    """Too many passwords are being checked; nothing was checked. `retry_after` is in seconds."""

    retry_after = 2

    def __init__(self) -> None:
        super().__init__("too many logins at once", "try again in a moment")


class Passwords:
    """Hashes and verifies. `time_cost` and `memory_kib` are argon2's; the defaults are RFC 9106's low-memory choice."""

    def __init__(self, *, workers: int = 2, max_waiting: int = 32, time_cost: int = 3, memory_kib: int = 65536) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=4)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="mooring-argon2")
        self._limit = workers + max_waiting
        self._inside = 0
        self._dummy: str | None = None

    async def hash(self, password: Secret) -> Secret:
        """The encoded argon2id hash. Raises Busy."""
        return Secret(await self._run(lambda: self._hasher.hash(password.reveal())))

    async def verify(self, stored: Secret | None, password: Secret) -> bool:
        """Whether the password belongs to the hash. Without a hash it takes as long, and is False. Raises Busy."""
        return await self._run(lambda: self._verify(stored, password))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: Secret | None, password: Secret) -> bool:
        if self._dummy is None:
            self._dummy = self._hasher.hash("nobody has this password")
        text = password.reveal().encode(errors="replace")
        if len(text) > MAX_PASSWORD_BYTES:
            stored, text = None, b""
        try:
            self._hasher.verify(self._dummy if stored is None else stored.reveal(), text)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    async def _run(self, work: Callable[[], T]) -> T:
        if self._inside >= self._limit:
            raise Busy
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._inside -= 1
