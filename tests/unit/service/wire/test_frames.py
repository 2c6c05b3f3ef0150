# SPDX-License-Identifier: Apache-2.0
"""The layout of frames: the examples of docs/protocol/tunnel.md byte by byte, the limits, and rubbish of every kind."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.wire import frames
from mooring.wire.frames import Code, LocalError, RemoteError
from mooring.wire.hello import Hello

SPEC = Path(__file__).parents[4] / "docs/protocol/tunnel.md"
MADE_BY_US = {
    "HELLO": frames.pack_hello(Hello(instance="agent-1", version="0.1.0")),
    "OPEN": frames.heads(
        frames.OPEN, 1, frames.pack_open("apiserver", b"GET /version HTTP/1.1\r\nHost: k8s\r\n\r\n"), frames.FIN
    )[0],
    "OPENED": frames.heads(frames.OPENED, 1, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")[0],
    "DATA": frames.frame(frames.DATA, 1, b"ok", frames.FIN),
    "REFUSED": frames.pack_reason(frames.REFUSED, 3, Code.UPSTREAM_UNREACHABLE, "connection refused"),
    "END": frames.frame(frames.END, 5),
    "RESET": frames.pack_reason(frames.RESET, 5, Code.CANCEL, "client went away"),
    "WINDOW": frames.pack_window(5, 131072),
    "GOAWAY": frames.pack_goaway(5, Code.NO_ERROR, "shutting down"),
    "PING": frames.frame(frames.PING, 0, (1).to_bytes(8, "big")),
    "PONG": frames.frame(frames.PONG, 0, (1).to_bytes(8, "big")),
    "PULSE": frames.frame(frames.PULSE),
    "MESSAGE": frames.pack_message({"kind": "instances", "instances": ["srv/i-1", "srv/i-2"]})[0],
}


def examples() -> dict[str, bytes]:
    """The hex examples of the specification: blocks that are marked `hex NAME`."""
    found = re.findall(r"^```hex (\w+)\n(.*?)^```", SPEC.read_text(), re.S | re.M)
    return {name: bytes.fromhex("".join(line.split("|")[0] for line in text.splitlines())) for name, text in found}


@pytest.mark.parametrize("name", sorted(MADE_BY_US))
def test_the_examples_of_the_specification_are_what_we_send(name: str) -> None:
    assert examples()[name].hex(" ") == MADE_BY_US[name].hex(" ")


def test_every_example_of_the_specification_is_checked() -> None:
    assert set(examples()) == set(MADE_BY_US)


def test_the_specification_names_every_code_and_frame_with_its_number() -> None:
    text = SPEC.read_text()
    for code in Code:
        assert re.search(rf"^\| {int(code)} \| {code.name} \|", text, re.M), code
    for name in MADE_BY_US:
        assert re.search(rf"^\| {getattr(frames, name)} \| {name} \|", text, re.M), name


def test_a_code_of_a_newer_peer_reads_as_internal() -> None:
    assert Code.of(4711) is Code.INTERNAL
    assert frames.unpack_reason((4711).to_bytes(2, "big") + b"later") == (Code.INTERNAL, "later")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "shorter than its header"),
        (b"\x05\x00\x00\x00\x00", "shorter than its header"),
        (frames.frame(frames.DATA, 1, b"x" * (frames.MAX_PAYLOAD + 1)), "longer than"),
        (frames.frame(frames.DATA, 0, b"x"), "with stream id 0"),
        (frames.frame(frames.DATA, 2**31, b"x"), "with stream id"),
        (frames.frame(frames.PING, 1, bytes(8)), "must be 0"),
        (frames.frame(frames.HELLO, 1, b"{}"), "must be 0"),
        (frames.frame(frames.DATA, 1, b"x", frames.MORE), "flags 0x2"),
        (frames.frame(frames.END, 1, b"", frames.FIN), "flags 0x1"),
        (frames.frame(frames.MESSAGE, 0, b"{}", frames.FIN), "flags 0x1"),
        (frames.frame(frames.DATA, 1, b"x", 0x80), "flags 0x80"),
    ],
)
def test_a_frame_that_cannot_be_is_the_peers_error(data: bytes, why: str) -> None:
    with pytest.raises(RemoteError, match=re.escape(why)):
        frames.split(data)


def test_the_longest_frame_passes() -> None:
    assert frames.split(frames.frame(frames.DATA, 2**31 - 1, bytes(frames.MAX_PAYLOAD)))[2] == 2**31 - 1


@pytest.mark.parametrize("size", [0, 1, frames.MAX_PAYLOAD, frames.MAX_PAYLOAD + 1, frames.MAX_HEAD])
def test_a_head_is_cut_into_pieces_and_put_together_again(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    pieces = frames.Pieces()
    out = None
    for piece in frames.heads(frames.OPENED, 7, payload, frames.FIN):
        assert len(piece) <= frames.MAX_FRAME
        assert out is None
        kind, flags, stream = frames.split(piece)
        out = pieces.add(kind, flags, stream, piece[frames.HEADER_SIZE :])
    assert out == payload
    assert flags == frames.FIN


def test_a_head_over_128_kib_is_our_error_to_send_and_the_peers_to_have_sent() -> None:
    with pytest.raises(LocalError):
        frames.heads(frames.OPEN, 1, bytes(frames.MAX_HEAD + 1))
    pieces = frames.Pieces()
    for _unused in range(4):
        assert pieces.add(frames.OPEN, frames.MORE, 1, bytes(frames.MAX_PAYLOAD)) is None
    with pytest.raises(RemoteError, match="over 128 KiB"):
        pieces.add(frames.OPEN, 0, 1, b"x")


@pytest.mark.parametrize(
    ("kind", "flags", "stream", "payload"),
    [
        (frames.OPENED, frames.MORE, 3, b"x"),
        (frames.MESSAGE, 0, 0, b"x"),
        (frames.OPENED, frames.MORE, 1, b""),
        (frames.OPENED, frames.MORE | frames.FIN, 1, b"x"),
    ],
)
def test_pieces_of_another_payload_do_not_mix(kind: int, flags: int, stream: int, payload: bytes) -> None:
    pieces = frames.Pieces()
    assert pieces.add(frames.OPENED, frames.MORE, 1, b"first") is None
    with pytest.raises(RemoteError):
        pieces.add(kind, flags, stream, payload)


def test_hello_says_what_was_said() -> None:
    hello = Hello(
        instance="srv-1",
        version="0.1.0",
        window=65536,
        max_streams=7,
        peers=["wss://b/tunnel/connect"],
        features=["act-as", "later"],
    )
    assert frames.unpack_hello(frames.pack_hello(hello)[frames.HEADER_SIZE :]) == hello


def test_hello_of_a_newer_peer_may_say_more() -> None:
    text = b'{"protocol":"mooring-tunnel/1","instance":"a","version":"9","new":{"x":[1]}}'
    assert frames.unpack_hello(text).window == 256 * 1024


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"instance":"a"}',
        b'{"protocol":"mooring-tunnel/2","instance":"a","version":"1"}',
        b'{"instance":"","version":"1"}',
        b'{"instance":"a","version":"1","window":16383}',
        b'{"instance":"a","version":"1","window":16777217}',
        b'{"instance":"a","version":"1","window":"65536"}',
        b'{"instance":"a","version":"1","max_streams":-1}',
        b'{"instance":"a","version":"1","peers":["' + b"x" * 2049 + b'"]}',
        b'{"instance":"a","version":"1","features":["' + b"x" * 65 + b'"]}',
        b'{"instance":"a","version":"1","features":["' + b'x","' * 64 + b'x"]}',
        b'{"instance":"\xff","version":"1"}',
        b"[" * 20000,
    ],
)
def test_a_hello_that_is_none_is_the_peers_error(text: bytes) -> None:
    with pytest.raises(RemoteError):
        frames.unpack_hello(text)


def test_a_hello_that_the_peer_would_refuse_is_our_error() -> None:
    with pytest.raises(LocalError):
        frames.pack_hello(Hello(instance="a", version="1", window=1))
    with pytest.raises(LocalError):
        frames.pack_hello(Hello(instance="a", version="1", peers=["x" * 2000] * 64))


@pytest.mark.parametrize("target", ["", "x" * 64, "bücher"])
def test_a_target_that_cannot_be_named_is_our_error(target: str) -> None:
    with pytest.raises(LocalError):
        frames.pack_open(target, b"")


def test_an_open_carries_target_and_head() -> None:
    request = frames.unpack_open(frames.pack_open("apiserver", b"GET / HTTP/1.1\r\n\r\n"))
    assert (request.target, request.head) == ("apiserver", b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("payload", [b"", b"\x00GET", b"\x09api", b"\x02\xc3\xa9", b"\x40" + b"x" * 64])
def test_an_open_without_a_target_is_a_bad_request(payload: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        frames.unpack_open(payload)
    assert caught.value.code is Code.BAD_REQUEST


def test_what_a_peer_says_is_cut_and_made_printable() -> None:
    raw = frames.pack_reason(frames.RESET, 1, Code.CANCEL, "ä" * 600)[frames.HEADER_SIZE :]
    assert frames.unpack_reason(raw) == (Code.CANCEL, "ä" * 512)
    assert frames.unpack_reason(b"\x00\x03a\x1b[2Jb\n\xff") == (Code.CANCEL, "a [2Jb �")
    with pytest.raises(RemoteError):
        frames.unpack_reason(b"\x00\x03" + b"x" * 1025)


@pytest.mark.parametrize("payload", [b"", b"\x00\x00\x00", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00", bytes(5)])
def test_a_window_that_grants_nothing_or_too_much_is_the_peers_error(payload: bytes) -> None:
    with pytest.raises(RemoteError):
        frames.unpack_window(payload)


def test_a_message_has_a_kind() -> None:
    assert frames.unpack_message(b'{"kind":"status","n":[1,null]}') == {"kind": "status", "n": [1, None]}
    for text in (b"", b"[]", b"{}", b'{"kind":1}', b'{"kind":"x"', b"[" * 20000, b'{"kind":"\xff"}'):
        with pytest.raises(RemoteError):
            frames.unpack_message(text)
    with pytest.raises(LocalError):
        frames.pack_message({"status": 1})


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_the_peers_error(data: bytes) -> None:
    for read in (
        frames.split,
        frames.unpack_hello,
        frames.unpack_open,
        frames.unpack_reason,
        frames.unpack_window,
        frames.unpack_goaway,
        frames.unpack_message,
    ):
        with contextlib.suppress(RemoteError):
            read(data)
