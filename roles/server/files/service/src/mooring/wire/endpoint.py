# SPDX-License-Identifier: Apache-2.0
"""The tokens of an authorized cluster endpoint on their way into the cluster, and what such a token looks like.

    index   signed document: settings, and the SHA-256 of each shard's body    Secret mooring-endpoint
    shard   signed document: users and their tokens, by `shard_of(user id)`    Secrets mooring-endpoint-0 .. 15
    token   mre_<id>_<secret>, only in its owner's hands; `token_hash` of it stands in the shard

Why shards: a new token of one user changes two small documents, not one with everybody's. Why the hash names the
cluster: what one cluster holds is of no use in another, even to whoever can write there what he likes.

It must not: know where documents are kept, who is asked, or what time it is.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mooring.wire import sealed
from mooring.wire.sealed import BadDocument, Header

SHARDS: Final = 16
MAX_TOKENS: Final = 100_000
"""Of one cluster."""
MAX_TOKENS_PER_USER: Final = 200
"""Of one user in one cluster."""
INDEX: Final = sealed.Kind(b"MREI1\n", "index of an endpoint's tokens", 64 * 1024)
SHARD: Final = sealed.Kind(b"MRES1\n", "shard of an endpoint's tokens", 8 * 1024 * 1024)
MAX_DOCUMENT: Final = 1000 * 1024
"""Bytes of a signed document: what a Secret holds."""

T = TypeVar("T")
_FORM: Final = re.compile(r"mre_(e-[a-z2-7]{12})_([a-z2-7]{52})", re.ASCII)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the whole endpoint. `prefix` goes before names of users and groups in the cluster. `grace`: for
    how many seconds an expired token is still taken while the server cannot be reached; 0: none."""

    prefix: str
    grace: int = 0
    mode: str = "webhook"


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """`shards`: number -> SHA-256 (hexadecimal) of the shard's body; an empty shard is not in it. `registered_at` (Unix
    seconds) says which registration of the cluster it is of: (`registered_at`, revision) never goes down."""

    settings: Settings
    registered_at: float
    shards: Mapping[int, str] = {}


class Token(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`hash` is `token_hash`, 32 bytes; `expires_at` in Unix seconds. It holds nothing that could hold it again: the
    collector of garbage need not look at a hundred thousand of them."""

    id: str
    hash: bytes
    expires_at: float


class User(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user with tokens for this cluster. `name` and `groups` are without the prefix. `until` (Unix seconds) is when
    the right to enter the cluster ends by itself; None: it does not."""

    id: str
    name: str
    uid: str
    groups: tuple[str, ...] = ()
    enabled: bool = True
    until: float | None = None
    tokens: tuple[Token, ...] = ()


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """`number` is in it so that one shard cannot stand in the place of another."""

    number: int
    users: tuple[User, ...] = ()


def shard_of(user_id: str) -> int:
    """The number of the shard that a user is in; the same for ever."""
    return zlib.crc32(user_id.encode()) % SHARDS


def parse_token(text: str) -> tuple[str, str] | None:
    """(id, secret) of a token of an endpoint; None if it has not the form of one."""
    match = _FORM.fullmatch(text)
    return None if match is None else (match[1], match[2])


def token_hash(cluster_id: str, secret: str) -> bytes:
    """What a cluster keeps of a token: SHA-256 of the secret, with the id of the only cluster that it is good for."""
    return hashlib.sha256(b"\0".join((b"mooring-endpoint", cluster_id.encode(), secret.encode()))).digest()


def body_of(document: Index | Shard) -> bytes:
    """The content as bytes, the same for the same content: what `sealed.digest_of` is of, and what `seal` takes."""
    if isinstance(document, Index):  # msgpack sorts only keys that are text
        document = msgspec.structs.replace(document, shards=dict(sorted(document.shards.items())))
    return msgspec.msgpack.encode(document)


def seal(
    document: Index | Shard,
    key: Ed25519PrivateKey,
    *,
    cluster_id: str,
    cluster_uid: str,
    revision: int,
    issued_at: float,
) -> bytes:
    """The signed document. Raises BadDocument if it is larger than a Secret holds."""
    kind = INDEX if isinstance(document, Index) else SHARD
    data = sealed.seal(
        kind,
        body_of(document),
        key,
        cluster_id=cluster_id,
        cluster_uid=cluster_uid,
        revision=revision,
        issued_at=issued_at,
    )
    if len(data) > MAX_DOCUMENT:
        raise BadDocument(f"the {kind.name} is {len(data)} bytes large, more than {MAX_DOCUMENT}")
    return data


def open_index(data: bytes, key: Ed25519PublicKey, cluster_id: str, cluster_uid: str) -> tuple[Header, Index]:
    """The index, if the server signed it for this cluster. Raises BadDocument."""
    header, body = sealed.unseal(INDEX, data, key, cluster_id, cluster_uid)
    return header, _decode(body, Index, INDEX)


def open_shard(
    data: bytes, key: Ed25519PublicKey, cluster_id: str, cluster_uid: str, number: int
) -> tuple[Header, Shard]:
    """The shard of this number, if the server signed it for this cluster. Raises BadDocument."""
    header, body = sealed.unseal(SHARD, data, key, cluster_id, cluster_uid)
    shard = _decode(body, Shard, SHARD)
    if shard.number != number:
        raise BadDocument(f"this is shard {shard.number}, not {number}")
    return header, shard


def _decode(body: bytes, type_: type[T], kind: sealed.Kind) -> T:
    try:
        return msgspec.msgpack.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadDocument(f"the content of the {kind.name} cannot be read: {error}") from None
