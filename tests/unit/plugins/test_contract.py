# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules, the fake and the server speak of the same API: what was said is held against docs/api/openapi.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_policies import CASES as POLICIES
from test_policies import CHANGES

WHO = {"role": "r", "user": "u", "group": "g", "expired": False}
FILTERS = {
    "global_role": {"name": "n", "builtin": True},
    "role_template": {"name": "n", "context": "project", "builtin": False},
    "project": {"name": "n", "cluster": "c", "namespace": "s"},
    "global_binding": {"name": "n", **WHO},
    "cluster_binding": {"name": "n", "cluster": "c", **WHO},
    "project_binding": {"name": "n", "cluster": "c", "project": "p", **WHO},
}
DOCUMENT = json.loads((Path(__file__).resolve().parents[3] / "docs" / "api" / "openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]


def operation(method, path):
    """(template, operation) of the document for a request; fixed paths go before ones with parameters."""
    for template in sorted(DOCUMENT["paths"], key=lambda t: t.count("{")):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            found = DOCUMENT["paths"][template].get(method.lower())
            if found:
                return template, found
    raise AssertionError("the API has no %s %s" % (method, path))


def schema_of(content):
    reference = json.dumps(content.get("application/json", {}).get("schema", {}))
    match = re.search(r"#/components/schemas/(\w+)", reference)
    return SCHEMAS[match[1]] if match else None


def check(exchange):
    method, path, query, body, answer = exchange
    template, found = operation(method, path)
    known = {parameter["name"] for parameter in found.get("parameters", []) if parameter["in"] == "query"}
    assert set(query) <= known, (method, template)
    if body:
        schema = schema_of(found["requestBody"]["content"])
        assert set(schema.get("required", [])) <= set(body) <= set(schema["properties"]), (method, template)
    success = next(status for status in sorted(found["responses"]) if status.startswith("2"))
    content = found["responses"][success].get("content", {})
    if isinstance(answer, dict) and "status" not in answer:
        schema = schema_of(content)
        assert set(answer) <= set(schema["properties"]), (method, template)
        for item in answer.get("items", [])[:1]:
            listed = json.dumps(schema["properties"]["items"])
            name = re.search(r"schemas/(\w+)", listed)[1]
            assert set(item) <= set(SCHEMAS[name]["properties"]), (method, template)


def everything(run_module, tmp_path):
    """Every module, every option that changes what is sent."""
    run_module("server_info")
    full = {"description": "d", "labels": {"a": "b"}, "manifest": "always", "join_token": "always"}
    run_module("cluster", name="paris", image="i:1", image_pull_policy="Never", replicas=2, **full)
    run_module("cluster", name="paris", description="e", labels={})
    run_module("cluster_info", state="pending", labels={"a": "b"})
    run_module("user", name="bob", password="long enough to pass", display_name="B", enabled=True, groups=["g"])
    run_module("user", name="bob", display_name="C", enabled=False, groups=[], password="x", update_password="always")
    run_module("group", name="g", description="d", members=["bob"])
    run_module("group", name="g", description="e", members=[])
    for who in ({"user": "bob"}, {"group": "g"}):
        run_module("membership", cluster="paris", **who)
        run_module("membership", cluster="paris", state="absent", **who)
    run_module("token", description="t", user="bob", cluster="paris", ttl=100)
    run_module("token", description="t", user="bob", state="absent")
    for mode in ("token", "exec"):
        dest = str(tmp_path / mode)
        more = {"ttl": 100} if mode == "token" else {}
        run_module("kubeconfig", dest=dest, mode=mode, clusters=["paris"], current_context="paris", **more)
        run_module("kubeconfig", dest=dest, mode=mode, clusters=["paris"], current_context="paris")
        run_module("kubeconfig", dest=dest, state="absent")
    serving = {"endpoint_service": "NodePort", "endpoint_node_port": 30443, "endpoint_names": ["a.example.com"]}
    run_module("cluster", name="paris", manifest="always", **serving)
    settings = {"fqdn": "a.example.com:6443", "ca_pem": "PEM", "token_ttl": 600, "grace": 60}
    run_module("cluster_endpoint", name="paris", mode="agent", **settings)
    run_module("cluster_endpoint_info", name="paris")
    ways = {"contexts": ["proxy", "fqdn"], "prefer_direct": True, "merge": True, "current_context": "paris-fqdn"}
    run_module("kubeconfig", dest=str(tmp_path / "merged"), **ways)
    run_module("cluster_endpoint", name="paris", state="absent")
    for name, arguments in POLICIES.items():
        run_module(name, **arguments)
        run_module(name + "_info", **FILTERS[name])
    for name, change in CHANGES:
        run_module(name, check=True, **dict(POLICIES[name], **change))
        run_module(name, **dict(POLICIES[name], **change))
    run_module(
        "policy_simulate_info", changes=[{"kind": "project", "op": "delete", "name": "shop", "cluster": "paris"}]
    )
    where = {"namespace": "shop", "subresource": "log", "resource_name": "web"}
    run_module("policy_explain_info", cluster="paris", verb="get", resource="pods", api_group="", **where)
    run_module("policy_explain_info", cluster="paris", verb="get", path="/metrics")
    for who in ({"user": "bob"}, {"group": "g"}):
        run_module("policy_explain_info", cluster="paris", **who)
    for name, arguments in reversed(POLICIES.items()):
        run_module(name, state="absent", **arguments)
    for name in ("cluster", "user", "group"):
        run_module(name, name={"cluster": "paris", "user": "bob", "group": "g"}[name], state="absent")


def test_all_that_modules_send_and_read_is_in_the_api(api, run_module, tmp_path):
    everything(run_module, tmp_path)
    run_module("server_info", token=None, login_username="alice", login_password=api.passwords["alice"])
    for exchange in api.exchanges:
        check(exchange)
    used = {operation(method, path)[0] for method, path, *_rest in api.exchanges}
    unused = set(DOCUMENT["paths"]) - used
    assert unused == {
        "/api/v1/agents/audit",
        "/api/v1/agents/endpoint",
        "/api/v1/agents/policy",
        "/api/v1/agents/register",
        "/api/v1/clusters/{ref}/policy",
        "/api/v1/policy/status",
        "/api/v1/projects/{ref}/namespaces",
        "/api/v1/projects/{ref}/namespaces/{name}",
        "/api/v1/users/me/password",
    }


def test_the_check_finds_what_is_not_in_the_api():
    for wrong in (
        ("GET", "/api/v1/nothing", [], {}, {}),
        ("PUT", "/api/v1/clusters", [], {}, {}),
        ("GET", "/api/v1/clusters", ["colour"], {}, {}),
        ("POST", "/api/v1/clusters", [], {"name": "a", "colour": "red"}, {}),
        ("POST", "/api/v1/clusters", [], {"description": "no name"}, {}),
        ("GET", "/api/v1/clusters/a", [], {}, {"colour": "red"}),
        ("GET", "/api/v1/clusters", [], {}, {"items": [{"colour": "red"}], "next": None, "total": 1}),
    ):
        with pytest.raises(AssertionError):
            check(wrong)
