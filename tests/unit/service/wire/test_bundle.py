# SPDX-License-Identifier: Apache-2.0
"""A bundle: what goes in comes out, and nothing else comes out of anything."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from mooring.wire.bundle import MAGIC, BadBundle, Bundle, decode, encode
from mooring.wire.sealed import MAX_HEADER

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
BUNDLE = Bundle(
    cluster_id="c-aaaaaaaaaaaa",
    cluster_uid="uid-1",
    revision=7,
    issued_at=1_700_000_000.0,
    objects=[{"kind": "ClusterRole", "metadata": {"name": "mooring:x:0123456789"}, "rules": [{"verbs": ["get"]}]}],
    namespaces=[{"name": "shop", "create": True, "project": "web", "labels": {}}],
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_objects = st.lists(st.dictionaries(st.text(max_size=5), _values, max_size=3), max_size=4)


def opened(data: bytes, **other: Any) -> Bundle:
    return decode(data, PUBLIC, **{"cluster_id": BUNDLE.cluster_id, "cluster_uid": BUNDLE.cluster_uid} | other)


def forged(body: bytes | None = None, packed: bytes | None = None, raw: bytes | None = None, **header: Any) -> bytes:
    """A bundle that is signed well and says what it likes."""
    body = json.dumps({"objects": [], "namespaces": []}).encode() if body is None else body
    fields = {
        "alg": "Ed25519",
        "cluster_id": BUNDLE.cluster_id,
        "cluster_uid": BUNDLE.cluster_uid,
        "revision": 1,
        "issued_at": 1.0,
        "sha256": hashlib.sha256(body).hexdigest(),
        "size": len(body),
    } | header
    head = json.dumps({k: v for k, v in fields.items() if v is not None}).encode() if raw is None else raw
    signed = MAGIC + len(head).to_bytes(4) + head
    return signed + KEY.sign(signed) + (zlib.compress(body) if packed is None else packed)


@given(_objects, _objects, st.integers(0, 2**53), st.floats(0, 4e9))
def test_what_goes_in_comes_out(objects: list[Any], namespaces: list[Any], revision: int, issued_at: float) -> None:
    bundle = dataclasses.replace(BUNDLE, objects=objects, namespaces=namespaces, revision=revision, issued_at=issued_at)
    came = opened(encode(bundle, KEY))
    assert dataclasses.replace(came, sha256="") == bundle


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    good = encode(BUNDLE, KEY)
    at = data.draw(st.integers(0, len(good) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    bad = good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :]
    try:
        came = opened(bad)
    except BadBundle:
        return
    # zlib has bits that mean nothing (its level, how a block ends): then the content is still what was signed.
    assert came == opened(good)


@given(st.data())
def test_a_part_of_one_is_none(data: st.DataObject) -> None:
    good = encode(BUNDLE, KEY)
    with pytest.raises(BadBundle):
        opened(good[: data.draw(st.integers(0, len(good) - 1))])


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: MAGIC + rest))
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BadBundle):
        opened(data)


@given(st.binary(min_size=1, max_size=20))
def test_nothing_may_follow(rest: bytes) -> None:
    with pytest.raises(BadBundle, match="follows"):
        opened(encode(BUNDLE, KEY) + rest)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"cluster_id": "c-bbbbbbbbbbbb"}, "for the cluster"),
        ({"cluster_uid": "uid-2"}, "with the UID"),
        ({"cluster_uid": ""}, "with the UID"),
        ({"limit": 10}, "more than 10"),
    ],
)
def test_a_bundle_for_others_is_refused(other: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadBundle, match=reason):
        opened(encode(BUNDLE, KEY), **other)


def test_a_bundle_that_no_cluster_is_named_in_fits_none() -> None:
    with pytest.raises(BadBundle, match="UID"):
        opened(forged(cluster_uid=""), cluster_uid="")


def test_a_bundle_of_another_key_is_refused() -> None:
    with pytest.raises(BadBundle, match="not signed"):
        opened(encode(BUNDLE, OTHER))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"alg": "none"}, "signed with 'none'"),
        ({"revision": -1}, "revision"),
        ({"size": -1}, "bytes large"),
        ({"size": 10**12}, "bytes large"),
        ({"size": 10}, "the size that was signed"),
        ({"size": 1000}, "the size that was signed"),
        ({"sha256": "0" * 64}, "not what was signed"),
        ({"sha256": None}, "cannot be read"),
        ({"more": 1}, "cannot be read"),
        ({"raw": b"{"}, "cannot be read"),
        ({"raw": b"\xff"}, "cannot be read"),
        ({"body": b"[]"}, "cannot be read"),
        ({"body": b'{"objects": []}'}, "cannot be read"),
        ({"body": b"\xff"}, "cannot be read"),
        ({"packed": b"plain"}, "cannot be unpacked"),
        ({"raw": b" " * (MAX_HEADER + 1)}, "claims"),
    ],
)
def test_what_is_signed_is_checked_all_the_same(bad: dict[str, Any], reason: str) -> None:
    assert opened(forged()).revision == 1
    with pytest.raises(BadBundle, match=reason):
        opened(forged(**bad))


def test_no_more_is_unpacked_than_was_signed() -> None:
    bomb = forged(packed=zlib.compress(b" " * 50_000_000, 9))
    tracemalloc.start()
    try:
        with pytest.raises(BadBundle, match="the size that was signed"):
            opened(bomb)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 5_000_000


def test_a_policy_over_the_bound_is_not_sent() -> None:
    with pytest.raises(BadBundle, match="bind groups"):
        encode(BUNDLE, KEY, limit=100)


def test_the_same_content_has_the_same_digest() -> None:
    turned = dataclasses.replace(BUNDLE, objects=[dict(reversed(BUNDLE.objects[0].items()))], revision=8)
    assert opened(encode(turned, KEY)).sha256 == opened(encode(BUNDLE, KEY)).sha256
