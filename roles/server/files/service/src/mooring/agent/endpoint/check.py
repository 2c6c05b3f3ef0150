# SPDX-License-Identifier: Apache-2.0
"""What the documents of an endpoint may say, before anything of them is written into the cluster.

The server's signature says who made a document; this says that it is for this very cluster, not older than what is
there, and that nobody in it has a name of Kubernetes' own. A server that was broken into cannot bring a user in who is
`system:admin`, nor another prefix, under which somebody else's bindings would be hers.

It must not: do anything but look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mooring.lib.names import skeleton
from mooring.wire.endpoint import MAX_DOCUMENT, SHARDS, open_index, open_shard
from mooring.wire.sealed import BadDocument

MAX_PREFIX: Final = 64
"""Characters; the server's own bound is lower."""
_RESERVED: Final = "system:"


@dataclass(frozen=True, slots=True)
class Pin:
    """Whose documents are taken: those that `key` signed for this cluster."""

    key: Ed25519PublicKey
    cluster_id: str
    cluster_uid: str


@dataclass(frozen=True, slots=True)
class Known:
    """An index that was taken. `at` says how new it is: registration of the cluster, and revision. `shards`: number ->
    SHA-256 of the body."""

    data: bytes
    at: tuple[float, int]
    digest: str
    prefix: str
    shards: Mapping[int, str]

    @property
    def revision(self) -> int:
        """Of this registration."""
        return self.at[1]


def take_index(data: bytes, pin: Pin, last: Known | None) -> Known:
    """The index, if it may follow the last one. Raises BadDocument."""
    if len(data) > MAX_DOCUMENT:
        raise BadDocument(f"the index is {len(data)} bytes large, more than {MAX_DOCUMENT}")
    header, index = open_index(data, pin.key, pin.cluster_id, pin.cluster_uid)
    prefix = index.settings.prefix
    if not 0 < len(prefix) <= MAX_PREFIX or not prefix.endswith(":") or _reserved(prefix):
        raise BadDocument(f"the prefix {prefix[:MAX_PREFIX]!r} cannot go before names")
    if not all(0 <= number < SHARDS for number in index.shards):
        raise BadDocument("the index names a shard that there is not")
    at = (index.registered_at, header.revision)
    if last is not None:
        if at < last.at:
            raise BadDocument(
                f"the index has the revision {header.revision}, and {last.revision} was taken already;"
                " if the server was restored from a backup, register the cluster anew with a new join token"
            )
        if at == last.at and header.sha256 != last.digest:
            raise BadDocument(f"there are two indexes of the revision {header.revision}")
        if at[0] == last.at[0] and prefix != last.prefix:
            raise BadDocument(f"the prefix before names was {last.prefix!r}, and is {prefix!r} without a registration")
    return Known(data, at, header.sha256, prefix, dict(index.shards))


def take_shard(data: bytes, pin: Pin, number: int, digest: str, prefix: str) -> None:
    """Whether this is the shard that an index names. Raises BadDocument."""
    if len(data) > MAX_DOCUMENT:
        raise BadDocument(f"shard {number} is {len(data)} bytes large, more than {MAX_DOCUMENT}")
    header, shard = open_shard(data, pin.key, pin.cluster_id, pin.cluster_uid, number)
    if header.sha256 != digest:
        raise BadDocument(f"shard {number} is not the one that the index names")
    for user in shard.users:
        for name in (user.name, *user.groups):
            if not name or _reserved(name) or _reserved(prefix + name):
                raise BadDocument(f"shard {number} holds a name that nobody may have: {name[:64]!r}")


def _reserved(name: str) -> bool:
    return skeleton(name).startswith(_RESERVED)
