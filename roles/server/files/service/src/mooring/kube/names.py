# SPDX-License-Identifier: Apache-2.0
"""Names of objects that the manifest makes or allows and the agent uses. Alone in a module, since the agent's image
does not have what the manifest is written with."""

from __future__ import annotations

from typing import Final

DEFAULT_NAMESPACE: Final = "mooring-system"
"""Where the objects of an agent are."""
AGENT: Final = "mooring-agent"
"""The service account of the agent, and its Deployment."""
IMPERSONATOR: Final = "mooring-impersonator"
"""The service account that what comes through the tunnel runs as."""
JOIN_SECRET: Final = "mooring-join"  # noqa: S105 - the name of an object
IDENTITY_SECRET: Final = "mooring-agent-identity"  # noqa: S105 - the name of an object
POLICY_NAME: Final = "mooring-policy"
"""The Lease of the agent that applies policies, and the beginning of the names of the Secrets that keep them."""
POLICY_PARTS: Final = 16
"""Secrets that a policy may be kept in: `mooring-policy-0` and so on. RBAC has no pattern for names."""
ENDPOINT_NAME: Final = "mooring-endpoint"
"""The Secret with the index of an endpoint's tokens, and the Lease of the agent that writes it and its shards, the
Secrets `mooring-endpoint-0` and so on."""
ENDPOINT_TLS: Final = "mooring-endpoint-tls"
"""The Secret with the certificate of an endpoint that the agent serves."""
API_AUTH: Final = "mooring-kube-api-auth"
"""The service account of kube-api-auth, and the role that lets it read an endpoint's tokens."""


def shard_name(number: int) -> str:
    """The Secret of a shard of an endpoint's tokens."""
    return f"{ENDPOINT_NAME}-{number}"
