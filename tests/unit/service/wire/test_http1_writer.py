# SPDX-License-Identifier: Apache-2.0
"""Responses as bytes: h11, as a client, must read from them what was written."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.wire.headers import Headers, ResponseHead
from mooring.wire.http1_writer import FramingError, ResponseWriter


def read(method: bytes, raw: bytes) -> tuple[int, bytes, bool]:
    """Status, body, and whether h11 would use the connection again."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    status, body = 0, b""
    while True:
        event = client.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, body, client.their_state is h11.DONE
        else:
            raise AssertionError(f"incomplete: {event}")


def write(
    method: bytes, status: int, headers: Headers, pieces: list[bytes], *, fin: bool = False, keep: bool = True
) -> bytes:
    writer = ResponseWriter(method, keep_alive=keep)
    raw = writer.head(ResponseHead(status, b"X", headers), fin=fin)
    for piece in pieces:
        raw += writer.data(piece)
    return raw + writer.end()


@given(st.sampled_from([200, 201, 404, 500]), st.lists(st.binary(max_size=50), max_size=5), st.booleans())
def test_body_without_a_length_is_chunked(status: int, pieces: list[bytes], keep: bool) -> None:
    assert read(b"GET", write(b"GET", status, [], pieces, keep=keep)) == (status, b"".join(pieces), keep)


@given(st.lists(st.binary(max_size=50), max_size=5), st.booleans())
def test_body_with_a_length_is_sent_as_it_is(pieces: list[bytes], keep: bool) -> None:
    body = b"".join(pieces)
    raw = write(b"GET", 200, [(b"content-length", b"%d" % len(body))], pieces, keep=keep)
    assert read(b"GET", raw) == (200, body, keep)
    assert raw.endswith(body)


@pytest.mark.parametrize("status", [204, 304])
def test_bodiless_statuses_have_no_body_even_if_one_comes(status: int) -> None:
    assert read(b"GET", write(b"GET", status, [], [b"surprise"])) == (status, b"", True)


def test_head_keeps_the_length_of_the_get_and_sends_no_body() -> None:
    raw = write(b"HEAD", 200, [(b"Content-Length", b"10")], [b"0123456789"])
    assert b"Content-Length: 10" in raw
    assert read(b"HEAD", raw) == (200, b"", True)


def test_no_content_never_has_a_length() -> None:
    assert b"ontent-" not in write(b"GET", 204, [(b"Content-Length", b"0")], [])


def test_end_with_the_head_becomes_length_zero() -> None:
    assert read(b"GET", write(b"GET", 200, [], [], fin=True)) == (200, b"", True)


def test_last_response_says_close() -> None:
    assert b"\r\nConnection: close\r\n" in write(b"GET", 200, [], [], keep=False)


def test_more_than_promised_is_refused() -> None:
    with pytest.raises(FramingError, match="longer"):
        write(b"GET", 200, [(b"Content-Length", b"3")], [b"ab", b"cd"])


def test_less_than_promised_is_refused() -> None:
    with pytest.raises(FramingError, match="before"):
        write(b"GET", 200, [(b"Content-Length", b"3")], [b"ab"])
    with pytest.raises(FramingError, match="before"):
        write(b"GET", 200, [(b"Content-Length", b"3")], [], fin=True)


def test_refused_head_leaves_nothing_behind_for_the_one_that_takes_its_place() -> None:
    writer = ResponseWriter(b"GET", keep_alive=True)
    with pytest.raises(FramingError):
        writer.head(ResponseHead(200, b"X", [(b"Content-Length", b"3")]), fin=True)
    raw = writer.head(ResponseHead(502, b"X", [])) + writer.data(b"ab") + writer.end()
    assert read(b"GET", raw) == (502, b"ab", True)


@pytest.mark.parametrize("values", [[b"1", b"1"], [b"-1"], [b"1 "], [b"0x1"], [b""], [b"9" * 19]])
def test_length_that_is_none_is_refused(values: list[bytes]) -> None:
    with pytest.raises(FramingError, match="Content-Length"):
        write(b"GET", 200, [(b"Content-Length", value) for value in values], [])
