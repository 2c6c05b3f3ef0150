# SPDX-License-Identifier: Apache-2.0
"""The form of tokens."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.authn import tokens
from mooring.authn.tokens import Kind
from mooring.wire import endpoint


@pytest.mark.parametrize("kind", ["mrg", "mrj"])
def test_a_new_token_is_read_back(kind: Kind) -> None:
    made = tokens.new_token(kind)
    text = made.text.reveal()
    parsed = tokens.parse(text, kind)
    assert parsed is not None
    assert parsed.id == made.id
    assert tokens.same(made.hash, parsed.hash)
    assert text.startswith(f"{kind}_{made.id}_")
    assert made.hash == hashlib.sha256(text.rsplit("_", 1)[1].encode()).digest()


def test_one_kind_does_not_pass_for_the_other() -> None:
    assert tokens.parse(tokens.new_token("mrg").text.reveal(), "mrj") is None
    assert tokens.parse(tokens.new_token("mrj").text.reveal(), "mrg") is None


def test_a_token_for_an_endpoint_is_none_of_ours_and_is_of_its_cluster() -> None:
    made = tokens.new_endpoint_token("c-one")
    text = made.text.reveal()
    assert tokens.parse(text, "mrg") is None
    assert tokens.parse(text, "mrj") is None
    assert tokens.parse(text.replace("mre_e-", "mrg_e-"), "mrg") is None
    read = endpoint.parse_token(text)
    assert read is not None
    assert read[0] == made.id
    assert made.hash == endpoint.token_hash("c-one", read[1]) != endpoint.token_hash("c-two", read[1])
    assert endpoint.parse_token(tokens.new_token("mrg").text.reveal()) is None
    assert read[1] not in repr(made)


def test_tokens_differ_and_are_not_shown() -> None:
    made = [tokens.new_token("mrg") for _unused in range(50)]
    assert len({token.text.reveal() for token in made}) == 50
    for token in made:
        assert token.text.reveal().rsplit("_", 1)[1] not in repr(token)


@pytest.mark.parametrize(
    "change", [str.upper, lambda t: t + "\n", lambda t: " " + t, lambda t: t[:-1], lambda t: t + "a"]
)
def test_a_token_that_is_written_differently_is_not_a_token(change: object) -> None:
    assert callable(change)
    assert tokens.parse(change(tokens.new_token("mrg").text.reveal()), "mrg") is None


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    assert tokens.parse(text, "mrg") is None
