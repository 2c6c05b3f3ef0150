# SPDX-License-Identifier: Apache-2.0
"""The documents of an endpoint in Secrets of the agent's namespace, as those who read them expect.

    mooring-endpoint        document: the index      link: whether there is a session to the server, as JSON
    mooring-endpoint-<n>    document: shard n

Written in this order: shards, then the index that names them, and only then is removed what it does not name. Whoever
follows the index finds at each moment what it names, or knows by the digest that it does not.

It must not: hold more documents in memory than `HELD` bytes, or believe what it reads. The digest of what was written
tells whether somebody else wrote.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

import msgspec

from mooring.kube.names import ENDPOINT_NAME, shard_name
from mooring.kube.secrets import BadSecret, Secrets
from mooring.wire.endpoint import SHARDS

DOCUMENT: Final = "document"
LINK: Final = "link"
HELD: Final = 2 * 1024 * 1024
"""Bytes of shards that are held to put them back while the server is away: those of about 40,000 tokens."""
AT_ONCE: Final = 4
"""Secrets that are read or written at once."""


class Link(msgspec.Struct, frozen=True):
    """Whether the agent has a session to a server, since when (Unix seconds), and by how much the server's clock is
    ahead of this machine's. Nobody signed for it."""

    connected: bool
    since: float
    offset: float = 0.0


class Vault:
    """Reads and writes them. All methods that wait raise KubeError, FetchError, BadConfig."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._versions: dict[int, str] = {}  # of the Secrets of shards, as they were written or found
        self._digests: dict[int, bytes] = {}  # of the documents in them
        self._held: dict[int, bytes] = {}
        self._index: dict[str, str] = {}  # what the Secret of the index shall hold, as it comes in a watch
        self._few = asyncio.Semaphore(AT_ONCE)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def index(self) -> tuple[bytes, Link | None] | None:
        """The index that is there, and the link beside it; None if there is none."""
        try:
            found = await self._secrets.read(ENDPOINT_NAME)
        except BadSecret:
            return b"", None
        if found is None:
            return None
        try:
            link = msgspec.json.decode(found.values.get(LINK, b""), type=Link)
        except msgspec.MsgspecError:
            link = None
        self._expect(found.values)
        return found.values.get(DOCUMENT, b""), link

    async def shard(self, number: int) -> bytes | None:
        """A shard that is there; None if there is none."""
        async with self._few:
            try:
                found = await self._secrets.read(shard_name(number))
            except BadSecret:
                return b""
        if found is None:
            self._forget(number)
            return None
        data = found.values.get(DOCUMENT, b"")
        self._versions[number] = found.version
        self._digests[number] = sha256(data).digest() if set(found.values) == {DOCUMENT} else b""
        return data

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write_shard(self, number: int, data: bytes) -> None:
        """Writes a shard."""
        async with self._few:
            self._forget(number)
            self._versions[number] = await self._secrets.write(shard_name(number), {DOCUMENT: data})
        self._digests[number] = sha256(data).digest()
        self.hold(number, data)

    async def write_index(self, data: bytes, link: Link) -> None:
        """Writes the index."""
        values = {DOCUMENT: data, LINK: msgspec.json.encode(link)}
        self._expect(values)  # first: the watch may tell of it before the API server has answered
        await self._secrets.write(ENDPOINT_NAME, values)

    async def keep_only(self, numbers: Iterable[int], *, all_others: bool = False) -> None:
        """Removes the Secrets of other shards than these; with `all_others` those that somebody else made too."""
        there = set(range(SHARDS)) if all_others else set(self._versions)
        await asyncio.gather(*(self._remove(number) for number in sorted(there - set(numbers))))

    # --- what others do ----------------------------------------------------------------------------------------------

    def is_index(self, data: Mapping[str, str] | None) -> bool:
        """Whether this is what the Secret of the index shall hold."""
        return self._index == data

    async def touched(self) -> dict[int, bytes | None]:
        """Shards that are not as they were written any more, each with what was, if it is held."""
        found = await asyncio.gather(*(self._is_touched(number) for number in sorted(self._versions)))
        return {number: self._held.get(number) for number in found if number is not None}

    def hold(self, number: int, data: bytes) -> None:
        """Holds a shard, as long as there is room."""
        self._held.pop(number, None)
        if sum(map(len, self._held.values())) + len(data) <= HELD:
            self._held[number] = data

    async def _is_touched(self, number: int) -> int | None:
        name = shard_name(number)
        async with self._few:
            version = await self._secrets.version(name)
            if version == self._versions.get(number):
                return None
            try:
                found = await self._secrets.read(name)
            except BadSecret:
                return number
        if found is None or set(found.values) != {DOCUMENT}:
            return number
        if sha256(found.values[DOCUMENT]).digest() != self._digests.get(number):
            return number
        self._versions[number] = found.version  # somebody labelled it
        return None

    async def _remove(self, number: int) -> None:
        async with self._few:
            if number in self._versions or await self._secrets.version(shard_name(number)):
                await self._secrets.remove(shard_name(number))
        self._forget(number)

    def _expect(self, values: Mapping[str, bytes]) -> None:
        self._index = {key: base64.b64encode(value).decode("ascii") for key, value in values.items()}

    def _forget(self, number: int) -> None:
        self._versions.pop(number, None)
        self._digests.pop(number, None)
        self._held.pop(number, None)
