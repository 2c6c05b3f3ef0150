# SPDX-License-Identifier: Apache-2.0
"""Documents of an endpoint, signed with a key of the test's own: what a server would deliver, without one.

sealer = Sealer()
bob = person("bob", "deckhands")
token = sealer.token(bob)          the text; the person has it from now on
index, shards = sealer.documents([bob])
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.lib.ids import new_id
from mooring.wire import endpoint, sealed
from mooring.wire.endpoint import Index, Settings, Shard, Token, User, shard_of, token_hash

CLUSTER_ID = "c-aaaaaaaaaaaa"
CLUSTER_UID = "11111111-2222-3333-4444-555555555555"

Documents = tuple[bytes, dict[int, bytes]]


@dataclass
class Person:
    """A user to be, who can be changed between two sets of documents."""

    name: str
    groups: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: new_id("u"))
    uid: str = field(default_factory=lambda: secrets.token_hex(8))
    enabled: bool = True
    until: float | None = None
    tokens: list[Token] = field(default_factory=list)

    def user(self) -> User:
        return User(
            id=self.id,
            name=self.name,
            uid=self.uid,
            groups=self.groups,
            enabled=self.enabled,
            until=self.until,
            tokens=tuple(self.tokens),
        )


def person(name: str, *groups: str) -> Person:
    """Somebody without tokens."""
    return Person(name, groups)


def token_id(text: str) -> str:
    """The id in a token's text."""
    return text.split("_")[1]


@dataclass
class Sealer:
    """Signs for one cluster; each set of documents has the next revision."""

    cluster_id: str = CLUSTER_ID
    cluster_uid: str = CLUSTER_UID
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    registered_at: float = 1_000.0
    revision: int = 0

    @property
    def policy_key(self) -> str:
        """The public key as it is pinned."""
        raw = self.key.public_key().public_bytes_raw()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    def token(self, owner: Person, expires_at: float | None = None) -> str:
        """A new token of somebody; for an hour if nothing is said."""
        number, secret = new_id("e"), base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
        end = time.time() + 3600 if expires_at is None else expires_at
        owner.tokens.append(Token(number, token_hash(self.cluster_id, secret), end))
        return f"mre_{number}_{secret}"

    def documents(
        self,
        people: Iterable[Person],
        *,
        settings: Settings | None = None,
        issued_at: float | None = None,
        registered_at: float | None = None,
        revision: int | None = None,
    ) -> Documents:
        """The index and all shards."""
        self.revision = self.revision + 1 if revision is None else revision
        made: dict[int, list[User]] = {}
        for one in people:
            made.setdefault(shard_of(one.id), []).append(one.user())
        contents = {number: Shard(number=number, users=tuple(users)) for number, users in made.items()}
        index = Index(
            settings=settings or Settings(prefix="mooring:"),
            registered_at=self.registered_at if registered_at is None else registered_at,
            shards={n: sealed.digest_of(endpoint.body_of(shard)) for n, shard in contents.items()},
        )
        issued = time.time() if issued_at is None else issued_at
        return self.seal(index, issued), {n: self.seal(shard, issued) for n, shard in contents.items()}

    def seal(self, document: Index | Shard, issued_at: float) -> bytes:
        """One signed document of the current revision."""
        return endpoint.seal(
            document,
            self.key,
            cluster_id=self.cluster_id,
            cluster_uid=self.cluster_uid,
            revision=self.revision,
            issued_at=issued_at,
        )


def secret_objects(
    documents: Documents, *, connected: bool | None = True, offset: float = 0.0, namespace: str = "mooring-system"
) -> list[dict[str, object]]:
    """The Secrets that the agent would write: shards first, the index last."""
    index, shards = documents
    made = [_secret(f"mooring-endpoint-{n}", namespace, {"document": data}) for n, data in sorted(shards.items())]
    data = {"document": index}
    if connected is not None:
        link = f'{{"connected": {"true" if connected else "false"}, "since": 0, "offset": {offset}}}'
        data["link"] = link.encode()
    return [*made, _secret("mooring-endpoint", namespace, data)]


def _secret(name: str, namespace: str, data: Mapping[str, bytes]) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
