# SPDX-License-Identifier: Apache-2.0
"""The answer to "who is asking?", as the proxy and the API both use it.

It is a plain value: it must not know how the answer was found, nor what the caller may do with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ADMIN_GROUP: Final = "admins"
"""The built-in group whose members may do everything on the server."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user who has shown a valid token.

    ``user`` is the name without the prefix that goes downstream; ``uid`` never changes and is never used again.
    ``token_cluster`` is the id of the only cluster that the token is good for, or None. ``expires_at`` is in Unix
    seconds; None means that the token has no end.
    """

    user_id: str
    user: str
    uid: str
    groups: tuple[str, ...]
    token_id: str
    token_cluster: str | None
    expires_at: float | None
    admin: bool
