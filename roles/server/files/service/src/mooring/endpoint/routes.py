# SPDX-License-Identifier: Apache-2.0
"""Every path of the endpoint goes to the chain. It must not answer anything by itself, so that nothing is open to who
shows no token: not even a version, or whether it works."""

from __future__ import annotations

from mooring.lib import metrics
from mooring.proxy.answers import Refused, refuse
from mooring.proxy.chain import Chain
from mooring.proxy.ports import Client, Handler
from mooring.wire.headers import has_dot_segments
from mooring.wire.http1_request import Request


class Routes:
    """What the listener asks."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def handle(self, client: Client, request: Request) -> Handler | None:
        """Take a request. None: it has been answered."""
        target = request.head.target
        if (b"/." in target or b"%2" in target) and has_dot_segments(target):
            metrics.HTTP_REQUESTS.labels("own", "400").inc()
            refuse(client, Refused(400, "a path with '.' or '..' segments is not taken; write it without"))
            return None
        return self._chain.handle(client, request)
