# SPDX-License-Identifier: Apache-2.0
"""What a request means to Kubernetes: verb, API group, resource, subresource, namespace, name.

Why: the audit log must name things as the cluster's own audit and RBAC do, or nobody can compare them. The rules are
those of the API server and work on the decoded path, as it does. Source:
https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb

It must not: allow or refuse anything. The cluster decides; this only names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, unquote

_VERBS: Final = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMESPACE_PARTS: Final = frozenset({"status", "finalize"})
_CACHED_TARGET_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """`verb` is a Kubernetes verb for a resource, the HTTP method in lower case otherwise. Absent parts are empty."""

    resource_request: bool
    verb: str
    path: str
    api_group: str = ""
    api_version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


def understand(method: bytes, target: bytes) -> tuple[RequestInfo, bool]:
    """What a request line says (target: path and query in ASCII, without the cluster's prefix), and whether the
    exchange may stay open for hours. Kept for lines that come again."""
    if len(target) <= _CACHED_TARGET_MAX:
        return _cached(method, target)
    return _understand(method, target)


def _understand(method: bytes, target: bytes) -> tuple[RequestInfo, bool]:
    text = target.decode("ascii")
    info = request_info(method.decode("ascii"), text)
    return info, long_running(info, text)


_cached: Final = lru_cache(maxsize=2048)(_understand)


def request_info(method: str, target: str) -> RequestInfo:
    """Read a request line's method and target (path and query, without the cluster's prefix)."""
    raw, _unused, query = target.partition("?")
    path = printable(unquote(raw)) if "%" in raw else raw
    parts = path.strip("/").split("/")
    other = RequestInfo(False, method.lower(), path)
    if len(parts) < 3 or parts[0] not in ("api", "apis"):
        return other
    group = ""
    if parts[0] == "apis":
        if len(parts) < 4:
            return other
        group = parts.pop(1)
    version, parts = parts[1], parts[2:]

    verb = _VERBS.get(method, "")
    legacy = parts[0] in ("proxy", "watch")
    if legacy:
        if len(parts) < 2:
            return other
        verb, parts = parts[0], parts[1:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        # Below a namespace lie other resources, except for its own two subresources.
        if len(parts) > 2 and parts[2] not in _NAMESPACE_PARTS:
            parts = parts[2:]
    resource = parts[0]
    name = parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 and verb != "proxy" else ""
    if not name and verb in ("get", "delete"):
        verb, name = _collection(verb, query)
    return RequestInfo(True, verb, path, group, version, resource, subresource, namespace, name)


def _collection(verb: str, query: str) -> tuple[str, str]:
    """The verb on a collection, and the name when a field selector picks a single object."""
    if verb == "delete":
        return "deletecollection", ""
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        options.setdefault(key, value)
    watch = options.get("watch")
    verb = "watch" if watch is not None and watch != "0" and watch.lower() != "false" else "list"
    for term in options.get("fieldSelector", "").split(","):
        key, _unused, value = term.partition("=")
        if key == "metadata.name" and value.removeprefix("="):
            return verb, printable(value.removeprefix("="))
    return verb, ""


def printable(text: str) -> str:
    """The text with everything escaped that could forge a line, or steer a terminal, where the log is read."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def long_running(info: RequestInfo, target: str) -> bool:
    """Whether the exchange may stay open for hours: a watch, a followed log, a proxied connection."""
    if info.verb in ("watch", "proxy") or info.subresource in ("exec", "attach", "portforward", "proxy"):
        return True
    return info.subresource == "log" and "follow=" in target
