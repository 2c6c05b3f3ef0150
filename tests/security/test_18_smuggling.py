# SPDX-License-Identifier: Apache-2.0
"""Attack class 18: request smuggling. Bytes that two readers cut into different requests, or paths that lead elsewhere.

Each attack carries a second request in what could be its body. It must not reach the cluster: the connection ends
after one answer, and the cluster of glass saw nothing of it. The other way round, a cluster's answer that could be
cut in two reaches no client. Guards: `wire/http1_request.py`, `wire/http1_response.py`, `wire/headers.py` (strict
readers), `proxy/chain.py` and `agent/dispatch.py` (heads are written anew), `edge/routes.py` (paths are matched as
bytes). `make fuzz` looks for more of the kind.
"""

from __future__ import annotations

import pytest
from support.glass import Glass
from support.rawhttp import RawClient, bearer

from .conftest import Road


def smuggling(road: Road, glass: Glass) -> dict[str, bytes]:
    token = road.server.admin_token.encode()
    host = b"Host: m\r\nAuthorization: Bearer " + token + b"\r\n"
    path = glass.path("/api/v1/pods").encode()
    post = b"POST " + path + b" HTTP/1.1\r\n" + host
    get = b"GET " + path + b" HTTP/1.1\r\n" + host
    second = b"GET " + glass.path("/smuggled").encode() + b" HTTP/1.1\r\n" + host + b"\r\n"
    size = b"%d" % len(second)
    chunked = b"0\r\n\r\n" + second
    te = b"Transfer-Encoding: chunked\r\n"
    lengths = b"Content-Length: 5\r\n"
    return {
        "CL.TE": post + b"Content-Length: %d\r\n" % len(chunked) + te + b"\r\n" + chunked,
        "TE.CL": post + te + b"Content-Length: 4\r\n\r\n" + chunked,
        "two lengths": post + b"Content-Length: 0\r\nContent-Length: " + size + b"\r\n\r\n" + second,
        "two equal lengths": post + lengths * 2 + b"\r\nhello" + second,
        "a list of lengths": post + b"Content-Length: 0, " + size + b"\r\n\r\n" + second,
        "a list of equal lengths": post + b"Content-Length: 5, 5\r\n\r\nhello" + second,
        "a signed length": post + b"Content-Length: +0\r\n\r\n" + second,
        "a negative length": post + b"Content-Length: -1\r\n\r\n" + second,
        "a hexadecimal length": post + b"Content-Length: 0x0\r\n\r\n" + second,
        "a length with a space": post + b"Content-Length: 0 " + size + b"\r\n\r\n" + second,
        "a length with an underscore": post + b"Content-Length: 1_0\r\n\r\n" + second,
        "no length": post + b"Content-Length:\r\n\r\n" + second,
        "a huge length": post + b"Content-Length: 18446744073709551616\r\n\r\n" + second,
        "a space before the colon": post + b"Content-Length : " + size + b"\r\n\r\n" + second,
        "a tab before the colon": post + b"Transfer-Encoding\t: chunked\r\n\r\n" + chunked,
        "a space before the name": post + b" Transfer-Encoding: chunked\r\n\r\n" + chunked,
        "two codings": post + te * 2 + b"\r\n" + chunked,
        "a list of codings": post + b"Transfer-Encoding: identity, chunked\r\n\r\n" + chunked,
        "chunked is not last": post + b"Transfer-Encoding: chunked, identity\r\n\r\n" + chunked,
        "an unknown coding": post + b"Transfer-Encoding: xchunked\r\n\r\n" + chunked,
        "a quoted coding": post + b'Transfer-Encoding: "chunked"\r\n\r\n' + chunked,
        "a coding with a parameter": post + b"Transfer-Encoding: chunked;a=b\r\n\r\n" + chunked,
        "a coding with a control character": post + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + chunked,
        "a coding behind a NUL": post + b"Transfer-Encoding: \0chunked\r\n\r\n" + chunked,
        "obs-fold": post + b"Content-Length: 0\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n" + chunked,
        "a folded coding": post + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + chunked,
        "a bare LF before a header": post + b"X: a\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
        "a bare CR before a header": post + b"X: a\rTransfer-Encoding: chunked\r\n\r\n" + chunked,
        "bare LF line ends": post.replace(b"\r\n", b"\n") + b"\n" + second,
        "a bare LF as the empty line": post + b"X: a\r\n\n" + second,
        "a bare CR as the empty line": post + b"X: a\r\n\r" + second,
        "a header without a colon": post + b"Transfer-Encoding chunked\r\n\r\n" + chunked,
        "a header without a name": post + b": chunked\r\n\r\n" + chunked,
        "a NUL in a name": post + b"Content\0-Length: 5\r\n\r\nhello" + second,
        "a chunk extension": post + te + b"\r\n5;a=b\r\nhello\r\n" + chunked,
        "a chunk extension with a bare LF": post + te + b"\r\n5;a\nxx\r\nhello\r\n" + chunked,
        "a chunk size with a space": post + te + b"\r\n5 \r\nhello\r\n" + chunked,
        "a chunk size with a sign": post + te + b"\r\n+5\r\nhello\r\n" + chunked,
        "a chunk size with 0x": post + te + b"\r\n0x5\r\nhello\r\n" + chunked,
        "a chunk size that overflows": post + te + b"\r\n10000000000000005\r\nhello\r\n" + chunked,
        "a chunk size and a bare LF": post + te + b"\r\n5\nhello\r\n" + chunked,
        "a chunk longer than its size": post + te + b"\r\n3\r\nhello\r\n" + chunked,
        "a chunk that ends with a bare LF": post + te + b"\r\n5\r\nhello\n" + chunked,
        "a last chunk that ends with a bare LF": post + te + b"\r\n0\r\n\n" + second,
        "trailers": post + te + b"\r\n0\r\nImpersonate-User: a\r\n\r\n" + second,
        "a trailer that frames": post + te + b"\r\n0\r\nContent-Length: 9\r\n\r\n" + second,
        "an empty line first": b"\r\n" + get + b"Content-Length: " + size + b"\r\nContent-Length: 0\r\n\r\n" + second,
        "HTTP/1.0": get.replace(b"HTTP/1.1", b"HTTP/1.0") + te + b"\r\n" + chunked,
        "HTTP/0.9": b"GET " + path + b"\r\n\r\n" + second,
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + second,
        "HTTP/1.10": get.replace(b"HTTP/1.1", b"HTTP/1.10") + b"\r\n" + second,
        "a lower-case version": get.replace(b"HTTP/1.1", b"http/1.1") + b"\r\n" + second,
        "two spaces in the first line": get.replace(b" HTTP", b"  HTTP") + b"\r\n" + second,
        "a tab in the first line": get.replace(b"GET ", b"GET\t") + b"\r\n" + second,
        "a second line in the target": get.replace(path, path + b"\rX: y") + b"\r\n" + second,
        "absolute-form": get.replace(path, b"http://other" + path) + b"\r\n" + second,
        "absolute-form of the same host": get.replace(path, b"https://m" + path) + b"\r\n" + second,
        "authority-form": b"CONNECT m:443 HTTP/1.1\r\n" + host + b"\r\n" + second,
        "asterisk-form": b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n" + second,
        "a fragment": get.replace(path, path + b"#/x") + b"\r\n" + second,
        "two hosts": get + b"Host: other\r\n\r\n" + second,
        "no host": (get + b"\r\n").replace(b"Host: m\r\n", b"") + second,
        "a host with a path": (get + b"\r\n").replace(b"Host: m", b"Host: m/x") + second,
        "a host with a user": (get + b"\r\n").replace(b"Host: m", b"Host: a@m") + second,
        "an upgrade with a body": post
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: "
        + size
        + b"\r\n\r\n"
        + second,
        "an unknown expectation": post + b"Expect: 200-maybe\r\nContent-Length: " + size + b"\r\n\r\n" + second,
    }


