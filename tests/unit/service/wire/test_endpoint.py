# SPDX-License-Identifier: Apache-2.0
"""Tokens of an endpoint, their hashes, and the documents that they travel in."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.wire import endpoint, sealed
from mooring.wire.endpoint import Index, Settings, Shard, Token, User
from mooring.wire.sealed import BadDocument

KEY = Ed25519PrivateKey.generate()
HERE = {"cluster_id": "c-aaaaaaaaaaaa", "cluster_uid": "uid"}
SECRET = "a" * 52


def test_the_same_content_has_the_same_bytes_in_whatever_order_it_was_put_together() -> None:
    settings = Settings(prefix="mooring:")
    there = Index(settings=settings, registered_at=1.0, shards=dict.fromkeys(range(16), "x"))
    back = Index(settings=settings, registered_at=1.0, shards=dict.fromkeys(reversed(range(16)), "x"))
    assert endpoint.body_of(there) == endpoint.body_of(back)


def test_what_is_sealed_is_opened() -> None:
    index = Index(settings=Settings(prefix="m:", grace=5), registered_at=7.5, shards={3: "abc", 11: "def"})
    user = User(id="u-1", name="bob", uid="1", groups=("a",), until=9.0, tokens=(Token("e-1", b"h" * 32, 8.0),))
    shard = Shard(number=3, users=(user,))
    data = endpoint.seal(index, KEY, **HERE, revision=4, issued_at=6.0)
    header, opened = endpoint.open_index(data, KEY.public_key(), *HERE.values())
    assert (opened, header.revision, header.issued_at) == (index, 4, 6.0)
    data = endpoint.seal(shard, KEY, **HERE, revision=4, issued_at=6.0)
    header, found = endpoint.open_shard(data, KEY.public_key(), *HERE.values(), 3)
    assert (found, header.sha256) == (shard, sealed.claimed(endpoint.SHARD, data))
    with pytest.raises(BadDocument, match="not 4"):
        endpoint.open_shard(data, KEY.public_key(), *HERE.values(), 4)
    with pytest.raises(BadDocument, match="does not begin"):
        endpoint.open_index(data, KEY.public_key(), *HERE.values())
    assert sealed.claimed(endpoint.INDEX, data) == ""


@pytest.mark.parametrize(
    "data", [b"", b"MRES1\n", b"MRES1\n\xff\xff\xff\xff", b"MRES1\n\0\0\0\2{}", b"MRES1\n\0\0\0\1\xff"]
)
def test_what_is_no_document_claims_nothing(data: bytes) -> None:
    assert sealed.claimed(endpoint.SHARD, data) == ""


def test_a_document_that_no_secret_holds_is_not_made() -> None:
    tokens = tuple(Token(f"e-{n:012}", KEY.sign(str(n).encode())[:32], 1.0) for n in range(30_000))
    shard = Shard(number=0, users=(User(id="u", name="n", uid="i", tokens=tokens),))
    with pytest.raises(BadDocument, match="more than"):
        endpoint.seal(shard, KEY, **HERE, revision=1, issued_at=1.0)


def test_a_hash_is_good_for_one_cluster() -> None:
    one, other = endpoint.token_hash("c-aaaaaaaaaaaa", SECRET), endpoint.token_hash("c-bbbbbbbbbbbb", SECRET)
    assert len(one) == len(other) == 32
    assert one != other


@pytest.mark.parametrize(
    "text",
    ["", "mre_", f"mrg_t-aaaaaaaaaaaa_{SECRET}", f"mre_t-aaaaaaaaaaaa_{SECRET}", f"mre_e-aaaaaaaaaaaa_{SECRET}a",
     f"mre_e-aaaaaaaaaaaa_{SECRET}\n", f"mre_e-aaaaaaaaaaa1_{SECRET}", f"mre_e-AAAAAAAAAAAA_{SECRET}",
     f" mre_e-aaaaaaaaaaaa_{SECRET}", f"mre_e-aaaaaaaaaaaa_{SECRET[:-1]}\u0661"],
)  # fmt: skip
def test_what_is_no_token_is_none(text: str) -> None:
    assert endpoint.parse_token(text) is None


def test_a_token_is_an_id_and_a_secret() -> None:
    assert endpoint.parse_token(f"mre_e-aaaaaaaaaaaa_{SECRET}") == ("e-aaaaaaaaaaaa", SECRET)


@pytest.mark.parametrize("text", ["", "x", "a" * 43, "é" * 40, "=" * 44, "AA=="])
def test_a_pinned_key_is_32_bytes_in_base64url(text: str) -> None:
    assert (sealed.public_key(text) is None) is (text != "a" * 43)
