# SPDX-License-Identifier: Apache-2.0
"""Which headers may reach a cluster, and the ones that say who is asking.

Why: the agent's credential may impersonate anybody, so whoever gets an identity header through owns the cluster. What
comes from the client is removed by prefix, in any spelling, whatever it is called; ours are built from the identity.
A client's `Impersonate-*` headers (`kubectl --as`) are read by `proxy/actas.py` into a value that travels in headers of
another name; the agent asks its cluster about it. They are never sent on themselves.

It must not: copy a value from the client into an identity header, or let a name pass that it does not understand.
Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mooring.authn.identity import Identity
from mooring.wire.actas import is_client
from mooring.wire.headers import HOP_BY_HOP, Headers, connection_tokens, header_lines

Verdict = Literal["keep", "drop", "impersonation", "offers"]

_DROP_PREFIXES: Final = (b"x-remote-", b"x-forwarded-", b"x-mooring-", b"proxy-")
_DROP: Final = HOP_BY_HOP | {
    b"authorization",
    b"cookie",
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"http2-settings",
    b"x-forwarded",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-real-ip",
    b"x-remote",
    b"x-request-id",
    b"x-rewrite-url",
}
TOKEN_ID: Final = "mooring.fleet/token-id"  # noqa: S105 - a name
"""The key of the extra that says by which token somebody came."""
_EXTRA: Final = b"Impersonate-Extra-mooring.fleet%2f"  # the slash of the extra's key is escaped, as Kubernetes asks
_TOKEN_PROTOCOL: Final = b"base64url.bearer.authorization.k8s.io."
_AUTHENTICATED: Final = "system:authenticated"

_CACHE_MAX: Final = 1024
_CACHED_NAME_MAX: Final = 64
_verdicts: Final[dict[bytes, Verdict]] = {}


def verdict(name: bytes) -> Verdict:
    """What happens to a client's header of this name. Underscores count as hyphens, as CGI-like servers read them."""
    known = _verdicts.get(name)
    if known is not None:
        return known
    plain = name.lower().replace(b"_", b"-")
    answer: Verdict = "keep"
    if is_client(name):
        answer = "impersonation"
    elif plain in _DROP or plain.startswith(_DROP_PREFIXES):
        answer = "drop"
    elif plain == b"sec-websocket-protocol":
        answer = "offers"
    if len(_verdicts) < _CACHE_MAX and len(name) <= _CACHED_NAME_MAX:
        _verdicts[name] = answer
    return answer


def sanitise(headers: Headers) -> tuple[Headers, bool]:
    """The client's headers that may go to a cluster, and whether there were any that try to impersonate.

    Framing, `Host` and `Connection` are not among them: the forwarder writes its own. A header that `Connection` names
    is gone as well (RFC 9110 section 7.6.1); naming one of ours there has no effect, as ours are added later.
    """
    kept: Headers = []
    impersonates = False
    named = connection_tokens(headers)
    for pair in headers:
        answer = verdict(pair[0])
        if answer == "keep":
            kept.append(pair)
        elif answer == "impersonation":
            impersonates = True
        elif answer == "offers":
            kept += without_tokens(pair)
    if named:
        impersonates = impersonates or any(verdict(name) == "impersonation" for name in named)
        kept = [pair for pair in kept if pair[0].lower() not in named]
    return kept, impersonates


def without_tokens(pair: tuple[bytes, bytes]) -> Headers:
    """A `Sec-WebSocket-Protocol` without bearer tokens, which browsers put there for Kubernetes; nothing if empty."""
    offers = [offer.strip(b" \t") for offer in pair[1].split(b",")]
    value = b", ".join(offer for offer in offers if not offer.lower().startswith(_TOKEN_PROTOCOL))
    return [(pair[0], value)] if value else []


@dataclass(frozen=True, slots=True)
class Known:
    """As whom a cluster knows somebody, on whatever way the request comes."""

    user: str
    uid: str
    groups: tuple[str, ...]
    token_id: str
    """The one value of the extra TOKEN_ID."""


def known_as(identity: Identity, prefix: str) -> Known:
    """What a cluster is told of an identity. Raises ValueError for one that cannot be somebody there."""
    if not identity.user or not identity.uid:
        raise ValueError("identity without a name or a uid")
    groups = (*(prefix + group for group in identity.groups), _AUTHENTICATED)
    return Known(prefix + identity.user, identity.uid, groups, identity.token_id)


class Impersonator:
    """Builds the identity headers. The part that a token does not change is kept per token, up to a bound."""

    def __init__(self, prefix: str, cache_max: int = 4096) -> None:
        if not prefix or prefix.lower().startswith("system:"):
            raise ValueError(f"identity prefix {prefix!r} cannot be used")
        self._prefix = prefix
        self._cache: dict[str, tuple[Identity, bytes]] = {}
        self._cache_max = cache_max

    def lines(self, identity: Identity, request_id: str) -> bytes:
        """User, uid, groups and extras for one request, as header lines, the request's id last. `request_id` is ours,
        hexadecimal. Raises ValueError for an identity that cannot be sent."""
        cached = self._cache.get(identity.token_id)
        # Compared by identity: the index makes a new object when a fact behind it changes.
        if cached is None or cached[0] is not identity:
            cached = (identity, header_lines(self._fixed(identity)))
            if len(self._cache) >= self._cache_max:
                self._cache.clear()
            self._cache[identity.token_id] = cached
        return b"%b%brequest-id: %b\r\n" % (cached[1], _EXTRA, request_id.encode())

    def _fixed(self, identity: Identity) -> Headers:
        known = known_as(identity, self._prefix)
        headers: Headers = [
            (b"Impersonate-User", known.user.encode()),
            (b"Impersonate-Uid", known.uid.encode()),
        ]
        headers += [(b"Impersonate-Group", group.encode()) for group in known.groups]
        headers.append((_EXTRA + b"token-id", known.token_id.encode()))
        return headers
