# SPDX-License-Identifier: Apache-2.0
"""A kube-apiserver in memory, as far as the agent uses one: objects, watches, server-side apply."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
from mooring.kube.client import KubeError, message_of
from mooring.net.fetch import Answer, FetchError
from mooring.wire.frames import Code

Manifest = dict[str, Any]
_PATH = re.compile(r"/(?:api/v1|apis/([^/]+)/v1)(?:/namespaces/([^/]+)(?=/[^/]+))?/([^/]+)(?:/([^/]+))?")
_PARTS = ("rules", "subjects", "roleRef", "spec", "data", "aggregationRule")


class Head:
    status = 200


class Stream:
    """A watch: `Download` as the agent sees it."""

    def __init__(self, closed: Callable[[Stream], None]) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._closed = closed

    async def head(self) -> Head:
        return Head()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.queue.get()
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        self._closed(self)


class FakeApi:
    """Has the methods of `KubeApi`. Writes through `call` are the agent's; `put` and `drop` are somebody else's."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.version = 0
        self.calls: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str, Any], tuple[int, str] | None] = lambda *_unused: None
        self.away = False
        self.sticky: tuple[str, ...] = ()  # members that apply does not take off
        self.may = {"create", "escalate"}
        self.echo = True  # whether watches tell
        self._watches: list[tuple[str, str, Stream]] = []
        for name in ("kube-system", "mooring-system"):
            self.put("namespaces", {"metadata": {"name": name, "uid": f"uid-of-{name}"}})

    # --- somebody else ---

    def put(self, resource: str, item: Manifest, manager: str = "kubectl") -> Manifest:
        """Makes or replaces an object."""
        meta = item["metadata"]
        return self._store(resource, meta.get("namespace", ""), deepcopy(item), manager, "Update")

    def drop(self, resource: str, name: str, namespace: str = "") -> None:
        """Deletes an object."""
        item = self.objects.pop((resource, namespace, name))
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._tell(resource, "DELETED", item)

    def get(self, resource: str, name: str, namespace: str = "") -> Manifest | None:
        return self.objects.get((resource, namespace, name))

    def names(self, resource: str) -> set[str]:
        return {name for kind, _unused, name in self.objects if kind == resource}

    def writes(self) -> list[tuple[str, str]]:
        """What the agent wrote, by method and object."""
        return [(method, path) for method, path in self.calls if method != "GET" and "/leases" not in path]

    # --- KubeApi ---

    async def call(self, method: str, path: str, body: Any = None, **_unused: Any) -> Answer:
        await asyncio.sleep(0)
        if self.away:
            raise FetchError(Code.UPSTREAM_UNREACHABLE, "nobody is there", sent=False)
        if path == "/version":
            return Answer(200, [], b"{}")
        body = msgspec.json.decode(msgspec.json.encode(body))  # as it comes over a wire
        status, found = self._serve(method, path, body)
        return Answer(status, [], msgspec.json.encode(found))

    async def json(self, method: str, path: str, body: Any = None, **options: Any) -> dict[str, Any]:
        answer = await self.call(method, path, body, **options)
        if answer.status >= 300:
            raise KubeError(answer.status, message_of(answer))
        return msgspec.json.decode(answer.body, type=dict[str, Any])

    def watch(self, path: str, **_unused: Any) -> Stream:
        if self.away:
            raise FetchError(Code.UPSTREAM_UNREACHABLE, "nobody is there", sent=False)
        bare, _mark, query = path.partition("?")
        found = _PATH.fullmatch(bare)
        assert found is not None
        stream = Stream(lambda one: self._watches.remove(entry) if entry in self._watches else None)
        entry = (found[3], _selector(query), stream)
        self._watches.append(entry)
        since = int(parse_qs(query)["resourceVersion"][0])
        for (resource, _space, _name), item in self.objects.items():
            if resource == found[3] and int(item["metadata"]["resourceVersion"]) > since and _matches(entry[1], item):
                stream.queue.put_nowait(_line("MODIFIED", item))
        return stream

    async def aclose(self) -> None:
        return None

    @property
    def watches(self) -> int:
        """Watches that are open."""
        return len(self._watches)

    def cut(self) -> None:
        """The API server goes away, with all watches."""
        self.away = True
        for _resource, _selector, stream in list(self._watches):
            stream.queue.put_nowait(None)

    def end_watches(self) -> None:
        """The API server ends all watches, as outdated."""
        for _resource, _selector, stream in list(self._watches):
            stream.queue.put_nowait(msgspec.json.encode({"type": "ERROR", "object": {"metadata": {}}}) + b"\n")

    # --- how ---

    def _serve(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        bare, _unused, query = path.partition("?")
        self.calls.append((method, unquote(bare)))
        refused = self.refuse(method, unquote(bare), body)
        if refused is not None:
            return refused[0], {"message": refused[1]}
        found = _PATH.fullmatch(bare)
        assert found is not None, path
        space, resource, name = found[2] or "", found[3], unquote(found[4] or "")
        if resource == "selfsubjectaccessreviews":
            return 201, {"status": {"allowed": body["spec"]["resourceAttributes"]["verb"] in self.may}}
        if method == "GET" and not name:
            selector = _selector(query)
            items = [o for (kind, _s, _n), o in self.objects.items() if kind == resource and _matches(selector, o)]
            return 200, {"metadata": {"resourceVersion": str(self.version)}, "items": items}
        there = self.objects.get((resource, space, name or (body or {}).get("metadata", {}).get("name", "")))
        if method == "GET":
            return (200, there) if there is not None else (404, {"message": "not found"})
        if method == "POST":
            if there is not None:
                return 409, {"message": "already exists"}
            return 201, self._store(resource, space, deepcopy(body), "mooring-policy-made", "Update")
        if method == "PUT":
            if there is None:
                return 404, {"message": "not found"}
            if (
                body["metadata"].get("resourceVersion", there["metadata"]["resourceVersion"])
                != there["metadata"]["resourceVersion"]
            ):
                return 409, {"message": "the object has been modified"}
            return 200, self._store(resource, space, deepcopy(body), "mooring-agent", "Update")
        if method == "DELETE":
            if there is None:
                return 404, {"message": "not found"}
            if ((body or {}).get("preconditions") or {}).get("uid", there["metadata"]["uid"]) != there["metadata"][
                "uid"
            ]:
                return 409, {"message": "another uid"}
            self.drop(resource, name, space)
            return 200, {}
        assert method == "PATCH"
        return self._patch(resource, space, name, body, there, "force=true" in query)

    def _patch(
        self, resource: str, space: str, name: str, body: Manifest, there: Manifest | None, force: bool
    ) -> tuple[int, Any]:
        uid = body["metadata"].get("uid")
        if uid is not None and (there is None or there["metadata"]["uid"] != uid):
            return 409, {"message": "uid mismatch"}
        if "kind" not in body:  # a merge patch of metadata
            assert there is not None
            merged = deepcopy(there)
            for key, value in body["metadata"].get("annotations", {}).items():
                if value is None:
                    merged["metadata"].get("annotations", {}).pop(key, None)
            return 200, self._store(resource, space, merged, "mooring-agent", "Update")
        if there is not None and not force and _differs(there, body):
            return 409, {"message": "conflict"}
        made = deepcopy(body)
        made["metadata"].pop("uid", None)
        if there is not None:
            made.update({part: there[part] for part in self.sticky if part in there})
            for part in ("labels", "annotations"):
                kept = dict(there["metadata"].get(part) or {})
                for key in there.get("_applied", {}).get(part, ()):
                    kept.pop(key, None)
                made["metadata"][part] = {**kept, **(body["metadata"].get(part) or {})}
        made["_applied"] = {part: list(body["metadata"].get(part) or {}) for part in ("labels", "annotations")}
        owns = bool(made["_applied"]["labels"]) or resource != "namespaces"
        return 200, self._store(resource, space, made, "mooring-policy" if owns else "", "Apply")

    def _store(self, resource: str, space: str, item: Manifest, manager: str, operation: str) -> Manifest:
        meta = item["metadata"]
        if space:
            meta["namespace"] = space
        at = (resource, space, meta["name"])
        before = self.objects.get(at)
        self.version += 1
        meta["uid"] = before["metadata"]["uid"] if before is not None else meta.get("uid") or f"uid-{self.version}"
        owners = [] if before is None else _owners(before)
        if "managedFields" not in meta or before is not None:
            owners = [o for o in owners if o["manager"] != manager and (manager or o["operation"] != "Apply")]
            if manager:
                owners.append({"manager": manager, "operation": operation})
            meta["managedFields"] = owners
        if before is not None and "_applied" in before:
            item.setdefault("_applied", before["_applied"])
        compared = {**deepcopy(item), "metadata": {**meta, "resourceVersion": ""}}
        if before is not None and compared == {**before, "metadata": {**before["metadata"], "resourceVersion": ""}}:
            return before  # nothing changed
        meta["resourceVersion"] = str(self.version)
        self.objects[at] = item
        self._tell(resource, "ADDED" if before is None else "MODIFIED", item, before)
        return item

    def _tell(self, resource: str, kind: str, item: Manifest, before: Manifest | None = None) -> None:
        if not self.echo:
            return
        for watched, selector, stream in self._watches:
            if watched == resource:
                if _matches(selector, item):
                    stream.queue.put_nowait(_line(kind, item))
                elif before is not None and _matches(selector, before):
                    stream.queue.put_nowait(_line("DELETED", item))


def _owners(item: Manifest) -> list[dict[str, str]]:
    return list(item["metadata"].get("managedFields") or [])


def _differs(there: Manifest, body: Manifest) -> bool:
    """Whether server-side apply without force would write over what others own."""
    others = any(o["manager"] != "mooring-policy" for o in _owners(there))
    return others and any(part in body and body[part] != there.get(part) for part in _PARTS)


def _selector(query: str) -> str:
    """A field selector of a name, or a label selector of one label, with a value or not; empty: everything."""
    asked = parse_qs(query)
    return next((asked[kind][0] for kind in ("fieldSelector", "labelSelector") if kind in asked), "")


def _matches(selector: str, item: Manifest) -> bool:
    key, _unused, value = selector.partition("=")
    if key == "metadata.name":
        return bool(item["metadata"]["name"] == value)
    found = (item["metadata"].get("labels") or {}).get(key)
    return not selector or (found is not None and value in ("", found))


def _line(kind: str, item: Manifest) -> bytes:
    return msgspec.json.encode({"type": kind, "object": item}) + b"\n"
