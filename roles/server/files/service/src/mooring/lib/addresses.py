# SPDX-License-Identifier: Apache-2.0
"""Who counts as one address.

Why: a host with IPv6 has 2**64 addresses for the asking, so that bounds "per address" count its /64 (RFC 6177, RFC
4291 section 2.5.4). It must not be used for what people read: logs and the audit log have the address itself.
"""

from __future__ import annotations

import socket

_MAPPED = b"\0" * 10 + b"\xff\xff"


def bucket(address: str) -> str:
    """The key that bounds count an address by: an IPv4 address itself, also one mapped into IPv6; an IPv6 /64."""
    if ":" not in address:
        return address
    try:
        raw = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return address
    if raw.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw[:8] + bytes(8)) + "/64"
