# SPDX-License-Identifier: Apache-2.0
"""Secrets of one namespace as names and bytes: read, written whole, removed.

It must not: list them. Rights on Secrets are given by name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mooring.kube.client import KubeApi, KubeError, message_of
from mooring.kube.objects import MARKS

METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class BadSecret(Exception):
    """A Secret does not hold bytes in base64."""


class _Meta(msgspec.Struct):
    version: str = msgspec.field(name="resourceVersion", default="")


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


_SECRET: Final = msgspec.json.Decoder(_Secret)


@dataclass(frozen=True, slots=True)
class Read:
    """A Secret at a version."""

    version: str
    values: Mapping[str, bytes]


class Secrets:
    """All methods raise KubeError, FetchError, BadConfig."""

    def __init__(self, kube: KubeApi, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self.collection = f"/api/v1/namespaces/{namespace}/secrets"

    async def read(self, name: str) -> Read | None:
        """A Secret; None if there is none. Raises BadSecret too."""
        found = await self._get(name, "application/json")
        return None if found is None else Read(found.metadata.version, values_of(found.data))

    async def version(self, name: str) -> str:
        """At which version a Secret is, without its content; empty if there is none."""
        found = await self._get(name, METADATA)
        return "" if found is None else found.metadata.version

    async def write(self, name: str, values: Mapping[str, bytes]) -> str:
        """Makes a Secret or replaces it, whatever is there; returns its version."""
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": self._namespace, "labels": dict(MARKS)},
            "type": "Opaque",
            "data": {key: base64.b64encode(value).decode("ascii") for key, value in values.items()},
        }
        answer = await self._kube.call("PUT", f"{self.collection}/{name}", body)
        if answer.status == 404:
            answer = await self._kube.call("POST", self.collection, body)
        if answer.status == 422:
            # Its type cannot be changed, and somebody may have made it of another one, or immutable.
            await self.remove(name)
            answer = await self._kube.call("POST", self.collection, body)
        if answer.status >= 300:
            raise KubeError(answer.status, f"the Secret {name} cannot be written: {message_of(answer)}")
        try:
            return _SECRET.decode(answer.body).metadata.version
        except msgspec.MsgspecError:
            raise KubeError(502, "kube-apiserver answered with what is no Secret") from None

    async def remove(self, name: str) -> None:
        """Removes a Secret; one that is not there is nobody's loss."""
        answer = await self._kube.call("DELETE", f"{self.collection}/{name}")
        if answer.status >= 300 and answer.status != 404:
            raise KubeError(answer.status, f"the Secret {name} cannot be removed: {message_of(answer)}")

    async def _get(self, name: str, accept: str) -> _Secret | None:
        answer = await self._kube.call("GET", f"{self.collection}/{name}", accept=accept)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise KubeError(answer.status, f"the Secret {name} cannot be read: {message_of(answer)}")
        try:
            return _SECRET.decode(answer.body)
        except msgspec.MsgspecError:
            raise KubeError(502, "kube-apiserver answered with what is no Secret") from None


def values_of(data: Mapping[str, str] | None) -> dict[str, bytes]:
    """The content of a Secret. Raises BadSecret."""
    try:
        return {key: base64.b64decode(value, validate=True) for key, value in (data or {}).items()}
    except (binascii.Error, ValueError):
        raise BadSecret("a Secret does not hold base64") from None
