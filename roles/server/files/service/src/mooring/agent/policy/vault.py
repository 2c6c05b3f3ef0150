# SPDX-License-Identifier: Apache-2.0
"""The last bundle, in Secrets of the agent's namespace, so that the policy holds while the server is away.

    mooring-policy-0 .. 15    a part each: `part`, and of what: `index`, `parts`, `order`, `digest`, `about`

The parts of a new bundle are written into Secrets that the last one does not use, and only then is the last one
removed: whatever dies in between, one whole bundle is there. What is read here is worth nothing until its signature has
been checked.

It must not: write what it could not read back, or hold more than one bundle for longer than a change takes.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from mooring.kube.client import KubeApi, KubeError
from mooring.kube.names import POLICY_NAME, POLICY_PARTS
from mooring.kube.secrets import BadSecret, Secrets
from mooring.lib import logging
from mooring.lib.errors import MooringError

PART: Final = 900 * 1024
"""Bytes in a Secret; the API server takes 1 MiB."""
MOST_PARTS: Final = POLICY_PARTS // 2
"""Parts of a bundle: the next one needs as many."""
LARGEST: Final = PART * MOST_PARTS
"""Bytes of a bundle that can be kept, and so of one that is taken."""


class TooLarge(MooringError):
    """A bundle is larger than what can be kept."""


class About(msgspec.Struct, frozen=True):
    """What the agent notes beside a bundle: by which join token it was registered (a new registration may bring a lower
    revision), and by how much the server's clock was ahead."""

    registration: str = ""
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A bundle as it was read, not verified."""

    data: bytes
    about: About
    order: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    slot: int
    index: int
    parts: int
    order: int
    digest: str
    about: About
    data: bytes


class Vault:
    """Reads and writes them."""

    def __init__(self, kube: KubeApi, namespace: str) -> None:
        self._secrets = Secrets(kube, namespace)
        self._log = logging.get("mooring.agent.policy")
        self._used: set[int] = set()
        self._there: set[int] = set()
        self._order = 0

    async def load(self) -> Kept | None:
        """The newest bundle that is whole, or None. Raises KubeError, FetchError."""
        found = await asyncio.gather(*(self._read(slot) for slot in range(POLICY_PARTS)))
        bundles: dict[tuple[int, str], dict[int, _Part]] = {}
        for part in found:
            if part is not None:
                bundles.setdefault((part.order, part.digest), {})[part.index] = part
        for (order, digest), parts in sorted(bundles.items(), key=lambda entry: entry[0], reverse=True):
            self._order = max(self._order, order)
            data = b"".join(parts[index].data for index in sorted(parts))
            if len(parts) == next(iter(parts.values())).parts and hashlib.sha256(data).hexdigest() == digest:
                slots = tuple(part.slot for part in parts.values())
                self._used = set(slots)
                return Kept(data, parts[min(parts)].about, order, slots)
            self._log.warning("a policy that was kept is not whole, and is not used", digest=digest)
        self._used = set()
        return None

    async def save(self, data: bytes, about: About) -> None:
        """Keeps a bundle instead of the last. Raises TooLarge, KubeError, FetchError."""
        if len(data) > LARGEST:
            raise TooLarge(f"the policy has {len(data)} bytes, and {LARGEST} can be kept in the cluster")
        pieces = [data[at : at + PART] for at in range(0, len(data), PART)] or [b""]
        free = [slot for slot in range(POLICY_PARTS) if slot not in self._used]
        order, digest = self._order + 1, hashlib.sha256(data).hexdigest()
        slots = free[: len(pieces)]
        for index, (slot, piece) in enumerate(zip(slots, pieces, strict=True)):
            await self._write(_Part(slot, index, len(pieces), order, digest, about, piece))
        self._order = order
        self._used = set(slots)
        await asyncio.gather(*(self._remove(slot) for slot in sorted(self._there - self._used)))

    async def _read(self, slot: int) -> _Part | None:
        name = f"{POLICY_NAME}-{slot}"
        try:
            found = await self._secrets.read(name)
            if found is None:
                return None
            self._there.add(slot)
            values = found.values
            return _Part(
                slot,
                int(values["index"]),
                int(values["parts"]),
                int(values["order"]),
                values["digest"].decode(),
                msgspec.json.decode(values["about"], type=About),
                values["part"],
            )
        except (BadSecret, ValueError, KeyError, msgspec.MsgspecError):
            self._there.add(slot)
            self._log.warning("a Secret of the policy does not hold what it should", secret=name)
            return None

    async def _write(self, part: _Part) -> None:
        values = {
            "index": str(part.index).encode(),
            "parts": str(part.parts).encode(),
            "order": str(part.order).encode(),
            "digest": part.digest.encode(),
            "about": msgspec.json.encode(part.about),
            "part": part.data,
        }
        await self._secrets.write(f"{POLICY_NAME}-{part.slot}", values)
        self._there.add(part.slot)

    async def _remove(self, slot: int) -> None:
        try:
            await self._secrets.remove(f"{POLICY_NAME}-{slot}")
        except KubeError as error:
            # The next bundle overwrites it.
            self._log.warning("an old part of the policy is not removed", reason=error.reason)
            return
        self._there.discard(slot)
