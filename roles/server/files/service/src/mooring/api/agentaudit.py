# SPDX-License-Identifier: Apache-2.0
"""`POST /agents/audit`: an agent brings the audit records of its cluster's own endpoint.

Whose they are follows from the key that signed the JWT; what a record says of its cluster is not looked at. It must not
answer before the records are where `kill -9` does not reach them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, post
from litestar.params import HeaderParameter

from mooring.api import agentdoor
from mooring.api.access import PUBLIC, Deps
from mooring.api.problems import invalid, later, unauthenticated
from mooring.lib.ids import is_id

LARGEST: Final = 1024 * 1024
"""Bytes of a request."""
WAIT: Final = 5.0  # seconds until an agent asks again when records cannot be written
_NUMBER: Final = re.compile(r"[0-9]{1,15}")

JournalName = Annotated[
    str, HeaderParameter(name="Mooring-Journal", max_length=64, description="The name of the agent's journal.")
]
Offset = Annotated[
    str,
    HeaderParameter(
        name="Mooring-Offset", max_length=15, description="The number of the first byte of the body in the journal."
    ),
]


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """`taken`: lines that were written now; `offset`: everything of the journal before this number is in the log."""

    taken: int
    offset: int


@post(
    "/agents/audit",
    opt=PUBLIC | {"body": "application/x-ndjson"},
    status_code=200,
    tags=["agents"],
    summary="Audit records of the endpoint that a cluster serves itself, by the JWT of its agent's key",
    description="The body is NDJSON, at most 1 MiB, of whole lines. The same lines may be sent again.",
)
async def take_records(services: Deps, request: Request[Any, Any, Any], journal: JournalName, offset: Offset) -> Taken:
    identity = agentdoor.admit(services, request)
    cluster = services.index.cluster(identity.cluster_id)
    if cluster is None:
        raise unauthenticated("the cluster was deleted", "agent_refused")
    if not is_id(journal, "a"):
        raise invalid("Mooring-Journal", "is not the name of a journal")
    if _NUMBER.fullmatch(offset) is None:
        raise invalid("Mooring-Offset", "is not a number of bytes")
    body = await request.body()
    if len(body) > LARGEST or not body.endswith(b"\n"):
        raise invalid("body", "must be whole lines, at most 1 MiB")
    taken = await services.audit.take(cluster, journal, int(offset), body)
    if taken is None:
        raise later(503, "not_recorded", "audit records cannot be written just now", WAIT)
    return Taken(taken=taken[0], offset=taken[1])
