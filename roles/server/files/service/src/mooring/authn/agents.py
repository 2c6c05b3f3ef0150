# SPDX-License-Identifier: Apache-2.0
"""Is this tunnel handshake from the agent that registered the cluster?

An agent shows a JWT (RFC 7519) signed with its Ed25519 key: header {alg: EdDSA, typ: mooring-agent+jwt, kid: cluster
id}, claims {iss: cluster id, aud: the server's audience, iat, nbf, exp, jti}. The key is looked up by the cluster id
and no other, so that the key of one cluster proves nothing about another. Each jti is good once. No algorithm but EdDSA
is accepted, whatever the header says. This module must not read the store.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode

from mooring.authn.replays import Replays
from mooring.lib.errors import MooringError
from mooring.lib.ids import is_id

# RFC 9864 would rather see "Ed25519" in the header; the protocol says "EdDSA" (RFC 8037), with Ed25519 keys only.
warnings.filterwarnings("ignore", category=SecurityWarning, module=r"joserfc\.")

TYP: Final = "mooring-agent+jwt"
ALGORITHM: Final = "EdDSA"
MAX_JWT_BYTES: Final = 4096
MAX_LIFE: Final = 60.0  # seconds from iat to exp
SKEW: Final = 30.0  # seconds that the two clocks may differ
MAX_TIME: Final = 1e11  # Unix seconds that a claim may hold: beyond the year 5000


# Ed25519 (RFC 8032 section 5.1): the field, and the y of the points whose order divides the cofactor 8. For such a key
# there are signatures that hold for any text, and everybody can make them.
_P: Final = 2**255 - 19
_Y_OF_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_WEAK_Y: Final = frozenset({0, 1, _P - 1, _Y_OF_ORDER_8, _P - _Y_OF_ORDER_8})


def is_weak_key(raw: bytes) -> bool:
    """Whether a raw Ed25519 public key is a point of small order, in any of its encodings (also beyond the field)."""
    return (int.from_bytes(raw, "little") & (2**255 - 1)) % _P in _WEAK_Y


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """The agent of this cluster is at the other end. `jti` and `until` are of the JWT that proved it, for whoever keeps
    it from being shown twice; `key` is the cluster's key at that moment."""

    cluster_id: str
    jti: str = ""
    until: float = 0.0
    key: bytes = b""


