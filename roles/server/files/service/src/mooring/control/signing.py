# SPDX-License-Identifier: Apache-2.0
"""The key that bundles of policies are signed with: made once for an installation, kept with its data.

In the database, since all servers of an installation sign alike, and since a restored backup must go on with the key
that the agents have pinned. Who has the key cannot deliver anything by it alone: agents fetch from the server's name
and certificate.

It must not: show it. The public half is all that leaves.
"""

from __future__ import annotations

import base64
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mooring.lib.errors import MooringError
from mooring.store.ports import Store

SETTING: Final = "policy_signing_key"


async def signing_key(store: Store) -> Ed25519PrivateKey:
    """The installation's key (Ed25519, RFC 8032), made at the first call. Raises StoreUnavailable, MooringError."""
    async with store.write() as tx:
        text = await tx.settings.get(SETTING)
        if text is None:
            key = Ed25519PrivateKey.generate()
            await tx.settings.put(SETTING, base64.b64encode(key.private_bytes_raw()).decode())
            return key
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except ValueError:
        raise MooringError(
            f"the setting {SETTING!r} in the database holds no Ed25519 key",
            "restore the database from a backup: agents take no other key",
        ) from None
