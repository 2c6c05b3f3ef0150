# SPDX-License-Identifier: Apache-2.0
"""Our own answers as kubectl reads them."""

from __future__ import annotations

import pytest
from mooring.proxy.answers import asks_for_discovery, warning


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/k8s/clusters/paris/api?timeout=32s", True),
        (b"/k8s/clusters/paris/apis", True),
        ("/api", True),
        (b"/k8s/clusters/paris/api/v1/pods", False),
        (b"/k8s/clusters/paris/version?x=/api", False),
    ],
)
def test_the_roots_of_discovery_are_known(target: bytes | str, expected: bool) -> None:
    assert asks_for_discovery(target) is expected


def test_kubectl_printed_unknown_for_a_refused_discovery_so_the_sentence_is_a_warning_too() -> None:
    assert warning("no way in") == (b"Warning", b'299 - "no way in"')


def test_a_warning_cannot_end_its_quotes_or_its_line() -> None:
    _name, value = warning('a "b" \\ \r\nX: y \x7f é')
    assert value == b"299 - \"a 'b' ' ''X: y ' '\""
    assert b"\r" not in value
