# SPDX-License-Identifier: Apache-2.0
"""The certificate that the endpoint shows: the cluster's own, in a Secret, given by somebody or made by the agent.

    Secret mooring-endpoint-tls    tls.crt, tls.key, ca.crt     given: cert-manager, or a person
                                   and ca.key                   made: by an authority of the agent's own

What somebody gave is shown as it is, and never written to. What the agent made has a mark; its authority stays, and the
certificate is made anew before it ends or when the names change. Several replicas share it: who writes second reads
what the first one wrote.

It must not: put a private key on a disk, or show a certificate that it was not given and did not make.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mooring.edge.listener import bare_context
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.kube.names import ENDPOINT_TLS
from mooring.lib import logging, pki
from mooring.lib.clock import Clock
from mooring.lib.errors import MooringError
from mooring.lib.pki import RENEW_DAYS, CertificateError
from mooring.lib.secrets import Secret
from mooring.net.fetch import FetchError

MADE: Final = "mooring.fleet/made-by"
"""The annotation of a Secret that the agent made."""
MAKER: Final = "mooring-agent"
EVERY: Final = 30.0
"""Seconds between two looks at the Secret."""
_FAILURES: Final = (KubeError, FetchError, BadConfig, MooringError)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the endpoint shows, and the CA that clients must trust; the key has a redacted form."""

    certificate: str
    key: Secret
    ca: str


class Keeper:
    """Keeps `context` as the Secret is. `first`, then `run`."""

    def __init__(
        self,
        kube: KubeApi,
        namespace: str,
        names: Sequence[str],
        clock: Clock,
        changed: Callable[[Shown], None] = lambda shown: None,
    ) -> None:
        """`changed` is called with each certificate that is shown from then on."""
        self._kube = kube
        self._namespace = namespace
        self._path = f"/api/v1/namespaces/{namespace}/secrets"
        self._names = tuple(dict.fromkeys(names))
        self._clock = clock
        self._changed = changed
        self._log = logging.get("mooring.endpoint")
        self.context = bare_context()
        self.shown: Shown | None = None
        self.problem = ""
        """Why the Secret cannot be used; the certificate from before stays in use."""

    async def first(self, wait: Callable[[], float]) -> None:
        """Returns when there is a certificate. `wait`: seconds until the next attempt."""
        while self.shown is None:
            await self.look()
            if self.shown is None:
                await asyncio.sleep(wait())

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.look()

    async def look(self) -> None:
        """Read the Secret; make it, or what it holds, where that is ours to do. What is wrong there is not raised."""
        try:
            found = await self._current()
            if found != self.shown:
                load(self.context, found)
                self.shown = found
                self._log.info("certificate in use", valid_until=pki.inspect(found.certificate).not_after.isoformat())
                self._changed(found)
        except (*_FAILURES, OSError) as error:
            if str(error) != self.problem:
                self._log.error("the certificate of the endpoint cannot be had", secret=ENDPOINT_TLS, reason=str(error))
            self.problem = str(error)
        else:
            self.problem = ""

    async def _current(self) -> Shown:
        try:
            secret = await self._kube.json("GET", f"{self._path}/{ENDPOINT_TLS}")
        except KubeError as error:
            if error.status != 404:
                raise
            return await self._write("POST", self._path, *self._authority(), "")
        data = _text(secret)
        if (secret.get("metadata") or {}).get("annotations", {}).get(MADE) != MAKER:
            return self._given(data)
        shown = Shown(data.get("tls.crt", ""), Secret(data.get("tls.key", "")), data.get("ca.crt", ""))
        if self._good(shown):
            return shown
        ca, key = data.get("ca.crt", ""), Secret(data.get("ca.key", ""))
        if not self._authority_good(ca, key):
            self._log.warning("the endpoint's own authority cannot be used any more; clients need the new CA")
            ca, key = self._authority()
        version = str((secret.get("metadata") or {}).get("resourceVersion", ""))
        return await self._write("PUT", f"{self._path}/{ENDPOINT_TLS}", ca, key, version)

    def _given(self, data: Mapping[str, str]) -> Shown:
        certificate, key = data.get("tls.crt", ""), Secret(data.get("tls.key", ""))
        if not certificate or not key.reveal():
            raise MooringError(f"the Secret {ENDPOINT_TLS} has no tls.crt and tls.key", "or delete it: one is made")
        left = pki.inspect(certificate).days_left(self._clock.now())
        if left <= 0:
            raise MooringError(f"the certificate in the Secret {ENDPOINT_TLS} has ended", "renew it where it came from")
        return Shown(certificate, key, data.get("ca.crt", ""))

    def _good(self, shown: Shown) -> bool:
        try:
            leaf = pki.inspect(shown.certificate)
            names = set(self._names) <= set(leaf.names)
            now = self._clock.now()
            wrong = pki.problems(shown.certificate, shown.key, shown.ca, self._names[0], now)
        except CertificateError:
            return False
        return names and not wrong and leaf.days_left(now) > RENEW_DAYS

    def _authority_good(self, ca: str, key: Secret) -> bool:
        try:
            if pki.inspect(ca).days_left(self._clock.now()) <= RENEW_DAYS:
                return False
            pki.make_server_certificate(ca, key, self._names[:1], self._clock.now())
        except (CertificateError, ValueError, TypeError):
            return False
        return True

    def _authority(self) -> tuple[str, Secret]:
        return pki.make_ca("Mooring endpoint CA", self._clock.now())

    async def _write(self, method: str, path: str, ca: str, ca_key: Secret, version: str) -> Shown:
        certificate, key = pki.make_server_certificate(ca, ca_key, self._names, self._clock.now())
        meta: dict[str, Any] = {
            "name": ENDPOINT_TLS,
            "namespace": self._namespace,
            "labels": {"app.kubernetes.io/name": MAKER, "app.kubernetes.io/part-of": "mooring"},
            "annotations": {MADE: MAKER},
        }
        if version:
            meta["resourceVersion"] = version
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": meta,
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate, "tls.key": key.reveal(), "ca.crt": ca, "ca.key": ca_key.reveal()},
        }
        try:
            await self._kube.json(method, path, body)
        except KubeError as error:
            if error.status != 409:
                raise
            return await self._current()  # another replica was faster
        self._log.info("a certificate was made for the endpoint", names=self._names)
        return Shown(certificate, key, ca)


def load(context: ssl.SSLContext, shown: Shown) -> None:
    """Show this certificate on connections from now on. OpenSSL reads files only; these are in memory, and nameless.
    Raises OSError (ssl.SSLError is one) for a pair that does not fit."""
    opened: list[int] = []
    try:
        for text in (shown.certificate, shown.key.reveal()):
            opened.append(os.memfd_create("mooring", os.MFD_CLOEXEC))
            os.write(opened[-1], text.encode())
        context.load_cert_chain(*(f"/proc/self/fd/{number}" for number in opened))
    finally:
        for number in opened:
            os.close(number)


def _text(secret: dict[str, Any]) -> dict[str, str]:
    try:
        return {str(k): base64.b64decode(str(v), validate=True).decode() for k, v in (secret.get("data") or {}).items()}
    except (binascii.Error, UnicodeDecodeError, AttributeError):
        raise MooringError(f"the Secret {ENDPOINT_TLS} holds what is not text") from None
