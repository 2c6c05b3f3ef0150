# SPDX-License-Identifier: Apache-2.0
"""The policy of one cluster on its way to the agent: signed, bound to the cluster, and bounded.

    magic "MRGP1\\n" | length of the header, 4 bytes, big endian | header, JSON | signature, 64 bytes | body, zlib

Why: what an agent applies becomes the rights of people. It keeps the last bundle in the cluster and goes on healing by
it while the server is away, so a bundle must prove by itself whose it is, for which cluster and how new, however it
came. The header names the cluster by id and UID and holds size and SHA-256 of the body; it is signed (Ed25519, RFC
8032) with the magic before it, so that nothing else that is signed with the key can be taken for one. The body is
compressed JSON (RFC 1950, RFC 8259) `{"objects": [...], "namespaces": [...]}`.

It must not: unpack more than the bound, believe anything before the signature was checked, or decide whether a revision
is new enough (the agent does).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAGIC: Final = b"MRGP1\n"
ALGORITHM: Final = "Ed25519"
MAX_UNPACKED: Final = 64 * 1024 * 1024
"""Bytes of the body as JSON."""
MAX_HEADER: Final = 4096
_SIGNATURE: Final = 64
_LENGTH: Final = 4
# The fastest level makes a tenth of such JSON already.
_LEVEL: Final = 1


class BadBundle(Exception):
    """Not a bundle for this cluster, or not one that the server signed, or larger than allowed. The text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """`revision` counts changes of the policy on the server; `issued_at` is in Unix seconds. `objects` and `namespaces`
    are as `mooring.policy.render` makes them. `sha256` (hexadecimal) is of the body, the digest of the content: it is
    "" before it was encoded."""

    cluster_id: str
    cluster_uid: str
    revision: int
    issued_at: float
    objects: Sequence[dict[str, Any]]
    namespaces: Sequence[dict[str, Any]]
    sha256: str = ""


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    alg: str
    cluster_id: str
    cluster_uid: str
    revision: int
    issued_at: float
    sha256: str
    size: int


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    objects: list[dict[str, Any]]
    namespaces: list[dict[str, Any]]


def encode(bundle: Bundle, key: Ed25519PrivateKey, limit: int = MAX_UNPACKED) -> bytes:
    """The bundle as bytes. Raises BadBundle if its content is larger than `limit` bytes, and says what helps."""
    return seal(bundle, body_of(bundle.objects, bundle.namespaces, limit), key)


def body_of(
    objects: Sequence[dict[str, Any]], namespaces: Sequence[dict[str, Any]], limit: int = MAX_UNPACKED
) -> bytes:
    """The content as JSON, the same for the same content: what `digest_of` is of, and what `seal` takes."""
    body = msgspec.json.encode({"objects": objects, "namespaces": namespaces}, order="deterministic")
    if len(body) > limit:
        raise BadBundle(
            f"the policy of this cluster is {len(body)} bytes large, more than {limit}: bind groups, not many users"
        )
    return body


def digest_of(body: bytes) -> str:
    """What tells whether two bundles say the same, in hexadecimal."""
    return sha256(body).hexdigest()


def seal(bundle: Bundle, body: bytes, key: Ed25519PrivateKey) -> bytes:
    """A signed bundle with this body; `objects` and `namespaces` of the bundle are not looked at."""
    header = msgspec.json.encode(
        _Header(
            alg=ALGORITHM,
            cluster_id=bundle.cluster_id,
            cluster_uid=bundle.cluster_uid,
            revision=bundle.revision,
            issued_at=bundle.issued_at,
            sha256=digest_of(body),
            size=len(body),
        )
    )
    if len(header) > MAX_HEADER:
        raise BadBundle(f"the header of the bundle is {len(header)} bytes long, more than {MAX_HEADER}")
    signed = MAGIC + len(header).to_bytes(_LENGTH) + header
    return signed + key.sign(signed) + zlib.compress(body, _LEVEL)


def decode(data: bytes, key: Ed25519PublicKey, cluster_id: str, cluster_uid: str, limit: int = MAX_UNPACKED) -> Bundle:
    """The bundle in `data`, if the server signed it with `key` for this cluster. Raises BadBundle."""
    if not data.startswith(MAGIC):
        raise BadBundle("this is no policy bundle, or one of a newer version: it does not begin as one")
    start = len(MAGIC) + _LENGTH
    length = int.from_bytes(data[len(MAGIC) : start])
    if length > MAX_HEADER:
        raise BadBundle(f"the header of the bundle claims {length} bytes, more than {MAX_HEADER}")
    end = start + length
    if len(data) < end + _SIGNATURE:
        raise BadBundle("the bundle is cut off")
    try:
        key.verify(data[end : end + _SIGNATURE], data[:end])
    except InvalidSignature:
        raise BadBundle("the bundle was not signed with the policy key that this cluster knows") from None
    try:
        header = msgspec.json.decode(data[start:end], type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadBundle(f"the header of the bundle cannot be read: {error}") from None
    _check(header, cluster_id, cluster_uid, limit)
    body = _unpack(data[end + _SIGNATURE :], header.size)
    if digest_of(body) != header.sha256:
        raise BadBundle("the content of the bundle is not what was signed")
    try:
        content = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadBundle(f"the content of the bundle cannot be read: {error}") from None
    return Bundle(
        cluster_id=header.cluster_id,
        cluster_uid=header.cluster_uid,
        revision=header.revision,
        issued_at=header.issued_at,
        objects=content.objects,
        namespaces=content.namespaces,
        sha256=header.sha256,
    )


def _check(header: _Header, cluster_id: str, cluster_uid: str, limit: int) -> None:
    if header.alg != ALGORITHM:
        raise BadBundle(f"the bundle is signed with {header.alg!r}, not {ALGORITHM}")
    if header.cluster_id != cluster_id:
        raise BadBundle(f"the bundle is for the cluster {header.cluster_id!r}, this is {cluster_id!r}")
    if not cluster_uid or header.cluster_uid != cluster_uid:
        raise BadBundle(
            f"the bundle is for a cluster with the UID {header.cluster_uid!r}, this one has {cluster_uid!r}"
        )
    if header.revision < 0:
        raise BadBundle(f"the revision of the bundle is {header.revision}")
    if not 0 <= header.size <= limit:
        raise BadBundle(f"the content of the bundle is {header.size} bytes large, more than {limit}")


def _unpack(packed: bytes, size: int) -> bytes:
    """The body, which must have exactly this size and end where the data ends."""
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise BadBundle(f"the content of the bundle cannot be unpacked: {error}") from None
    if len(body) != size or not unpacker.eof:
        raise BadBundle("the content of the bundle does not have the size that was signed")
    if unpacker.unused_data:
        raise BadBundle("something follows the content of the bundle")
    return body
