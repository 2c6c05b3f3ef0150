# SPDX-License-Identifier: Apache-2.0
"""The import manifest: what has to be in a downstream cluster for its agent to run and to connect.

A pure function from options to Kubernetes objects. It grants the agent the least that it needs: it may read its own
Secrets, look at nodes, and make tokens of one other service account, which may impersonate and nothing else. What it
may do to enforce policies is the profile's to say: nothing (`proxy-only`), give away reading (`read-only`), or give
away anything (`admin`, by the verbs `escalate` and `bind` of Kubernetes' RBAC). It must never hold a credential but
the one-time join token.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final, Literal

import yaml

from mooring.kube.names import DEFAULT_NAMESPACE, POLICY_NAME, POLICY_PARTS
from mooring.lib.profiles import DEFAULT_PROFILE, Profile
from mooring.lib.secrets import Secret
from mooring.lib.version import VERSION

Manifest = dict[str, Any]

DEFAULT_IMAGE: Final = f"mooring-agent:{VERSION}"
AGENT: Final = "mooring-agent"
IMPERSONATOR: Final = "mooring-impersonator"
JOIN_SECRET: Final = "mooring-join"  # noqa: S105 - the name of an object
IDENTITY_SECRET: Final = "mooring-agent-identity"  # noqa: S105 - the name of an object
ADMINS_BINDING: Final = "mooring-admins"
# Where the image runs: an unprivileged user that the Containerfile makes.
_UID: Final = 65532
_HEALTH_PORT: Final = 8080
_RBAC: Final = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOptions:
    """What goes into a manifest.

    `workload` is `none` when the agent runs outside of the cluster as a process. Without a `join_token` the join Secret
    is left out: an agent that has registered needs none, and the rest can be applied again and again without a change.
    """

    server_url: str
    ca_pem: str
    join_token: Secret | None
    cluster_name: str
    identity_prefix: str = "mooring:"
    namespace: str = DEFAULT_NAMESPACE
    image: str = DEFAULT_IMAGE
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    replicas: int = 1
    workload: Literal["deployment", "none"] = "deployment"
    admin_binding: bool = True
    profile: Profile = DEFAULT_PROFILE


def render(options: ManifestOptions) -> list[Manifest]:
    """The objects, in the order in which they can be applied. Applying them again changes only the join token."""
    objects = [
        _namespace(options),
        _service_account(options, AGENT, "Runs the agent."),
        _service_account(options, IMPERSONATOR, "Runs what comes from the server; it may impersonate only."),
        *([_join_secret(options, options.join_token)] if options.join_token is not None else []),
        *_agent_rules(options),
        *_impersonator_rules(options),
    ]
    if options.admin_binding:
        objects.append(_admin_binding(options))
    if options.workload == "deployment":
        objects += [_disruption_budget(options), _deployment(options)]
    return objects


def to_yaml(objects: list[Manifest]) -> str:
    """The objects as one YAML stream for `kubectl apply -f -`."""
    head = "# The Mooring agent.\n"
    if any(item["kind"] == "Secret" for item in objects):
        head = "# The Mooring agent. It holds a one-time join token: keep it to yourself until it is applied.\n"
    return head + yaml.safe_dump_all(objects, explicit_start=True, sort_keys=False, width=120)


def _labels() -> dict[str, str]:
    return {
        "app.kubernetes.io/name": AGENT,
        "app.kubernetes.io/part-of": "mooring",
        "app.kubernetes.io/version": VERSION,
    }


def _meta(name: str, namespace: str | None = None) -> Manifest:
    meta: Manifest = {"name": name, "labels": _labels()}
    if namespace is not None:
        meta["namespace"] = namespace
    return meta


def _namespace(options: ManifestOptions) -> Manifest:
    meta = _meta(options.namespace)
    for mode in ("enforce", "audit", "warn"):
        meta["labels"][f"pod-security.kubernetes.io/{mode}"] = "restricted"
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def _service_account(options: ManifestOptions, name: str, about: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {**_meta(name, options.namespace), "annotations": {"mooring.fleet/description": about}},
        # Pods get a token only where they ask for it: the agent's Deployment does.
        "automountServiceAccountToken": False,
    }


def _join_secret(options: ManifestOptions, token: Secret) -> Manifest:
    values = {
        "server_url": options.server_url,
        "ca.crt": options.ca_pem,
        "join_token": token.reveal(),
        "cluster_name": options.cluster_name,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _meta(JOIN_SECRET, options.namespace),
        "type": "Opaque",
        # `data`, not `stringData`: the API server gives it back unchanged, so applying it again shows no difference.
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def _role(kind: Literal["Role", "ClusterRole"], meta: Manifest, rules: list[Manifest]) -> Manifest:
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": meta, "rules": rules}


def _binding(kind: str, meta: Manifest, role: str, role_name: str, subject: Manifest) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": kind,
        "metadata": meta,
        "roleRef": {"apiGroup": _RBAC, "kind": role, "name": role_name},
        "subjects": [subject],
    }


def _account(options: ManifestOptions, name: str) -> Manifest:
    return {"kind": "ServiceAccount", "name": name, "namespace": options.namespace}


def _rule(groups: list[str], resources: list[str], verbs: list[str], names: list[str] | None = None) -> Manifest:
    rule: Manifest = {"apiGroups": groups, "resources": resources}
    if names is not None:
        rule["resourceNames"] = names
    return {**rule, "verbs": verbs}


_READ: Final = ["get", "list", "watch"]
_MANAGE: Final = [*_READ, "create", "update", "patch", "delete"]


def _agent_rules(options: ManifestOptions) -> list[Manifest]:
    role = _role(
        "Role",
        _meta(AGENT, options.namespace),
        [
            _rule([""], ["secrets"], ["get", "update", "patch"], [JOIN_SECRET, IDENTITY_SECRET]),
            # A create cannot be narrowed to a name: the API server does not know the name when it decides.
            _rule([""], ["secrets"], ["create"]),
            _rule([""], ["serviceaccounts/token"], ["create"], [IMPERSONATOR]),
            *([] if options.profile == "proxy-only" else _policy_rules_own()),
        ],
    )
    cluster_role = _role(
        "ClusterRole",
        _meta(AGENT),
        [
            _rule([""], ["nodes"], _READ),
            _rule([""], ["namespaces"], ["get"], ["kube-system"]),
            {"nonResourceURLs": ["/version", "/readyz", "/livez", "/healthz"], "verbs": ["get"]},
            *_policy_rules(options.profile),
        ],
    )
    account = _account(options, AGENT)
    return [
        role,
        _binding("RoleBinding", _meta(AGENT, options.namespace), "Role", AGENT, account),
        cluster_role,
        _binding("ClusterRoleBinding", _meta(AGENT), "ClusterRole", AGENT, account),
    ]


def _policy_rules_own() -> list[Manifest]:
    """In the agent's own namespace: where policies are kept, who of several agents applies them, and what it tells."""
    parts = [f"{POLICY_NAME}-{number}" for number in range(POLICY_PARTS)]
    return [
        _rule([""], ["secrets"], ["get", "update", "patch", "delete"], parts),
        _rule(["coordination.k8s.io"], ["leases"], ["create"]),
        _rule(["coordination.k8s.io"], ["leases"], ["get", "update", "patch"], [POLICY_NAME]),
        _rule(["events.k8s.io"], ["events"], ["create"]),
    ]


