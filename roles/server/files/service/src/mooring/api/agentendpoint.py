# SPDX-License-Identifier: Apache-2.0
"""`POST /agents/endpoint`: an agent fetches the tokens for the endpoint of its own cluster, as signed documents.

Which cluster that is follows from the key that signed the JWT (`api/agentdoor.py`), never from anything that the
caller says: the body says only what of it the cluster has already.

It must not: open anything else to agents.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.params import JSONBody
from msgspec import Meta

from mooring.api import agentdoor
from mooring.api.access import PUBLIC, Deps
from mooring.api.agentpolicy import NOT_YET
from mooring.api.common import Input
from mooring.api.problems import later
from mooring.wire.endpoint import SHARDS

MEDIA_TYPE: Final = "application/msgpack"

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the body of a document.")]
Number = Annotated[str, Meta(pattern="^(0|[1-9][0-9]?)$", description="Of a shard.")]


class Held(Input):
    """What the cluster has: the digest of its index ("": none, or send it in any case), and those of its shards by
    their numbers."""

    digest: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$", description="SHA-256 of the body of the index.")] = ""
    have: Annotated[dict[Number, Digest], Meta(max_length=SHARDS)] = msgspec.field(default_factory=dict)


@post(
    "/agents/endpoint",
    opt=PUBLIC,
    status_code=200,
    media_type=MEDIA_TYPE,
    tags=["agents"],
    summary="The signed tokens for the endpoint of the cluster whose agent asks, by the JWT of its key",
    description="MessagePack: `index` is the signed index, `shards` has the signed shards of it that differ, by "
    "number. 204: the cluster has it all.",
)
async def fetch_endpoint(data: JSONBody[Held], services: Deps, request: Request[Any, Any, Any]) -> Response[bytes]:
    identity = agentdoor.admit(services, request)
    if not services.endpoints.digest(identity.cluster_id):
        raise later(503, "not_rendered", "there are no tokens for an endpoint of this cluster, or not yet", NOT_YET)
    have = {int(number): held for number, held in data.have.items()}
    found = await services.endpoints.documents(identity.cluster_id, have)
    if found is None:
        raise later(503, "not_rendered", "the tokens of this cluster's endpoint could not be made in time", NOT_YET)
    index, shards = found
    if not shards and data.digest == services.endpoints.digest(identity.cluster_id):
        return Response(b"", status_code=204, media_type=MEDIA_TYPE)
    return Response(msgspec.msgpack.encode({"index": index, "shards": shards}), media_type=MEDIA_TYPE)
