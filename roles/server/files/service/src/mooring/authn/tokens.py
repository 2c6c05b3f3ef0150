# SPDX-License-Identifier: Apache-2.0
"""The form of our opaque tokens: ``mrg_<id>_<secret>`` for users, ``mrj_<id>_<secret>`` for joining a cluster, and
``mre_<id>_<secret>`` for users at the endpoint of one cluster, which is the only one that reads those.

The id finds the row, the secret (256 random bits) proves possession, and only its SHA-256 is kept. A fast hash is right
here: there is nothing to guess in 256 random bits. This module must not know where tokens are stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from mooring.lib.ids import new_id
from mooring.lib.secrets import Secret
from mooring.wire.endpoint import token_hash

Kind = Literal["mrg", "mrj"]
ENDPOINT_ID: Final = "e"
"""What the id of a token for an endpoint begins with."""

same: Final[Callable[[bytes, bytes], bool]] = hmac.compare_digest
"""Compares two hashes in constant time."""

_FORM: Final = re.compile(r"(mrg|mrj)_((?:t|j)-[a-z2-7]{12})_([a-z2-7]{52})", re.ASCII)
_ID_PREFIX: Final[dict[Kind, str]] = {"mrg": "t", "mrj": "j"}


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made. ``text`` is shown to its owner once; ``hash`` is what is stored."""

    id: str
    text: Secret
    hash: bytes


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """A token as presented, split, with its secret already hashed."""

    id: str
    hash: bytes


def new_token(kind: Kind) -> NewToken:
    """Make a token with a fresh id and 256 random bits."""
    token_id, secret = new_id(_ID_PREFIX[kind]), _secret()
    return NewToken(token_id, Secret(f"{kind}_{token_id}_{secret}"), _hash(secret))


def new_endpoint_token(cluster_id: str) -> NewToken:
    """Make a token for the endpoint of this cluster; what is stored of it is of use there only."""
    token_id, secret = new_id(ENDPOINT_ID), _secret()
    return NewToken(token_id, Secret(f"mre_{token_id}_{secret}"), token_hash(cluster_id, secret))


def parse(text: str, kind: Kind) -> ParsedToken | None:
    """Split a presented token; None if it does not have the form of ``kind``."""
    match = _FORM.fullmatch(text)
    if match is None or match[1] != kind:
        return None
    return ParsedToken(match[2], _hash(match[3]))


def _secret() -> str:
    return base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