def _policy_rules(profile: Profile) -> list[Manifest]:
    """What enforcing policies takes in the whole cluster. Nobody can give away by RBAC what he does not hold, unless he
    has the verbs `escalate` (on roles) and `bind` (on what is bound)."""
    roles = ["clusterroles", "clusterrolebindings", "rolebindings"]
    if profile == "admin":
        return [
            _rule([_RBAC], roles, _MANAGE),
            _rule([_RBAC], ["clusterroles"], ["escalate", "bind"]),
            _rule([""], ["namespaces"], [*_READ, "create", "patch"]),  # never deleted
            _rule([""], ["resourcequotas", "limitranges"], _MANAGE),
            _rule(["networking.k8s.io"], ["networkpolicies"], _MANAGE),
        ]
    if profile == "read-only":
        return [
            _rule([_RBAC], roles, _MANAGE),
            # What it holds, and so may give away.
            _rule(["*"], ["*"], _READ),
            {"nonResourceURLs": ["*"], "verbs": ["get"]},
        ]
    return []


def _impersonator_rules(options: ManifestOptions) -> list[Manifest]:
    """Impersonate, and nothing else: a request that lost its headers on the way can do nothing at all."""
    cluster_role = _role(
        "ClusterRole",
        _meta(IMPERSONATOR),
        [
            # Service accounts for `kubectl --as=system:serviceaccount:...`: the agent asks the cluster first.
            {"apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"]},
            # uids and userextras/<key>. RBAC has no pattern for the keys; the verb means nothing on what else is there.
            {"apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["impersonate"]},
        ],
    )
    account = _account(options, IMPERSONATOR)
    return [
        cluster_role,
        _binding("ClusterRoleBinding", _meta(IMPERSONATOR), "ClusterRole", IMPERSONATOR, account),
    ]


def _admin_binding(options: ManifestOptions) -> Manifest:
    subject = {"apiGroup": _RBAC, "kind": "Group", "name": f"{options.identity_prefix}admins"}
    return _binding("ClusterRoleBinding", _meta(ADMINS_BINDING), "ClusterRole", "cluster-admin", subject)


def _selector() -> dict[str, str]:
    return {"app.kubernetes.io/name": AGENT}


def _disruption_budget(options: ManifestOptions) -> Manifest:
    """At most one agent goes at a time. Not `minAvailable: 1`: with one replica that would block every drain."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta(AGENT, options.namespace),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": _selector()},
        },
    }


def _leave_after_a_minute(taint: str) -> Manifest:
    key = f"node.kubernetes.io/{taint}"
    return {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}


def _probe(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": "health"}, "periodSeconds": 5, "timeoutSeconds": 3}


def _deployment(options: ManifestOptions) -> Manifest:
    container = {
        "name": "agent",
        "image": options.image,
        "imagePullPolicy": options.image_pull_policy,
        "args": ["agent", "--namespace", options.namespace],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "2", "memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "ports": [{"name": "health", "containerPort": _HEALTH_PORT}],
        # Ready means connected to the server. Not being ready never restarts it: the server may be away for long.
        "readinessProbe": _probe("/readyz"),
        "livenessProbe": {**_probe("/healthz"), "failureThreshold": 6},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod = {
        "serviceAccountName": AGENT,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # Control-plane nodes will do, and a node that is lost is left after a minute, not after five.
        "tolerations": [
            {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "CriticalAddonsOnly", "operator": "Exists"},
            _leave_after_a_minute("not-ready"),
            _leave_after_a_minute("unreachable"),
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _selector()},
            }
        ],
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(AGENT, options.namespace),
        "spec": {
            "replicas": options.replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": _selector()},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": _labels()}, "spec": pod},
        },
    }
