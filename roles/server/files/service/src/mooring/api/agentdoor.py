# SPDX-License-Identifier: Apache-2.0
"""Who of the agents asks: the JWT of a tunnel's handshake, shown to the REST API (docs/protocol/tunnel.md).

Which cluster that is follows from the key that signed it, never from anything that the caller says. It must not let
anything but such a JWT in, or one twice.
"""

from __future__ import annotations

import re
from typing import Any, Final

from litestar import Request

from mooring.api.access import source
from mooring.api.problems import unauthenticated
from mooring.api.services import Services
from mooring.authn.agents import AgentIdentity, AgentRefused
from mooring.lib import logging, metrics

_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9_.-]{1,4096})")
_log = logging.get("mooring.api.agents")


def admit(services: Services, request: Request[Any, Any, Any]) -> AgentIdentity:
    """Who asks. Raises 401."""
    match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if match is None:
        metrics.AGENT_REFUSED.labels("missing").inc()
        raise unauthenticated("the agent has shown no JWT")
    try:
        return services.agents.admit(match[1])
    except AgentRefused as error:
        metrics.AGENT_REFUSED.labels(error.cause).inc()
        _log.warning(
            "agent refused", cause=error.cause, reason=error.reason, cluster_id=error.cluster_id, source=source(request)
        )
        raise unauthenticated(str(error), "agent_refused") from None
