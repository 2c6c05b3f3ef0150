# SPDX-License-Identifier: Apache-2.0
"""Attack class 7: a tunnel without a credential, with a wrong, expired or replayed one; no security configuration.

Guards: `edge/agents.py` (nothing before the JWT is verified), `authn/agents.py` (times, and each jti once), `app` and
`lib/config.py` (what is missing refuses to start), `kube/access.py` (no verification switched off).
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from support import agentjwt
from support.agentjwt import WEBSOCKET
from support.glass import Glass
from support.rawhttp import Headers, RawClient, bearer
from support.road import BIN, Server, run, until

from .conftest import Road


def test_without_a_good_credential_there_is_no_tunnel(road: Road, glass: Glass, client: RawClient) -> None:
    me = glass.identity
    now = int(time.time())
    expired = agentjwt.claims(me, iat=now - 120, nbf=now - 120, exp=now - 75)
    early = agentjwt.claims(me, iat=now + 120, nbf=now + 120, exp=now + 165)
    join_token = road.server.api("POST", f"/clusters/{glass.name}/join-tokens")["join_token"]
    key = agentjwt.private_key(me)
    for why, jwt in {
        "none": None,
        "empty": "",
        "nonsense": "nonsense",
        "three parts of it": "a.b.c",
        "a user's token": road.server.admin_token,
        "a join token": join_token,
        "expired": agentjwt.sign(key, agentjwt.header(me), expired),
        "not yet": agentjwt.sign(key, agentjwt.header(me), early),
        "as long as a head": "a" * 60_000,
    }.items():
        answer = agentjwt.handshake(client, jwt)
        assert answer.status in (401, 403), (why, str(answer))
        assert b"upgrade" not in {name for name, _unused in answer.headers}, why


def test_a_credential_is_good_once_whoever_answers(glass: Glass, client: RawClient) -> None:
    """Each connection may be taken by another process of the server: all of them together take it once."""
    for _unused in range(3):
        jwt = agentjwt.good(glass.identity)
        answers = [agentjwt.handshake(client, jwt).status for _unused in range(15)]
        assert sorted(answers) == [101] + [403] * 14, answers


def test_without_a_good_credential_there_is_no_policy(road: Road, glass: Glass, client: RawClient) -> None:
    """One JWT is good once for both: whoever saw it at the tunnel gets no policy by it, and the other way round."""
    me, now = glass.identity, int(time.time())
    key = agentjwt.private_key(me)
    join_token = road.server.api("POST", f"/clusters/{glass.name}/join-tokens")["join_token"]

    def fetch(jwt: str | None) -> int:
        headers = [] if jwt is None else bearer(jwt)
        return client.request("GET", "/api/v1/agents/policy", headers).status

    until("it is rendered", lambda: fetch(agentjwt.good(me)) == 200)
    for why, jwt in {
        "none": None,
        "nonsense": "nonsense",
        "three parts of it": "a.b.c",
        "a user's token": road.server.admin_token,
        "a join token": join_token,
        "expired": agentjwt.sign(
            key, agentjwt.header(me), agentjwt.claims(me, iat=now - 120, nbf=now - 120, exp=now - 75)
        ),
        "not yet": agentjwt.sign(key, agentjwt.header(me), agentjwt.claims(me, iat=now + 120, exp=now + 165)),
        "for another server": agentjwt.sign(key, agentjwt.header(me), agentjwt.claims(me, aud="elsewhere")),
        "of no known algorithm": agentjwt.unsigned(agentjwt.header(me, alg="none"), agentjwt.claims(me)) + ".",
    }.items():
        assert fetch(jwt) == 401, why
    once = agentjwt.good(me)
    assert [fetch(once) for _unused in range(5)] == [200, 401, 401, 401, 401]
    assert {agentjwt.handshake(client, once).status for _unused in range(6)} == {403}, "nor is it a tunnel, anywhere"
    once = agentjwt.good(me)
    assert agentjwt.handshake(client, once).status == 101
    assert fetch(once) == 401


def test_only_an_agents_request_is_looked_at(glass: Glass, client: RawClient) -> None:
    """What is no agent is refused, and does not use the credential up."""
    jwt = agentjwt.good(glass.identity)
    base = dict(WEBSOCKET)
    variants: list[Headers] = [
        (),
        [*WEBSOCKET, (b"Origin", b"https://127.0.0.1")],
        [*WEBSOCKET, (b"Impersonate-User", b"root")],
        [*WEBSOCKET, (b"Authorization", b"Bearer x")],
        list((base | {b"Upgrade": b"SPDY/3.1"}).items()),
        list((base | {b"Sec-WebSocket-Protocol": b"mooring-tunnel.0"}).items()),
        [pair for pair in WEBSOCKET if pair[0] != b"Sec-WebSocket-Protocol"],
        [pair for pair in WEBSOCKET if pair[0] != b"Connection"],
    ]
    for headers in variants:
        answer = agentjwt.handshake(client, jwt, headers)
        assert answer.status in (400, 401, 403), (headers, str(answer))
    for where in ("/tunnel/connect/", "/tunnel/connect%2f", "/tunnel//connect", "/Tunnel/connect", "/tunnel"):
        client.close()
        answer = client.request("GET", where, [*WEBSOCKET, (b"Authorization", b"Bearer " + jwt.encode())])
        assert answer.status in (400, 404), (where, str(answer))
    client.close()
    answer = client.request("POST", "/tunnel/connect", [*WEBSOCKET, (b"Authorization", b"Bearer " + jwt.encode())])
    assert answer.status == 400
    assert agentjwt.handshake(client, jwt).status == 101


def test_a_server_without_its_security_does_not_start(tmp_path: Path) -> None:
    """Each part that is missing is named, and no port is opened."""
    server = Server(tmp_path / "server")
    server.init()
    good = server.config.read_text()
    certificate = server.config.parent / "tls" / "server.crt"

    def changed(setting: str, line: str) -> str:
        text, count = re.subn(rf"(?m)^#? ?{setting} = .*$", line, good, count=1)
        assert count, setting
        return text

    for named, text in [
        ("key", changed("key", "")),
        ("prefix", changed("prefix", 'prefix = "system:"')),
        ("audit", good.replace("[audit]", '[audit]\npath = "/proc/none/audit.log"', 1)),
    ]:
        server.config.write_text(text)
        assert named in does_not_start(server), named
    server.config.write_text(good)
    certificate.write_bytes(server.ca.read_bytes())  # a certificate that is not this key's
    assert "certificate" in does_not_start(server)


def does_not_start(server: Server) -> str:
    """What a server says that refuses to start."""
    done = run([BIN / "mooring", "server", "run", "--config", server.config], check=False, timeout=60)
    assert done.returncode > 0, done.stdout + done.stderr
    assert "listening" not in done.stdout
    return done.stdout + done.stderr


def test_an_agent_that_would_not_verify_its_api_server_does_not_start(road: Road, tmp_path: Path) -> None:
    config = json.loads(road.a.direct("config", "view", "--raw", "--flatten", "-o", "json"))
    path = tmp_path / "kubeconfig"
    for change in ({"insecure-skip-tls-verify": True}, {"certificate-authority-data": ""}):
        broken = json.loads(json.dumps(config))
        broken["clusters"][0]["cluster"].update(change)
        path.write_text(json.dumps(broken))
        done = run([BIN / "mooring", "agent", "--kubeconfig", path], check=False, timeout=60)
        assert done.returncode == 1, (change, done.stdout, done.stderr)
        assert "cannot start" in done.stdout + done.stderr, change