def test_no_second_request_comes_out_of_the_body_of_the_first(road: Road, glass: Glass) -> None:
    attacks = smuggling(road, glass)
    glass.calls.clear()
    with road.dial() as client:
        for name, data in attacks.items():
            answer = client.exchange(data)
            assert answer.status in (400, 417, 501, 505), (name, str(answer))
            assert client.closed(), f"{name}: the connection goes on after {answer.status}"
    assert [call.head.split(b"\r\n")[0] for call in glass.calls if b"smuggled" in call.head] == []
    # What is refused within the body was begun, as it had to be; nothing else was.
    begun = {call.head.split(b" ")[0] for call in glass.calls}
    assert begun <= {b"POST"}
    assert not any(b"HTTP/1.1" in call.body for call in glass.calls), "a second request is in a body"


def test_what_is_asked_in_a_row_is_answered_in_a_row(road: Road, client: RawClient, glass: Glass) -> None:
    """The other side of it: bodies with rightful framing are bodies, whatever they hold."""
    token = road.server.admin_token.encode()
    usual = glass.answer
    glass.answer = lambda call: (b"HTTP/1.1 200 OK\r\n\r\n", call.head.split(b" ")[1] + b"|" + call.body)
    try:
        host = b"Host: m\r\nAuthorization: Bearer " + token + b"\r\n"
        inner = b"GET " + glass.path("/inner").encode() + b" HTTP/1.1\r\n" + host + b"\r\n"
        first = (
            b"POST "
            + glass.path("/first").encode()
            + b" HTTP/1.1\r\n"
            + host
            + b"Content-Length: %d\r\n\r\n" % len(inner)
            + inner
        )
        chunk = b"%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n"
        third = (
            b"POST "
            + glass.path("/second").encode()
            + b" HTTP/1.1\r\n"
            + host
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + chunk
        )
        client.send(first + third + b"GET " + glass.path("/third").encode() + b" HTTP/1.1\r\n" + host + b"\r\n")
        bodies = [client.answer(b"GET").body for _unused in range(3)]
        assert bodies == [b"/first|" + inner, b"/second|" + inner, b"/third|"]
    finally:
        glass.answer = usual


