# SPDX-License-Identifier: Apache-2.0
"""Identifiers have the form that others rely on, and do not repeat."""

from __future__ import annotations

import re

from mooring.lib.ids import is_id, new_id, request_id


def test_an_id_is_its_prefix_and_twelve_base32_characters() -> None:
    assert re.fullmatch(r"u-[a-z2-7]{12}", new_id("u"))


def test_is_id_knows_the_form_and_the_prefix() -> None:
    assert is_id(new_id("c"), "c")
    assert not is_id(new_id("u"), "c")
    assert not is_id("c-0123456789ab", "c")
    assert not is_id("c-", "c")
    assert not is_id(new_id("c") + "a", "c")
    assert not is_id(new_id("c") + "\n", "c")


def test_ids_use_the_whole_alphabet_and_do_not_repeat() -> None:
    made = [new_id("t") for _unused in range(2000)]
    assert len(set(made)) == len(made)
    for position in range(2, 14):
        assert len({text[position] for text in made}) == 32


def test_a_request_id_is_32_hexadecimal_characters() -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", request_id())
    assert request_id() != request_id()
