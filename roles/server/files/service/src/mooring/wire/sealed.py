# SPDX-License-Identifier: Apache-2.0
"""A document that the server signs for one cluster: what policies and the tokens of endpoints travel and rest in.

    magic, 6 bytes | length of the header, 4 bytes, big endian | header, JSON | signature, 64 bytes | body, zlib

Why: such a document must prove by itself whose it is, for which cluster and how new, however it came. The header names
the cluster by id and UID and holds size and SHA-256 of the body; it is signed (Ed25519, RFC 8032) with the magic before
it, so that a document of one kind cannot be taken for another, nor anything else that is signed with the key for one.
The body is compressed (RFC 1950).

It must not: unpack more than the bound, believe anything before the signature was checked, or decide whether a revision
is new enough (the reader does).
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM: Final = "Ed25519"
MAX_HEADER: Final = 4096
_SIGNATURE: Final = 64
_LENGTH: Final = 4
# The fastest level makes a tenth of a policy's JSON already.
_LEVEL: Final = 1


class BadDocument(Exception):
    """Not a document for this cluster, or not one that the server signed, or larger than allowed. The text says
    which."""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`revision` counts up on the server; `issued_at` is in Unix seconds. `sha256` (hexadecimal) and `size` (bytes) are
    of the body."""

    alg: str
    cluster_id: str
    cluster_uid: str
    revision: int
    issued_at: float
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Kind:
    """What documents of a kind begin with, what they are called in messages, and how large a body may be (bytes)."""

    magic: bytes
    name: str
    limit: int


def digest_of(body: bytes) -> str:
    """What tells whether two documents say the same, in hexadecimal."""
    return sha256(body).hexdigest()


def public_key(text: str) -> Ed25519PublicKey | None:
    """A raw public key in base64url, as it is written where one is pinned; None if it is none."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return Ed25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError):
        return None


def claimed(kind: Kind, data: bytes) -> str:
    """The SHA-256 of its body that a document claims; empty if it cannot be read. Nothing is verified."""
    start = len(kind.magic) + _LENGTH
    length = int.from_bytes(data[len(kind.magic) : start])
    if not data.startswith(kind.magic) or length > MAX_HEADER:
        return ""
    try:
        return msgspec.json.decode(data[start : start + length], type=Header).sha256
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def seal(
    kind: Kind,
    body: bytes,
    key: Ed25519PrivateKey,
    *,
    cluster_id: str,
    cluster_uid: str,
    revision: int,
    issued_at: float,
) -> bytes:
    """A signed document with this body. Raises BadDocument if its header is too long."""
    header = msgspec.json.encode(
        Header(
            alg=ALGORITHM,
            cluster_id=cluster_id,
            cluster_uid=cluster_uid,
            revision=revision,
            issued_at=issued_at,
            sha256=digest_of(body),
            size=len(body),
        )
    )
    if len(header) > MAX_HEADER:
        raise BadDocument(f"the header of the {kind.name} is {len(header)} bytes long, more than {MAX_HEADER}")
    signed = kind.magic + len(header).to_bytes(_LENGTH) + header
    return signed + key.sign(signed) + zlib.compress(body, _LEVEL)


def unseal(
    kind: Kind, data: bytes, key: Ed25519PublicKey, cluster_id: str, cluster_uid: str, limit: int | None = None
) -> tuple[Header, bytes]:
    """Header and body of a document of this kind, if the server signed it with `key` for this cluster. `limit`: bytes
    of the body, the kind's own by default. Raises BadDocument."""
    if not data.startswith(kind.magic):
        raise BadDocument(f"this is no {kind.name}, or one of a newer version: it does not begin as one")
    start = len(kind.magic) + _LENGTH
    length = int.from_bytes(data[len(kind.magic) : start])
    if length > MAX_HEADER:
        raise BadDocument(f"the header of the {kind.name} claims {length} bytes, more than {MAX_HEADER}")
    end = start + length
    if len(data) < end + _SIGNATURE:
        raise BadDocument(f"the {kind.name} is cut off")
    try:
        key.verify(data[end : end + _SIGNATURE], data[:end])
    except InvalidSignature:
        raise BadDocument(f"the {kind.name} was not signed with the policy key that this cluster knows") from None
    try:
        header = msgspec.json.decode(data[start:end], type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadDocument(f"the header of the {kind.name} cannot be read: {error}") from None
    _check(kind, header, cluster_id, cluster_uid, kind.limit if limit is None else limit)
    body = _unpack(kind, data[end + _SIGNATURE :], header.size)
    if digest_of(body) != header.sha256:
        raise BadDocument(f"the content of the {kind.name} is not what was signed")
    return header, body


def _check(kind: Kind, header: Header, cluster_id: str, cluster_uid: str, limit: int) -> None:
    name = kind.name
    if header.alg != ALGORITHM:
        raise BadDocument(f"the {name} is signed with {header.alg!r}, not {ALGORITHM}")
    if header.cluster_id != cluster_id:
        raise BadDocument(f"the {name} is for the cluster {header.cluster_id!r}, this is {cluster_id!r}")
    if not cluster_uid or header.cluster_uid != cluster_uid:
        raise BadDocument(
            f"the {name} is for a cluster with the UID {header.cluster_uid!r}, this one has {cluster_uid!r}"
        )
    if header.revision < 0:
        raise BadDocument(f"the revision of the {name} is {header.revision}")
    if not 0 <= header.size <= limit:
        raise BadDocument(f"the content of the {name} is {header.size} bytes large, more than {limit}")


def _unpack(kind: Kind, packed: bytes, size: int) -> bytes:
    """The body, which must have exactly this size and end where the data ends."""
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise BadDocument(f"the content of the {kind.name} cannot be unpacked: {error}") from None
    if len(body) != size or not unpacker.eof:
        raise BadDocument(f"the content of the {kind.name} does not have the size that was signed")
    if unpacker.unused_data:
        raise BadDocument(f"something follows the content of the {kind.name}")
    return body
