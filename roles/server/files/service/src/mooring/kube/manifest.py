# SPDX-License-Identifier: Apache-2.0
"""The import manifest: what has to be in a downstream cluster for its agent to run and to connect.

A pure function from options to Kubernetes objects. What it lets each service account do is in `mooring.kube.rights`. It
must never hold a credential but the one-time join token.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final, Literal

import yaml

from mooring.kube.names import AGENT, DEFAULT_NAMESPACE, ENDPOINT_NAME, IMPERSONATOR, JOIN_SECRET
from mooring.kube.objects import RBAC, Manifest, binding, labels, meta, service_account
from mooring.kube.rights import agent_rules, api_auth_rules, impersonator_rules
from mooring.lib.profiles import DEFAULT_PROFILE, Profile
from mooring.lib.secrets import Secret
from mooring.lib.version import VERSION

DEFAULT_IMAGE: Final = f"mooring-agent:{VERSION}"
ADMINS_BINDING: Final = "mooring-admins"
# Where the image runs: an unprivileged user that the Containerfile makes.
_UID: Final = 65532
_HEALTH_PORT: Final = 8080
_ENDPOINT_PORT: Final = 8443
_STATE: Final = "/var/lib/mooring-agent"
"""Where audit records of the endpoint wait for the server, and the copy of its tokens."""


ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOptions:
    """What goes into a manifest.

    `workload` is `none` when the agent runs outside of the cluster as a process. Without a `join_token` the join Secret
    is left out: an agent that has registered needs none, and the rest can be applied again and again without a change.

    `endpoint` is how the cluster's authorized endpoint works, empty where it has none. With `webhook` the account of
    kube-api-auth is made. With `agent` the agent serves it: on a Service of the type `service` (`node_port`: which port
    of the nodes, 0: any), with a certificate for `names`, which people reach at `url`.
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
    endpoint: Literal["", "webhook", "agent"] = ""
    service: ServiceType = "ClusterIP"
    node_port: int = 0
    names: tuple[str, ...] = ()
    url: str = ""


def render(options: ManifestOptions) -> list[Manifest]:
    """The objects, in the order in which they can be applied. Applying them again changes only the join token."""
    objects = [
        _namespace(options),
        service_account(options.namespace, AGENT, "Runs the agent."),
        service_account(options.namespace, IMPERSONATOR, "Runs what comes from the server; it may impersonate only."),
        *([_join_secret(options, options.join_token)] if options.join_token is not None else []),
        *agent_rules(options.namespace, options.profile, serves=options.endpoint == "agent"),
        *impersonator_rules(options.namespace),
    ]
    if options.endpoint == "webhook":
        objects += api_auth_rules(options.namespace)
    if options.admin_binding:
        objects.append(_admin_binding(options))
    if options.workload == "deployment":
        if options.endpoint == "agent":
            objects.append(_endpoint_service(options))
        objects += [_disruption_budget(options), _deployment(options)]
    return objects


def to_yaml(objects: list[Manifest]) -> str:
    """The objects as one YAML stream for `kubectl apply -f -`."""
    head = "# The Mooring agent.\n"
    if any(item["kind"] == "Secret" for item in objects):
        head = "# The Mooring agent. It holds a one-time join token: keep it to yourself until it is applied.\n"
    return head + yaml.safe_dump_all(objects, explicit_start=True, sort_keys=False, width=120)


def _namespace(options: ManifestOptions) -> Manifest:
    metadata = meta(options.namespace)
    for mode in ("enforce", "audit", "warn"):
        metadata["labels"][f"pod-security.kubernetes.io/{mode}"] = "restricted"
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


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
        "metadata": meta(JOIN_SECRET, options.namespace),
        "type": "Opaque",
        # `data`, not `stringData`: the API server gives it back unchanged, so applying it again shows no difference.
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def _admin_binding(options: ManifestOptions) -> Manifest:
    group = {"apiGroup": RBAC, "kind": "Group", "name": f"{options.identity_prefix}admins"}
    return binding("ClusterRoleBinding", meta(ADMINS_BINDING), "ClusterRole", "cluster-admin", group)


def _selector() -> dict[str, str]:
    return {"app.kubernetes.io/name": AGENT}


def _disruption_budget(options: ManifestOptions) -> Manifest:
    """At most one agent goes at a time. Not `minAvailable: 1`: with one replica that would block every drain."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta(AGENT, options.namespace),
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


def _endpoint_service(options: ManifestOptions) -> Manifest:
    """The way to the endpoint that the agent serves. An agent without a session to the server is not ready, and just
    then people need the endpoint: what is not ready is published all the same."""
    port: Manifest = {"name": "https", "port": 443, "targetPort": "endpoint", "protocol": "TCP"}
    if options.node_port and options.service != "ClusterIP":
        port["nodePort"] = options.node_port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(ENDPOINT_NAME, options.namespace),
        "spec": {
            "type": options.service,
            "selector": _selector(),
            "ports": [port],
            "publishNotReadyAddresses": True,
        },
    }


def _serve_endpoint(options: ManifestOptions, container: Manifest, pod: Manifest) -> None:
    """What the agent's pod needs to serve the endpoint."""
    container["args"] += ["--endpoint-listen", f":{_ENDPOINT_PORT}", "--endpoint-dir", _STATE]
    if options.names:
        container["args"] += ["--endpoint-names", ",".join(options.names)]
    if options.url:
        container["args"] += ["--endpoint-url", options.url]
    container["ports"].append({"name": "endpoint", "containerPort": _ENDPOINT_PORT})
    container["volumeMounts"] = [{"name": "state", "mountPath": _STATE}]
    container["resources"]["limits"]["memory"] = "512Mi"
    # Bounded by the agent itself, well below this: a pod above its limit would be evicted, with its records.
    pod["volumes"] = [{"name": "state", "emptyDir": {"sizeLimit": "256Mi"}}]


def _deployment(options: ManifestOptions) -> Manifest:
    container: Manifest = {
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
    pod: Manifest = {
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
    if options.endpoint == "agent":
        _serve_endpoint(options, container, pod)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(AGENT, options.namespace),
        "spec": {
            "replicas": options.replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": _selector()},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels()}, "spec": pod},
        },
    }
