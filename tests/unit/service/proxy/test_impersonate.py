# SPDX-License-Identifier: Apache-2.0
"""No identity header of a client reaches a cluster; ours do, exactly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mooring.authn.identity import Identity
from mooring.proxy import impersonate
from mooring.proxy.impersonate import Impersonator, sanitise, verdict
from mooring.wire.headers import Headers, get

BOB = Identity("u-1", "bob", "uid-1", ("devs", "ops"), "t-1", None, None, False)


def sent(impersonator: Impersonator, identity: Identity, request_id: str) -> Headers:
    lines = impersonator.lines(identity, request_id)
    assert lines.endswith(b"\r\n")
    return [(name, value) for name, _unused, value in (line.partition(b": ") for line in lines[:-2].split(b"\r\n"))]


def anycase(name: str) -> st.SearchStrategy[bytes]:
    """A header name in every spelling that some server would read as this one."""

    def spell(bits: int) -> bytes:
        return b"".join(
            (b"_" if char == "-" else char.upper().encode()) if bits >> at & 1 else char.lower().encode()
            for at, char in enumerate(name)
        )

    return st.integers(0, 2 ** len(name) - 1).map(spell)


IMPERSONATION = [
    "Impersonate-User",
    "Impersonate-Uid",
    "Impersonate-Group",
    "Impersonate-Extra-Scopes",
    "Impersonate-Extra-mooring.fleet%2ftoken-id",
    "Impersonate-Something-New",
    "Impersonate-",
    "Impersonate",
]
FORBIDDEN = [
    "Authorization",
    "Proxy-Authorization",
    "Cookie",
    "X-Remote-User",
    "X-Remote-Group",
    "X-Remote-Uid",
    "X-Remote-Extra-Scopes",
    "X-Forwarded-For",
    "X-Forwarded-Client-Cert",
    "Forwarded",
    "X-Real-IP",
    "X-Mooring-Source",
    "X-Request-Id",
    "X-HTTP-Method-Override",
    "X-Original-URL",
    "Connection",
    "Transfer-Encoding",
    "Content-Length",
    "Host",
    "Upgrade",
    "TE",
    "Expect",
]
HARMLESS = ["Accept", "Content-Type", "User-Agent", "Kubectl-Command", "If-Match", "X-Stream-Protocol-Version", "Range"]


@pytest.mark.parametrize("name", IMPERSONATION)
@settings(max_examples=30)
@given(st.data())
def test_every_spelling_of_an_impersonation_header_is_seen(name: str, data: st.DataObject) -> None:
    spelled = data.draw(anycase(name))
    assert verdict(spelled) == "impersonation"
    kept, impersonates = sanitise([(b"Accept", b"a"), (spelled, b"root"), (spelled, b"x")])
    assert (kept, impersonates) == ([(b"Accept", b"a")], True)


@pytest.mark.parametrize("name", FORBIDDEN)
@settings(max_examples=30)
@given(st.data())
def test_every_spelling_of_a_forbidden_header_is_dropped(name: str, data: st.DataObject) -> None:
    assert sanitise([(data.draw(anycase(name)), b"x")]) == ([], False)


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_headers_stay(name: str) -> None:
    assert sanitise([(name.encode(), b"x")]) == ([(name.encode(), b"x")], False)


def test_connection_takes_headers_away_but_none_of_ours() -> None:
    client: Headers = [(b"Connection", b"X-Custom, Impersonate-User"), (b"X-custom", b"1"), (b"Accept", b"a")]
    assert sanitise(client) == ([(b"Accept", b"a")], True)


def test_verdicts_are_remembered_up_to_a_bound() -> None:
    for number in range(3_000):
        assert verdict(b"X-Flood-%d" % number) == "keep"
        assert verdict(b"Impersonate-Flood-%d" % number) == "impersonation"
    assert len(impersonate._verdicts) <= 1024
    assert verdict(b"X" * 5_000) == "keep"


def test_identity_becomes_headers() -> None:
    assert sent(Impersonator("mooring:"), BOB, "r1") == [
        (b"Impersonate-User", b"mooring:bob"),
        (b"Impersonate-Uid", b"uid-1"),
        (b"Impersonate-Group", b"mooring:devs"),
        (b"Impersonate-Group", b"mooring:ops"),
        (b"Impersonate-Group", b"system:authenticated"),
        (b"Impersonate-Extra-mooring.fleet%2ftoken-id", b"t-1"),
        (b"Impersonate-Extra-mooring.fleet%2frequest-id", b"r1"),
    ]


def test_name_is_sent_as_utf8_and_never_escaped() -> None:
    identity = Identity("u-1", "bo b/ü%20", "uid", (), "t-1", None, None, False)
    assert get(sent(Impersonator("m:"), identity, "r"), b"impersonate-user") == "m:bo b/ü%20".encode()


def test_changed_identity_of_the_same_token_is_not_served_from_memory() -> None:
    impersonator = Impersonator("m:")
    sent(impersonator, BOB, "r")
    less = Identity("u-1", "bob", "uid-1", (), "t-1", None, None, False)
    assert [v for n, v in sent(impersonator, less, "r") if n == b"Impersonate-Group"] == [b"system:authenticated"]


def test_memory_of_identities_is_bounded() -> None:
    impersonator = Impersonator("m:", cache_max=3)
    for number in range(10):
        sent(impersonator, Identity("u", "n", "i", (), f"t-{number}", None, None, False), "r")
    assert len(impersonator._cache) <= 3


@pytest.mark.parametrize("prefix", ["", "system:", "System:x:"])
def test_prefix_that_would_make_built_in_names_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Impersonator(prefix)


@pytest.mark.parametrize("identity", [Identity("u", "", "i", (), "t", None, None, False),
                                      Identity("u", "n", "", (), "t", None, None, False)])  # fmt: skip
def test_identity_without_a_name_or_uid_is_never_sent(identity: Identity) -> None:
    with pytest.raises(ValueError, match="identity"):
        sent(Impersonator("m:"), identity, "r")


def test_bearer_tokens_in_subprotocols_are_taken_out_also_of_requests_that_ask_for_no_upgrade() -> None:
    headers: Headers = [
        (b"Sec-WebSocket-Protocol", b"v5.channel.k8s.io, BASE64URL.bearer.authorization.k8s.io.c2VjcmV0"),
        (b"sec_websocket-protocol", b"base64url.bearer.authorization.k8s.io.c2VjcmV0"),
        (b"Accept", b"a"),
    ]
    assert sanitise(headers) == ([(b"Sec-WebSocket-Protocol", b"v5.channel.k8s.io"), (b"Accept", b"a")], False)