def test_no_path_leads_from_one_cluster_to_another(road: Road, client: RawClient) -> None:
    """Bob may enter A. Whatever he writes after A's name, B's API server hears nothing."""
    crosser = road.person("crosser", clusters=[road.a])
    a, b = f"/k8s/clusters/{road.a.name}", f"/k8s/clusters/{road.b.name}"
    begin_a, begin_b = road.a.position(), road.b.position()
    ups = ["..", "%2e%2e", "%2E.", ".%2e", "%2e%2E", "."]
    paths = [f"{a}/{up}/{road.b.name}/api" for up in ups] + [f"{a}/api/{up}/{up}/{road.b.name}/api" for up in ups]
    paths += (
        [f"{a}/{up}" for up in ups]
        + [f"{a}/x/{up}?a=b" for up in ups]
        + [f"/k8s/clusters/{up}/clusters/{road.b.name}/api" for up in ups]
    )
    refused = [
        f"{a}%2f..%2f{road.b.name}/api",
        f"{a}%2F{road.b.name}",
        "/k8s/clusters/%62ow/api",
        f"/k8s/clusters//{road.b.name}/api",
        f"/k8s/clusters/{road.a.name};/{road.b.name}",
        f"/k8s/clusters/{road.a.name}%00/api",
        f"/k8s/clusters/{road.a.name}\\..\\{road.b.name}/api",
        f"/k8s/clusters/{road.b.name.upper()}/api",
        f"/K8S/clusters/{road.b.name}/api",
        f"/k8s%2fclusters/{road.b.name}/api",
        f"/k8s//clusters/{road.b.name}/api",
        f"//k8s/clusters/{road.b.name}/api",
        f"/x{b}/api",
        f"/api/v1/..{b}/api",
        f"/healthz/..{b}/api",
        f"/k8s/clusters/.{road.b.name}/api",
    ]
    for path in [*paths, *refused]:
        answer = client.request("GET", path, bearer(crosser.token))
        assert answer.status in (400, 404), (path, str(answer))
    # These are names within A for whoever reads bytes; A may refuse them, B must not hear of them.
    for path in (
        f"{a}/..%2f{road.b.name}/api",
        f"{a}/%252e%252e/{road.b.name}/api",
        f"{a}/..;/{road.b.name}/api",
        f"{a}//{road.b.name}/api",
        f"{a}/...//api",
    ):
        answer = client.request("GET", path, bearer(crosser.token))
        assert answer.status in (301, 307, 400, 403, 404), (path, str(answer))
        location = answer.get(b"location")
        assert location is None or location.startswith(a.encode() + b"/"), (path, location)
    for path in (f"{b}/api", f"{b}/version"):
        assert client.request("GET", path, bearer(crosser.token)).status == 403
    heard = [
        event
        for event in road.seen_until(road.b, begin_b)
        if event.get("impersonatedUser", {}).get("username") == "mooring:crosser"
    ]
    assert heard == []
    seen = [event["requestURI"] for event in road.seen_until(road.a, begin_a) if event.get("impersonatedUser")]
    assert not any(segment in (".", "..") for uri in seen for segment in uri.split("?")[0].split("/"))


