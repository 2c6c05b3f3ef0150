# SPDX-License-Identifier: Apache-2.0
"""Who may call a route. Each handler says it (`opt=needs("users", "list")` and so on); one that says nothing cannot be
served.

A right is a verb on a resource of our own API (group `mooring.fleet`), given by roles: for everything, for one cluster
or for one project. The guard runs before a handler's arguments are read. Where a right counts that is held in a cluster
or project only, the guard asks whether the caller has it anywhere, and the handler asks `require` once it knows where.
What is one's own (one's tokens, the clusters that one may enter) needs no right, and is told apart in the handler.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi.spec import Parameter as ParameterSpec
from litestar.params import SkipValidation

from mooring.api.problems import FieldError, Problem, forbidden, invalid, unauthenticated
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.lib import metrics
from mooring.policy import check
from mooring.policy.effective import Rights, Who, rights_by
from mooring.policy.rules import PolicyRefused, text
from mooring.store.policies import OWN_GROUP, Binding

# Ours, not the caller's: not to be validated and copied for each request.
Deps = NamedDependency[SkipValidation[Services]]
Caller = NamedDependency[SkipValidation[Identity]]
Where = Literal["all", "cluster", "somewhere"]

PUBLIC: Final[dict[str, Any]] = {"access": "public"}  # no token
TOKEN: Final[dict[str, Any]] = {"access": "token"}  # any valid token, also one that is limited to a cluster
USER: Final[dict[str, Any]] = {"access": "user"}  # a valid token that is not limited to a cluster


def needs(resource: str, verb: str, where: Where = "all") -> dict[str, Any]:
    """Such a token, and the right to do `verb` on `resource`: everywhere (`all`); or in the cluster that `ref` in the
    path names (`cluster`); or anywhere (`somewhere`), then the handler has to call `require`."""
    return {"access": "right", "right": (resource, verb), "where": where}


class Guard:
    """Authenticates the caller, checks the route's access; refuses query parameters that nobody reads, and bodies that
    are not said to be JSON."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._queries: dict[tuple[str, str], frozenset[str]] = {}

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        headers = connection.headers
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        wanted = handler.opt.get("body", "application/json")
        if has_body and kind != wanted:
            # A page of another site may post every type that forms have without asking first; JSON it may not.
            raise Problem(415, "unsupported_media_type", f"a body must have the Content-Type {wanted}")
        access = handler.opt.get("access", "token")
        if access != "public":
            identity = self._authenticate(connection)
            connection.scope["user"] = identity
            if access != "token" and identity.token_cluster is not None:
                raise forbidden(
                    "this token is good for one cluster's Kubernetes API only", "use a token without a scope"
                )
            if access == "right":
                self._check_right(connection, handler, identity)
        known = self._queries.get((str(connection.scope.get("path_template")), str(connection.scope.get("method"))))
        for name in connection.query_params:
            if known is not None and name not in known:
                raise invalid(name, f"unknown parameter; known here: {', '.join(sorted(known)) or 'none'}")

    def learn(self, app: Litestar) -> None:
        """Take the query parameters from the OpenAPI document; check that every route says who may call it."""
        for route in app.routes:
            for handler in getattr(route, "route_handlers", ()):
                if set(handler.http_methods) == {"OPTIONS"}:
                    continue  # made by Litestar for every path; without a word on access, it needs a token
                if handler.opt.get("access") not in ("public", "token", "user", "right"):
                    raise RuntimeError(f"{route.path}: the handler does not say who may call it")
        for path, item in (app.openapi_schema.paths or {}).items():
            for method in ("get", "post", "put", "patch", "delete"):
                operation = getattr(item, method)
                if operation is not None:
                    parameters = [p for p in operation.parameters or () if isinstance(p, ParameterSpec)]
                    names = frozenset(p.name for p in parameters if p.param_in == "query")
                    self._queries[path, method.upper()] = names

    def _check_right(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler, identity: Identity
    ) -> None:
        """Raises Problem (403) unless the caller has the right that the handler asks for, where it has to be held."""
        resource, verb = handler.opt["right"]
        held = rights(self._services, identity)
        where = handler.opt["where"]
        ref = str(connection.path_params.get("ref", ""))
        cluster = self._services.index.cluster(ref) if where == "cluster" else None
        if where == "somewhere":
            allowed = held.somewhere(verb, resource)
        elif cluster is not None:
            allowed = held.may(verb, resource, cluster=cluster.id, name=cluster.name)
        else:
            allowed = held.may(verb, resource, name=ref)
        if not allowed:
            raise refused(resource, verb)

    def _authenticate(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Identity:
        scheme, _unused, bearer = connection.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not bearer.strip():
            metrics.AUTH_FAILURES.labels("missing").inc()
            raise unauthenticated("a bearer token is needed", hint="log in with POST /api/v1/login or 'mooring login'")
        now = self._services.clock.now()
        identity = self._services.index.authenticate(bearer.strip(), now)
        self._services.index.note_used(identity.token_id, now)
        return identity


def rights(services: Services, caller: Identity) -> Rights:
    """What the caller may do now, by the roles that they and their groups are bound to."""
    return rights_of(services, caller.user_id, services.index.groups_of(caller.user_id))


def rights_of(services: Services, user_id: str, group_ids: Iterable[str]) -> Rights:
    """What somebody may do now who is this user ("": nobody) in these groups."""
    return services.book.rights(Who(user_id, tuple(sorted(group_ids))), services.clock.now())


def may(
    services: Services,
    caller: Identity,
    resource: str,
    verb: str,
    *,
    cluster: str = "",
    project: str = "",
    name: str = "",
) -> bool:
    """Whether the caller has the right: everywhere, or in this cluster, or in this project (ids)."""
    return rights(services, caller).may(verb, resource, cluster=cluster, project=project, name=name)


def require(
    services: Services,
    caller: Identity,
    resource: str,
    verb: str,
    *,
    cluster: str = "",
    project: str = "",
    name: str = "",
) -> None:
    """Raises Problem (403) unless `may`."""
    if not may(services, caller, resource, verb, cluster=cluster, project=project, name=name):
        raise refused(resource, verb, "in this project" if project else "in this cluster" if cluster else "")


def refused(resource: str, verb: str, place: str = "") -> Problem:
    """403 that names the right that is missing."""
    return forbidden(
        f"this needs the right to {verb} {resource}{' ' if place else ''}{place}",
        f"ask for a role with the verb '{verb}' on '{resource}' of the API group '{OWN_GROUP}'",
    )


def may_enter(services: Services, caller: Identity, cluster_id: str) -> bool:
    """Whether the caller may use the proxy to the cluster."""
    facts = services.index.may_enter_facts(caller, cluster_id, services.clock.now())
    return bool(facts) or rights(services, caller).enters(cluster_id)


def enters(services: Services, user_id: str, cluster_id: str) -> bool:
    """Whether this user may use the proxy to the cluster, whoever asks."""
    facts = services.index.memberships_of(user_id, cluster_id, services.clock.now())
    return bool(facts) or rights_of(services, user_id, services.index.groups_of(user_id)).enters(cluster_id)


def may_see(services: Services, caller: Identity, cluster_id: str, name: str) -> bool:
    """Whether the caller may know of the cluster: they may get it, or enter it."""
    return may(services, caller, "clusters", "get", cluster=cluster_id, name=name) or may_enter(
        services, caller, cluster_id
    )


def require_all_of(services: Services, caller: Identity, field: str, user_id: str, group_ids: Iterable[str]) -> None:
    """Raises Problem (403) unless the caller holds all that this user ("": none) and these groups hold, and may enter
    the clusters that they may enter: so that passing for the user, or being put into the group, gives nothing new."""
    groups = tuple(group_ids)
    try:
        check.acting_for(rights(services, caller), rights_of(services, user_id, groups), field)
    except PolicyRefused as error:
        raise grant_refused(error) from None
    for cluster_id in sorted(services.index.entered_by(user_id, groups)):
        if not may_enter(services, caller, cluster_id):
            reason = "they may enter a cluster that you may not enter"
            raise Problem(
                403,
                "not_held",
                f"{field}: {reason}",
                hint="nobody grants what they do not hold",
                errors=(FieldError(field, reason),),
            )


def require_defaults(services: Services, caller: Identity) -> None:
    """Raises Problem (403) unless the caller holds the global roles that each new user gets."""
    policy, now = services.book.policy, services.clock.now()
    bindings = [
        Binding(
            id=role.id,
            kind="global",
            name=role.name,
            role_id=role.id,
            role_name=role.name,
            created_at=now,
            updated_at=now,
        )
        for role in policy.global_roles.values()
        if role.new_user_default
    ]
    given = rights_by(policy, bindings, services.book.labels, now)
    try:
        check.acting_for(rights(services, caller), given, "name")
    except PolicyRefused as error:
        raise grant_refused(error) from None


def grant_refused(error: PolicyRefused) -> Problem:
    """The answer to a change of the policy that is refused: 403 where a rule is too much, else 422."""
    rule = "" if error.rule is None else text(error.rule)
    errors = (FieldError(error.field, error.reason),) if error.field else ()
    if error.rule is None:
        return Problem(422, "invalid", error.reason, hint=error.hint, errors=errors)
    detail = error.reason if rule in error.reason else f"{error.reason}: {rule}"
    return Problem(403, "not_held", detail, hint=error.hint or "nobody grants what they do not hold", errors=errors)


def caller(request: Request[Any, Any, Any]) -> Identity:
    """The identity that the guard found; a dependency of handlers."""
    identity = request.scope["user"]
    assert isinstance(identity, Identity)
    return identity


def source(request: Request[Any, Any, Any]) -> str:
    """The client's address as the edge saw it. Only the edge can reach our socket, so its header can be trusted."""
    return request.headers.get("X-Mooring-Source", "unknown")
