# SPDX-License-Identifier: Apache-2.0
"""Names that could forge a header, a log line or a Kubernetes identity are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.lib.ids import is_id, new_id
from mooring.lib.names import InvalidName, check_cluster_name, check_name


@pytest.mark.parametrize(
    "name", ["bob", "Bob Bright", "bob@example.org", "josé", "李雷", "a", "x" * 253, "systems", "-"]
)
def test_ordinary_names_pass_unchanged(name: str) -> None:
    assert check_name(name, "user name") == name


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("", "empty"),
        ("x" * 254, "254 bytes"),
        ("é" * 127, "254 bytes"),
        (" bob", "space"),
        ("bob ", "space"),
        ("bob\u00a0", "space"),
        ("system:masters", "system:"),
        ("SYSTEM:masters", "system:"),
        ("System:node:n1", "system:"),
        ("bob\n", "U+000A"),
        ("bob\r\nImpersonate-Group: system:masters", "U+000D"),
        ("bob\x00", "U+0000"),
        ("bob\x7f", "U+007F"),
        ("bob\x85", "U+0085"),
        ("bob\u2028", "U+2028"),
        ("bob\u2029", "U+2029"),
        ("bob\u202egpj", "U+202E"),
        ("bob\u2066", "U+2066"),
        ("bob\ud800", "U+D800"),
        ("mrg_t-abcdefghijkl_" + "a" * 52, "token"),
        ("mre_e-abcdefghijkl_" + "a" * 52, "token"),
        ("Bearer MRJ_j-abcdefghijkl_x", "token"),
    ],
)
def test_dangerous_names_are_refused_and_the_error_says_why(name: str, because: str) -> None:
    with pytest.raises(InvalidName, match="user name") as caught:
        check_name(name, "user name")
    assert because in str(caught.value)


@given(st.text())
def test_what_passes_can_be_a_header_value_and_a_log_line(name: str) -> None:
    try:
        encoded = check_name(name, "name").encode()
    except InvalidName as error:
        problem = str(error)
    else:
        problem = ""
        assert 0 < len(encoded) <= 253
        assert not any(byte < 0x20 or byte == 0x7F for byte in encoded)
        assert not name.lower().startswith("system:")
    assert "\n" not in problem
    assert "\r" not in problem


@pytest.mark.parametrize("name", ["a", "lab-1", "0", "x" * 63, "c-short", "c-0123456789ab"])
def test_dns_labels_are_cluster_names(name: str) -> None:
    assert check_cluster_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "x" * 64, "a/b", "a\n", "ä"])
def test_what_is_no_dns_label_is_no_cluster_name(name: str) -> None:
    with pytest.raises(InvalidName, match="DNS label"):
        check_cluster_name(name)


def test_a_cluster_name_cannot_be_taken_for_the_id_of_another_cluster() -> None:
    other = new_id("c")
    assert is_id(other, "c")
    with pytest.raises(InvalidName, match="form of a cluster id"):
        check_cluster_name(other)
