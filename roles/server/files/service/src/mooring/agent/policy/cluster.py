# SPDX-License-Identifier: Apache-2.0
"""The few writes that enforcing a policy takes, each bounded and each with our field manager.

It must not: write any kind but those of a policy, delete what is not exactly the object that was meant (by its uid), or
make a namespace by labelling one that has just been deleted.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import msgspec

from mooring.agent.policy.kinds import FIELD_MANAGER, KINDS, MADE, SPACES, Item, ItemList, Kind, title
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError, message_of
from mooring.kube.transition import Key, Manifest, key
from mooring.lib.profiles import Profile
from mooring.net.fetch import FetchError

APPLY: Final = "application/apply-patch+yaml"
"""JSON is YAML."""
NAMES: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PAGE: Final = 500
ANSWER_DEADLINE: Final = 3.0
_ITEM: Final = msgspec.json.Decoder(Item)
_PAGE: Final = msgspec.json.Decoder(ItemList)


class Cluster:
    """Reads and writes objects of policies. Every method raises KubeError, FetchError, BadConfig."""

    def __init__(self, kube: KubeApi, namespace: str) -> None:
        self._kube = kube
        self.namespace = namespace

    async def profile(self) -> Profile:
        """What the API server lets the agent do: by what it may, not by what somebody wrote down."""
        if not await self._may("create", "clusterroles"):
            return "proxy-only"
        return "admin" if await self._may("escalate", "clusterroles") else "read-only"

    async def answers(self) -> bool:
        """Whether the API server can be reached at all."""
        try:
            await self._kube.call("GET", "/version", deadline=ANSWER_DEADLINE)
        except (FetchError, BadConfig):
            return False
        return True

    async def uid(self) -> str:
        """The uid of the cluster: that of its namespace kube-system."""
        found = await self._kube.json("GET", "/api/v1/namespaces/kube-system")
        return str((found.get("metadata") or {}).get("uid", ""))

    async def get(self, at: Key) -> Item | None:
        """An object, whoever made it; None if there is none."""
        return await self._read(self._path(at))

    async def space(self, name: str) -> Item | None:
        """A namespace."""
        return await self._read(SPACES.path(("", "", name)))

    async def names(self, kind: Kind) -> set[Key]:
        """All of a kind, whoever made them."""
        found: set[Key] = set()
        more = ""
        while True:
            path = f"{kind.collection()}?limit={PAGE}"
            if more:
                path += f"&continue={quote(more, safe='')}"
            answer = await self._kube.call("GET", path, accept=NAMES)
            if answer.status != 200:
                raise KubeError(answer.status, f"{kind.resource} cannot be listed: {message_of(answer)}")
            try:
                page = _PAGE.decode(answer.body)
            except msgspec.MsgspecError:
                raise KubeError(502, "kube-apiserver answered with what is no list") from None
            found.update(item.key(kind) for item in page.items or ())
            more = page.metadata.more
            if not more:
                return found

    async def apply(self, item: Manifest, *, force: bool) -> Item:
        """Server-side apply. Without `force`, another's fields are a conflict (409)."""
        path = f"{self._path(key(item))}?fieldManager={FIELD_MANAGER}&force={str(force).lower()}"
        return await self._write("PATCH", path, item, APPLY)

    async def replace(self, item: Manifest, version: str) -> Item:
        """Writes the whole object, and so takes off what others added. 409 if it is not at this version any more."""
        body = {**item, "metadata": {**item["metadata"], "resourceVersion": version}}
        return await self._write("PUT", f"{self._path(key(item))}?fieldManager={FIELD_MANAGER}", body)

    async def delete(self, at: Key, uid: str) -> None:
        """Deletes this very object; one that is gone or was replaced is nobody's loss."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        answer = await self._kube.call("DELETE", self._path(at), body)
        if answer.status >= 300 and answer.status not in (404, 409):
            raise KubeError(answer.status, f"deleting {title(at)}: {message_of(answer)}")

    async def make_space(self, name: str, project: str) -> Item:
        """Makes a namespace, and notes that it did. 409 if there is one."""
        meta = {"name": name, "annotations": {MADE: project or FIELD_MANAGER}}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
        return await self._write("POST", f"{SPACES.collection()}?fieldManager={FIELD_MANAGER}-made", body)

    async def label_space(self, name: str, uid: str, labels: dict[str, str]) -> Item:
        """Puts our labels on this very namespace, and takes off those that we had put there and do not name."""
        meta: Manifest = {"name": name, "uid": uid}
        if labels:
            meta["labels"] = labels
        path = f"{SPACES.path(('', '', name))}?fieldManager={FIELD_MANAGER}&force=true"
        return await self._write("PATCH", path, {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}, APPLY)

    async def let_go(self, name: str, uid: str) -> None:
        """Takes the note off that we made this very namespace: what is in it is no project's any more."""
        body = {"metadata": {"uid": uid, "annotations": {MADE: None}}}
        await self._write("PATCH", SPACES.path(("", "", name)), body, "application/merge-patch+json")

    async def event(self, body: Manifest) -> None:
        """Makes an Event in the agent's namespace."""
        await self._kube.json("POST", f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events", body)

    async def _may(self, verb: str, resource: str) -> bool:
        attributes = {"verb": verb, "group": "rbac.authorization.k8s.io", "resource": resource}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._kube.json("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return (answer.get("status") or {}).get("allowed") is True

    def _path(self, at: Key) -> str:
        return KINDS[at[0]].path(at)

    async def _read(self, path: str) -> Item | None:
        answer = await self._kube.call("GET", path)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise KubeError(answer.status, f"GET {path}: {message_of(answer)}")
        return _decode(answer.body)

    async def _write(self, method: str, path: str, body: Any, media: str = "application/json") -> Item:
        answer = await self._kube.call(method, path, body, media=media)
        if answer.status >= 300:
            raise KubeError(answer.status, message_of(answer))
        return _decode(answer.body)


def _decode(body: bytes) -> Item:
    try:
        return _ITEM.decode(body)
    except msgspec.MsgspecError:
        raise KubeError(502, "kube-apiserver answered with what is no object") from None
