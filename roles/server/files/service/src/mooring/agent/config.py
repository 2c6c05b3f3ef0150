# SPDX-License-Identifier: Apache-2.0
"""What the agent is started with, and which API server that means.

It must not: fall back from one source of its credential to the other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mooring.kube.access import ApiServerConfig, from_kubeconfig, in_cluster
from mooring.kube.names import DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What `mooring agent` was started with."""

    kubeconfig: Path | None = None
    """None: the service account of the pod."""
    context: str | None = None
    """A context of the kubeconfig; None: its current one."""
    namespace: str = DEFAULT_NAMESPACE
    health_address: str = ""
    """Where /healthz and /readyz are served; empty: on every address of the pod."""
    health_port: int = 8080
    """0: not served at all."""
    drain_seconds: float = 10.0
    """How long open streams may go on after SIGTERM."""


def load(options: AgentOptions, environ: Mapping[str, str] | None = None) -> ApiServerConfig:
    """Finds the API server. Raises BadConfig (or its sibling `net.tls.BadTrust`)."""
    if options.kubeconfig is not None:
        return from_kubeconfig(options.kubeconfig, options.context)
    return in_cluster(os.environ if environ is None else environ)
