# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: Litestar's, put right where it does not know what we do, and the command that writes it.

`docs/api/openapi.json` is this document; a test compares the two. To write it again:

    python -m mooring.api.openapi > docs/api/openapi.json
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.openapi.plugins import JsonRenderPlugin

from mooring.api.problems import MEDIA_TYPE, ProblemDocument
from mooring.api.services import ApiSettings, Services, SignedBundle
from mooring.authn.agents import AgentIdentity
from mooring.authn.index import ClusterView, Index
from mooring.authn.passwords import Passwords
from mooring.authn.throttle import Throttle
from mooring.lib.clock import SystemClock
from mooring.lib.config import AttemptsSection
from mooring.policy.book import Book
from mooring.policy.standing import Standing
from mooring.store.sql import open_store

_RETURNED = {"200": "Done.", "201": "Made.", "204": "Done; there is nothing to say."}


class DocumentPlugin(JsonRenderPlugin):
    """Serves the document at `/schema/openapi.json`."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return encode(document(request.app))


def document(app: Litestar) -> dict[str, Any]:
    """The document: our form of errors, and what each route needs (`x-access`)."""
    schema: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(app.openapi_schema.to_schema()))
    access = _access(app)
    (problem,), components = msgspec.json.schema_components(
        [ProblemDocument], ref_template="#/components/schemas/{name}"
    )
    schema["components"]["schemas"] |= components
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            operation.pop("deprecated", None)
            operation["operationId"] = access[path, method.upper()][1]
            operation["x-access"] = access[path, method.upper()][0]
            if operation["x-access"] == "public":
                operation["security"] = []
            responses = operation["responses"]
            responses.pop("400", None)
            for code, response in responses.items():
                response["description"] = _RETURNED[code]
            responses["default"] = {
                "description": "An error: a problem document (RFC 9457).",
                "content": {MEDIA_TYPE: {"schema": problem}},
            }
    return schema


def encode(schema: dict[str, Any]) -> bytes:
    """Indented, with sorted keys, so that a change shows as a small difference."""
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=1) + b"\n"


def _access(app: Litestar) -> dict[tuple[str, str], tuple[str, str]]:
    """Path and method -> who may call it, and the handler's name."""
    found = {}
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            for method in handler.http_methods:
                found[route.path_format, str(method)] = (_word(handler.opt), handler.fn.__name__)
    return found


def _word(opt: Mapping[str, Any]) -> str:
    """`public`, `token`, `user`; or the right that is needed, as `verb resource`, with where it counts."""
    if opt.get("access") != "right":
        return str(opt.get("access"))
    resource, verb = opt["right"]
    return f"{verb} {resource}" + {"all": "", "cluster": " (cluster)", "somewhere": " (scoped)"}[opt["where"]]


def main() -> None:
    """Write the document to standard output."""
    from mooring.api.app import create  # here, since the application serves what this module makes

    sys.stdout.buffer.write(encode(document(create(nothing()))))


def nothing() -> Services:
    """Enough to make the application; nothing of it is called."""
    return Services(
        store=open_store("sqlite:///nothing.db"),
        index=Index(),
        clock=SystemClock(),
        passwords=Passwords(),
        logins=Throttle.of_logins(AttemptsSection()),
        joins=Throttle.of_joins(AttemptsSection()),
        control=_NoControl(),
        book=Book(),
        policies=_NoPolicies(),
        endpoints=_NoEndpoints(),
        agents=_NoAgents(),
        audit=_NoAudit(),
        settings=ApiSettings(url="https://localhost", ca_pem="", instance="", audience=""),
    )


class _NoControl:
    def note_refused(self, cluster_id: str, reason: str) -> None:
        raise AssertionError(cluster_id)

    def note_registered(self, cluster_id: str) -> None:
        raise AssertionError(cluster_id)


class _NoPolicies:
    public_key = ""

    def digest(self, cluster_id: str) -> str:
        raise AssertionError(cluster_id)

    async def bundle(self, cluster_id: str) -> SignedBundle | None:
        raise AssertionError(cluster_id)

    def standing(self, cluster_id: str) -> Standing | None:
        raise AssertionError(cluster_id)


class _NoAudit:
    async def take(self, cluster: ClusterView, journal: str, offset: int, lines: bytes) -> tuple[int, int] | None:
        raise AssertionError(journal)


class _NoEndpoints:
    def digest(self, cluster_id: str) -> str:
        raise AssertionError(cluster_id)

    async def documents(self, cluster_id: str, have: Mapping[int, str]) -> tuple[bytes, dict[int, bytes]] | None:
        raise AssertionError(cluster_id)

    async def delivered(self, cluster_id: str, token_id: str, seconds: float) -> bool:
        raise AssertionError(cluster_id)


class _NoAgents:
    def admit(self, jwt: str) -> AgentIdentity:
        raise AssertionError


if __name__ == "__main__":
    main()
