# SPDX-License-Identifier: Apache-2.0
"""Log in, log out, and who am I."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody
from msgspec import Meta

from mooring.api.access import PUBLIC, TOKEN, USER, Caller, Deps, enters, may, source
from mooring.api.common import Description, Input, Output, Ref, Ttl, check_text, named_by, time_text
from mooring.api.issue import issue
from mooring.api.problems import invalid, later, quoted, unauthenticated
from mooring.authn.passwords import Busy
from mooring.lib import bounds, metrics
from mooring.lib.secrets import Secret


class Login(Input):
    username: Annotated[str, Meta(min_length=1, max_length=253)]
    password: Annotated[str, Meta(min_length=1, max_length=1024)]
    ttl_seconds: Ttl | None = None
    description: Description = "login"
    cluster: Ref | None = None


class LoggedIn(Output):
    """`token` is shown here and never again."""

    token: str
    id: str
    user: str
    cluster: str | None
    expires_at: str | None


class CallerToken(Output):
    id: str
    cluster: str | None
    expires_at: str | None


class WhoAmI(Output):
    """`admin`: may do everything on the server. What else the caller may do, `GET /policy/access` says."""

    user: str
    user_id: str
    uid: str
    groups: list[str]
    admin: bool
    kubernetes_user: str
    kubernetes_groups: list[str]
    token: CallerToken


@post("/login", opt=PUBLIC, status_code=201, tags=["session"], summary="Exchange a password for a token")
async def login(data: JSONBody[Login], services: Deps, request: Request[Any, Any, Any]) -> LoggedIn:
    """A wrong name and a wrong password give the same answer in the same time; each failure makes the next try wait."""
    now = services.clock.now()
    address = source(request)
    wait = services.logins.delay(data.username, address, services.clock.monotonic())
    if wait > 0:
        bounds.met("login_attempts")
        metrics.LOGINS.labels("delayed").inc()
        raise later(429, "too_many_failures", "too many wrong passwords", wait)
    check_text("description", data.description)
    check_text("username", data.username)
    services.logins.begin(data.username, address, services.clock.monotonic())
    async with services.store.read() as tx:
        user = await tx.users.get(data.username)
        if user is not None and user.name != data.username:
            user = None  # found by its id; people log in by name
        stored = None if user is None else await tx.users.password_hash(user.id)
    try:
        right = await services.passwords.verify(stored, Secret(data.password))
    except Busy:
        services.logins.not_tried(data.username, address)
        raise
    if user is None or not right or not user.enabled:
        metrics.LOGINS.labels("refused").inc()
        raise unauthenticated("the user name or the password is wrong", "wrong_password")
    services.logins.succeeded(data.username, address)
    async with services.store.write() as tx:
        user = await tx.users.get(user.id)
        # Changed while the password was checked: the check is worth nothing now.
        if user is None or not user.enabled or await tx.users.password_hash(user.id) != stored:
            metrics.LOGINS.labels("refused").inc()
            raise unauthenticated("the user name or the password is wrong", "wrong_password")
        cluster = None
        if data.cluster is not None:
            cluster = await named_by("cluster", "cluster", data.cluster, tx.clusters.get)
            if not enters(services, user.id, cluster.id):
                raise invalid("cluster", f"there is no cluster {quoted(data.cluster)}")
        ttl = data.ttl_seconds or min(services.settings.login_ttl, services.settings.max_ttl)
        if ttl > services.settings.max_ttl:
            raise invalid("ttl_seconds", f"at most {services.settings.max_ttl} seconds are allowed")
        token, text = await issue(tx, services, user, data.description, now + ttl, cluster)
    metrics.LOGINS.labels("ok").inc()
    return LoggedIn(
        token=text.reveal(),
        id=token.id,
        user=user.name,
        cluster=token.cluster_name,
        expires_at=time_text(token.expires_at),
    )


@post("/logout", opt=USER, status_code=204, tags=["session"], summary="Revoke the token of this call")
async def logout(services: Deps, caller: Caller) -> None:
    async with services.store.write() as tx:
        await tx.tokens.revoke([caller.token_id], services.clock.now())


@get("/whoami", opt=TOKEN, tags=["session"], summary="The caller, here and in the clusters")
async def whoami(services: Deps, caller: Caller) -> WhoAmI:
    prefix = services.settings.identity_prefix
    cluster = None if caller.token_cluster is None else services.index.cluster(caller.token_cluster)
    return WhoAmI(
        user=caller.user,
        user_id=caller.user_id,
        uid=caller.uid,
        groups=list(caller.groups),
        admin=may(services, caller, "*", "*"),
        kubernetes_user=prefix + caller.user,
        kubernetes_groups=[*(prefix + group for group in caller.groups), "system:authenticated"],
        token=CallerToken(
            id=caller.token_id,
            cluster=None if cluster is None else cluster.name,
            expires_at=time_text(caller.expires_at),
        ),
    )
