# SPDX-License-Identifier: Apache-2.0
"""Attack class 16: a browser that a page of somebody else steers.

A browser sends what a page asks of it, with what it holds for our site. So: no credential that it would send by
itself (cookies, a user name in the URL), no page of another site may open a WebSocket or read an answer, no method
may hide in another one, and what a cluster serves is not a page of ours. Guards: `proxy/upgrade.py` (`check_origin`),
`edge/agents.py`, `proxy/impersonate.py` and `edge/rest.py` (what is dropped), `proxy/forward.py` (what a cluster may
not say), `api/` (JSON bodies only).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from support.glass import Call, Glass
from support.rawhttp import RawClient, bearer

from .conftest import Road

EXEC = "/api/v1/namespaces/d/pods/p/exec?command=sh"
UPGRADE = (
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Key", b"a2V5"),
    (b"Sec-WebSocket-Version", b"13"),
)


def test_a_page_of_another_site_opens_no_websocket(road: Road, client: RawClient, glass: Glass) -> None:
    host = road.server.address.encode()
    port = b"%d" % road.server.port
    foreign = [
        b"https://evil.test",
        b"http://" + host,
        b"https://" + host + b".evil.test",
        b"https://evil.test:" + port,
        b"null",
        b"",
        b"https://" + host + b":1",
        b"https://" + host + b"@evil.test",
        b"https://evil.test/" + host,
        b"https://" + host + b"/",
        b"chrome-extension://" + host,
        b"file://",
        b"https://",
        b"https://[::1]",
        b"https://" + host + b", https://evil.test",
        b"//" + host,
        host,
        b"https:/" + host,
        b"https:\\\\" + host,
    ]
    glass.calls.clear()
    for origin in foreign:
        headers = bearer(road.server.admin_token, *UPGRADE, (b"Origin", origin))
        answer = client.request("GET", glass.path(EXEC), headers)
        assert answer.status == 403, (origin, str(answer))
        agent = bearer("a.b.c", *UPGRADE, (b"Sec-WebSocket-Protocol", b"mooring-tunnel.1"), (b"Origin", origin))
        assert client.request("GET", "/tunnel/connect", agent).status == 403, origin
    two = bearer(road.server.admin_token, *UPGRADE, (b"Origin", b"https://" + host), (b"Origin", b"https://evil.test"))
    assert client.request("GET", glass.path(EXEC), two).status == 403
    assert glass.calls == []
    own = bearer(road.server.admin_token, *UPGRADE, (b"Origin", b"https://" + host))
    assert client.request("GET", glass.path(EXEC), own).status == 200, "the glass answers 200: it was asked"
    assert len(glass.calls) == 1


def test_a_page_of_another_site_reads_no_answer(road: Road, client: RawClient, glass: Glass) -> None:
    def answer(call: Call) -> tuple[bytes, bytes]:
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nAccess-Control-Allow-Origin: *\r\n"
            b"access-control-allow-credentials: true\r\n"
            b"Access_Control_Allow_Origin: *\r\nSet-Cookie: a=b\r\nSet-Cookie2: a=b\r\nRefresh: 0;url=//evil\r\n"
            b"Clear-Site-Data: *\r\n"
            b'Strict-Transport-Security: max-age=0\r\nAlt-Svc: h2="evil:443"\r\nPublic-Key-Pins: x\r\n\r\n',
            b"<script>1</script>",
        )

    usual, glass.answer = glass.answer, answer
    try:
        preflight = (
            (b"Access-Control-Request-Method", b"DELETE"),
            (b"Access-Control-Request-Headers", b"authorization"),
        )
        for origin in (b"https://evil.test", b"null", b"https://" + road.server.address.encode()):
            for method, path in (
                ("OPTIONS", "/api/v1/users"),
                ("OPTIONS", "/api/v1/login"),
                ("OPTIONS", glass.path("/api")),
                ("GET", "/api/v1/whoami"),
                ("GET", glass.path("/api")),
                ("GET", "/healthz"),
                ("GET", "/version"),
                ("GET", "/metrics"),
                ("GET", "/schema"),
                ("GET", "/"),
            ):
                for token in (road.server.admin_token, ""):
                    headers = [*(bearer(token) if token else ()), (b"Origin", origin), *preflight]
                    got = client.request(method, path, headers)
                    said = [
                        name
                        for name, _unused in got.headers
                        if name.replace(b"_", b"-").startswith((b"access-control-allow", b"set-cookie"))
                    ]
                    assert said == [], (origin, method, path, got.head)
        page = client.request("GET", glass.path("/page"), bearer(road.server.admin_token))
        assert page.get(b"content-security-policy") == b"sandbox"
        speaks_for_us = {
            b"refresh",
            b"clear-site-data",
            b"strict-transport-security",
            b"alt-svc",
            b"public-key-pins",
            b"set-cookie2",
        }
        assert speaks_for_us & {name for name, _unused in page.headers} == set()
    finally:
        glass.answer = usual


def test_nothing_that_a_browser_sends_by_itself_is_a_credential(road: Road, client: RawClient, glass: Glass) -> None:
    token = road.server.admin_token
    basic = __import__("base64").b64encode(f"admin:{token}".encode())
    in_protocol = __import__("base64").urlsafe_b64encode(token.encode()).rstrip(b"=")
    offer = b"base64url.bearer.authorization.k8s.io." + in_protocol
    glass.calls.clear()
    ambient: list[tuple[str, tuple[tuple[bytes, bytes], ...]]] = [
        ("", ((b"Cookie", f"token={token}; Authorization=Bearer {token}; mooring={token}; session={token}".encode()),)),
        ("", ((b"Authorization", b"Basic " + basic),)),
        ("", ((b"Proxy-Authorization", b"Bearer " + token.encode()),)),
        ("", ((b"X-Mooring-User", b"admin"), (b"X-Mooring-Source", b"127.0.0.1"), (b"X-Remote-User", b"admin"))),
        ("", ((b"X-Forwarded-User", b"admin"), (b"X-Forwarded-Access-Token", token.encode()))),
        ("", (*UPGRADE, (b"Sec-WebSocket-Protocol", b"v5.channel.k8s.io, " + offer))),
        (f"?access_token={token}", ()),
        (f"?token={token}", ()),
        (f"?authorization=Bearer%20{token}", ()),
    ]
    for query, headers in ambient:
        for path in ("/api/v1/whoami", "/api/v1/users", glass.path("/api"), "/metrics"):
            got = client.request("GET", path + query, headers)
            wanted = (400, 401) if any(name == b"Upgrade" for name, _unused in headers) else (401,)
            assert got.status in wanted, (path, query, headers, str(got))
            assert got.get(b"www-authenticate") in (None, b'Bearer realm="mooring"', b"Bearer"), (
                "a browser would ask for a password"
            )
    assert glass.calls == []
    # And what goes along with a right request does not go to the cluster.
    mixed = bearer(token, (b"Cookie", b"a=b"), (b"Sec-WebSocket-Protocol", offer))
    assert client.request("GET", glass.path("/api"), mixed).status == 200
    [call] = glass.calls
    assert in_protocol not in call.head
    assert call.get_all(b"cookie") == []


def test_no_method_hides_in_another(
    road: Road, client: RawClient, glass: Glass, fresh_name: Callable[[str], str]
) -> None:
    server = road.server
    name = fresh_name("override")
    server.api("POST", "/groups", {"name": name})
    glass.calls.clear()
    for header in (
        b"X-HTTP-Method-Override",
        b"X-HTTP-Method",
        b"X-Method-Override",
        b"x_http_method_override",
        b"X-Original-Method",
    ):
        for method in ("GET", "POST"):
            client.request(
                method, f"/api/v1/groups/{name}?_method=DELETE", bearer(server.admin_token, (header, b"DELETE")), b""
            )
            client.request(method, glass.path("/api/v1/pods"), bearer(server.admin_token, (header, b"DELETE")))
    assert server.call("GET", f"/api/v1/groups/{name}", token=server.admin_token).status == 200
    assert {call.head.split(b" ")[0] for call in glass.calls} == {b"GET", b"POST"}
    sent = {
        key for call in glass.calls for key, _unused in call.headers if b"override" in key or key == b"x-http-method"
    }
    assert sent == set()


def test_a_form_of_a_page_is_not_a_request(road: Road, client: RawClient) -> None:
    """A page may post these content types anywhere without asking first."""
    body = json.dumps({"username": "admin", "password": (road.server.folder / "admin.password").read_text()}).encode()
    for kind in (
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"text/plain; application/json",
        b"",
    ):
        answer = client.request("POST", "/api/v1/login", [(b"Content-Type", kind)], body)
        assert answer.status in (400, 415, 422), (kind, str(answer))
        assert answer.get(b"x-content-type-options") in (b"nosniff", None)
    assert client.request("POST", "/api/v1/login", [(b"Content-Type", b"application/json")], body).status == 201
