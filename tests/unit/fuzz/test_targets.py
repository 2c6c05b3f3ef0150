# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets as far as a test run can go: their seeds, and a few mutations of them that are always the same.

`make fuzz` goes on from here. What it found has a test of its own beside the code that was wrong.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz import http_targets
from fuzz.http_targets import Disagreement, h11_requests, h11_response, unexplained
from fuzz.registry import TARGETS, Target
from fuzz.rules import REQUEST, RESPONSE, Rule, Seen
from hypothesis import given, settings
from hypothesis import strategies as st

SLOW = {"server-config": 10, "kubeconfig": 10, "mux": 25, "mux-pair": 15, "http1-chunked": 30}
MUTATIONS = 60


def mutations(target: Target, count: int) -> list[bytes]:
    """Seeds with bytes changed, cut out and doubled, and words put in."""
    draw = random.Random(11)
    out = []
    for _unused in range(count):
        data = bytearray(draw.choice(target.seeds))
        for _again in range(draw.randint(1, 4)):
            at = draw.randint(0, len(data))
            match draw.randint(0, 3):
                case 0:
                    data[at : at + 1] = bytes([draw.randint(0, 255)])
                case 1:
                    del data[at : at + draw.randint(1, 9)]
                case 2:
                    data[at:at] = data[at : at + draw.randint(1, 30)]
                case _:
                    data[at:at] = draw.choice(target.words or (b"\0",))
        out.append(bytes(data[: target.max_len]))
    return out


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found_in_seeds_and_their_mutations(name: str) -> None:
    target = TARGETS[name]
    for data in (b"", *target.seeds, *mutations(target, SLOW.get(name, MUTATIONS))):
        try:
            target.run(data)
        except BaseException as error:
            raise AssertionError(f"{name} on {data!r}: {error!r}") from error


REQUEST_LINES = st.sampled_from(
    [b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"PUT http://a/ HTTP/1.1", b"GET / HTTP/1.0", b"TRACE / HTTP/1.1"]
)
STATUS_LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 204", b"HTTP/1.0 200 A", b"HTTP/1.1 304 N", b"HTTP/1.1 100 C", b"HTTP/1.1 700 X"]
)
FIELDS = st.one_of(
    st.sampled_from(
        [
            b"Host: a", b"Content-Length: 2", b"Content-Length: 2, 2", b"Content-Length: 02", b"Content-Length: 0",
            b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Connection: close", b"Expect: 100-continue",
            b"Upgrade: websocket\r\nConnection: upgrade", b" folded", b"X : y", b"X: \x01", b"X:", b"X: \xff",
        ]
    ),
    st.binary(max_size=6),
)  # fmt: skip
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])
BODIES = st.sampled_from(
    [b"", b"ab", b"2\r\nab\r\n0\r\n\r\n", b"2;x\r\nab\r\n0\r\nT: u\r\n\r\n", b"2\nab\n0\n\n", b"0\r\n\r\n\r\n"]
)


def messages(first: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    lines = st.lists(st.tuples(FIELDS, ENDS).map(b"".join), max_size=4).map(b"".join)
    return st.tuples(first, ENDS, lines, ENDS, BODIES).map(b"".join)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.lists(messages(REQUEST_LINES), min_size=1, max_size=3), st.integers(0, 40))
def test_requests_are_read_as_h11_reads_them_or_a_rule_says_why_not(sent: list[bytes], cuts: int) -> None:
    TARGETS["http1-request"].run(bytes([cuts]) + b"".join(sent))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.lists(messages(STATUS_LINES), min_size=1, max_size=3), st.binary(min_size=3, max_size=3))
def test_responses_are_read_as_h11_reads_them_or_a_rule_says_why_not(sent: list[bytes], mode: bytes) -> None:
    TARGETS["http1-response"].run(mode + b"".join(sent))


