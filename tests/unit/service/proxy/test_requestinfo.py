# SPDX-License-Identifier: Apache-2.0
"""What requests mean, by the API server's rules."""

from __future__ import annotations

import pytest
from mooring.proxy.requestinfo import RequestInfo, long_running, request_info

# method, target -> verb, group, version, resource, subresource, namespace, name
RESOURCES = {
    ("GET", "/api/v1/namespaces"): ("list", "", "v1", "namespaces", "", "", ""),
    ("GET", "/api/v1/namespaces/a"): ("get", "", "v1", "namespaces", "", "a", "a"),
    ("PUT", "/api/v1/namespaces/a/finalize"): ("update", "", "v1", "namespaces", "finalize", "a", "a"),
    ("PATCH", "/api/v1/namespaces/a/status"): ("patch", "", "v1", "namespaces", "status", "a", "a"),
    ("DELETE", "/api/v1/namespaces/a"): ("delete", "", "v1", "namespaces", "", "a", "a"),
    ("GET", "/api/v1/pods"): ("list", "", "v1", "pods", "", "", ""),
    ("HEAD", "/api/v1/pods"): ("list", "", "v1", "pods", "", "", ""),
    ("GET", "/api/v1/namespaces/a/pods"): ("list", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/namespaces/a/pods?limit=5"): ("list", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/namespaces/a/pods/p"): ("get", "", "v1", "pods", "", "a", "p"),
    ("GET", "/api/v1/namespaces/a/pods/p?watch=true"): ("get", "", "v1", "pods", "", "a", "p"),
    ("GET", "/api/v1/namespaces/a/pods?watch=true"): ("watch", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/namespaces/a/pods?watch=1"): ("watch", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/namespaces/a/pods?watch"): ("watch", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/namespaces/a/pods?watch=0"): ("list", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/namespaces/a/pods?watch=FALSE"): ("list", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/namespaces/a/pods?watch=0&watch=1"): ("list", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dp"): ("list", "", "v1", "pods", "", "", "p"),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name==p&watch=1"): ("watch", "", "v1", "pods", "", "", "p"),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name!=p"): ("list", "", "v1", "pods", "", "", ""),
    ("GET", "/api/v1/watch/namespaces/a/pods"): ("watch", "", "v1", "pods", "", "a", ""),
    ("GET", "/api/v1/watch/pods"): ("watch", "", "v1", "pods", "", "", ""),
    ("POST", "/api/v1/namespaces/a/pods"): ("create", "", "v1", "pods", "", "a", ""),
    ("POST", "/api/v1/namespaces/a/pods/p/exec?command=sh"): ("create", "", "v1", "pods", "exec", "a", "p"),
    ("GET", "/api/v1/namespaces/a/pods/p/exec?command=sh"): ("get", "", "v1", "pods", "exec", "a", "p"),
    ("POST", "/api/v1/namespaces/a/pods/p/eviction"): ("create", "", "v1", "pods", "eviction", "a", "p"),
    ("GET", "/api/v1/namespaces/a/pods/p/proxy/x/y"): ("get", "", "v1", "pods", "proxy", "a", "p"),
    ("DELETE", "/api/v1/nodes/n/proxy/pods"): ("delete", "", "v1", "nodes", "proxy", "", "n"),
    ("GET", "/api/v1/proxy/namespaces/a/services/s/x"): ("proxy", "", "v1", "services", "", "a", "s"),
    ("DELETE", "/api/v1/namespaces/a/pods"): ("deletecollection", "", "v1", "pods", "", "a", ""),
    ("POST", "/api/v1/namespaces/a/serviceaccounts/s/token"): (
        "create", "", "v1", "serviceaccounts", "token", "a", "s"),
    ("PUT", "/apis/apps/v1/namespaces/a/deployments/d/scale"): (
        "update", "apps", "v1", "deployments", "scale", "a", "d"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/r"): (
        "get", "rbac.authorization.k8s.io", "v1", "clusterroles", "", "", "r"),
    ("GET", "/apis/apps/v1/namespaces/a/deployments/"): ("list", "apps", "v1", "deployments", "", "a", ""),
    ("GET", "/api/v1/namespaces/a%2Fpods/p"): ("get", "", "v1", "pods", "", "a", "p"),
}  # fmt: skip
OTHERS = ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/version", "/healthz/etcd", "/openapi/v3",
          "/openapi/v3/apis/apps/v1", "/metrics", "/api/v1/watch", "/logs/a/b/c"]  # fmt: skip


@pytest.mark.parametrize(("method", "target"), RESOURCES)
def test_resource_requests(method: str, target: str) -> None:
    info = request_info(method, target)
    assert info.resource_request
    assert (
        info.verb, info.api_group, info.api_version, info.resource, info.subresource, info.namespace, info.name
    ) == RESOURCES[method, target]  # fmt: skip


@pytest.mark.parametrize("path", OTHERS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_requests_are_named_by_method_and_path(method: str, path: str) -> None:
    assert request_info(method, path + "?a=b") == RequestInfo(False, method.lower(), path)


def test_long_targets_are_read_without_being_kept() -> None:
    assert request_info("GET", "/api/v1/namespaces/a/pods?labelSelector=" + "x" * 5_000).verb == "list"


@pytest.mark.parametrize(
    ("method", "target", "long"),
    [
        ("GET", "/api/v1/pods?watch=1", True),
        ("GET", "/api/v1/namespaces/a/pods/p/log?follow=true", True),
        ("GET", "/api/v1/namespaces/a/pods/p/log", False),
        ("POST", "/api/v1/namespaces/a/pods/p/exec", True),
        ("GET", "/api/v1/namespaces/a/pods/p", False),
        ("GET", "/version", False),
    ],
)
def test_long_running(method: str, target: str, long: bool) -> None:
    assert long_running(request_info(method, target), target) is long


@pytest.mark.parametrize("evil", ["%0A", "%1b[2J", "%E2%80%A8", "%C2%85", "%E2%80%AE"])
def test_what_could_forge_a_line_is_escaped(evil: str) -> None:
    info = request_info("GET", f"/api/v1/namespaces/a{evil}b/pods/p")
    assert info.path.isprintable()
    assert info.namespace.isprintable()
    assert info.resource == "pods"


def test_a_field_selector_cannot_put_a_line_break_into_the_audit() -> None:
    info = request_info("GET", "/api/v1/pods?fieldSelector=metadata.name%3Da%0Ab%E2%80%AE")
    assert info.name == "a\\nb\\u202e"
