# SPDX-License-Identifier: Apache-2.0
"""Keeps one process alive: starts it, replaces it when it dies, and exchanges it for a new one without a gap.

A process that dies at once is started again after a delay that grows, so that a fault that stays does not use the
machine up. It must not: give up; a server without one of its parts says so by /readyz and goes on trying.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from mooring.app.process import Child
from mooring.lib import logging
from mooring.lib.errors import MooringError
from mooring.lib.tasks import Supervisor

FIRST_DELAY: Final = 0.1
MOST_DELAY: Final = 10.0
STEADY: Final = 30.0
"""Seconds after which a process counts as good and the delays start over."""
SETTLE_SECONDS: Final = 15.0
"""For agents to find a new worker, before the old one is told to go."""

log = logging.get("mooring.app")


class Keeper:
    """One place (control, or the slot of a worker). `spawn` starts a process for it."""

    def __init__(
        self,
        name: str,
        spawn: Callable[[], Awaitable[Child]],
        on_change: Callable[[], None],
        seconds: float,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """`seconds`: what a process may take to finish what it has, when it is told to end. `on_failure` hears that one
        that died could not be replaced, each time."""
        self.name = name
        self._seconds = seconds
        self.child: Child | None = None
        self._spawn = spawn
        self._on_change = on_change
        self._on_failure = on_failure
        self._stopping = False
        self._exchanging = False
        self._lock = asyncio.Lock()
        self._tasks = Supervisor(f"keeper {name}")

    async def start(self) -> None:
        """Start the first process; later ones follow by themselves. Raises MooringError when it cannot start."""
        self.child = await self._ready_child()
        self._on_change()
        self._tasks.spawn(self._keep(), "keep")

    async def exchange(self, *, overlap: bool) -> None:
        """Put a new process in the place of the present one.

        `overlap`: the new one works before the old one is told to go. Raises MooringError when the new one cannot
        start; with `overlap` the old one then goes on.
        """
        async with self._lock:
            old = self.child
            self._exchanging = True
            try:
                if old is not None and not overlap:
                    await old.drain(self._seconds, replaced=False)
                self.child = await self._settled_child(overlap and old is not None and not old.ended)
            finally:
                self._exchanging = False
            self._on_change()
        if old is not None and overlap:
            try:
                await old.drain(self._seconds, replaced=True)
            finally:
                await old.kill()

    async def stop(self) -> None:
        """End the process, and start no other."""
        self._stopping = True
        child = self.child
        if child is not None and not child.ended:
            await child.drain(self._seconds, replaced=False)
        await self._tasks.aclose()
        if self.child is not None and not self.child.ended:
            await self.child.kill()

    async def _ready_child(self) -> Child:
        child = await self._spawn()
        try:
            await child.wait_ready()
        except BaseException:
            await child.kill()
            raise
        return child

    async def _settled_child(self, settle: bool) -> Child:
        child = await self._ready_child()
        if settle:
            try:
                await asyncio.wait_for(child.settled.wait(), SETTLE_SECONDS)
            except TimeoutError:
                log.warning("some agents have not found the new worker yet", worker=self.name)
            except BaseException:
                await child.kill()
                raise
        return child

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while True:
            child, began = self.child, loop.time()
            assert child is not None
            code = await child.wait_gone()
            if self._stopping:
                return
            if child is not self.child:
                continue
            if code is None:
                log.info("a process ends and is replaced", process=self.name, pid=child.pid)
                self._tasks.spawn(child.reap(self._seconds), "reap")
            elif not self._exchanging:
                log.error("a process ended and is replaced", process=self.name, pid=child.pid, code=code)
            if loop.time() - began >= STEADY:
                delay = FIRST_DELAY
            while self.child is child:
                await asyncio.sleep(delay)
                delay = min(delay * 2, MOST_DELAY)
                async with self._lock:  # an exchange may be under way, and put another in this one's place
                    if self._stopping:
                        return
                    if self.child is child:
                        await self._replace()

    async def _replace(self) -> None:
        try:
            self.child = await self._ready_child()
        except MooringError as error:
            log.error("a process cannot be started", process=self.name, reason=error.reason, hint=error.hint)
            self._on_failure()
        else:
            self._on_change()
