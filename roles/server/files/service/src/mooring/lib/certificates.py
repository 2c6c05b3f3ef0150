# SPDX-License-Identifier: Apache-2.0
"""The certificate files that a configuration names: reading, checking and renewing them.

Renewing needs the key of the server's own CA (`tls.ca_key`); a certificate that the user brought is never touched.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from mooring.lib import pki
from mooring.lib.config import Config
from mooring.lib.files import write_atomic
from mooring.lib.pki import CertificateError
from mooring.lib.secrets import Secret


def read(path: str, setting: str) -> str:
    """The text of a PEM file. Raises CertificateError, which names the setting."""
    try:
        return Path(path).read_text("ascii")
    except OSError as error:
        raise CertificateError(
            f"the file of '{setting}' cannot be read: {error}", "check its path, owner and mode"
        ) from None
    except UnicodeDecodeError:
        raise CertificateError(f"the file of '{setting}', {path}, is not PEM", "convert it with openssl") from None


def ca_bundle(config: Config) -> str:
    """The CA that agents and kubeconfigs trust, as PEM. Raises CertificateError."""
    pem = read(config.tls.ca, "tls.ca")
    pki.inspect(pem, f"{config.tls.ca} (tls.ca)")
    return pem


def exposed(config: Config) -> list[tuple[str, str]]:
    """Private keys that anybody on the machine may read or write, as pairs of problem and remedy.

    The owner and the group of a file may: a key that another program renews is often root's, readable by our group.
    """
    found = []
    for setting, path in (("tls.key", config.tls.key), ("tls.ca_key", config.tls.ca_key)):
        try:
            mode = Path(path).stat().st_mode if path else 0
        except OSError:
            continue  # whoever reads it says so
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            found.append(
                (
                    f"the private key {path} ({setting}) is open to every user of this machine (mode {mode & 0o777:o})",
                    f"run: chmod o-rwx {path}; and if others use this machine, replace the key",
                )
            )
    return found


def problems(config: Config, now: float) -> list[tuple[str, str]]:
    """What is wrong with the configured certificate and its key, as pairs of problem and remedy.

    Raises CertificateError.
    """
    return exposed(config) + pki.problems(
        read(config.tls.cert, "tls.cert"),
        Secret(read(config.tls.key, "tls.key")),
        read(config.tls.ca, "tls.ca"),
        urlsplit(config.url).hostname or "",
        now,
    )


def days_left(config: Config, now: float) -> float:
    """How long the server's certificate is still valid, in days. Raises CertificateError."""
    return pki.inspect(read(config.tls.cert, "tls.cert")).days_left(now)


def renew(config: Config, more_names: Sequence[str], now: float) -> datetime:
    """Replaces the certificate and its key by new ones with the same names and `more_names`; returns the new end.

    Raises CertificateError when the server has no CA of its own.
    """
    if not config.tls.ca_key:
        raise CertificateError(
            "this server's certificate is not from its own CA (tls.ca_key is empty)",
            "renew it where it came from, put the files in place and send the server SIGHUP",
        )
    old = pki.inspect(read(config.tls.cert, "tls.cert"))
    names = list(dict.fromkeys([*old.names, *more_names]))
    ca_pem = read(config.tls.ca, "tls.ca")
    certificate, key = pki.make_server_certificate(ca_pem, Secret(read(config.tls.ca_key, "tls.ca_key")), names, now)
    # The key first: a crash between the two leaves a pair that does not match, which start-up reports and renews.
    write_atomic(Path(config.tls.key), key.reveal())
    write_atomic(Path(config.tls.cert), certificate, 0o644)
    return pki.inspect(certificate).not_after
