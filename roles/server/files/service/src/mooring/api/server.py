# SPDX-License-Identifier: Apache-2.0
"""The server itself."""

from __future__ import annotations

from litestar import get

from mooring.api.access import USER, Deps
from mooring.api.common import Output, time_text
from mooring.lib.version import VERSION


class Server(Output):
    version: str
    instance: str
    url: str
    identity_prefix: str
    ca_pem: str
    clusters_total: int
    clusters_connected: int
    started_at: str


@get("/server", opt=USER, tags=["server"], summary="Version, URL and CA of the server")
async def get_server(services: Deps) -> Server:
    clusters = services.index.clusters()
    settings = services.settings
    return Server(
        version=VERSION,
        instance=settings.instance,
        url=settings.url,
        identity_prefix=settings.identity_prefix,
        ca_pem=settings.ca_pem,
        clusters_total=len(clusters),
        clusters_connected=sum(cluster.state == "connected" for cluster in clusters),
        started_at=time_text(settings.started_at) or "",
    )
