# SPDX-License-Identifier: Apache-2.0
"""The local copy of an endpoint's tokens: which documents are believed, and who is told what they hold.

    adopt(index, shards) -> signature, cluster, UID -> not older than what is there -> names -> sinks

An index counts from the moment it is adopted. A shard is what the index says by its digest: one that is missing or not
it is replaced by nothing, so that nobody is let in by a content that the server has replaced; `missing` says which,
and they may be brought later.

Sans-I/O. It must not: read or write files or Secrets, hold the documents, or take an index that is older than the one
that it has: (registration of the cluster, revision) never goes down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.webhook.heldtime import HeldTime
from mooring.wire import endpoint
from mooring.wire.endpoint import MAX_TOKENS, SHARDS, Index, Settings, Shard, User
from mooring.wire.sealed import BadDocument, Header

MAX_NAME: Final = 1024
"""Characters of a name of a user or group. The server's own bound is lower."""
_RESERVED: Final = "system:"


class Sink(Protocol):
    """Who is told what the documents hold. All calls are on the loop and after every check."""

    def settings(self, settings: Settings) -> None:
        """What holds for the whole endpoint from now on."""

    def shard(self, number: int, users: Sequence[User]) -> None:
        """The users of a shard from now on; nobody else is in it."""

    def link(self, connected: bool | None) -> None:
        """Whether the cluster's agent has a session to the server; None: not known."""


