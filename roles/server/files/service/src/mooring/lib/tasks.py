# SPDX-License-Identifier: Apache-2.0
"""Tasks with an owner.

A bare `asyncio.create_task` can be collected while it runs and can fail unseen. A `Supervisor` holds its tasks, logs
what they raise, and ends them together within a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from mooring.lib import logging

T = TypeVar("T")


class Supervisor:
    """Owns the tasks of one part of the program."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._log = logging.get("mooring.tasks")

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Starts a task. Its exception, if nobody awaits it, is logged. Raises RuntimeError after `aclose`."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"supervisor {self.name} is closed")
        task = asyncio.get_running_loop().create_task(coro, name=f"{self.name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._log.error("task failed", task=task.get_name(), error=repr(error), exc_info=error)

    async def aclose(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the deadline is the point of this call
        """Cancels the tasks and waits for them, at most `timeout` seconds. Takes no new ones afterwards."""
        self._closed = True
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _unused, pending = await asyncio.wait(tasks, timeout=timeout)
        for task in pending:
            self._log.error("task did not end", task=task.get_name(), timeout=timeout)
