# SPDX-License-Identifier: Apache-2.0
"""A request that is answered a little later, by a callback: the handler that stands in for it meanwhile.

It must not: keep what the client sends (such requests have no body that matters), or be answered twice.
"""

from __future__ import annotations


class Pending:
    """`take` it before answering: False when there is nobody to answer any more."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = True

    def take(self) -> bool:
        """Whether the answer is still wanted. True once."""
        before, self.open = self.open, False
        return before

    def client_data(self, data: bytes) -> None:
        """Handler: nothing is done with it."""

    def client_end(self) -> None:
        """Handler: the request is complete."""

    def client_drained(self) -> None:
        """Handler: nothing was written yet."""

    def client_gone(self) -> None:
        """Handler: nobody waits any more."""
        self.open = False