def test_a_refusal_without_a_rule_would_be_found() -> None:
    """The oracle itself: a refusal with a reason that the input does not bear out is reported."""
    whole = Seen(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", started=True, version=b"1.1", method=b"GET", target=b"/", complete=True
    )
    assert unexplained(REQUEST, "bare LF in the head", lambda more: [whole]) == b""
    assert unexplained(RESPONSE, "malformed chunk", lambda more: [whole]) == b""
    whole.target = b"http://a/"
    assert unexplained(REQUEST, "the request target must be a path", lambda more: [whole]) is None


ODD = (
    b"GET / HTTP/1.1\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\x01\r\n\r\n",
    b"PURGE / HTTP/1.0\r\nHost: a b\r\n\r\n", b"GET http://a/#b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 ;a=b\r\nhello\r\n00000000000000000\r\n\r\n",
    b"HTTP/1.1 600 X\r\nContent-Length: 1\r\n\r\nab",
)  # fmt: skip


@pytest.mark.parametrize("message", [seed[1:] for seed in TARGETS["http1-request"].seeds] + list(ODD))
def test_a_rule_that_stays_holds_whatever_follows(message: bytes) -> None:
    """Behind an input that such a rule explains, nothing is tried."""
    staying = {rule for rule in (*REQUEST, *RESPONSE) if rule.stays}
    held: set[Rule] = set()
    for end in range(1, len(message) + 1):
        seen = (
            h11_response(b"GET", False, message[:end], False)[0]
            if message.startswith(b"HTTP")
            else h11_requests(message[:end])[0][0]
        )
        now = {rule for rule in staying if rule.holds(seen)}
        assert held <= now, (message[:end], {rule.name for rule in held - now})
        held = now
    if message in ODD:
        assert held


ENDINGS = (b"", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"a\r\n0\r\n\r\n", b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")


@pytest.mark.parametrize("name", ["http1-request", "http1-response"])
def test_h11_reads_on_from_a_copy_as_from_the_beginning(name: str) -> None:
    """A copied connection must not share anything with the one that it is a copy of."""
    target = TARGETS[name]
    for data in (*target.seeds, *mutations(target, 120)):
        raw = data[3 if name == "http1-response" else 1 :]
        for cut in (len(raw) // 3, len(raw) // 2, len(raw)):
            if name == "http1-request":
                first = http_targets.H11Requests().feed(raw[:cut])
                for ending in ENDINGS:
                    again, whole = first.twin().feed(ending), http_targets.H11Requests().feed(raw[:cut] + ending)
                    assert (again.all[-1:], bool(again.refused)) == (whole.all[-1:], bool(whole.refused))
                    assert [seen.body for seen in again.all] == [seen.body for seen in whole.all]
            else:
                begun = http_targets.H11Response(b"GET", False).feed(raw[:cut])
                for ending in ENDINGS:
                    more = begun.twin().feed(ending)
                    seen, refused, reusable, rest = h11_response(b"GET", False, raw[:cut] + ending, False)
                    assert (more.seen, bool(more.refused)) == (seen, bool(refused))
                    assert (more.reusable, more.rest) == (reusable, rest)


def test_a_reader_that_takes_what_h11_refuses_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_targets.H11Requests, "feed", lambda self, data: setattr(self, "refused", "no") or self)
    with pytest.raises(Disagreement, match="we take request 0"):
        TARGETS["http1-request"].run(TARGETS["http1-request"].seeds[0])


def test_the_documented_rules_and_targets_are_the_real_ones() -> None:
    page = (Path(__file__).parents[3] / "docs" / "fuzzing.md").read_text()
    for rule in (*REQUEST, *RESPONSE):
        assert f"| {rule.name} |" in page, f"docs/fuzzing.md lacks the rule {rule.name!r}"
        assert f"| {rule.why} |" in page, f"docs/fuzzing.md gives another reason for {rule.name!r}"
    table = page.split("## Targets")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name.strip(" `") for row in rows for name in row.split(",")) == sorted(TARGETS)
