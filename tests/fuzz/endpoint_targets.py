# SPDX-License-Identifier: Apache-2.0
"""What kube-api-auth reads: reviews of whoever reaches its port, and documents of whoever may write its Secrets."""

from __future__ import annotations

import contextlib
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.lib.clock import ManualClock
from mooring.webhook import revocation, tokenreview
from mooring.webhook.book import Book
from mooring.webhook.copy import Copy
from mooring.webhook.tokenreview import BadReview
from mooring.wire import endpoint, sealed
from mooring.wire.endpoint import Settings, Token, User, token_hash
from mooring.wire.sealed import BadDocument

CLUSTER = "c-aaaaaaaaaaaa"
UID = "uid"
NOW = 2_000_000_000.0
SECRET = "a" * 52
TOKEN = f"mre_e-aaaaaaaaaaaa_{SECRET}"
TOKEN_REVIEW = (
    b'{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{"creationTimestamp":null},'
    b'"spec":{"token":"' + TOKEN.encode() + b'","audiences":["here"]},"status":{"user":{}}}'
)
ACCESS_REVIEW = (
    b'{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"user":"m:bob","uid":"1",'
    b'"groups":["m:crew"],"extra":{"mooring.fleet/token-id":["e-aaaaaaaaaaaa"]}}}'
)


@lru_cache
def _key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b"k" * 32)


@lru_cache
def _book() -> Book:
    book = Book(CLUSTER)
    book.settings(Settings(prefix="m:"))
    bob = User(
        id="u-1",
        name="bob",
        uid="1",
        groups=("crew",),
        tokens=(Token("e-aaaaaaaaaaaa", token_hash(CLUSTER, SECRET), NOW + 60),),
    )
    book.shard(0, [bob])
    return book


def reviews(data: bytes) -> None:
    """Any body: no review, or an answer that lets nobody in who does not show the token, and that allows nothing."""
    with contextlib.suppress(BadReview):
        answer = msgspec.json.decode(tokenreview.review(data, _book(), ("here",), NOW)[0])
        assert answer["kind"] == "TokenReview"
        status = answer["status"]
        if status["authenticated"]:
            shown = msgspec.json.decode(data)["spec"]
            assert shown["token"] == TOKEN
            assert not shown.get("audiences") or "here" in shown["audiences"]
            assert status["user"]["username"] == "m:bob"
        else:
            assert "user" not in status
        assert SECRET.encode() not in msgspec.json.encode(answer)
    with contextlib.suppress(BadReview):
        answer = msgspec.json.decode(revocation.review(data, _book(), NOW)[0])
        assert answer["kind"] == "SubjectAccessReview"
        assert answer["status"]["allowed"] is False


class _Told:
    """Nobody whom a cluster must not know is ever told of."""

    prefix = ""

    def settings(self, settings: Settings) -> None:
        self.prefix = settings.prefix

    def shard(self, number: int, users: object) -> None:
        assert isinstance(users, (list, tuple))
        for user in users:
            assert user.name
            assert user.uid
            for name in (user.name, *user.groups):
                assert not (self.prefix + name).casefold().startswith("system:")

    def link(self, connected: bool | None) -> None:
        pass


def documents(data: bytes) -> None:
    """Bytes in a Secret, and contents that the right key signed: refused, or taken without anybody of Kubernetes'."""
    copy = Copy(CLUSTER, UID, _key().public_key(), ManualClock(NOW))
    copy.subscribe(_Told())
    copy.subscribe(Book(CLUSTER))
    sealed.claimed(endpoint.INDEX, data)
    with contextlib.suppress(BadDocument):
        copy.adopt(data, {0: data})
        raise AssertionError("nobody signed that")
    assert not copy.ready
    about = {"cluster_id": CLUSTER, "cluster_uid": UID, "revision": 1, "issued_at": NOW}
    signed = sealed.seal(endpoint.INDEX, data, _key(), **about)  # type: ignore[arg-type]
    with contextlib.suppress(BadDocument):
        copy.adopt(signed, {})
    shard = sealed.seal(endpoint.SHARD, data, _key(), **about)  # type: ignore[arg-type]
    index = endpoint.Index(settings=Settings(prefix="sys"), registered_at=1e9, shards={3: sealed.digest_of(data)})
    good = endpoint.seal(index, _key(), cluster_id=CLUSTER, cluster_uid=UID, revision=2, issued_at=NOW)
    with contextlib.suppress(BadDocument):
        copy.adopt(good, {3: shard})
