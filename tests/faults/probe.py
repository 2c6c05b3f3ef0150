# SPDX-License-Identifier: Apache-2.0
"""Clients that use the road all the time, each in a thread, and note what became of every operation.

    write   makes ConfigMaps with growing numbers through the proxy      read   reads the last one that was acknowledged
    rest    makes groups by the REST API                                 watch  follows the ConfigMaps, resumes when cut
    talk    an upgraded connection that echoes numbered blocks, opened again when cut

Every outcome is one of
    ok          it worked, and what came back is right
    status      refused with a well-formed Kubernetes Status (or, on the REST API, a problem document)
    closed      the connection was refused, or ended visibly
    hang        nothing came within HANG seconds
    wrong       anything else: a torn message that looks whole, data of somebody else, an answer without sense
This module must not know about faults.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Final

from faults.bed import CLUSTER, NAMESPACE, Bed

HANG: Final = 45.0
"""Seconds in which anything must have an answer or an end: a dead peer is found in 15, and a busy machine waits."""
GONE: Final = 410
PREFIX: Final = f"/k8s/clusters/{CLUSTER}"
MAPS: Final = f"{PREFIX}/api/v1/namespaces/{NAMESPACE}/configmaps"


class Wrong(Exception):
    """What came back is not what may come back."""


class Closed(Exception):
    """The connection ended visibly."""


class Hang(Exception):
    """No answer in time."""


@dataclass
class Outcome:
    """What became of one operation; times are monotonic seconds."""

    began: float
    ended: float
    kind: str
    code: int = 0
    detail: str = ""
    request_id: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Answer:
    code: int
    body: bytes
    request_id: str


class Client:
    """One keep-alive connection to the server."""

    def __init__(self, bed: Bed) -> None:
        self._server = bed.server
        self._context = ssl.create_default_context(cafile=bed.server.ca)
        self._connection: http.client.HTTPSConnection | None = None

    def connect(self) -> http.client.HTTPSConnection:
        if self._connection is None:
            address, port = self._server.address, self._server.port
            self._connection = http.client.HTTPSConnection(address, port, timeout=HANG, context=self._context)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def start(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        """The head of the answer. Raises Closed or Hang."""
        text = None if body is None else json.dumps(body)
        extra = {"Content-Type": "application/json"} if text else {}
        extra["Authorization"] = f"Bearer {self._server.admin_token}"
        try:
            connection = self.connect()
            connection.request(method, path, text, {**extra, **headers})
            return connection.getresponse()
        except TimeoutError as error:
            self.close()
            raise Hang(str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Closed(f"{type(error).__name__}: {error}") from None

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        """A whole exchange. Raises Closed or Hang."""
        response = self.start(method, path, body)
        try:
            return Answer(response.status, response.read(), response.getheader("X-Request-Id") or "")
        except TimeoutError as error:
            self.close()
            raise Hang(str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Closed(f"{type(error).__name__}: {error}") from None


class Channel(ABC):
    """A client in a thread: `step` again and again, with a note of each outcome."""

    name: str
    pause = 0.15  # seconds between two operations

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.client = Client(bed)
        self.outcomes: list[Outcome] = []
        self._stop = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.crash: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        self._thread.join(HANG + 15)
        assert not self._thread.is_alive(), f"the probe {self.name} does not end"
        self.client.close()

    def quiet(self) -> None:
        """Ask for nothing until `resume`; a stream is ended, and that is no outcome."""
        self._going.clear()

    def resume(self) -> None:
        self._going.set()

    @property
    def stopping(self) -> bool:
        """Whether a stream is to end: for good, or for a pause."""
        return self._stop.is_set() or not self._going.is_set()

    def note(self, began: float, kind: str, code: int = 0, detail: str = "", request_id: str = "") -> None:
        self.outcomes.append(Outcome(began, time.monotonic(), kind, code, detail, request_id))

    def worked_since(self, moment: float) -> float | None:
        """When the first operation that began after `moment` had worked; None: none yet."""
        found = [o.ended for o in self.outcomes[-600:] if o.kind == "ok" and o.began >= moment]
        return min(found) if found else None

    @abstractmethod
    def step(self) -> None:
        """One operation. Raises Closed, Hang or Wrong."""

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if not self._going.wait(0.1):
                    continue
                began = time.monotonic()
                try:
                    self.step()
                except Closed as error:
                    if self._going.is_set():
                        self.note(began, "closed", detail=str(error))
                except Hang as error:
                    if not self._stop.is_set():
                        self.note(began, "hang", detail=str(error))
                except Wrong as error:
                    self.note(began, "wrong", detail=str(error))
                self._stop.wait(self.pause)
        except BaseException as error:
            self.crash = error
            raise


def refused(answer: Answer) -> str:
    """The message of a refusal. Raises Wrong when it is not a well-formed Status or problem document."""
    try:
        document = json.loads(answer.body)
    except ValueError:
        raise Wrong(f"{answer.code} with a body that is no JSON: {answer.body[:200]!r}") from None
    if document.get("kind") == "Status" and document.get("code") == answer.code and document.get("message"):
        return str(document["message"])
    if document.get("status") == answer.code and document.get("title"):
        return str(document.get("detail") or document["title"])
    raise Wrong(f"{answer.code} with a body that is neither Status nor problem: {answer.body[:200]!r}")


def config_map(number: int) -> dict[str, Any]:
    """The object with this number: what it holds follows from it."""
    data = {"number": str(number), "check": str(number * 7919 % 10_007)}
    metadata = {"name": name_of(number), "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def name_of(number: int) -> str:
    return f"p-{number:07d}"


def right(thing: Any, number: int) -> bool:
    """Whether an object is the one with this number, whole."""
    want = config_map(number)
    if not isinstance(thing, dict) or thing.get("data") != want["data"]:
        return False
    return bool(thing["metadata"]["name"] == name_of(number))


class Write(Channel):
    """Makes ConfigMaps; `acknowledged` are those that the server said are made."""

    name = "write"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.number = 0
        self.acknowledged: list[int] = []
        self.acknowledged_at: list[float] = []

    def step(self) -> None:
        self.number += 1
        began = time.monotonic()
        answer = self.client.call("POST", MAPS, config_map(self.number))
        if answer.code == 201:
            if not right(json.loads(answer.body), self.number):
                raise Wrong(f"another object was made than {self.number}: {answer.body[:200]!r}")
            self.acknowledged_at.append(time.monotonic())
            self.acknowledged.append(self.number)
            self.note(began, "ok", 201, request_id=answer.request_id)
        elif answer.code < 400:
            raise Wrong(f"{answer.code} for a POST")
        else:
            self.note(began, "status", answer.code, refused(answer), answer.request_id)


class Read(Channel):
    """Reads the last object that was acknowledged: it must be there, and it must be that one."""

    name = "read"

    def __init__(self, bed: Bed, write: Write) -> None:
        super().__init__(bed)
        self._write = write

    def step(self) -> None:
        if not self._write.acknowledged:
            return
        number = self._write.acknowledged[-1]
        began = time.monotonic()
        answer = self.client.call("GET", f"{MAPS}/{name_of(number)}")
        if answer.code == 200:
            if not right(json.loads(answer.body), number):
                raise Wrong(f"not object {number}: {answer.body[:200]!r}")
            self.note(began, "ok", 200, request_id=answer.request_id)
        elif answer.code == 404 and b'"kind":"configmaps"' in answer.body:
            raise Wrong(f"object {number}, which was acknowledged, is not there")
        else:
            self.note(began, "status", answer.code, refused(answer), answer.request_id)


class Rest(Channel):
    """Makes groups; `acknowledged` are those that the server said are made."""

    name = "rest"
    pause = 0.3

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.number = 0
        self.acknowledged: list[str] = []

    def step(self) -> None:
        self.number += 1
        name = f"g{self.number}"
        began = time.monotonic()
        answer = self.client.call("POST", "/api/v1/groups", {"name": name})
        if answer.code == 201:
            if json.loads(answer.body)["name"] != name:
                raise Wrong(f"another group was made than {name}")
            self.acknowledged.append(name)
            self.note(began, "ok", 201)
        else:
            self.note(began, "status", answer.code, refused(answer))


class Watch(Channel):
    """Follows the ConfigMaps from where it was cut; `seen` are the numbers in the order in which they came.

    A restarted API server knows no event from before (410 Gone): then all are listed, as every client of a watch does
    (Kubernetes API concepts, "410 Gone responses").
    """

    name = "watch"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.seen: list[int] = []
        self.seen_at: dict[int, float] = {}
        self.request_ids: list[str] = []
        self._version = "0"
        self._expired = False
        self._sock: socket.socket | None = None

    def stop(self) -> None:
        super().stop()
        self._end()

    def quiet(self) -> None:
        super().quiet()
        self._end()

    def _end(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # nothing more comes, and a watch would wait for it

    def step(self) -> None:
        if self._version == "0":
            answer = self.client.call("GET", f"{MAPS}?limit=1")
            if answer.code != 200:
                self.note(time.monotonic(), "status", answer.code, refused(answer))
                return
            self._version = json.loads(answer.body)["metadata"]["resourceVersion"]
        if self._expired and not self._list():
            return
        began = time.monotonic()
        response = self.client.start("GET", f"{MAPS}?watch=1&resourceVersion={self._version}")
        request_id = response.getheader("X-Request-Id") or ""
        if response.status != 200:
            answer = Answer(response.status, response.read(), request_id)
            self.note(began, "status", answer.code, refused(answer), request_id)
            self._expired = answer.code == GONE
            return
        self.request_ids.append(request_id)
        self._sock = self.client.connect().sock
        try:
            while not self.stopping:
                line = response.readline()
                if not line:
                    raise Closed("the watch ended")
                if not line.endswith(b"\n"):
                    raise Closed("the watch was torn")
                self._event(line)
        except TimeoutError:
            raise Hang("a watch without a word while objects are made") from None
        except (OSError, http.client.HTTPException) as error:
            raise Closed(f"{type(error).__name__}: {error}") from None
        finally:
            response.close()
            self.client.close()

    def _event(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            raise Wrong(f"a watch line that is no JSON: {line[:200]!r}") from None
        thing = event.get("object") or {}
        if event.get("type") == "ERROR":
            self._expired = thing.get("code") == GONE
            raise (Closed if self._expired else Wrong)(f"the watch cannot be resumed: {thing.get('message')}")
        self._version = thing["metadata"]["resourceVersion"]
        self._shown(thing)

    def _list(self) -> bool:
        """Catch up with what was made meanwhile. False: not now."""
        began = time.monotonic()
        answer = self.client.call("GET", MAPS)
        if answer.code != 200:
            self.note(began, "status", answer.code, refused(answer))
            return False
        found = json.loads(answer.body)
        things = sorted((int(thing["data"]["number"]), thing) for thing in found["items"] if "number" in thing["data"])
        for number, thing in things:
            if number not in self.seen_at:
                self._shown(thing)
        self._version, self._expired = found["metadata"]["resourceVersion"], False
        return True

    def _shown(self, thing: dict[str, Any]) -> None:
        number = int(thing["data"]["number"])
        if not right(thing, number):
            raise Wrong(f"not object {number}: {str(thing)[:200]}")
        self.seen.append(number)
        self.seen_at[number] = now = time.monotonic()
        self.note(now, "ok", 200)


class Talk(Channel):
    """An upgraded connection through the proxy and the API server to a pod: numbered blocks, each echoed."""

    name = "talk"
    BLOCK: Final = 64

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.request_ids: list[str] = []
        self._path = f"{PREFIX}/api/v1/namespaces/{NAMESPACE}/pods/echo:{bed.echo.port}/proxy/talk"

    def step(self) -> None:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "cHJvYmUgcHJvYmUgcHI="
        began = time.monotonic()
        response = self.client.start("GET", self._path, None, **upgrade)
        request_id = response.getheader("X-Request-Id") or ""
        if response.status != 101:
            answer = Answer(response.status, response.read(), request_id)
            self.client.close()
            self.note(began, "status", answer.code, refused(answer), request_id)
            return
        self.request_ids.append(request_id)
        sock = self.client.connect().sock
        number = 0
        try:
            while not self.stopping:
                number += 1
                began = time.monotonic()
                block = f"{request_id} {number}".encode().ljust(self.BLOCK, b".")
                sock.sendall(block)
                self._expect(sock, block)
                self.note(began, "ok", 101)
                self._stop.wait(0.3)
        except TimeoutError:
            raise Hang("an upgraded connection without an echo") from None
        except OSError as error:
            raise Closed(f"{type(error).__name__}: {error}") from None
        finally:
            self.client.close()

    def _expect(self, sock: socket.socket, block: bytes) -> None:
        got = b""
        while len(got) < len(block):
            some = sock.recv(len(block) - len(got))
            if not some:
                raise Closed("the upgraded connection ended")
            got += some
        if got != block:
            raise Wrong(f"sent {block!r}, got {got!r}")


@dataclass
class Probes:
    """All of them."""

    bed: Bed
    channels: dict[str, Channel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.write = Write(self.bed)
        self.read = Read(self.bed, self.write)
        self.rest = Rest(self.bed)
        self.watch = Watch(self.bed)
        self.talk = Talk(self.bed)
        for channel in (self.write, self.read, self.rest, self.watch, self.talk):
            self.channels[channel.name] = channel

    def start(self) -> None:
        self.bed.clients = self
        for channel in self.channels.values():
            channel.start()

    def quiet(self) -> None:
        """Nobody asks the cluster for anything. (The REST API is asked still: that does not go to the cluster.)"""
        for channel in (self.write, self.read, self.watch, self.talk):
            channel.quiet()

    def resume(self) -> None:
        for channel in self.channels.values():
            channel.resume()

    def worked_since(self, moment: float) -> dict[str, float | None]:
        """For each channel, when its first operation after `moment` had worked. For a watch: a write made after it."""
        for channel in self.channels.values():
            assert channel.crash is None, f"the probe {channel.name} crashed: {channel.crash!r}"
        found = {name: channel.worked_since(moment) for name, channel in self.channels.items()}
        recent = zip(self.write.acknowledged[-600:], self.write.acknowledged_at[-600:], strict=False)
        fresh = [number for number, at in recent if at >= moment]
        seen = [self.watch.seen_at[number] for number in fresh if number in self.watch.seen_at]
        found["watch"] = min(seen) if seen else None
        return found

    def stop(self) -> None:
        for channel in self.channels.values():
            channel.stop()
        for channel in self.channels.values():
            channel.join()
