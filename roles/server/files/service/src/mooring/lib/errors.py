# SPDX-License-Identifier: Apache-2.0
"""The root of the errors that people get to see.

Such an error says what is wrong (`reason`) and what to do about it (`hint`). Errors that only the program handles
need not derive from it. It must never carry a secret.
"""

from __future__ import annotations


class MooringError(Exception):
    """Something a person or a client can act on.

    `reason` is one sentence that names what is wrong; `hint` says what to do, and may be empty.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason} ({self.hint})" if self.hint else self.reason
