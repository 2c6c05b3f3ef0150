# SPDX-License-Identifier: Apache-2.0
"""The chain's step for `kubectl --as`: whom a client wants to act as, and how that is written down.

Why: the server knows who the client is, and the cluster knows whether that user may act as another. So this step only
reads and bounds what is asked; the agent puts the question to its API server (`agent/acting.py`) before anything runs.

It must not: allow anything by itself, or let a name that holds a token go on to a log of this server or of a cluster.
"""

from __future__ import annotations

from mooring.lib.names import holds_token
from mooring.proxy.answers import Refused
from mooring.proxy.audit import ImpersonatedUser
from mooring.wire import actas
from mooring.wire.actas import ActAs, BadActAs
from mooring.wire.headers import Headers


def wanted(headers: Headers) -> ActAs:
    """The identity that the client's `Impersonate-*` headers name. Raises Refused."""
    try:
        identity = actas.read(headers)
    except BadActAs as error:
        raise Refused(error.status, f"impersonation (kubectl --as): {error.reason}") from None
    if any(holds_token(text) for text in identity.texts()):
        raise Refused(400, "impersonation (kubectl --as): a name holds a token; take it back, it has been shown")
    return identity


def recorded(identity: ActAs) -> ImpersonatedUser:
    """The identity as the audit log has it."""
    extra: dict[str, list[str]] = {}
    for key, value in identity.extra:
        extra.setdefault(key, []).append(value)
    return ImpersonatedUser(username=identity.user, uid=identity.uid, groups=identity.groups, extra=extra)


def too_old(cluster: str) -> Refused:
    """The answer when no agent of a cluster serves such requests."""
    return Refused(
        501,
        f'cluster "{cluster}" has an agent that does not know impersonation (kubectl --as, --as-group, --as-uid): '
        f"update it with the output of 'mooring cluster manifest {cluster}'",
    )
