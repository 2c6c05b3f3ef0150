# SPDX-License-Identifier: Apache-2.0
"""The REST API as an ASGI application: routes, guard, errors and the OpenAPI document, put together.

It is served on a unix socket behind the edge; it must never be reachable in another way, since it believes the edge's
headers about source address and request id.
"""

from __future__ import annotations

from litestar import Litestar, Router
from litestar.datastructures import CacheControlHeader, Headers
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import Message, Scope

from mooring.api import (
    agentaudit,
    agentendpoint,
    agentpolicy,
    agents,
    binding_routes,
    clusters,
    endpoints,
    explain,
    globalroles,
    groups,
    kubeconfig,
    memberships,
    namespaces,
    policystatus,
    projects,
    server,
    session,
    simulation,
    templates,
    tokens,
    users,
)
from mooring.api.access import PUBLIC, Guard, caller
from mooring.api.openapi import DocumentPlugin
from mooring.api.problems import REQUEST_ID, answer
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.lib import logging
from mooring.lib.version import VERSION

_log = logging.get("mooring.api")

HANDLERS = [
    session.login,
    session.logout,
    session.whoami,
    server.get_server,
    agents.register,
    agentpolicy.fetch_policy,
    agentaudit.take_records,
    agentendpoint.fetch_endpoint,
    policystatus.list_policy_status,
    policystatus.get_policy_status,
    clusters.list_clusters,
    clusters.create_cluster,
    clusters.get_cluster,
    clusters.edit_cluster,
    clusters.delete_cluster,
    clusters.create_join_token,
    clusters.create_manifest,
    endpoints.get_endpoint,
    endpoints.set_endpoint,
    endpoints.remove_endpoint,
    users.list_users,
    users.create_user,
    users.get_user,
    users.edit_user,
    users.delete_user,
    users.change_own_password,
    groups.list_groups,
    groups.create_group,
    groups.get_group,
    groups.edit_group,
    groups.delete_group,
    tokens.list_tokens,
    tokens.create_token,
    tokens.get_token,
    tokens.revoke_token,
    memberships.list_memberships,
    memberships.create_membership,
    memberships.get_membership,
    memberships.delete_membership,
    kubeconfig.create_kubeconfig,
    globalroles.list_global_roles,
    globalroles.create_global_role,
    globalroles.get_global_role,
    globalroles.edit_global_role,
    globalroles.delete_global_role,
    templates.list_role_templates,
    templates.create_role_template,
    templates.get_role_template,
    templates.edit_role_template,
    templates.delete_role_template,
    projects.list_projects,
    projects.create_project,
    projects.get_project,
    projects.edit_project,
    projects.delete_project,
    namespaces.list_namespaces,
    namespaces.add_namespace,
    namespaces.edit_namespace,
    namespaces.remove_namespace,
    binding_routes.list_global_bindings,
    binding_routes.create_global_binding,
    binding_routes.get_global_binding,
    binding_routes.edit_global_binding,
    binding_routes.delete_global_binding,
    binding_routes.list_cluster_bindings,
    binding_routes.create_cluster_binding,
    binding_routes.get_cluster_binding,
    binding_routes.edit_cluster_binding,
    binding_routes.delete_cluster_binding,
    binding_routes.list_project_bindings,
    binding_routes.create_project_binding,
    binding_routes.get_project_binding,
    binding_routes.edit_project_binding,
    binding_routes.delete_project_binding,
    explain.explain_right,
    explain.explain_access,
    simulation.simulate_changes,
]


def create(services: Services) -> Litestar:
    """The application. Raises RuntimeError if a route does not say who may call it."""

    def give_services() -> Services:
        return services

    guard = Guard(services)
    app = Litestar(
        route_handlers=[Router("/api/v1", route_handlers=HANDLERS)],
        guards=[guard],
        dependencies={
            "services": Provide(give_services, sync_to_thread=False),
            "caller": Provide(caller, sync_to_thread=False),
        },
        exception_handlers={Exception: answer},
        cache_control=CacheControlHeader(no_store=True),  # answers hold tokens and names
        request_max_body_size=services.settings.body_max,
        openapi_config=OpenAPIConfig(
            title="Mooring",
            version=VERSION,
            description="Errors are RFC 9457 problem documents. Lists come in pages: follow `next` by `cursor`.",
            path="/schema",
            render_plugins=[DocumentPlugin()],
            openapi_router=Router("/schema", route_handlers=[], opt=PUBLIC, include_in_schema=False),
            components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
            security=[{"token": []}],
            use_handler_docstrings=True,
        ),
        before_send=[note_change],
        logging_config=None,
        debug=False,
    )
    guard.learn(app)
    return app


async def note_change(message: Message, scope: Scope) -> None:
    """One line in the log for each call that may have changed something: who, what, and how it went."""
    method = str(scope.get("method", ""))
    if message["type"] != "http.response.start" or method in ("GET", "OPTIONS"):
        return
    caller = scope.get("user")
    headers = Headers.from_scope(scope)
    _log.info(
        "api call",
        method=method,
        path=scope["path"],
        code=message["status"],
        user=caller.user if isinstance(caller, Identity) else "",
        token_id=caller.token_id if isinstance(caller, Identity) else "",
        request_id=headers.get(REQUEST_ID, ""),
        source=headers.get("X-Mooring-Source", ""),
    )
