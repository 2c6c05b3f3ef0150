# SPDX-License-Identifier: Apache-2.0
"""`GET /agents/policy`: an agent fetches the policy of its own cluster, as a signed bundle.

Which cluster that is follows from the key that signed the JWT, never from anything that the caller says: there is no
parameter. The JWT is the one of the tunnel's handshake (docs/protocol/tunnel.md), good once for both together. An agent
whose clock is off sees by how much in the `Date` that every answer has.

It must not: open anything else to agents.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.params import HeaderParameter

from mooring.api import agentdoor
from mooring.api.access import PUBLIC, Deps
from mooring.api.problems import later

MEDIA_TYPE: Final = "application/octet-stream"
NOT_YET: Final = 2.0  # seconds until an agent asks again for what is not rendered yet

IfNoneMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-None-Match", max_length=1024, description="Send it only if the ETag is another one.", required=False
    ),
]


@get(
    "/agents/policy",
    opt=PUBLIC,
    media_type=MEDIA_TYPE,
    tags=["agents"],
    summary="The signed policy of the cluster whose agent asks, by the JWT of its key",
)
async def fetch_policy(
    services: Deps, request: Request[Any, Any, Any], if_none_match: IfNoneMatch = None
) -> Response[bytes]:
    identity = agentdoor.admit(services, request)
    digest = services.policies.digest(identity.cluster_id)
    if not digest:
        raise later(503, "not_rendered", "the policy of this cluster is not rendered yet", NOT_YET)
    if if_none_match is not None and _tag(digest) in {tag.strip() for tag in if_none_match.split(",")}:
        return Response(b"", status_code=304, media_type=MEDIA_TYPE, headers={"ETag": _tag(digest)})
    bundle = await services.policies.bundle(identity.cluster_id)
    if bundle is None:
        raise later(503, "not_rendered", "the policy of this cluster could not be rendered in time", NOT_YET)
    return Response(bundle.data, media_type=MEDIA_TYPE, headers={"ETag": _tag(bundle.digest)})


def _tag(digest: str) -> str:
    return f'"{digest}"'
