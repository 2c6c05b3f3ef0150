# SPDX-License-Identifier: Apache-2.0
"""Making tokens: the one place, whoever asks (login, tokens, kubeconfig), so that the rules are the same."""

from __future__ import annotations

from mooring.api.access import may
from mooring.api.problems import conflict, invalid
from mooring.api.services import Services
from mooring.authn import tokens
from mooring.authn.identity import Identity
from mooring.lib.secrets import Secret
from mooring.store.ports import Transaction
from mooring.store.records import Audience, Cluster, Token, User
from mooring.wire import endpoint

MAX_TOKENS_PER_USER = 1000
SWEPT = 600
"""Seconds after which a token that has ended is out of its cluster for sure, where the agent is connected."""


async def issue(
    tx: Transaction,
    services: Services,
    user: User,
    description: str,
    expires_at: float,
    cluster: Cluster | None,
) -> tuple[Token, Secret]:
    """Make and store a token; the text is what its owner gets to see once. Raises Problem if the user has too many."""
    now = services.clock.now()
    if await tx.tokens.count_active(user.id, now) >= MAX_TOKENS_PER_USER:
        raise conflict(
            "too_many_tokens",
            f"the user {user.name!r} has {MAX_TOKENS_PER_USER} tokens that are in force",
            hint="revoke some, or wait until they expire",
        )
    made = tokens.new_token("mrg")
    return await _add(tx, made, user, description, now, expires_at, cluster, "server"), made.text


async def issue_endpoint(
    tx: Transaction, services: Services, user: User, description: str, expires_at: float, cluster: Cluster
) -> tuple[Token, Secret]:
    """The same for the endpoint of a cluster, where the token is good, and nowhere else. Raises Problem if the cluster
    has none, or if there are too many. That the user may enter the cluster is the caller's to ask."""
    now = services.clock.now()
    if cluster.endpoint is None:
        raise conflict(
            "no_endpoint",
            f"the cluster {cluster.name!r} has no endpoint of its own",
            field="cluster",
            hint="an administrator sets one up with 'mooring cluster endpoint set'",
        )
    active = tx.tokens.count_active
    if await active(user.id, now, audience="endpoint", cluster_id=cluster.id) >= endpoint.MAX_TOKENS_PER_USER:
        raise conflict(
            "too_many_tokens",
            f"the user {user.name!r} has {endpoint.MAX_TOKENS_PER_USER} tokens for the endpoint of {cluster.name!r}",
            hint="revoke some, or wait until they expire",
        )
    # Those that have just ended are still in the cluster, and count against the same bound there.
    gone = now - cluster.endpoint.grace_seconds - SWEPT
    if await active(None, gone, audience="endpoint", cluster_id=cluster.id) >= endpoint.MAX_TOKENS:
        raise conflict(
            "too_many_tokens",
            f"there are {endpoint.MAX_TOKENS} tokens for the endpoint of {cluster.name!r}",
            hint="revoke some, or wait until they expire",
        )
    made = tokens.new_endpoint_token(cluster.id)
    return await _add(tx, made, user, description, now, expires_at, cluster, "endpoint"), made.text


async def _add(
    tx: Transaction,
    made: tokens.NewToken,
    user: User,
    description: str,
    now: float,
    expires_at: float,
    cluster: Cluster | None,
    audience: Audience,
) -> Token:
    token = Token(
        id=made.id,
        hash=made.hash,
        user_id=user.id,
        user_name=user.name,
        description=description,
        cluster_id=None if cluster is None else cluster.id,
        cluster_name=None if cluster is None else cluster.name,
        created_at=now,
        expires_at=expires_at,
        audience=audience,
    )
    return await tx.tokens.add(token)


def end_of_life(services: Services, caller: Identity, ttl: int | None, default: int, most: int | None = None) -> float:
    """When a token that the caller asks for ends (Unix seconds). `most`: seconds that tokens of its kind may live.

    A token never makes one that outlives itself: who got hold of a short-lived token must not be able to stay. For a
    longer one, log in with `ttl_seconds`. Who may make tokens for others is not held to this.
    """
    now = services.clock.now()
    maximum = min(services.settings.max_ttl, most or services.settings.max_ttl)
    if ttl is not None and ttl > maximum:
        raise invalid("ttl_seconds", f"at most {maximum} seconds are allowed")
    wanted = now + min(default if ttl is None else ttl, maximum)
    if caller.expires_at is None or may(services, caller, "tokens", "create") or wanted <= caller.expires_at:
        return wanted
    if ttl is not None:
        left = int(caller.expires_at - now)
        raise invalid("ttl_seconds", f"the token of this call has {left} seconds left, and no token outlives its maker")
    return caller.expires_at
