# SPDX-License-Identifier: Apache-2.0
"""The impersonator's token: what every request that comes through the tunnel runs with.

The agent asks its API server for a short-lived token (TokenRequest) of the service account `mooring-impersonator`,
which may impersonate and nothing else, and renews it at 80 % of its life or when the API server refuses it.

It must not: store the token, send it anywhere but to the own API server, or hand out one that has expired. Without a
valid token there is none: streams are refused with CREDENTIAL.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.secrets import Secret
from mooring.net.fetch import FetchError

SERVICE_ACCOUNT: Final = "mooring-impersonator"
LIFE = 3600
"""Seconds that we ask for; the API server may give less or more."""
RENEW_AT: Final = 0.8
"""Part of its life after which a token is renewed."""
RETRY_FIRST, RETRY_MOST = 1.0, 30.0
"""Seconds between attempts to get one."""
MIN_INTERVAL = 5.0
"""Seconds between two tokens, also when each is refused."""


class Credential:
    """Holds the current token and renews it."""

    def __init__(self, kube: KubeApi, namespace: str, clock: Clock) -> None:
        self._kube = kube
        self._path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{SERVICE_ACCOUNT}/token"
        self._clock = clock
        self._log = logging.get("mooring.agent.credential")
        self._token: Secret | None = None
        self._expires = 0.0
        self._asked = 0.0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self.problem = "the agent has not yet got a token of the service account mooring-impersonator"
        """Why there is no token, for people."""

    def current(self) -> Secret | None:
        """The token, or None when there is no valid one."""
        if self._token is not None and self._clock.monotonic() >= self._expires:
            self._token = None
            self.problem = f"the token of {SERVICE_ACCOUNT} has expired and could not be renewed: {self.problem}"
        return self._token

    def rejected(self, token: Secret) -> None:
        """The API server does not accept this token: it is not handed out again, and another is asked for now."""
        if self._token is not None and self._token == token:
            self._log.warning("kube-apiserver refuses the impersonator's token; asking for another")
            self._token = None
            self.problem = "kube-apiserver refuses the token of the service account mooring-impersonator"
            self._wanted.set()

    async def other_than(self, token: Secret, deadline: float) -> Secret | None:
        """Waits at most `deadline` seconds for a token that is not `token`."""
        try:
            async with asyncio.timeout(deadline):
                while (now := self.current()) is None or now == token:
                    self._changed.clear()
                    await self._changed.wait()
                return now
        except TimeoutError:
            return None

    async def run(self) -> None:
        """Gets and renews the token until cancelled."""
        delay = RETRY_FIRST
        while True:
            self._wanted.clear()
            try:
                life = await self._renew()
            except (KubeError, FetchError, BadConfig) as error:
                self.problem = error.reason
                self._log.error("no token for the impersonator", reason=error.reason, retry_seconds=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MOST)
                continue
            delay = RETRY_FIRST
            try:
                async with asyncio.timeout(life * RENEW_AT):
                    await self._wanted.wait()
            except TimeoutError:
                continue  # it is time to renew
            # An API server that refuses every token is not asked without end.
            await asyncio.sleep(max(0.0, self._asked + MIN_INTERVAL - self._clock.monotonic()))

    async def _renew(self) -> float:
        """Asks for a token; returns its life in seconds."""
        self._asked = asked = self._clock.monotonic()
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": LIFE},
        }
        answer = await self._kube.json("POST", self._path, body)
        token, life = _read(answer)
        # Counted from before the call on our own clock: the two clocks need not agree, and we expire early, never late.
        self._token, self._expires = token, asked + life
        self.problem = ""
        self._changed.set()
        self._log.info("got a token for the impersonator", life_seconds=life)
        return life


def _read(answer: dict[str, Any]) -> tuple[Secret, float]:
    """Token and life in seconds. Raises KubeError for an answer without them."""
    status, spec = answer.get("status"), answer.get("spec")
    token = status.get("token") if isinstance(status, dict) else None
    life = spec.get("expirationSeconds") if isinstance(spec, dict) else None
    if not isinstance(token, str) or not token or not isinstance(life, int) or life <= 0:
        raise KubeError(502, "kube-apiserver answered a TokenRequest without a token")
    return Secret(token), float(life)