class Copy:
    """What this process knows of the endpoint."""

    def __init__(self, cluster_id: str, cluster_uid: str, key: Ed25519PublicKey, clock: Clock) -> None:
        self.time = HeldTime(clock)
        self.problem = "no tokens of this cluster have been read yet"
        """What is wrong with what was brought last; empty: nothing."""
        self._cluster_id = cluster_id
        self._cluster_uid = cluster_uid
        self._key = key
        self._sinks: list[Sink] = []
        self._at: tuple[float, int] | None = None
        self._digest = ""
        self._prefix = ""
        self._wanted: dict[int, str] = {}  # what the index says of each shard
        self._have: dict[int, str] = {}  # what the sinks were told of
        self._sizes: dict[int, int] = {}
        self._log = logging.get("mooring.endpoint")

    # --- asked -------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The time by which tokens end: Unix seconds that never go back."""
        return self.time.now()

    @property
    def ready(self) -> bool:
        """Whether an index was adopted."""
        return self._at is not None

    @property
    def revision(self) -> int:
        """Of the index that was adopted; -1 if none was."""
        return -1 if self._at is None else self._at[1]

    @property
    def digest(self) -> str:
        """SHA-256 of the body of the index that was adopted; empty if none was."""
        return self._digest

    @property
    def tokens(self) -> int:
        """How many it holds."""
        return sum(self._sizes.values())

    @property
    def missing(self) -> dict[int, str]:
        """Shards that the index names and that nobody brought: number -> digest."""
        return {number: digest for number, digest in self._wanted.items() if self._have.get(number) != digest}

    @property
    def shards(self) -> Mapping[int, str]:
        """What the index names: number -> digest."""
        return self._wanted

    # --- fed ---------------------------------------------------------------------------------------------------------

    def subscribe(self, sink: Sink) -> None:
        """Have a sink told. Call it before anything is adopted: what has been told is not told again."""
        self._sinks.append(sink)

    def wants(self, index: bytes) -> dict[int, str] | None:
        """The shards to be brought with this index: number -> digest; None if it is the one that is there, and whole.
        Raises BadDocument for an index that would not be adopted."""
        header, document = self._check(index)
        have = self._have if document.settings.prefix == self._prefix else {}
        wanted = {n: digest for n, digest in document.shards.items() if have.get(n) != digest}
        return None if not wanted and self._at == (document.registered_at, header.revision) else wanted

    def adopt(self, index: bytes, shards: Mapping[int, bytes]) -> None:
        """Take over an index, and of its shards those that are brought or were there. Raises BadDocument, and changes
        nothing then."""
        header, document = self._check(index)
        self._at = (document.registered_at, header.revision)
        self._digest = header.sha256
        self.time.at_least(header.issued_at)
        self._wanted = dict(document.shards)
        stays = self._wanted if document.settings.prefix == self._prefix else {}  # names were checked with the prefix
        self._prefix = document.settings.prefix
        for sink in self._sinks:
            sink.settings(document.settings)
        self.problem = ""
        for number in [n for n, digest in self._have.items() if stays.get(n) != digest]:
            if number in shards and number in self._wanted:
                self._have[number] = ""  # what comes replaces it in one step
            else:
                self._tell(number, "", ())
        for number, data in shards.items():
            self.bring(number, data)
        if missing := self.missing:
            self.problem = self.problem or f"the shards {sorted(missing)} of revision {self.revision} are not there"

    def bring(self, number: int, data: bytes) -> bool:
        """A shard that the index names. False: it is not what the index says, and the shard holds nobody now."""
        wanted = self._wanted.get(number)
        if wanted is None or self._have.get(number) == wanted:
            return wanted is not None
        try:
            header, shard = endpoint.open_shard(data, self._key, self._cluster_id, self._cluster_uid, number)
            if header.sha256 != wanted:
                raise BadDocument(
                    f"shard {number} has the revision {header.revision}, not the one that the index names"
                )
            self._bounded(number, shard)
        except BadDocument as error:
            self._tell(number, "", ())
            self.problem = str(error)
            return False
        self._tell(number, wanted, [user for user in shard.users if self._fit(user)])
        if not self.missing:
            self.problem = ""
        return True

    def clear(self) -> None:
        """The cluster holds no tokens any more. Nobody is let in, and what was older than the index stays older."""
        self._wanted = {}
        for number in list(self._have):
            self._tell(number, "", ())
        self.link(None)

    def link(self, connected: bool | None, offset: float = 0.0) -> None:
        """What the cluster's agent says of its session, and of the server's clock. Nobody signed for it."""
        self.time.server_ahead(offset)
        for sink in self._sinks:
            sink.link(connected)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check(self, data: bytes) -> tuple[Header, Index]:
        header, index = endpoint.open_index(data, self._key, self._cluster_id, self._cluster_uid)
        prefix = index.settings.prefix
        if not prefix or prefix.casefold().startswith(_RESERVED) or len(prefix) > MAX_NAME:
            raise BadDocument(f"the prefix {prefix[:64]!r} cannot go before names")
        if any(not 0 <= number < SHARDS for number in index.shards):
            raise BadDocument(f"the index names shards that there are not: {sorted(index.shards)[-1]}")
        at = (index.registered_at, header.revision)
        if self._at is not None and at < self._at:
            raise BadDocument(
                f"the index has the revision {at[1]} of the registration of {at[0]:.0f}, and {self._at[1]} of"
                f" {self._at[0]:.0f} was taken already"
            )
        if at == self._at and header.sha256 != self._digest:
            raise BadDocument(f"there are two indexes with the revision {at[1]}")
        return header, index

    def _bounded(self, number: int, shard: Shard) -> None:
        size = sum(len(user.tokens) for user in shard.users)
        others = sum(n for key, n in self._sizes.items() if key != number)
        if size + others > MAX_TOKENS:
            raise BadDocument(f"with shard {number} there are more than {MAX_TOKENS} tokens")

    def _fit(self, user: User) -> bool:
        """Whether this can be somebody in the cluster: no name of Kubernetes' own, and none that is empty."""
        names = (user.name, *user.groups)
        fits = bool(user.name and user.uid) and not any(
            (self._prefix + name).casefold().startswith(_RESERVED) or len(name) > MAX_NAME for name in names
        )
        if not fits:
            self._log.error("a user is left out: the name or a group cannot be one in a cluster", user_id=user.id)
        return fits

    def _tell(self, number: int, digest: str, users: Sequence[User]) -> None:
        known = number in self._have
        if digest:
            self._have[number] = digest
            self._sizes[number] = sum(len(user.tokens) for user in users)
        else:
            self._have.pop(number, None)
            self._sizes.pop(number, None)
            if not known:
                return
        for sink in self._sinks:
            sink.shard(number, users)
