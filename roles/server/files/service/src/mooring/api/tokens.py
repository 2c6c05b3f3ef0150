# SPDX-License-Identifier: Apache-2.0
"""API tokens. Everybody sees and revokes their own, those of others by right; and who makes one for somebody holds all
that they hold.

A revoked token is refused from the moment the call is answered. Its row stays for a while, to tell when it ended.
"""

from __future__ import annotations

from typing import Annotated, TypedDict

from litestar import delete, get, post
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from mooring.api.access import USER, Caller, Deps, enters, may, may_enter, refused, require_all_of
from mooring.api.common import (
    Cursor,
    Description,
    Input,
    Limit,
    NameFilter,
    Output,
    PathRef,
    Ref,
    Ttl,
    check_ref,
    check_text,
    found,
    named_by,
    next_cursor,
    paging,
    time_text,
)
from mooring.api.endpoints import DELIVERY_SECONDS, MAX_TTL
from mooring.api.issue import end_of_life, issue, issue_endpoint
from mooring.api.problems import conflict, invalid, not_found, quoted
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.store.records import Audience, EndpointSettings, Token

DEFAULT_TTL = 30 * 86400


class TokenOut(Output):
    """`audience`: who takes it, this server or the endpoint of the cluster."""

    id: str
    audience: Audience
    user: str
    description: str
    cluster: str | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class TokenList(Output):
    items: list[TokenOut]
    next: str | None
    total: int


class TokenNew(Input):
    """`cluster` limits the token to the Kubernetes API of that cluster. Another `user` needs the right to create
    tokens, and that the caller holds all that the user holds. `endpoint`: the token is good at the endpoint of the
    cluster and nowhere else, for as long as its settings say unless told otherwise; the call waits until the cluster
    has it, up to `wait_seconds`."""

    user: Ref | None = None
    description: Description = ""
    ttl_seconds: Ttl | None = None
    cluster: Ref | None = None
    endpoint: bool = False
    wait_seconds: Annotated[int, Meta(ge=0, le=DELIVERY_SECONDS)] | None = None


class TokenMade(TokenOut):
    """`token` is shown here and never again. Of one for an endpoint, `delivered` says whether the cluster has it
    already, and `grace_seconds` for how long it takes it after its end while this server cannot be reached."""

    token: str
    delivered: bool | None = None
    grace_seconds: int | None = None


@get("/tokens", opt=USER, tags=["tokens"], summary="Tokens: one's own; all by right")
async def list_tokens(
    services: Deps,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    user: NameFilter = None,
    cluster: NameFilter = None,
    audience: Annotated[Audience | None, QueryParameter(required=False)] = None,
    active: Annotated[bool | None, QueryParameter(required=False, description="true: only those in force.")] = None,
) -> TokenList:
    for field, value in (("user", user), ("cluster", cluster)):
        check_ref(field, value or "")
    sees_all = may(services, caller, "tokens", "list")
    if user == "me" or (user is None and not sees_all):
        user = caller.user_id
    if not sees_all and user not in (caller.user_id, caller.user):
        raise refused("tokens", "list")
    page_of = paging(limit, cursor, (float, str))
    async with services.store.read() as tx:
        page = await tx.tokens.page(
            page_of, user=user, cluster=cluster, audience=audience, active_at=services.clock.now() if active else None
        )
    return TokenList(
        items=[TokenOut(**_fields(token)) for token in page.items], next=next_cursor(page), total=page.total
    )


@post("/tokens", opt=USER, tags=["tokens"], summary="Make a token")
async def create_token(data: JSONBody[TokenNew], services: Deps, caller: Caller) -> TokenMade:
    check_text("description", data.description)
    others = data.user not in (None, caller.user_id, caller.user, "me")
    if others and not may(services, caller, "tokens", "create"):
        raise refused("tokens", "create")
    if data.endpoint and data.cluster is None:
        raise invalid("cluster", "say whose endpoint the token is for")
    if data.wait_seconds is not None and not data.endpoint:
        raise invalid("wait_seconds", "goes with endpoint only: other tokens are good at once")
    async with services.store.write() as tx:
        ref = caller.user_id if data.user in (None, "me") else data.user
        user = await named_by("user", "user", ref or "", tx.users.get)
        if others:
            require_all_of(services, caller, "user", user.id, [group_id for group_id, _unused in user.groups])
        if not user.enabled:
            raise conflict("user_disabled", f"the user {user.name!r} is disabled", field="user")
        cluster = None
        if data.cluster is not None:
            cluster = await named_by("cluster", "cluster", data.cluster, tx.clusters.get)
            if not may_enter(services, caller, cluster.id):
                raise invalid("cluster", f"there is no cluster {quoted(data.cluster)}")
        if not data.endpoint or cluster is None:
            expires_at = end_of_life(services, caller, data.ttl_seconds, DEFAULT_TTL)
            token, text = await issue(tx, services, user, data.description, expires_at, cluster)
            return TokenMade(token=text.reveal(), **_fields(token))
        if not enters(services, user.id, cluster.id):
            raise invalid("user", f"{user.name!r} may not enter the cluster {cluster.name!r}")
        settings = cluster.endpoint or EndpointSettings()  # without one, no token is made
        expires_at = end_of_life(services, caller, data.ttl_seconds, settings.ttl_seconds, MAX_TTL)
        token, text = await issue_endpoint(tx, services, user, data.description, expires_at, cluster)
    wait = DELIVERY_SECONDS if data.wait_seconds is None else data.wait_seconds
    return TokenMade(
        token=text.reveal(),
        delivered=await services.endpoints.delivered(cluster.id, token.id, wait),
        grace_seconds=settings.grace_seconds,
        **_fields(token),
    )


@get("/tokens/{token_id:str}", opt=USER, tags=["tokens"], summary="One token, without its secret")
async def get_token(token_id: PathRef, services: Deps, caller: Caller) -> TokenOut:
    async with services.store.read() as tx:
        token = await found("token", token_id, tx.tokens.get)
    _own_or(services, caller, token, "get")
    return TokenOut(**_fields(token))


@delete("/tokens/{token_id:str}", opt=USER, tags=["tokens"], summary="Revoke a token, at once and for good")
async def revoke_token(token_id: PathRef, services: Deps, caller: Caller) -> None:
    async with services.store.write() as tx:
        token = await found("token", token_id, tx.tokens.get)
        _own_or(services, caller, token, "delete")
        await tx.tokens.revoke([token.id], services.clock.now())


def _own_or(services: Services, caller: Identity, token: Token, verb: str) -> None:
    """Raises 404 unless the token is the caller's own, or they have the right."""
    if token.user_id != caller.user_id and not may(services, caller, "tokens", verb):
        raise not_found("token", token.id)


class _Fields(TypedDict):
    id: str
    audience: Audience
    user: str
    description: str
    cluster: str | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


def _fields(token: Token) -> _Fields:
    return _Fields(
        id=token.id,
        audience=token.audience,
        user=token.user_name,
        description=token.description,
        cluster=token.cluster_name,
        created_at=time_text(token.created_at) or "",
        expires_at=time_text(token.expires_at),
        last_used_at=time_text(token.last_used_at),
        revoked_at=time_text(token.revoked_at),
    )