BAD_ANSWERS = {
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n",
    "a list of lengths": b"Content-Length: 2, 2\r\n",
    "a signed length": b"Content-Length: +2\r\n",
    "a folded line": b"X: a\r\n b\r\n",
    "a bare LF": b"X: a\nSet-Cookie: b\r\n",
    "a bare CR": b"X: a\rSet-Cookie: b\r\n",
    "a NUL": b"X: a\0b\r\n",
    "a space before the colon": b"Content-Length : 2\r\n",
    "a header without a colon": b"Content-Length 2\r\n",
    "another answer within": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
    "a head over its bound": b"X: " + b"a" * 70_000 + b"\r\n",
    "too many headers": b"X: a\r\n" * 300,
}


@pytest.mark.parametrize("status", [b"HTTP/1.1 200 OK", b"HTTP/1.1 404 N"])
def test_no_second_answer_comes_out_of_a_clusters_first(
    road: Road, client: RawClient, glass: Glass, status: bytes
) -> None:
    usual = glass.answer
    token = road.server.admin_token
    try:
        for name, headers in BAD_ANSWERS.items():
            glass.answer = lambda call, headers=headers: (status + b"\r\n" + headers + b"\r\n", b"hi")  # type: ignore[misc]
            answer = client.request("GET", glass.path("/api"), bearer(token))
            assert answer.status == 502, (name, str(answer))
            assert answer.get(b"set-cookie") is None, name
            assert client.request("GET", "/version").json()["name"] == "mooring", f"{name}: answers are out of step"
        # Through the tunnel bodies travel decoded: a coding speaks of a connection that is over.
        glass.answer = lambda call: (status + b"\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", b"hi")
        answer = client.request("GET", glass.path("/api"), bearer(token))
        assert (answer.get(b"transfer-encoding"), answer.get(b"content-length"), answer.body) == (None, b"2", b"hi")
        for first in (
            b"HTTP/1.1 099 X",
            b"HTTP/1.1 600 X",
            b"HTTP/2 200 OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1 2000 OK",
            b"ICY 200 OK",
            b"HTTP/1.1 100 C",
            b"HTTP/1.1 101 S",
        ):
            glass.answer = lambda call, first=first: (first + b"\r\n\r\n", b"hi")  # type: ignore[misc]
            answer = client.request("GET", glass.path("/api"), bearer(token))
            assert answer.status == 502, (first, str(answer))
        glass.answer = lambda call: (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
            b"hi" + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        )
        client.send(f"GET {glass.path('/api')} HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        got = b""
        while data := _receive(client):
            got += data
        assert got.count(b"HTTP/1.1") <= 1, "more than the length that was promised: the connection is cut"
        client.close()
    finally:
        glass.answer = usual


def _receive(client: RawClient) -> bytes:
    try:
        return client.socket.recv(65536)
    except OSError:
        return b""
