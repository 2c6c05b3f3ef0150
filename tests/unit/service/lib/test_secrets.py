# SPDX-License-Identifier: Apache-2.0
"""A secret must not get out by accident."""

from __future__ import annotations

import copy
import pickle

import msgspec
import pytest
from mooring.lib.secrets import Secret

CANARY = "canary-5f1c"


def test_no_form_of_printing_shows_it() -> None:
    secret = Secret(CANARY)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{[secret]}"):
        assert CANARY not in text
        assert "<secret>" in text


def test_reveal_gives_it() -> None:
    assert Secret(CANARY).reveal() == CANARY


def test_it_cannot_be_pickled_or_encoded() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Secret(CANARY))
    with pytest.raises(TypeError):
        msgspec.json.encode({"password": Secret(CANARY)})


def test_it_compares_by_value_and_has_no_hash() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    with pytest.raises(TypeError):
        hash(Secret("a"))


def test_an_empty_one_is_false() -> None:
    assert not Secret("")
    assert Secret("x")


def test_a_copy_is_the_same_secret() -> None:
    secret = Secret(CANARY)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret
