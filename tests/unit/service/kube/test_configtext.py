# SPDX-License-Identifier: Apache-2.0
"""What stands in a kubeconfig means the same to client-go before and after we wrote it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mooring.kube import configtext
from mooring.kube.configtext import BadText

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff\ufffe\uffff"), max_size=12)
SCALAR = st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63), st.none())
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@given(st.dictionaries(TEXT, VALUE, max_size=5))
def test_what_is_written_is_read_the_same(document: dict[str, Any]) -> None:
    assert configtext.load(configtext.dump(document).encode()) == document


@pytest.mark.parametrize(
    "word",
    ["1e3", "0123e4", "12:30", "y", "N", "on", "0o17", "0x1f", "1_000", "2026-01-01", "089", ".5", "5.", "-", "+1",
     "null", "~", "true", "10.0.0.1", "=", "<<", "1e+3", "+.inf"],
)  # fmt: skip
def test_a_string_that_looks_like_something_else_is_quoted(word: str) -> None:
    """go-yaml 2 (client-go) and PyYAML take different bare words for numbers and truth values."""
    assert configtext.dump({"name": word}) in (f"name: '{word}'\n", f'name: "{word}"\n')
    assert configtext.load(configtext.dump({"name": word}).encode()) == {"name": word}


@pytest.mark.parametrize(
    "word", ["1e3", "12:30", "y", "N", "2026-01-01", "0o17", "017", "089", "1_000", "=", "+5", "1.50", ".inf", "0x1F"]
)
def test_a_word_that_not_all_read_alike_stays_as_it_stood(word: str) -> None:
    """It may be a token that a Python program wrote, or a number for client-go: whoever reads it reads it on."""
    text = f"a: {word}\nb:\n- name: {word}\n- {word}\n"
    found = configtext.load(text.encode()) or {}
    assert found == {"a": word, "b": [{"name": word}, word]}
    assert configtext.dump(found) == text
    quoted = f"a: '{word}'\n"
    assert configtext.dump(configtext.load(quoted.encode()) or {}) == quoted


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("-5", -5), ("443", 443), ("off", False), ("Yes", True), ("~", None), ("a", "a")]
)
def test_what_all_read_alike_is_what_it_is(text: str, value: Any) -> None:
    found = configtext.load(f"a: {text}".encode()) or {}
    assert found == {"a": value}
    assert type(found["a"]) is type(value)
    assert configtext.load(configtext.dump(found).encode()) == found


@pytest.mark.parametrize("data", [b"", b"\n", b"# nothing\n", b"---\n", b"null"])
def test_an_empty_file_is_nothing(data: bytes) -> None:
    assert configtext.load(data) is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a: 1\n---\nb: 2\n", "more than one document"),
        (b"a: [1", "line 1"),
        (b"a: 1\na: 2\n", "'a' is there twice"),
        (b"users:\n- name: a\n  name: b\n", "'name' is there twice"),
        (b"- 1", "no mapping"),
        (b"text", "no mapping"),
        (b"a: *b", "line 1"),
        (b"a: !!python/object/apply:os.system [x]", "line 1"),
        (b"a: \xff\xfe", "character"),
        (b"a: b\x00", "character"),
        (b"[" * 50_000, "YAML"),
    ],
)
def test_what_cannot_be_read_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadText, match=says):
        configtext.load(data)


def test_too_large_a_file_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configtext, "MAX_SIZE", 10)
    with pytest.raises(BadText, match="larger than"):
        configtext.load(b"a: 01234567890")


def test_a_refusal_shows_nothing_of_the_file() -> None:
    """A broken line may be one with a token in it."""
    with pytest.raises(BadText) as refused:
        configtext.load(b"users:\n- user: {token: s3cret, 'other}\n")
    assert "s3cret" not in str(refused.value)


@given(st.binary(max_size=200))
def test_rubbish_is_refused_or_read_but_breaks_nothing(data: bytes) -> None:
    try:
        found = configtext.load(data)
    except BadText:
        return
    assert found is None or isinstance(found, dict)


def test_anchors_stay_what_they_are() -> None:
    data = b"a: &x {k: v}\nb: *x\nc: {<<: *x, l: m}\n"
    found = configtext.load(data)
    assert found == {"a": {"k": "v"}, "b": {"k": "v"}, "c": {"k": "v", "l": "m"}}
    assert yaml.safe_load(configtext.dump(found)) == found
