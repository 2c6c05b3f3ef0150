# SPDX-License-Identifier: Apache-2.0
"""An agent's handshake made by hand, so that it can be wrong in any way that a library would not let through."""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mooring.agent.identity import Identity

from support.rawhttp import Headers, RawAnswer, RawClient

TYP = "mooring-agent+jwt"
WEBSOCKET: Headers = (
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"Sec-WebSocket-Protocol", b"mooring-tunnel.1"),
)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def private_key(identity: Identity) -> Ed25519PrivateKey:
    key = load_pem_private_key(identity.key.reveal().encode(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def header(identity: Identity, **changes: Any) -> dict[str, Any]:
    """A right header, changed. None leaves a member out."""
    made = {"alg": "EdDSA", "typ": TYP, "kid": identity.cluster_id} | changes
    return {name: value for name, value in made.items() if value is not None}


def claims(identity: Identity, **changes: Any) -> dict[str, Any]:
    """Right claims with a fresh jti, changed. None leaves a member out."""
    now = int(time.time())
    made = {
        "iss": identity.cluster_id,
        "aud": identity.audience,
        "iat": now,
        "nbf": now,
        "exp": now + 45,
        "jti": secrets.token_urlsafe(16),
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def unsigned(head: dict[str, Any] | bytes, body: dict[str, Any] | bytes) -> str:
    """Header and claims as they are signed; bytes stand for themselves."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, body)]
    return f"{b64(parts[0])}.{b64(parts[1])}"


def sign(key: Ed25519PrivateKey, head: dict[str, Any] | bytes, body: dict[str, Any] | bytes) -> str:
    text = unsigned(head, body)
    return f"{text}.{b64(key.sign(text.encode()))}"


def good(identity: Identity) -> str:
    """A JWT that the server takes, once."""
    return sign(private_key(identity), header(identity), claims(identity))


def handshake(client: RawClient, jwt: str | None, more: Headers = WEBSOCKET) -> RawAnswer:
    """Show a JWT at `/tunnel/connect` on a new connection. A session that comes about ends when the client dials on."""
    client.close()
    authorization = [] if jwt is None else [(b"Authorization", b"Bearer " + jwt.encode())]
    answer = client.request("GET", "/tunnel/connect", [*more, *authorization])
    client.close()
    return answer


class AgentOf:
    """A cluster of the API's tests, and the key that its agent registered."""

    def __init__(self, world: Any, cluster: dict[str, Any]) -> None:
        self.world = world
        self.id: str = cluster["id"]
        self.key = Ed25519PrivateKey.generate()

    async def register(self) -> dict[str, Any]:
        join = await self.world.admin.ok("POST", f"/clusters/{self.id}/join-tokens")
        body = {
            "join_token": join["join_token"],
            "public_key": b64(self.key.public_key().public_bytes_raw()),
            "cluster_uid": self.id,
        }
        made: dict[str, Any] = await self.world.anonymous.ok("POST", "/agents/register", body)
        return made

    def jwt(self, key: Ed25519PrivateKey | None = None, **changes: Any) -> str:
        now = int(self.world.clock.now())
        claims = {"iss": self.id, "aud": "mooring.example", "iat": now, "nbf": now, "exp": now + 45}
        head = {"alg": "EdDSA", "typ": TYP, "kid": changes.pop("kid", self.id)}
        return sign(key or self.key, head, claims | {"jti": secrets.token_urlsafe(12)} | changes)
