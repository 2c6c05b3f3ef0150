# SPDX-License-Identifier: Apache-2.0
"""The targets by name, with the inputs that they begin from and the words that mutations are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mooring.wire.endpoint import Index, Settings, Shard, Token, User, body_of

from fuzz import endpoint_targets, http_targets, parser_targets, tunnel_targets


@dataclass(frozen=True, slots=True)
class Target:
    """`run` raises on a finding. `words` go into libFuzzer's dictionary. `max_len` is in bytes.

    `oracle`: another reader runs beside ours, whose branches are worth knowing for a part of the time.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    max_len: int = 512
    oracle: bool = False


HTTP_WORDS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\n\n",
    b"\r\n ",
    b"\r\n\t",
    b"\0",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b" ",
    b"\t",
    b":",
    b": ",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 05\r\n",
    b"Content-Length : 5\r\n",
    b"Content-Length:5\r\n",
    b"content-length: 0x5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
    b'Transfer-Encoding: "chunked"\r\n',
    b"Transfer-Encoding: xchunked\r\n",
    b"transfer_encoding: chunked\r\n",
    b"Transfer-Encoding\0: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Upgrade: SPDY/3.1\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"Trailer: X\r\n",
    b"Connection: a, , close\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"005\r\nhello\r\n",
    b"0\r\nX: y\r\n\r\n",
    b'5;a="b"\r\n',
    b"0000000000000000",
    b"ffffffffffffffff\r\n",
    b"-5\r\n",
    b"0x5\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"GET / HTTP/1.1\r\n",
    b"POST /a HTTP/1.1\r\n",
    b"http://a/",
    b"a:443",
    b"*",
    b"/..",
    b"%2e%2e",
    b"#",
    b"GET ",
    b"HEAD ",
    b"CONNECT ",
    b"OPTIONS ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
STATUS_WORDS = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 S\r\n",
    b"HTTP/1.1 103 E\r\n",
    b"HTTP/1.1 204 N\r\n",
    b"HTTP/1.1 304 N\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 205 R\r\n",
    b"HTTP/1.1 600 X\r\n",
    b"HTTP/1.1 200\r\n",
    b"HTTP/0.9 200 OK\r\n",
)
GET = b"GET /k8s/clusters/a/api HTTP/1.1\r\nHost: a\r\n\r\n"
REQUESTS = (
    b"\0" + GET,
    b"\1" + GET + GET,
    b"\2POST /a HTTP/1.1\r\nHost: a:8443\r\nContent-Length: 5\r\n\r\nhello" + GET,
    b"\3POST /a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + GET,
    b"\0GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw",
    b"\0PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"\4POST / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa9\r\nA:\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" + GET,
    b"\0POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    b"\0GET / HTTP/1.1\nHost: a\n\n",
    b"\0GET http://a/ HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
)
RESPONSES = (
    b"\0\0\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"\0\3\2HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"\0\1\2HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"\1\0\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"\0\2\0HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    b"\0\0\1HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw",
    b"\0\0\2HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab",
    b"\0\0\0HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"\0\0\0HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n5;n=v\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"\2\5\0HTTP/1.1 200 \r\nX: \t a \r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
)
CHUNKED = (
    b"\0005\r\nhello\r\n0\r\n\r\n",
    b"\1a\r\n0123456789\r\n5\r\nhello\r\n0\r\n\r\nGET",
    b"\0005;x\r\nhello\r\n0\r\nA: b\r\n\r\n",
)
HEADS = (GET, RESPONSES[0][3:-5], b"GET / HTTP/1.1\r\nA:b\r\nC: \t d \r\n\r\n")
PROXIED = (
    b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: apiserver\r\nImpersonate-User: mooring:bob\r\n"
    b"Impersonate-Group: system:authenticated\r\n\r\n",
    b"GET /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nImpersonate-User: bob\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nImpersonate-User: bob\r\nImpersonate-Uid: u\r\n\r\n",
)
PROXIED_WORDS = (
    b"Impersonate-User: ",
    b"Impersonate-Group: system:masters\r\n",
    b"Authorization: Bearer x\r\n",
    b"X-Remote-User: a\r\n",
    b"Connection: Impersonate-User\r\n",
    b"Proxy-Authorization: a\r\n",
    b"Cookie: a\r\n",
    b"system:",
    b"SYSTEM:masters",
    b"//a/",
    b"Impersonate_User: a\r\n",
    b"TRACE ",
)
SCRIPTS = (
    *(bytes((i * k + 3) % 256 for i in range(120)) for k in (7, 31, 91, 113, 201)),
    bytes([0, 200, 0, 0, 0, 1, 2, 9, 1, 9, 3, 4]) * 6,
    bytes([1, 9, 0, 30, 0, 1, 1, 5, 1, 0, 0, 33]) * 6,
)
TOML = b"""[server]
data_dir = "/var/lib/mooring"
url = "https://m.example:8443"
listen = "[::1]:8443"
[tls]
cert = "c"
key = "k"
ca = "a"
[database]
url = "postgresql://m:p@db/mooring"
[limits]
"""
PEM = b"""LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K"""
KUBECONFIG = (
    b"""current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: "https://k:6443", certificate-authority-data: %b}}]
users: [{name: a, user: {token: t}}]
"""
    % PEM
)
YAML_WORDS = (
    b"certificate-authority: /dev/null",
    b"token: ",
    b"tokenFile: t",
    b"client-certificate-data: ",
    b"server: https://[",
    b"2001-02-30",
    b"!!binary",
    b"&a",
    b"*a",
    b"<<: ",
    b"[",
    b"{",
    b"\\0",
    b"insecure-skip-tls-verify: true",
    b"exec: {}",
    b"null",
    b"https://k:99999",
)
FRAMES = (
    b"\0\5\1\0\0\0\1ok",
    b"\1" + b'{"protocol":"mooring-tunnel/1","instance":"a","version":"0","window":262144,"max_streams":9,"peers":[]}',
    b"\2\tapiserverGET / HTTP/1.1\r\n\r\n",
    b"\3\0\5no",
    b"\4\0\0\1\0",
    b"\5\0\0\0\5\0\0bye",
    b"\6" + b'{"kind":"status","conditions":[]}',
    b"\7\1\0\1\2\1\0",
    b"\x08abc",
)

