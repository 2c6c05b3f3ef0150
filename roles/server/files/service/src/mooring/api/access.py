# SPDX-License-Identifier: Apache-2.0
"""Who may call a route. Each handler says it (`opt=ADMIN` and so on); one that says nothing cannot be served.

The guard runs before a handler's arguments are read. What depends on the object (one's own tokens, the clusters that
one may enter) is decided in the handler on top of this.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi.spec import Parameter as ParameterSpec
from litestar.params import SkipValidation

from mooring.api.problems import Problem, forbidden, invalid, unauthenticated
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.lib import metrics

# Ours, not the caller's: not to be validated and copied for each request.
Deps = NamedDependency[SkipValidation[Services]]
Caller = NamedDependency[SkipValidation[Identity]]
Access = Literal["public", "token", "user", "admin"]

PUBLIC: Final[dict[str, Any]] = {"access": "public"}  # no token
TOKEN: Final[dict[str, Any]] = {"access": "token"}  # any valid token, also one that is limited to a cluster
USER: Final[dict[str, Any]] = {"access": "user"}  # a valid token that is not limited to a cluster
ADMIN: Final[dict[str, Any]] = {"access": "admin"}  # such a token of an administrator


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
        if has_body and kind != "application/json":
            # A page of another site may post every type that forms have without asking first; JSON it may not.
            raise Problem(415, "unsupported_media_type", "a body must have the Content-Type application/json")
        access = handler.opt.get("access", "admin")
        if access != "public":
            identity = self._authenticate(connection)
            connection.scope["user"] = identity
            if access != "token" and identity.token_cluster is not None:
                raise forbidden(
                    "this token is good for one cluster's Kubernetes API only", "use a token without a scope"
                )
            if access == "admin" and not identity.admin:
                raise forbidden("only administrators may do this", "they are the members of the group 'admins'")
        known = self._queries.get((str(connection.scope.get("path_template")), str(connection.scope.get("method"))))
        for name in connection.query_params:
            if known is not None and name not in known:
                raise invalid(name, f"unknown parameter; known here: {', '.join(sorted(known)) or 'none'}")

    def learn(self, app: Litestar) -> None:
        """Take the query parameters from the OpenAPI document; check that every route says who may call it."""
        for route in app.routes:
            for handler in getattr(route, "route_handlers", ()):
                if set(handler.http_methods) == {"OPTIONS"}:
                    continue  # made by Litestar for every path; without a word on access, it is for administrators
                if handler.opt.get("access") not in ("public", "token", "user", "admin"):
                    raise RuntimeError(f"{route.path}: the handler does not say who may call it")
        for path, item in (app.openapi_schema.paths or {}).items():
            for method in ("get", "post", "put", "patch", "delete"):
                operation = getattr(item, method)
                if operation is not None:
                    parameters = [p for p in operation.parameters or () if isinstance(p, ParameterSpec)]
                    names = frozenset(p.name for p in parameters if p.param_in == "query")
                    self._queries[path, method.upper()] = names

    def _authenticate(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Identity:
        scheme, _unused, bearer = connection.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not bearer.strip():
            metrics.AUTH_FAILURES.labels("missing").inc()
            raise unauthenticated("a bearer token is needed", hint="log in with POST /api/v1/login or 'mooring login'")
        now = self._services.clock.now()
        identity = self._services.index.authenticate(bearer.strip(), now)
        self._services.index.note_used(identity.token_id, now)
        return identity


def caller(request: Request[Any, Any, Any]) -> Identity:
    """The identity that the guard found; a dependency of handlers."""
    identity = request.scope["user"]
    assert isinstance(identity, Identity)
    return identity


def source(request: Request[Any, Any, Any]) -> str:
    """The client's address as the edge saw it. Only the edge can reach our socket, so its header can be trusted."""
    return request.headers.get("X-Mooring-Source", "unknown")
