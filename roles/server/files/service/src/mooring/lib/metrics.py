# SPDX-License-Identifier: Apache-2.0
"""Every metric of the service, declared in one place, in a registry of our own.

Labels must have few values: a cluster, user or path is never a label, since their number has no bound.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from mooring.lib.tallies import Spread, Tallies
from mooring.lib.version import VERSION

REGISTRY: Final = CollectorRegistry(auto_describe=True)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

ProcessCollector(registry=REGISTRY)
Info("mooring_build", "The version of this build.", registry=REGISTRY).info({"version": VERSION})

EDGE_CONNECTIONS = Gauge("mooring_edge_connections", "Open client connections.", registry=REGISTRY)
EDGE_REFUSED = Counter(
    "mooring_edge_refused_total", "Malformed requests, by the status that they got.", ["reason"], registry=REGISTRY
)
BOUND_REFUSED = Counter(
    "mooring_bound_refused_total",
    "What was refused, cut or closed at a bound or deadline, by the bound's name (docs/edge.md).",
    ["bound"],
    registry=REGISTRY,
)
EDGE_HANDSHAKES = Gauge("mooring_edge_handshakes", "TLS handshakes under way.", registry=REGISTRY)
HTTP_REQUESTS = Tallies(
    "mooring_http_requests_total",
    "Requests by route (proxy, api, tunnel, own) and status.",
    ["route", "code"],
    registry=REGISTRY,
)
PROXY_SECONDS = Spread(
    "mooring_proxy_response_seconds",
    "Time until the head of a proxied response, in seconds.",
    bounds=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=REGISTRY,
)
PROXY_OPEN = Gauge("mooring_proxy_exchanges_open", "Proxied exchanges in flight, watches included.", registry=REGISTRY)
PROXY_ENDLESS = Gauge(
    "mooring_proxy_endless_open", "Open watches, followed logs and upgraded connections.", registry=REGISTRY
)
PROXY_CUT = Counter(
    "mooring_proxy_cut_total", "Open exchanges ended because a right was taken away.", ["reason"], registry=REGISTRY
)
TUNNEL_SESSIONS = Gauge("mooring_tunnel_sessions", "Live tunnel sessions.", registry=REGISTRY)
TUNNEL_STREAMS = Gauge("mooring_tunnel_streams", "Open tunnel streams.", registry=REGISTRY)
TUNNEL_BYTES = Counter(
    "mooring_tunnel_bytes_total", "Bytes of frames moved, by direction (in, out).", ["direction"], registry=REGISTRY
)
TUNNEL_ENDED = Counter(
    "mooring_tunnel_sessions_ended_total", "Sessions that ended, by code.", ["code"], registry=REGISTRY
)
AGENT_REFUSED = Counter(
    "mooring_agent_refused_total", "Agents refused at the handshake, by reason.", ["reason"], registry=REGISTRY
)
LOGINS = Counter("mooring_logins_total", "Logins by result (ok, refused, delayed).", ["result"], registry=REGISTRY)
AUTH_FAILURES = Counter(
    "mooring_auth_failures_total", "Requests without a valid token, by reason.", ["reason"], registry=REGISTRY
)
AUDIT_RECORDS = Counter("mooring_audit_records_total", "Audit records written.", registry=REGISTRY)
AUDIT_FAILURES = Counter("mooring_audit_failures_total", "Audit writes that failed.", registry=REGISTRY)
AUDIT_QUEUED = Gauge("mooring_audit_queued", "Audit records waiting to be written.", registry=REGISTRY)

POLICY_CLUSTERS = Gauge(
    "mooring_policy_clusters",
    "Clusters by how their policy stands (unknown, pending, applied, failing, unmanaged).",
    ["state"],
    registry=REGISTRY,
)
POLICY_LAG = Gauge(
    "mooring_policy_lag_seconds",
    "The longest time for which a connected cluster has not had the policy that is wanted, in seconds.",
    registry=REGISTRY,
)
POLICY_APPLY_SECONDS = Histogram(
    "mooring_policy_apply_seconds",
    "Time from a commit until a connected agent said that it is applied, in seconds.",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
POLICY_RENDER_SECONDS = Histogram(
    "mooring_policy_render_seconds",
    "Time to render, sign and pack the policy of one cluster, in seconds.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
POLICY_RENDER_FAILURES = Counter(
    "mooring_policy_render_failures_total", "Policies that could not be rendered; tried again.", registry=REGISTRY
)
POLICY_ERRORS = Gauge(
    "mooring_policy_errors", "Objects of policies that agents could not apply, as they last said.", registry=REGISTRY
)
POLICY_HEALED = Counter(
    "mooring_policy_healed_total",
    "Objects of policies that were changed past Mooring in a cluster and put right by its agent.",
    registry=REGISTRY,
)

KUBE_API_AUTH_REVIEWS = Counter(
    "mooring_kube_api_auth_reviews_total",
    "Reviews by kind (token, access, none) and result: ok, or why somebody was not let in.",
    ["kind", "result"],
    registry=REGISTRY,
)
KUBE_API_AUTH_TOKENS = Gauge(
    "mooring_kube_api_auth_tokens", "Tokens of the endpoint in the local copy.", registry=REGISTRY
)
KUBE_API_AUTH_REVISION = Gauge(
    "mooring_kube_api_auth_revision", "Revision of the local copy; -1: there is none.", registry=REGISTRY
)
KUBE_API_AUTH_BEHIND = Gauge(
    "mooring_kube_api_auth_clock_behind_seconds",
    "By how much the machine's clock is behind a time that was seen before.",
    registry=REGISTRY,
)
KUBE_API_AUTH_SILENCE = Gauge(
    "mooring_kube_api_auth_silence_seconds",
    "Seconds since the cluster's API server was last heard; -1: never.",
    registry=REGISTRY,
)

ENDPOINT_TOKENS = Gauge(
    "mooring_endpoint_tokens", "Tokens for the endpoints of clusters that are kept ready.", registry=REGISTRY
)
ENDPOINT_BEHIND = Gauge(
    "mooring_endpoint_clusters_behind",
    "Connected clusters that are not known to have the tokens that their endpoint is to have.",
    registry=REGISTRY,
)
ENDPOINT_DELIVER_SECONDS = Histogram(
    "mooring_endpoint_deliver_seconds",
    "Time from a commit until a connected agent said that its endpoint has the tokens, in seconds.",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5, 10, 30, 60),
    registry=REGISTRY,
)
ENDPOINT_RENDER_SECONDS = Histogram(
    "mooring_endpoint_render_seconds",
    "Time to make, sign and pack one shard of the tokens of an endpoint, in seconds.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=REGISTRY,
)
ENDPOINT_RENDER_FAILURES = Counter(
    "mooring_endpoint_render_failures_total",
    "Tokens of endpoints that could not be made; tried again.",
    registry=REGISTRY,
)


def render() -> bytes:
    """All metrics in the Prometheus text format, to be served with CONTENT_TYPE."""
    return generate_latest(REGISTRY)
