# SPDX-License-Identifier: Apache-2.0
"""How the endpoint is served: address, names, audit records, bounds.

The bounds are those of the server by name (`limits.*`, docs/edge.md), with defaults for a small process. It must not
hold a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from mooring.lib.config import LimitsSection
from mooring.lib.errors import MooringError

DEFAULTS: Final[dict[str, int]] = {
    "max_connections": 1_000,
    "max_connections_per_address": 500,
    "max_connections_per_user": 300,
    "max_handshakes": 200,
    "max_handshakes_per_address": 100,
    "handshakes_per_address": 3_000,
    "max_streams_per_cluster": 800,
    "max_streams_per_user": 300,
    "max_streams_per_user_and_cluster": 300,
}
"""What differs from the server's."""
NOT_HERE: Final = ("api_", "max_api_")
"""Limits that begin so are of the REST API, which is not here."""
AUDIT_MIB: Final = 64
MIB: Final = 1024 * 1024


def limits(given: Sequence[str] = ()) -> LimitsSection:
    """The bounds, `given` as NAME=VALUE. Raises MooringError."""
    names = [f.name for f in msgspec.structs.fields(LimitsSection) if not f.name.startswith(NOT_HERE)]
    values: dict[str, Any] = dict(DEFAULTS)
    for text in given:
        name, equals, value = text.partition("=")
        if name not in names or not equals:
            raise MooringError(
                f"{text!r} is not a limit of the endpoint", f"NAME=VALUE, with one of: {', '.join(names)}"
            )
        values[name] = value
    try:
        return msgspec.convert(values, LimitsSection, strict=False)
    except msgspec.ValidationError as error:
        raise MooringError(f"a limit of the endpoint cannot be used: {error}", "see docs/edge.md for each") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """What `mooring agent --endpoint-...` says."""

    host: str
    """Where to listen; empty: on every address."""
    port: int
    names: tuple[str, ...] = ()
    """DNS names and addresses for a certificate that the agent makes."""
    url: str = ""
    """Where clients reach it; told to the server."""
    folder: Path
    """For audit records that wait for the server, and the local copy."""
    audit_limit: int = AUDIT_MIB * MIB
    """Bytes of audit records on disk at which nothing new is accepted."""
    audit_required: bool = True
    limits: LimitsSection = field(default_factory=limits)
