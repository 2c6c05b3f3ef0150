# SPDX-License-Identifier: Apache-2.0
"""The import manifest gives the agent the least that it needs, in a hardened pod."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
import yaml
from mooring.kube.manifest import ManifestOptions, render, to_yaml
from mooring.lib.profiles import PROFILES, Profile
from mooring.lib.secrets import Secret

OPTIONS = ManifestOptions(
    server_url="https://mooring.example:8443",
    ca_pem="-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
    join_token=Secret("mrj_j-abcdefghijkl_secret"),
    cluster_name="lab",
)


ENDPOINT_SECRETS = ["mooring-endpoint", *(f"mooring-endpoint-{number}" for number in range(16))]


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (one,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return one


def names(objects: list[dict[str, Any]]) -> list[str]:
    return [f"{o['kind']}/{o['metadata']['name']}" for o in objects]


def test_it_holds_what_an_agent_needs_in_an_order_that_can_be_applied() -> None:
    assert names(render(OPTIONS)) == [
        "Namespace/mooring-system",
        "ServiceAccount/mooring-agent",
        "ServiceAccount/mooring-impersonator",
        "Secret/mooring-join",
        "Role/mooring-agent",
        "RoleBinding/mooring-agent",
        "ClusterRole/mooring-agent",
        "ClusterRoleBinding/mooring-agent",
        "ClusterRole/mooring-impersonator",
        "ClusterRoleBinding/mooring-impersonator",
        "ClusterRoleBinding/mooring-admins",
        "PodDisruptionBudget/mooring-agent",
        "Deployment/mooring-agent",
    ]


def test_the_impersonator_may_impersonate_and_nothing_else() -> None:
    rules = find(render(OPTIONS), "ClusterRole", "mooring-impersonator")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"impersonate"}
    granted = {(group, resource) for rule in rules for group in rule["apiGroups"] for resource in rule["resources"]}
    assert granted == {
        ("", "users"),
        ("", "groups"),
        ("", "serviceaccounts"),
        ("authentication.k8s.io", "*"),  # uids and userextras of any key
    }
    bindings = [o for o in render(OPTIONS) if o["kind"].endswith("Binding")]
    roles = [b["roleRef"]["name"] for b in bindings if b["subjects"][0]["name"] == "mooring-impersonator"]
    assert roles == ["mooring-impersonator"]


def agent_rules(profile: Profile) -> list[dict[str, Any]]:
    objects = render(replace(OPTIONS, profile=profile))
    roles = [find(objects, kind, "mooring-agent")["rules"] for kind in ("Role", "ClusterRole")]
    return [*roles[0], *roles[1]]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_agent_reads_its_own_secrets_only_and_cannot_impersonate(profile: Profile) -> None:
    for rule in agent_rules(profile):
        assert "impersonate" not in rule["verbs"]
        if "secrets" in rule.get("resources", []) and rule["verbs"] != ["create"]:
            assert set(rule["resourceNames"]) <= {
                "mooring-join",
                "mooring-agent-identity",
                *(f"mooring-policy-{number}" for number in range(16)),
                *ENDPOINT_SECRETS,
            }
        if "serviceaccounts/token" in rule.get("resources", []):
            assert rule["resourceNames"] == ["mooring-impersonator"]
            assert rule["verbs"] == ["create"]
    everywhere = find(render(replace(OPTIONS, profile=profile)), "ClusterRole", "mooring-agent")["rules"]
    assert not any("secrets" in rule.get("resources", []) for rule in everywhere)


@pytest.mark.parametrize("profile", ["proxy-only", "admin"])
def test_no_right_of_the_agent_is_a_wildcard(profile: Profile) -> None:
    for rule in agent_rules(profile):
        assert "*" not in [*rule["verbs"], *rule.get("resources", []), *rule.get("apiGroups", [])]


def test_an_agent_that_is_only_a_proxy_touches_neither_roles_nor_namespaces() -> None:
    rules = agent_rules("proxy-only")
    groups = {group for rule in rules for group in rule.get("apiGroups", [])}
    assert groups == {"", "coordination.k8s.io", "discovery.k8s.io"}
    assert [rule for rule in rules if "policy" in str(rule)] == []
    assert [rule["verbs"] for rule in rules if "namespaces" in rule.get("resources", [])] == [["get"]]


def test_a_read_only_agent_holds_nothing_but_reading_and_cannot_give_away_more() -> None:
    rules = agent_rules("read-only")
    assert not {"escalate", "bind", "*"} & {verb for rule in rules for verb in rule["verbs"]}
    for rule in find(render(replace(OPTIONS, profile="read-only")), "ClusterRole", "mooring-agent")["rules"]:
        if rule.get("apiGroups") != ["rbac.authorization.k8s.io"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_an_admin_agent_gives_away_what_it_does_not_hold_and_deletes_no_namespace() -> None:
    rules = agent_rules("admin")
    (given,) = [rule for rule in rules if "escalate" in rule["verbs"]]
    assert given == {
        "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["clusterroles"],
        "verbs": ["escalate", "bind"],
    }
    spaces = [verb for rule in rules if "namespaces" in rule.get("resources", []) for verb in rule["verbs"]]
    assert not {"delete", "deletecollection", "update"} & set(spaces)


def test_kube_api_auth_reads_the_tokens_of_the_endpoint_and_nothing_else() -> None:
    objects = render(replace(OPTIONS, endpoint="webhook"))
    name = "mooring-kube-api-auth"
    assert find(objects, "Role", name)["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ENDPOINT_SECRETS,
            "verbs": ["get", "list", "watch"],
        }
    ]
    bindings = [o for o in objects if o["kind"].endswith("Binding") and o["subjects"][0]["name"] == name]
    assert [(o["kind"], o["metadata"]["namespace"], o["roleRef"]["name"]) for o in bindings] == [
        ("RoleBinding", "mooring-system", name)
    ]
    assert find(objects, "ServiceAccount", name)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("endpoint", ["", "agent"])
def test_without_the_webhook_there_is_no_account_for_it(endpoint: Any) -> None:
    assert not [name for name in names(render(replace(OPTIONS, endpoint=endpoint))) if "kube-api-auth" in name]


def test_the_pod_keeps_the_restricted_standard_that_its_namespace_enforces() -> None:
    objects = render(OPTIONS)
    labels = find(objects, "Namespace", "mooring-system")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = find(objects, "Deployment", "mooring-agent")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert pod["tolerations"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & set(pod)


def test_only_the_agent_pod_gets_a_service_account_token() -> None:
    objects = render(OPTIONS)
    accounts = [o for o in objects if o["kind"] == "ServiceAccount"]
    assert [account["automountServiceAccountToken"] for account in accounts] == [False, False]
    pod = find(objects, "Deployment", "mooring-agent")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is True
    assert pod["serviceAccountName"] == "mooring-agent"


def test_one_agent_does_not_block_a_drain() -> None:
    budget = find(render(OPTIONS), "PodDisruptionBudget", "mooring-agent")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


def test_the_join_secret_says_where_whom_to_trust_and_how() -> None:
    data = find(render(OPTIONS), "Secret", "mooring-join")["data"]
    assert {key: base64.b64decode(value).decode() for key, value in data.items()} == {
        "server_url": "https://mooring.example:8443",
        "ca.crt": OPTIONS.ca_pem,
        "join_token": "mrj_j-abcdefghijkl_secret",
        "cluster_name": "lab",
    }


def test_without_a_join_token_nothing_in_it_changes_between_two_renderings() -> None:
    options = replace(OPTIONS, join_token=None)
    assert "Secret/mooring-join" not in names(render(options))
    assert to_yaml(render(options)) == to_yaml(render(options))


def test_the_admins_of_the_server_become_cluster_admins_unless_that_is_left_out() -> None:
    binding = find(render(replace(OPTIONS, identity_prefix="acme:")), "ClusterRoleBinding", "mooring-admins")
    assert binding["roleRef"]["name"] == "cluster-admin"
    assert [(s["kind"], s["name"]) for s in binding["subjects"]] == [("Group", "acme:admins")]
    without = render(replace(OPTIONS, admin_binding=False))
    assert not any(o.get("roleRef", {}).get("name") == "cluster-admin" for o in without)


def test_an_agent_outside_of_the_cluster_needs_no_workload() -> None:
    without = names(render(replace(OPTIONS, workload="none")))
    assert "Deployment/mooring-agent" not in without
    assert "PodDisruptionBudget/mooring-agent" not in without
    assert "ClusterRole/mooring-impersonator" in without


@pytest.mark.parametrize("namespace", ["mooring-system", "fleet"])
def test_everything_is_in_the_namespace_that_was_asked_for(namespace: str) -> None:
    objects = render(replace(OPTIONS, namespace=namespace))
    assert {o["metadata"].get("namespace", namespace) for o in objects} == {namespace}
    assert objects[0]["metadata"]["name"] == namespace
    for one in objects:
        for subject in one.get("subjects", []):
            assert subject.get("namespace", namespace) == namespace
    container = find(objects, "Deployment", "mooring-agent")["spec"]["template"]["spec"]["containers"][0]
    assert namespace in container["args"]


def test_the_yaml_reads_back_to_the_objects() -> None:
    assert list(yaml.safe_load_all(to_yaml(render(OPTIONS)))) == render(OPTIONS)


SERVED = replace(OPTIONS, endpoint="agent", names=("prod.example.com", "192.0.2.10"), url="https://prod.example.com")


def test_an_agent_that_serves_the_endpoint_has_a_service_and_a_bounded_folder() -> None:
    objects = render(replace(SERVED, service="NodePort", node_port=30443))
    assert names(objects)[-3:] == [
        "Service/mooring-endpoint", "PodDisruptionBudget/mooring-agent", "Deployment/mooring-agent"
    ]  # fmt: skip
    service = find(objects, "Service", "mooring-endpoint")["spec"]
    assert (service["type"], service["ports"][0]["nodePort"]) == ("NodePort", 30443)
    assert service["publishNotReadyAddresses"] is True  # no session to the server: not ready, and needed just then
    pod = find(objects, "Deployment", "mooring-agent")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][-8:] == [
        "--endpoint-listen", ":8443", "--endpoint-dir", "/var/lib/mooring-agent",
        "--endpoint-names", "prod.example.com,192.0.2.10", "--endpoint-url", "https://prod.example.com",
    ]  # fmt: skip
    assert {port["name"]: port["containerPort"] for port in container["ports"]}["endpoint"] == 8443
    assert pod["volumes"] == [{"name": "state", "emptyDir": {"sizeLimit": "256Mi"}}]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert (
        service["selector"].items()
        <= find(objects, "Deployment", "mooring-agent")["spec"]["template"]["metadata"]["labels"].items()
    )


@pytest.mark.parametrize("kind", ["ClusterIP", "LoadBalancer"])
def test_the_type_of_the_service_is_the_users_choice(kind: Any) -> None:
    service = find(render(replace(SERVED, service=kind)), "Service", "mooring-endpoint")["spec"]
    assert service["type"] == kind
    assert "nodePort" not in service["ports"][0]


def test_the_certificate_of_the_endpoint_is_the_agents_only_where_it_serves_it() -> None:
    def secrets(options: ManifestOptions) -> set[str]:
        rules = find(render(options), "Role", "mooring-agent")["rules"]
        return {name for rule in rules if rule["resources"] == ["secrets"] for name in rule.get("resourceNames", [])}

    assert secrets(SERVED) - secrets(OPTIONS) == {"mooring-endpoint-tls"}
    assert "Service/mooring-endpoint" not in names(render(replace(OPTIONS, endpoint="webhook")))
    assert "Service/mooring-endpoint" not in names(render(replace(SERVED, workload="none")))
