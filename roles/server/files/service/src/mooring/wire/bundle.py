# SPDX-License-Identifier: Apache-2.0
"""The policy of one cluster on its way to the agent: a signed document (`mooring.wire.sealed`) that holds JSON (RFC
8259) `{"objects": [...], "namespaces": [...]}`.

Why: what an agent applies becomes the rights of people. It keeps the last bundle in the cluster and goes on healing by
it while the server is away.

It must not: unpack more than the bound, believe anything before the signature was checked, or decide whether a revision
is new enough (the agent does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mooring.wire import sealed
from mooring.wire.sealed import BadDocument as BadBundle
from mooring.wire.sealed import digest_of

__all__ = ["MAGIC", "MAX_UNPACKED", "BadBundle", "Bundle", "body_of", "decode", "digest_of", "encode", "seal"]

MAGIC: Final = b"MRGP1\n"
MAX_UNPACKED: Final = 64 * 1024 * 1024
"""Bytes of the body as JSON."""
KIND: Final = sealed.Kind(MAGIC, "policy bundle", MAX_UNPACKED)


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


def seal(bundle: Bundle, body: bytes, key: Ed25519PrivateKey) -> bytes:
    """A signed bundle with this body; `objects` and `namespaces` of the bundle are not looked at."""
    return sealed.seal(
        KIND,
        body,
        key,
        cluster_id=bundle.cluster_id,
        cluster_uid=bundle.cluster_uid,
        revision=bundle.revision,
        issued_at=bundle.issued_at,
    )


def decode(data: bytes, key: Ed25519PublicKey, cluster_id: str, cluster_uid: str, limit: int = MAX_UNPACKED) -> Bundle:
    """The bundle in `data`, if the server signed it with `key` for this cluster. Raises BadBundle."""
    header, body = sealed.unseal(KIND, data, key, cluster_id, cluster_uid, limit)
    try:
        content = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadBundle(f"the content of the policy bundle cannot be read: {error}") from None
    return Bundle(
        cluster_id=header.cluster_id,
        cluster_uid=header.cluster_uid,
        revision=header.revision,
        issued_at=header.issued_at,
        objects=content.objects,
        namespaces=content.namespaces,
        sha256=header.sha256,
    )