TARGETS: dict[str, Target] = {
    "http1-request": Target(http_targets.http1_requests, REQUESTS, HTTP_WORDS, 600, oracle=True),
    "http1-response": Target(http_targets.http1_responses, RESPONSES, HTTP_WORDS + STATUS_WORDS, 600, oracle=True),
    "http1-chunked": Target(http_targets.chunks, CHUNKED, HTTP_WORDS, 200, oracle=True),
    "http1-writer": Target(
        http_targets.http1_writer, (bytes(range(60)), b"\0\0\1\0\0015hello\2ab"), (b"5", b"10", b"+5"), 120
    ),
    "headers": Target(parser_targets.heads, HEADS, HTTP_WORDS + STATUS_WORDS, 600),
    "identity": Target(parser_targets.identity_headers, SCRIPTS, HTTP_WORDS + parser_targets.NAMES, 300),
    "acting": Target(parser_targets.acting_headers, SCRIPTS, HTTP_WORDS + parser_targets.NAMES, 300),
    "agent-request": Target(parser_targets.agent_requests, PROXIED, HTTP_WORDS + PROXIED_WORDS, 500),
    "frames": Target(tunnel_targets.frame_parsers, FRAMES, (b"\0\0\0\1", b'"kind"', b'{"', b"[]", b"\xff\xff"), 300),
    "mux": Target(tunnel_targets.mux_alone, SCRIPTS, (), 600),
    "mux-pair": Target(tunnel_targets.mux_pair, SCRIPTS, (), 400),
    "handshake": Target(
        parser_targets.handshakes,
        (b"\0a.b.c", b"\1\1e30", b'\2\x20{"alg":"none","kid":"c-aaaaaaaaaaaa"}{"iss":"c-aaaaaaaaaaaa"}', b"\3\0\7A"),
        (
            b'"alg":"none"',
            b'"alg":"HS256"',
            b'"crit":["b64"]',
            b'"b64":false',
            b'"kid":"c-aaaaaaaaaaaa"',
            b'"zip":"DEF"',
            b".",
        ),
        300,
    ),
    "token": Target(
        parser_targets.user_tokens,
        (b"mrg_t-aaaaaaaaaaaa_" + b"a" * 52, b"mrj_j-aaaaaaaaaaaa_" + b"a" * 52),
        (b"mrg_", b"\n", b"_t-"),
        120,
    ),
    "path": Target(
        parser_targets.paths,
        (b"a/api/v1/pods?watch=1", b"a/%2e%2e%2fb/x", b"a/..;/b", b"a//b/.%2e"),
        (b"..", b"%2e", b"%2F", b"%252e", b"/", b"?", b";"),
        80,
    ),
    "route": Target(
        parser_targets.routes, (b"a/api", b"c-aaaaaaaaaaaa", b"a%2fb/x?y=/", b"a?x"), (b"%2f", b"-", b"c-"), 120
    ),
    "location": Target(
        parser_targets.locations,
        (b"/api/v1?x=1", b"//b/", b"/a/%2e%2e/", b"/a\t/b"),
        (b"..", b"%2e", b"\t", b"\\", b"//", b"/."),
        80,
    ),
    "origin": Target(
        parser_targets.origins,
        (b"\1ahttps://a", b"\5a:443https://a/", b"\4[::]wss://[::]"),
        (b"https://", b"@", b":443", b"[", b"]"),
        80,
    ),
    "requestinfo": Target(
        parser_targets.request_infos,
        (
            b"\0/api/v1/namespaces/a/pods/b/exec?command=x",
            b"\0/apis/apps/v1/deployments?watch=1&fieldSelector=metadata.name%3Db",
            b"\5/api/v1/watch/pods",
        ),
        (
            b"/api/",
            b"/apis/",
            b"/namespaces/",
            b"/proxy/",
            b"/watch/",
            b"watch=",
            b"fieldSelector=metadata.name=",
            b"%0a",
            b"%u2028",
        ),
        200,
    ),
    "name": Target(
        parser_targets.names,
        (b"bob", "zoë".encode(), b"system:masters", b"a\xe2\x80\xaeb", b"a b"),
        (b"system:", b"\r\n", b"\xc2\x85", b"\xed\xa0\x80"),
        300,
    ),
    "server-config": Target(
        parser_targets.server_configs,
        (TOML,),
        (b"https://[", b"= ", b'""', b"[[", b"[audit]", b"nan", b"inf", b"[limits]"),
        600,
    ),
    "kubeconfig": Target(parser_targets.kubeconfigs, (KUBECONFIG,), YAML_WORDS, 500),
    "reviews": Target(
        endpoint_targets.reviews,
        (endpoint_targets.TOKEN_REVIEW, endpoint_targets.ACCESS_REVIEW, b"{}"),
        (
            endpoint_targets.TOKEN.encode(),
            b'"authentication.k8s.io/v1"',
            b'"authentication.k8s.io/v1beta1"',
            b'"authorization.k8s.io/v1"',
            b'"TokenReview"',
            b'"SubjectAccessReview"',
            b'"audiences":["',
            b'"extra":{"mooring.fleet/token-id":["e-',
            b'"status":{"authenticated":true',
            b'"spec":{',
            b"null",
            b"\\u0000",
            b'"groups":["system:masters"]',
        ),
        800,
    ),
    "endpoint": Target(
        endpoint_targets.documents,
        (
            body_of(Index(settings=Settings(prefix="m:"), registered_at=1.0, shards={1: "a" * 64})),
            body_of(Shard(number=3, users=(User(id="u", name="tem:a", uid="1", groups=("g",)),))),
            body_of(Shard(number=3, users=(User(id="u", name="b", uid="1", tokens=(Token("e-a", b"h" * 32, 1.0),)),))),
            b"MREI1\n\0\0\0\2{}",
        ),
        (b"tem:masters", b"system:", b"users", b"tokens", b"prefix", b"shards", b"\xcb\x7f\xf8\0\0\0\0\0\0"),
        600,
    ),
}