class AgentRefused(MooringError):
    """The handshake is refused. `cause` is a short word for metrics: malformed, unknown, signature, claims, time,
    replay. `cluster_id` is set when the JWT names a registered cluster (no proof that it comes from there)."""

    def __init__(self, cause: str, reason: str, cluster_id: str | None = None, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.cause = cause
        self.cluster_id = cluster_id


class AgentVerifier:
    """Verifies handshakes. `keys` gives the raw Ed25519 public key of a cluster's agent, or None."""

    def __init__(self, keys: Callable[[str], bytes | None], audience: str) -> None:
        self._keys = keys
        self._audience = audience
        self._replays = Replays()

    def verify(self, token: str, now: float) -> AgentIdentity:
        """Check a JWT at the time `now` (Unix seconds). Raises AgentRefused."""
        cluster_id = _claimed_cluster(token)
        key = self._keys(cluster_id)
        if key is None:
            raise AgentRefused(
                "unknown",
                f"cluster {cluster_id} is not registered here",
                hint="it may have been deleted; register the agent with a new join token",
            )
        try:
            if is_weak_key(key):  # registered before such keys were refused
                raise ValueError("a key that proves nothing")
            decoded = jwt.decode(token, _public(key), algorithms=[ALGORITHM])
        except (JoseError, ValueError, TypeError, RecursionError):
            raise AgentRefused(
                "signature",
                "the agent's JWT is not signed with the key that the cluster registered",
                cluster_id,
                "if the agent lost its key, register it with a new join token",
            ) from None
        if decoded.header.get("alg") != ALGORITHM or decoded.header.get("typ") != TYP:
            raise AgentRefused("claims", f"the agent's JWT is not of type {TYP}", cluster_id)
        jti, until = self._check_claims(decoded.claims, cluster_id, now)
        return AgentIdentity(cluster_id, jti, until, key)

    def still_good(self, identity: AgentIdentity) -> bool:
        """Whether the cluster still has the key that proved the identity."""
        return self._keys(identity.cluster_id) == identity.key

    def _check_claims(self, claims: Mapping[str, Any], cluster_id: str, now: float) -> tuple[str, float]:
        if claims.get("iss") != cluster_id:
            raise AgentRefused("claims", "the agent's JWT has another issuer than its key", cluster_id)
        if claims.get("aud") != self._audience:
            raise AgentRefused("claims", "the agent's JWT is meant for another server", cluster_id)
        times = [claims.get(name) for name in ("iat", "nbf", "exp")]
        jti = claims.get("jti")
        if (
            not all(type(value) in (int, float) for value in times)
            or not isinstance(jti, str)
            or not 8 <= len(jti) <= 128
        ):
            raise AgentRefused("claims", "the agent's JWT lacks iat, nbf, exp or jti", cluster_id)
        # Written so that NaN and infinity, which JSON numbers can become, are refused as well; and compared before they
        # are made floats, since an integer in JSON may be larger than any of those.
        if not all(-MAX_TIME <= value <= MAX_TIME for value in times if value is not None):
            raise AgentRefused("time", "the agent's JWT holds a time that is none", cluster_id)
        iat, nbf, exp = (float(value) for value in times if value is not None)
        if not (0 <= exp - iat <= MAX_LIFE):
            raise AgentRefused("time", f"the agent's JWT lives longer than {MAX_LIFE:.0f} s", cluster_id)
        if not (iat <= now + SKEW and nbf <= now + SKEW and exp > now - SKEW):
            raise AgentRefused(
                "time",
                f"the agent's clock differs from the server's by about {abs(now - iat):.0f} s",
                cluster_id,
                "set both clocks by NTP",
            )
        until = exp + SKEW
        if not self._replays.first_time(cluster_id, jti, until, now):
            raise AgentRefused("replay", "the agent's JWT was used before, or the agent connects too often", cluster_id)
        return jti, until

    def forget(self, cluster_id: str) -> None:
        """The cluster is gone; drop what is remembered of it."""
        self._replays.forget(cluster_id)


class AgentDoor:
    """Lets agents in by their JWT, in the process that decides for all whether a JWT is shown for the first time."""

    def __init__(
        self, verifier: AgentVerifier, now: Callable[[], float], first_use: Callable[[AgentIdentity], bool]
    ) -> None:
        self._verifier = verifier
        self._now = now
        self._first_use = first_use

    def admit(self, jwt: str) -> AgentIdentity:
        """The agent that this JWT proves. Raises AgentRefused, also when it was shown before, wherever that was."""
        identity = self._verifier.verify(jwt, self._now())
        if not self._first_use(identity):
            raise AgentRefused("replay", "the agent's JWT was used before", identity.cluster_id)
        return identity


def _claimed_cluster(token: str) -> str:
    """The cluster that the header's kid names, before anything is verified."""
    if len(token) > MAX_JWT_BYTES or token.count(".") != 2:
        raise AgentRefused("malformed", "the agent's credential is not a JWT")
    try:
        header = _header(token)
    except (JoseError, ValueError):
        raise AgentRefused("malformed", "the agent's credential is not a JWT") from None
    kid = header.get("kid")
    if not isinstance(kid, str) or not is_id(kid, "c"):
        raise AgentRefused("malformed", "the agent's JWT names no cluster in its kid")
    return kid


def _header(token: str) -> dict[str, Any]:
    """The header of a JWT, not verified. Raises ValueError."""
    try:
        header = msgspec.json.decode(urlsafe_b64decode(token.split(".", 1)[0].encode()), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError("not a JWT header") from error
    return header


def _public(raw: bytes) -> OKPKey:
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": urlsafe_b64encode(raw).decode()})
