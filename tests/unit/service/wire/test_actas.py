# SPDX-License-Identifier: Apache-2.0
"""The wanted identity as headers: what is read, what is refused, and that no form of it says anything else."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.wire import actas
from mooring.wire.actas import ActAs, BadActAs, extra_key, from_wire, impersonation, read, to_wire
from mooring.wire.headers import (
    Headers,
    RequestHead,
    get,
    get_all,
    is_token,
    is_value,
    parse_request_head,
    serialize_request,
)

TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
KEYS = TEXT.filter(lambda key: not key.lower().startswith(actas.RESERVED))
WANTED = st.builds(
    ActAs,
    user=TEXT,
    uid=st.one_of(st.just(""), TEXT),
    groups=st.lists(TEXT, max_size=4).map(tuple),
    extra=st.lists(st.tuples(KEYS, TEXT), max_size=4).map(tuple),
)


def kubernetes_reads(headers: Headers) -> ActAs:
    """What the API server makes of a request's headers (kubernetes, `processImpersonationHeaders`)."""
    extra = []
    for name, value in headers:
        if name.lower().startswith(b"impersonate-extra-"):
            extra.append((unquote(name.decode().lower()[len("impersonate-extra-") :]), value.decode()))
    return ActAs(
        (get(headers, b"impersonate-user") or b"").decode(),
        (get(headers, b"impersonate-uid") or b"").decode(),
        tuple(value.decode() for value in get_all(headers, b"impersonate-group")),
        tuple(extra),
    )


def refused(headers: Headers) -> int:
    with pytest.raises(BadActAs) as caught:
        read(headers)
    return caught.value.status


@given(WANTED)
def test_what_kubernetes_reads_is_what_was_wanted_after_every_hop(wanted: ActAs) -> None:
    client = impersonation(wanted)
    head = parse_request_head(serialize_request(RequestHead(b"GET", b"/", client)))
    travelled = to_wire(read(head.headers))
    assert all(is_token(name) and is_value(value) for name, value in travelled)
    assert not any(actas.is_client(name) for name, _unused in travelled)
    arrived = from_wire(parse_request_head(serialize_request(RequestHead(b"GET", b"/", travelled))).headers)
    assert kubernetes_reads(impersonation(arrived)) == arrived == wanted


@given(st.lists(st.tuples(st.binary(max_size=30).map(lambda name: b"Impersonate-" + name), st.binary(max_size=30))))
def test_whatever_a_client_sends_nothing_but_printable_names_and_no_key_of_ours_come_of_it(headers: Headers) -> None:
    try:
        wanted = read(headers)
    except BadActAs:
        return
    assert all(text.isascii() and text.isprintable() for text in wanted.texts())
    for name, value in impersonation(wanted):
        assert is_token(name)
        assert is_value(value)
        assert not (extra_key(name) or "").lower().startswith(actas.RESERVED)


@pytest.mark.parametrize(
    "name",
    [
        b"Impersonate-Extra-mooring.fleet%2foriginal-user",
        b"Impersonate-Extra-mooring.fleet%2Ftoken-id",
        b"impersonate-extra-MOORING.FLEET%2Fx",
        b"Impersonate-Extra-%6dooring%2efleet%2Foriginal-user",
        b"Impersonate-Extra-%4Dooring.fleet%2foriginal-user",
        b"Impersonate-Extra-mooring.fleet/x",
    ],
)
def test_a_client_cannot_set_an_extra_of_ours_however_it_is_spelled(name: bytes) -> None:
    assert refused([(b"Impersonate-User", b"alice"), (name, b"x")]) == 403


def test_keys_are_read_as_the_api_server_reads_them() -> None:
    headers = [(b"Impersonate-User", b"a")]
    headers += [(b"Impersonate-Extra-" + key, b"v") for key in (b"Scopes", b"Example.com%2FA", b"a%zz", b"%4D", b"a_b")]
    assert [key for key, _unused in read(headers).extra] == ["scopes", "example.com/a", "a%zz", "M", "a_b"]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Impersonate-Group", b"admins")],
        [(b"Impersonate-Uid", b"1")],
        [(b"Impersonate-Extra-Scopes", b"all")],
        [(b"Impersonate-User", b"")],
        [(b"Impersonate-User", b"a"), (b"impersonate-user", b"b")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-User", b"a")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-Uid", b"1"), (b"Impersonate-Uid", b"2")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-Group", b"")],
        [(b"Impersonate-User", b"a"), (b"Impersonate_Group", b"system:masters")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-Extra_x", b"y")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-Later", b"y")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-Extra-", b"y")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-Extra-%0d%0aX", b"y")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-Extra-a%00", b"y")],
        [(b"Impersonate-User", b"a"), (b"Impersonate-Extra-%c3%bc", b"y")],
        [(b"Impersonate-User", b"a"), (b"Impersonate", b"y")],
        [(b"Impersonate-User", b"a\x00b")],
        [(b"Impersonate-User", b"a\r\nX: y")],
        [(b"Impersonate-User", b"a\tb")],
        [(b"Impersonate-User", "ü".encode())],
        [(b"Impersonate-User", b"a"), (b"Connection", b"close, Impersonate-Group")],
        [(b"Impersonate-User", b"a"), (b"Connection", b"IMPERSONATE_USER")],
    ],
)
def test_what_cannot_be_meant_in_one_way_only_is_refused(headers: Headers) -> None:
    assert refused(headers) == 400


@pytest.mark.parametrize(
    "more",
    [
        [(b"Impersonate-Group", b"g%d" % number) for number in range(actas.MAX_VALUES + 1)],
        [(b"Impersonate-Extra-k%d" % number, b"v") for number in range(actas.MAX_VALUES + 1)],
        [(b"Impersonate-Group", b"g" * (actas.MAX_BYTES + 1))],
        [(b"Impersonate-Extra-" + b"k" * (actas.MAX_BYTES + 1), b"v")],
        [(b"Impersonate-Group", b"g" * actas.MAX_BYTES)] * 16,
    ],
)
def test_bounds(more: Headers) -> None:
    assert refused([(b"Impersonate-User", b"alice"), *more]) == 431
    assert read([(b"Impersonate-User", b"alice"), *more[: len(more) // 2]]).user == "alice"


def test_an_agent_refuses_what_a_server_would_not_say() -> None:
    for headers in (
        [],
        [(b"X-Mooring-As-Group", b"g")],
        [(b"X-Mooring-As-User", b"a"), (b"X-Mooring-As-User", b"b")],
        [(b"X-Mooring-As-User", b"a"), (b"X-Mooring-As-Extra-mooring.fleet%2foriginal-user", b"b")],
        [(b"X-Mooring-As-User", b"a"), (b"X-Mooring-As-Later", b"b")],
    ):
        with pytest.raises(BadActAs):
            from_wire(headers)
