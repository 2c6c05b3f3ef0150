# SPDX-License-Identifier: Apache-2.0
"""Who has which token of the endpoint: the table that reviews are answered from.

Why packed: a token is a string and 44 bytes here, so that 100,000 of them are no more than some 25 MB.

Why an unknown token costs what a known one does: the secret is hashed before anything is looked up, and what is not
there is compared all the same, with something that nothing is equal to. How long an answer takes does not say which
ids there are.

It must not: hold a secret, believe anything that `copy` has not checked, or let a time go by without looking at it.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from mooring.authn.identity import Identity
from mooring.wire.endpoint import Settings, User, parse_token, token_hash

HASH: Final = 32
_ROW: Final = struct.Struct(f">{HASH}sdI")  # hash, end, place of the user in the shard


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a token does not let anybody in. `cause` is a word for metrics; `reason` a sentence without any secret."""

    cause: str
    reason: str


FORM: Final = Refusal("form", "this is not a token of an endpoint")
UNKNOWN: Final = Refusal("unknown", "the token is unknown or was revoked")
EMPTY: Final = Refusal("empty", "no tokens of this cluster have been read yet")
DISABLED: Final = Refusal("disabled", "the user of this token is disabled")
ENDED: Final = Refusal("ended", "the user's right to enter this cluster has ended")
EXPIRED: Final = Refusal("expired", "the token has expired")

CAUSES: Final = tuple(refusal.cause for refusal in (FORM, UNKNOWN, EMPTY, DISABLED, ENDED, EXPIRED))


@dataclass(frozen=True, slots=True)
class _Shard:
    rows: dict[str, bytes]
    """Token id -> _ROW."""
    users: list[User]
    """Without their tokens."""


class Book:
    """A sink of `copy`, and what is asked. Times are Unix seconds, by the copy's clock."""

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id
        self._settings: Settings | None = None
        self._connected: bool | None = None
        self._shards: dict[int, _Shard] = {}
        # Nobody knows it, and nobody finds what hashes to it.
        self._nobody = _ROW.pack(secrets.token_bytes(HASH), 0.0, 0)

    def __len__(self) -> int:
        return sum(len(shard.rows) for shard in self._shards.values())

    @property
    def prefix(self) -> str:
        """What goes before names of users and groups; empty before anything was read."""
        return "" if self._settings is None else self._settings.prefix

    # --- asked -------------------------------------------------------------------------------------------------------

    def find(self, bearer: str, now: float) -> Identity | Refusal:
        """Who shows this token at the time `now`."""
        parsed = parse_token(bearer)
        if parsed is None:
            return FORM
        token_id, secret = parsed
        shown = token_hash(self._cluster_id, secret)
        row, users = self._look_up(token_id)
        if not hmac.compare_digest(row[:HASH], shown):
            return UNKNOWN if self._settings is not None else EMPTY
        return self._who(token_id, row, users, now)

    def still(self, token_id: str, now: float) -> Identity | Refusal:
        """Whose token this is, if it is still good at the time `now`. Nothing was shown: it lets nobody in."""
        row, users = self._look_up(token_id)
        if row is self._nobody:
            return UNKNOWN if self._settings is not None else EMPTY
        return self._who(token_id, row, users, now)

    def _look_up(self, token_id: str) -> tuple[bytes, list[User]]:
        """The row of a token and the users of its shard. All shards are looked at, also after it was found."""
        found: tuple[bytes, list[User]] = (self._nobody, [])
        for shard in self._shards.values():
            row = shard.rows.get(token_id)
            if row is not None:
                found = (row, shard.users)
        return found

    def _who(self, token_id: str, row: bytes, users: list[User], now: float) -> Identity | Refusal:
        _hash, expires_at, place = _ROW.unpack(row)
        user = users[place]
        if not user.enabled:
            return DISABLED
        if user.until is not None and not now < user.until:
            return ENDED
        if not now < expires_at and not self._graced(expires_at, now):
            return EXPIRED
        return Identity(
            user_id=user.id,
            user=user.name,
            uid=user.uid,
            groups=user.groups,
            token_id=token_id,
            token_cluster=self._cluster_id,
            expires_at=expires_at,
            admin=False,
        )

    def _graced(self, expires_at: float, now: float) -> bool:
        """Whether an expired token is taken all the same: the server is known to be away, and so it was set."""
        grace = self._settings.grace if self._settings is not None else 0
        return self._connected is False and now < expires_at + grace

    # --- Sink --------------------------------------------------------------------------------------------------------

    def settings(self, settings: Settings) -> None:
        self._settings = settings

    def link(self, connected: bool | None) -> None:
        self._connected = connected

    def shard(self, number: int, users: Sequence[User]) -> None:
        rows: dict[str, bytes] = {}
        kept: list[User] = []
        groups: dict[tuple[str, ...], tuple[str, ...]] = {}  # many users are in the same ones
        for user in users:
            for token in user.tokens:
                if len(token.hash) == HASH:
                    rows[token.id] = _ROW.pack(token.hash, token.expires_at, len(kept))
            kept.append(msgspec.structs.replace(user, tokens=(), groups=groups.setdefault(user.groups, user.groups)))
        if rows:
            self._shards[number] = _Shard(rows, kept)
        else:
            self._shards.pop(number, None)
