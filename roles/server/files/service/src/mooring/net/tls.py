# SPDX-License-Identifier: Apache-2.0
"""TLS for the connections that we dial.

Why: the agent trusts its server, and its kube-apiserver, by the CA that it was given and by nothing else. A certificate
from a public authority for the same name is refused, because the system's roots are never loaded.
It must not: offer a way to switch verification off.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from mooring.lib.errors import MooringError


class BadTrust(MooringError):
    """The CA bundle or the client certificate cannot be used."""


def client_context(
    ca_pem: str,
    *,
    client_cert: Path | None = None,
    client_key: Path | None = None,
    alpn: Sequence[str] = ("http/1.1",),
) -> ssl.SSLContext:
    """A context that accepts only certificates issued by `ca_pem` (one or more PEM certificates), TLS 1.2 or newer.

    The name is checked. Raises BadTrust when a PEM part is missing or does not load.
    """
    if "-----BEGIN CERTIFICATE-----" not in ca_pem:
        raise BadTrust("the CA bundle holds no certificate", "give the PEM certificate of the authority to trust")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise BadTrust(f"the CA bundle cannot be read: {error}") from None
    if client_cert is not None:
        try:
            context.load_cert_chain(client_cert, client_key)
        except (ssl.SSLError, OSError) as error:
            raise BadTrust(f"the client certificate cannot be used: {error}") from None
    context.set_alpn_protocols(list(alpn))
    return context


def explain(error: BaseException) -> str:
    """One sentence on why a TLS connection failed, for logs and Status messages."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {getattr(error, 'reason', None) or error}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__
