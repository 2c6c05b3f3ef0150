# SPDX-License-Identifier: Apache-2.0
"""Who this cluster's agent is: its Ed25519 key and what registration gave it, kept in a Secret in the cluster.

The key is written before it is registered, so that an agent that dies in between registers the same key again; and a
second replica that starts at the same time uses the key that the first one wrote.

It must not: put the private key anywhere but in that Secret, or replace one that is there.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import OKPKey

from mooring.kube.client import KubeApi, KubeError
from mooring.kube.names import IDENTITY_SECRET, JOIN_SECRET
from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret

# RFC 9864 would rather see "Ed25519" in the header; the protocol says "EdDSA" (RFC 8037), with Ed25519 keys only.
warnings.filterwarnings("ignore", category=SecurityWarning, module=r"joserfc\.")

JWT_LIFE = 45
"""Seconds; the server takes at most 60."""
MAX_URLS = 64
"""Tunnel addresses that are kept."""


class BadIdentity(MooringError):
    """A Secret of the agent does not hold what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How to register: the Secret `mooring-join`, made by the import manifest."""

    server_url: str
    ca_pem: str
    token: Secret

    @property
    def token_id(self) -> str:
        """The public part of `mrj_<id>_<secret>`."""
        parts = self.token.reveal().split("_", 2)
        return parts[1] if len(parts) == 3 and parts[0] == "mrj" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The Secret `mooring-agent-identity`. Registered once `cluster_id` is set."""

    key: Secret
    """The private key, PEM (PKCS 8)."""
    cluster_id: str = ""
    cluster_name: str = ""
    audience: str = ""
    server_url: str = ""
    tunnel_urls: tuple[str, ...] = ()
    ca_pem: str = ""
    join_token_id: str = ""
    """Of the join token that it was registered with, to tell a new one."""
    policy_key: str = ""
    """The raw public key that the server signs policies with, base64url; empty until the server has named one."""

    @property
    def registered(self) -> bool:
        """Whether a server knows the key."""
        return bool(self.cluster_id)

    def public_key(self) -> str:
        """The raw public key, base64url without padding."""
        raw = _private(self.key).public_key().public_bytes_raw()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")

    def sign(self, now: float) -> Secret:
        """A fresh JWT for one handshake at the time `now` (Unix seconds)."""
        claims = {
            "iss": self.cluster_id,
            "aud": self.audience,
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + JWT_LIFE,
            "jti": secrets.token_urlsafe(16),
        }
        header = {"alg": "EdDSA", "typ": "mooring-agent+jwt", "kid": self.cluster_id}
        key = OKPKey.import_key(self.key.reveal())
        return Secret(jwt.encode(header, claims, key, algorithms=["EdDSA"]))


