# SPDX-License-Identifier: Apache-2.0
"""Attack class 6: an agent's credential altered: subject, audience, extra claims, algorithm (`none`, HS256).

Guards: `authn/agents.py` (EdDSA only, whatever the header says; type, issuer, audience; times that are numbers of a
sane size; JSON of a sane depth; no key of small order), `api/agents.py` (`_public_key`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import agentjwt
from support.glass import Glass, registration
from support.rawhttp import RawClient

from .conftest import Road


def test_an_altered_credential_opens_no_tunnel(road: Road, glass: Glass, client: RawClient) -> None:
    me, key = glass.identity, agentjwt.private_key(glass.identity)
    now = int(time.time())
    assert agentjwt.handshake(client, agentjwt.good(me)).status == 101

    for changes in [
        {"iss": road.a.id},
        {"iss": None},
        {"iss": [me.cluster_id]},
        {"aud": "another"},
        {"aud": None},
        {"aud": [me.audience]},
        {"aud": [me.audience, "another"]},
        {"aud": me.audience + "\n"},
        {"jti": None},
        {"jti": "short"},
        {"jti": 12345678},
        {"jti": "x" * 200},
        {"exp": now + 3600},
        {"exp": None},
        {"exp": str(now + 45)},
        {"exp": now - 40},
        {"iat": now + 3600, "nbf": now + 3600, "exp": now + 3645},
        {"iat": now - 3600, "nbf": now - 3600, "exp": now - 3555},
        {"nbf": now + 3600},
        {"iat": True},
        {"iat": {}, "exp": []},
        {"exp": 10**400},
        {"iat": -(10**400), "exp": 10**400, "nbf": 10**400},
        {"exp": 1e308},
        {"iat": float("nan"), "exp": float("nan"), "nbf": float("nan")},
        {"exp": float("inf")},
        {"iat": float("-inf")},
    ]:
        answer = agentjwt.handshake(client, agentjwt.sign(key, agentjwt.header(me), agentjwt.claims(me, **changes)))
        assert answer.status in (401, 403), (changes, str(answer))
    for changes in [
        {"typ": "JWT"},
        {"typ": None},
        {"typ": "mooring-join+jwt"},
        {"kid": None},
        {"kid": glass.name},
        {"crit": ["exp"]},
        {"b64": False, "crit": ["b64"]},
        {"alg": "Ed448"},
        {"alg": ["EdDSA"]},
        {"alg": None},
        {"zip": "DEF"},
        {"enc": "A256GCM"},
    ]:
        answer = agentjwt.handshake(client, agentjwt.sign(key, agentjwt.header(me, **changes), agentjwt.claims(me)))
        assert answer.status in (401, 403), (changes, str(answer))


def test_no_algorithm_but_ours_is_taken_whatever_the_header_says(glass: Glass, client: RawClient) -> None:
    me, key = glass.identity, agentjwt.private_key(glass.identity)
    public = key.public_key()
    secrets_ = [
        public.public_bytes(Encoding.Raw, PublicFormat.Raw),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        me.public_key().encode(),
        b"",
    ]
    for algorithm in ("none", "None", "NONE", "", "HS256", "HS384", "HS512", "RS256", "PS256", "ES256", "ES256K"):
        text = agentjwt.unsigned(agentjwt.header(me, alg=algorithm), agentjwt.claims(me))
        digest = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(algorithm, hashlib.sha256)
        signatures = [b"", b"\0" * 64, key.sign(text.encode())[:63]]
        signatures += [hmac.new(secret, text.encode(), digest).digest() for secret in secrets_]
        for signature in signatures:
            answer = agentjwt.handshake(client, f"{text}.{agentjwt.b64(signature)}")
            assert answer.status == 401, (algorithm, signature, str(answer))
    stranger = Ed25519PrivateKey.generate()
    own = {"kty": "OKP", "crv": "Ed25519"}
    own["x"] = agentjwt.b64(stranger.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    for head in (agentjwt.header(me), agentjwt.header(me, jwk=own), agentjwt.header(me, jku="https://127.0.0.1/")):
        assert agentjwt.handshake(client, agentjwt.sign(stranger, head, agentjwt.claims(me))).status == 401


def test_what_is_signed_cannot_be_changed_afterwards(glass: Glass, client: RawClient) -> None:
    me, key = glass.identity, agentjwt.private_key(glass.identity)
    head, body, signature = agentjwt.sign(key, agentjwt.header(me), agentjwt.claims(me)).split(".")
    other = agentjwt.b64(json.dumps(agentjwt.claims(me)).encode())
    for jwt in [
        f"{head}.{other}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.{signature}",
        f"{head}.{body}.{signature[:-4]}",
        f"{body}.{head}.{signature}",
        f"..{signature}",
        "..",
    ]:
        answer = agentjwt.handshake(client, jwt)
        assert answer.status in (401, 403), (jwt, str(answer))


def test_deep_or_broken_json_is_a_refusal_and_not_a_fault(road: Road, glass: Glass, client: RawClient) -> None:
    """Incident: deep JSON in a JWT was a 500, for everybody in its header, for a registered agent in its claims."""
    me, key = glass.identity, agentjwt.private_key(glass.identity)
    deep = b'{"a":' + b"[" * 2000
    good = agentjwt.header(me)
    known = json.dumps(agentjwt.claims(me)).encode()
    bodies = [
        deep,
        b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}",
        b"",
        b"null",
        b"[]",
        b"\xff",
        known + b"x",
        b"{" * 1500,
    ]
    jwts = [agentjwt.sign(key, body, known) for body in bodies] + [agentjwt.sign(key, good, body) for body in bodies]
    for jwt in jwts:
        answer = agentjwt.handshake(client, jwt)
        assert answer.status in (401, 403), (jwt[:60], str(answer))
    assert agentjwt.handshake(client, agentjwt.good(me)).status == 101, "and the server goes on"


def test_a_key_that_proves_nothing_is_not_registered(road: Road) -> None:
    """Incident: with a public key of small order, anybody can sign as that agent."""
    road.server.api("POST", "/clusters", {"name": "weak"})
    token = road.server.api("POST", "/clusters/weak/join-tokens")["join_token"]
    points = ["01" + "00" * 31, "00" * 32, "ec" + "ff" * 30 + "7f", "01" + "00" * 30 + "80", "ee" + "ff" * 30 + "7f"]
    points += ["c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"]
    for point in points:
        key = base64.urlsafe_b64encode(bytes.fromhex(point)).decode().rstrip("=")
        answer = road.server.call("POST", "/api/v1/agents/register", registration(token, key, "uid-of-weak"))
        assert answer.status == 422, (point, answer.body)
    for key in ("", "BBBB", "B" * 44, "!" * 43, "B" * 42 + "\n"):
        answer = road.server.call("POST", "/api/v1/agents/register", registration(token, key, "uid-of-weak"))
        assert answer.status == 422, (key, answer.body)
    assert road.server.api("GET", "/clusters/weak")["registered_at"] is None


def test_claims_that_nobody_asked_for_change_nothing(road: Road, glass: Glass, client: RawClient) -> None:
    """A registered agent may add what it likes: it is the agent of its own cluster and of nothing else."""
    me, key = glass.identity, agentjwt.private_key(glass.identity)
    before = road.server.api("GET", f"/clusters/{road.b.name}")
    more = {"sub": road.b.id, "cluster": road.b.id, "groups": ["system:masters"], "admin": True, "azp": road.b.name}
    jwt = agentjwt.sign(key, agentjwt.header(me), agentjwt.claims(me, **more))
    assert agentjwt.handshake(client, jwt).status == 101
    after = road.server.api("GET", f"/clusters/{road.b.name}")
    assert (after["state"], after["connected_at"]) == ("connected", before["connected_at"])
    jwt = agentjwt.sign(key, agentjwt.header(me), agentjwt.claims(me, **more))
    for path in ("/api/v1/whoami", "/api/v1/clusters", road.b.path("/version"), "/metrics"):
        assert client.request("GET", path, [(b"Authorization", b"Bearer " + jwt.encode())]).status == 401
