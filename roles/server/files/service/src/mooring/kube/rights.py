# SPDX-License-Identifier: Apache-2.0
"""What the import manifest lets each service account do in the cluster.

The agent gets the least that it needs: it may read and write its own Secrets by name, look at nodes, and make tokens of
one other service account, which may impersonate and nothing else. What it may do to enforce policies is the profile's
to say: nothing (`proxy-only`), give away reading (`read-only`), or give away anything (`admin`, by the verbs `escalate`
and `bind` of Kubernetes' RBAC). kube-api-auth may read the Secrets with the tokens of the endpoint, and nothing else.
"""

from __future__ import annotations

from typing import Final

from mooring.kube.names import (
    AGENT,
    API_AUTH,
    ENDPOINT_NAME,
    ENDPOINT_TLS,
    IDENTITY_SECRET,
    IMPERSONATOR,
    JOIN_SECRET,
    POLICY_NAME,
    POLICY_PARTS,
    shard_name,
)
from mooring.kube.objects import RBAC, Manifest, binding, meta, role, rule, service_account, subject
from mooring.lib.profiles import Profile
from mooring.wire.endpoint import SHARDS

_READ: Final = ["get", "list", "watch"]
_MANAGE: Final = [*_READ, "create", "update", "patch", "delete"]
_ENDPOINT_SECRETS: Final = [ENDPOINT_NAME, *(shard_name(number) for number in range(SHARDS))]


def agent_rules(namespace: str, profile: Profile, *, serves: bool = False) -> list[Manifest]:
    """The roles of the agent, and who has them. `serves`: it serves the cluster's endpoint itself."""
    managing = profile != "proxy-only"
    own = role(
        "Role",
        meta(AGENT, namespace),
        [
            rule([""], ["secrets"], ["get", "update", "patch"], [JOIN_SECRET, IDENTITY_SECRET]),
            # A create cannot be narrowed to a name: the API server does not know the name when it decides.
            rule([""], ["secrets"], ["create"]),
            rule([""], ["serviceaccounts/token"], ["create"], [IMPERSONATOR]),
            *_endpoint_rules(),
            # The certificate that it shows; a Secret that somebody else made is never written to.
            *([rule([""], ["secrets"], ["get", "update", "patch"], [ENDPOINT_TLS])] if serves else []),
            *(_policy_rules_own() if managing else []),
        ],
    )
    everywhere = role(
        "ClusterRole",
        meta(AGENT),
        [
            rule([""], ["nodes"], _READ),
            rule([""], ["namespaces"], ["get"], ["kube-system"]),
            # The port of the API server on its nodes.
            rule(["discovery.k8s.io"], ["endpointslices"], ["get"], ["kubernetes"]),
            {"nonResourceURLs": ["/version", "/readyz", "/livez", "/healthz"], "verbs": ["get"]},
            *_policy_rules(profile),
        ],
    )
    who = subject(namespace, AGENT)
    return [
        own,
        binding("RoleBinding", meta(AGENT, namespace), "Role", AGENT, who),
        everywhere,
        binding("ClusterRoleBinding", meta(AGENT), "ClusterRole", AGENT, who),
    ]


def impersonator_rules(namespace: str) -> list[Manifest]:
    """Impersonate, and nothing else: a request that lost its headers on the way can do nothing at all."""
    cluster_role = role(
        "ClusterRole",
        meta(IMPERSONATOR),
        [
            # Service accounts for `kubectl --as=system:serviceaccount:...`: the agent asks the cluster first.
            {"apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"]},
            # uids and userextras/<key>. RBAC has no pattern for the keys; the verb means nothing on what else is there.
            {"apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["impersonate"]},
        ],
    )
    who = subject(namespace, IMPERSONATOR)
    return [cluster_role, binding("ClusterRoleBinding", meta(IMPERSONATOR), "ClusterRole", IMPERSONATOR, who)]


def api_auth_rules(namespace: str) -> list[Manifest]:
    """kube-api-auth: an account that may read the tokens of the endpoint. The API server knows a list or watch of one
    object by its field selector, so that both can be narrowed to names."""
    return [
        service_account(namespace, API_AUTH, "Reads the tokens of the endpoint for kube-api-auth."),
        role("Role", meta(API_AUTH, namespace), [rule([""], ["secrets"], _READ, _ENDPOINT_SECRETS)]),
        binding("RoleBinding", meta(API_AUTH, namespace), "Role", API_AUTH, subject(namespace, API_AUTH)),
    ]


def _endpoint_rules() -> list[Manifest]:
    """In the agent's own namespace, in every profile: the tokens of the endpoint, and who of several agents writes
    them. Whether there is an endpoint is not known when the manifest is applied."""
    return [
        rule([""], ["secrets"], [*_READ, "update", "patch", "delete"], _ENDPOINT_SECRETS),
        rule(["coordination.k8s.io"], ["leases"], ["create"]),
        rule(["coordination.k8s.io"], ["leases"], ["get", "update", "patch"], [ENDPOINT_NAME]),
    ]


def _policy_rules_own() -> list[Manifest]:
    """In the agent's own namespace: where policies are kept, who of several agents applies them, and what it tells."""
    parts = [f"{POLICY_NAME}-{number}" for number in range(POLICY_PARTS)]
    return [
        rule([""], ["secrets"], ["get", "update", "patch", "delete"], parts),
        rule(["coordination.k8s.io"], ["leases"], ["get", "update", "patch"], [POLICY_NAME]),
        rule(["events.k8s.io"], ["events"], ["create"]),
    ]


def _policy_rules(profile: Profile) -> list[Manifest]:
    """What enforcing policies takes in the whole cluster. Nobody can give away by RBAC what he does not hold, unless he
    has the verbs `escalate` (on roles) and `bind` (on what is bound)."""
    roles = ["clusterroles", "clusterrolebindings", "rolebindings"]
    if profile == "admin":
        return [
            rule([RBAC], roles, _MANAGE),
            rule([RBAC], ["clusterroles"], ["escalate", "bind"]),
            rule([""], ["namespaces"], [*_READ, "create", "patch"]),  # never deleted
            rule([""], ["resourcequotas", "limitranges"], _MANAGE),
            rule(["networking.k8s.io"], ["networkpolicies"], _MANAGE),
        ]
    if profile == "read-only":
        return [
            rule([RBAC], roles, _MANAGE),
            # What it holds, and so may give away.
            rule(["*"], ["*"], _READ),
            {"nonResourceURLs": ["*"], "verbs": ["get"]},
        ]
    return []