def new_key() -> Secret:
    """A new private key."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Secret(pem.decode("ascii"))


class IdentityStore:
    """Reads and writes the agent's two Secrets."""

    def __init__(self, kube: KubeApi, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._path = f"/api/v1/namespaces/{namespace}/secrets"

    async def join(self) -> Join | None:
        """The join Secret, or None when there is none. Raises KubeError, FetchError, BadIdentity."""
        data = await self._read(JOIN_SECRET)
        if data is None or not data.get("join_token"):
            return None
        join = Join(
            server_url=data.get("server_url", ""), ca_pem=data.get("ca.crt", ""), token=Secret(data["join_token"])
        )
        url = urlsplit(join.server_url)
        if url.scheme != "https" or not url.hostname:
            raise BadIdentity(f"server_url of the Secret {JOIN_SECRET} is not of the form https://host:port")
        return join

    async def load(self) -> Identity:
        """The identity; a new key is made and written when there is none. Raises KubeError, FetchError, BadIdentity."""
        data = await self._read(IDENTITY_SECRET)
        if data is not None:
            return _identity(data)
        fresh = Identity(key=new_key())
        try:
            await self._kube.json("POST", self._path, _object(self._namespace, fresh))
        except KubeError as error:
            if error.status != 409:
                raise
            # Another replica was faster: its key is the cluster's key.
            data = await self._read(IDENTITY_SECRET)
            if data is None:
                raise
            return _identity(data)
        return fresh

    async def save(self, identity: Identity) -> None:
        """Writes what registration gave. Raises KubeError, FetchError."""
        path = f"{self._path}/{IDENTITY_SECRET}"
        await self._kube.json("PUT", path, _object(self._namespace, identity))

    async def _read(self, name: str) -> dict[str, str] | None:
        try:
            secret = await self._kube.json("GET", f"{self._path}/{name}")
        except KubeError as error:
            if error.status == 404:
                return None
            raise
        data = secret.get("data")
        try:
            return {str(k): base64.b64decode(str(v), validate=True).decode() for k, v in (data or {}).items()}
        except (binascii.Error, UnicodeDecodeError, AttributeError):
            raise BadIdentity(f"the Secret {name} holds what is not text") from None


class Registrations:
    """Who this cluster's agent is just now (`IdentityStore`); a protocol would say no more."""

    def __init__(self, load: Callable[[], Awaitable[Identity]], save: Callable[[Identity], Awaitable[None]]) -> None:
        self.load = load
        self.save = save


def registered(identity: Identity, join: Join, answer: dict[str, Any]) -> Identity:
    """The identity after the server answered a registration. Raises BadIdentity for an answer that cannot be used."""
    urls = answer.get("tunnel_urls")
    values = [answer.get(name) for name in ("cluster_id", "cluster_name", "audience")]
    if not isinstance(urls, list) or not urls or not all(isinstance(value, str) and value for value in values):
        raise BadIdentity("the server's answer to the registration lacks cluster_id, audience or tunnel_urls")
    return replace(
        identity,
        cluster_id=str(values[0]),
        cluster_name=str(values[1]),
        audience=str(values[2]),
        server_url=join.server_url,
        tunnel_urls=check_urls(urls),
        ca_pem=str(answer.get("ca_pem") or join.ca_pem),
        join_token_id=join.token_id,
        policy_key=str(answer.get("policy_key") or ""),
    )


def check_urls(urls: list[Any]) -> tuple[str, ...]:
    """Tunnel addresses that the agent will dial: wss:// only. Raises BadIdentity."""
    for url in urls:
        if not isinstance(url, str) or not url.startswith("wss://") or len(url) > 2048 or not urlsplit(url).hostname:
            raise BadIdentity(f"{url!r} is not a tunnel address: it must begin with wss://")
    return tuple(dict.fromkeys(urls[:MAX_URLS]))


def _private(key: Secret) -> Ed25519PrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key.reveal().encode("ascii"), None)
    except (ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, Ed25519PrivateKey):
        raise BadIdentity(
            f"the Secret {IDENTITY_SECRET} holds no Ed25519 key",
            "delete the Secret and give the cluster a new join token",
        )
    return loaded


def _identity(data: dict[str, str]) -> Identity:
    identity = Identity(
        key=Secret(data.get("private_key", "")),
        cluster_id=data.get("cluster_id", ""),
        cluster_name=data.get("cluster_name", ""),
        audience=data.get("audience", ""),
        server_url=data.get("server_url", ""),
        tunnel_urls=check_urls(_urls(data.get("tunnel_urls", ""))),
        ca_pem=data.get("ca.crt", ""),
        join_token_id=data.get("join_token_id", ""),
        policy_key=data.get("policy_key", ""),
    )
    _private(identity.key)
    return identity


def _urls(text: str) -> list[Any]:
    try:
        return msgspec.json.decode(text or "[]", type=list[Any])
    except msgspec.MsgspecError:
        raise BadIdentity(f"tunnel_urls of the Secret {IDENTITY_SECRET} is not a list") from None


def _object(namespace: str, identity: Identity) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": IDENTITY_SECRET,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "mooring-agent", "app.kubernetes.io/part-of": "mooring"},
        },
        "type": "Opaque",
        "stringData": {
            "private_key": identity.key.reveal(),
            "cluster_id": identity.cluster_id,
            "cluster_name": identity.cluster_name,
            "audience": identity.audience,
            "server_url": identity.server_url,
            "tunnel_urls": msgspec.json.encode(identity.tunnel_urls).decode(),
            "ca.crt": identity.ca_pem,
            "join_token_id": identity.join_token_id,
            "policy_key": identity.policy_key,
        },
    }
