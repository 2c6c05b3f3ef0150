# SPDX-License-Identifier: Apache-2.0
"""`prefer-direct`: the current context of a kubeconfig follows what can be reached.

kubectl asks `mooring credential` before it connects, and says which server it is about to call (KUBERNETES_EXEC_INFO).
If that one does not answer, the file's current context becomes another direct context of the cluster that does, or the
one through the server. The call in hand goes where kubectl wants it; the next one goes there. Back it goes as soon as
the direct way answers again, unless a person chose a context meanwhile.

    direct -> proxy   noted in a file of ours: from which context, whose address
    proxy -> direct   only by such a note, and only if the current context is still the one that it names

It must not: touch a file whose current context is not one of ours for this cluster, nor anything in it but that; or
make a call wait for more than about a second, once in half a minute.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from mooring.cli import profile
from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder, write_atomic

EXEC_INFO: Final = "KUBERNETES_EXEC_INFO"
_PROBE_SECONDS: Final = 1.0
_PROBE_LASTS: Final = 30.0
_LOCK_WAIT: Final = 0.5
_MAX_PROBES: Final = 8
Say = Callable[[str], None]
T = TypeVar("T")


class Way(msgspec.Struct, frozen=True):
    """The address of an API, and the CA (PEM) that it must show a certificate of; empty: the system's."""

    server: str
    ca_pem: str = ""


class Note(msgspec.Struct, frozen=True):
    """That a file's current context went from a direct one to the one through the server."""

    came_from: str
    went_to: str
    way: Way


class Probe(msgspec.Struct, frozen=True):
    at: float
    answers: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Our own files: what was probed lately, and the notes."""

    folder: Path

    def probed(self, way: Way, now: float) -> bool | None:
        """Whether it answered, if that was asked lately."""
        found = self._read(self._of("probe", way.server, way.ca_pem), Probe)
        return found.answers if found is not None and 0 <= now - found.at < _PROBE_LASTS else None

    def note_probe(self, way: Way, now: float, answers: bool) -> None:
        self._write(self._of("probe", way.server, way.ca_pem), Probe(now, answers))

    def note(self, path: Path, cluster: str) -> Note | None:
        return self._read(self._of("note", str(path), cluster), Note)

    def write_note(self, path: Path, cluster: str, note: Note | None) -> None:
        file = self._of("note", str(path), cluster)
        if note is None:
            file.unlink(missing_ok=True)
        else:
            self._write(file, note)

    def _of(self, kind: str, *seed: str) -> Path:
        return self.folder / f"{kind}-{hashlib.sha256(chr(0).join(seed).encode()).hexdigest()[:32]}"

    def _read(self, path: Path, type_: type[T]) -> T | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=type_)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _write(self, path: Path, value: msgspec.Struct) -> None:
        private_folder(self.folder)
        write_atomic(path, msgspec.json.encode(value))


def choose(
    login: profile.Login,
    cluster: str,
    now: float,
    *,
    endpoint: bool,
    path: Path | None,
    say: Say,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Look whether the way that is asked for answers, and see to the file. Nothing that goes wrong here stops kubectl
    from getting its token."""
    environment = os.environ if environment is None else environment
    memory = Memory(folder or profile.folder() / "direct")
    try:
        file = path or kubeconfig_path(environment)
        if endpoint:
            way = asked_for(environment)
            if way is not None and not answering([way], memory, now)[0]:
                _leave(login, cluster, file, way, memory, now, say)
        else:
            note = memory.note(file, cluster)
            if note is not None and answering([note.way], memory, now)[0]:
                _return(login, cluster, file, note, memory, say)
    except (OSError, MooringError):
        return  # a file that cannot be written, or that somebody else is changing: the next call tries again


def asked_for(environment: Mapping[str, str]) -> Way | None:
    """The server that kubectl is about to call."""
    try:
        info = msgspec.json.decode(environment.get(EXEC_INFO, ""))
        way = _way(info["spec"]["cluster"])
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return None
    return way if way.server else None


def kubeconfig_path(environment: Mapping[str, str]) -> Path:
    """The file whose current context kubectl takes, as far as can be told: the first one of KUBECONFIG."""
    for name in environment.get("KUBECONFIG", "").split(os.pathsep):
        if name:
            return Path(name).absolute()
    return Path(os.path.expanduser("~/.kube/config"))


def answering(ways: Sequence[Way], memory: Memory, now: float) -> list[bool]:
    """Which of these answer, all asked at once, and not again for a while."""
    known = [memory.probed(way, now) for way in ways]
    unknown = [way for way, answer in zip(ways, known, strict=True) if answer is None][:_MAX_PROBES]
    answers = dict(zip(unknown, probe(unknown), strict=True))
    for way, answer in answers.items():
        memory.note_probe(way, now, answer)
    return [answers.get(way, False) if answer is None else answer for way, answer in zip(ways, known, strict=True)]


def probe(ways: Sequence[Way], seconds: float = _PROBE_SECONDS) -> list[bool]:
    """Which of these complete a TLS handshake with a certificate that is accepted, within so many seconds in all."""
    answers = [False] * len(ways)

    def ask(number: int, way: Way) -> None:
        answers[number] = _handshake(way, seconds)

    # Threads, since nothing bounds how long a name is looked up for.
    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in enumerate(ways)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    return list(answers)


def _handshake(way: Way, seconds: float) -> bool:
    try:
        parts = urlsplit(way.server)
        context = ssl.create_default_context(cadata=way.ca_pem or None)
        with socket.create_connection((parts.hostname or "", parts.port or 443), seconds) as connection:
            context.wrap_socket(connection, server_hostname=parts.hostname).close()
    except (OSError, ValueError):
        return False
    return True


def _leave(login: profile.Login, cluster: str, path: Path, way: Way, memory: Memory, now: float, say: Say) -> None:
    """Make another context current: a direct one that answers, else the one through the server if that answers."""
    from mooring.cli import kubefile  # only now: most calls need no YAML

    ours = _Ours(kubefile.load(path) or {}, login.url, cluster)
    current = ours.current
    if current is None or ours.ways.get(current) != way or not os.access(path, os.W_OK):
        return
    proxy = Way(f"{login.url}/k8s/clusters/{cluster}", "")
    others = {name: found for name, found in ours.ways.items() if found != way and found.server != proxy.server}
    through = next((name for name, found in ours.ways.items() if found.server == proxy.server), None)
    candidates = [*others.items(), *([(through, Way(login.url, login.ca_pem))] if through else [])]
    answers = answering([found for _unused, found in candidates], memory, now)
    chosen = next((name for (name, _unused), good in zip(candidates, answers, strict=True) if good), None)
    if chosen is None or not _switch(path, current, chosen):
        return
    memory.write_note(path, cluster, Note(current, chosen, way) if chosen == through else None)
    say(f"{way.server} cannot be reached: the next calls use the context {chosen} (now current in {path})")


def _return(login: profile.Login, cluster: str, path: Path, note: Note, memory: Memory, say: Say) -> None:
    """Make the direct context current again that the note is about, unless somebody chose another one."""
    from mooring.cli import kubefile

    ours = _Ours(kubefile.load(path) or {}, login.url, cluster)
    back = ours.current == note.went_to and ours.ways.get(note.came_from) == note.way
    if back and not _switch(path, note.went_to, note.came_from):
        return
    memory.write_note(path, cluster, None)
    if back:
        say(f"{note.way.server} can be reached again: the next calls use the context {note.came_from}")


def _switch(path: Path, before: str, after: str) -> bool:
    """Change the current context of a file, if it is still the one that it was."""
    from mooring.cli import kubefile

    def change(config: dict[str, Any] | None) -> dict[str, Any]:
        config = config or {}
        return {**config, "current-context": after} if config.get("current-context") == before else config

    return kubefile.update(path, change, lock_wait=_LOCK_WAIT)


class _Ours:
    """What of a kubeconfig bears our mark for one cluster."""

    def __init__(self, config: Mapping[str, Any], url: str, cluster: str) -> None:
        from mooring.kube.configmerge import mark_of

        mark = (url, cluster)
        servers: dict[str, Way] = {}
        for entry in _entries(config, "clusters"):
            if mark_of(entry, "cluster") == mark:
                servers[str(entry.get("name"))] = _way(entry["cluster"])
        self.ways: dict[str, Way] = {}
        for entry in _entries(config, "contexts"):
            name = str(entry.get("name"))
            if mark_of(entry, "context") == mark and entry["context"].get("cluster") in servers:
                self.ways[name] = servers[entry["context"]["cluster"]]
        current = config.get("current-context")
        self.current = current if isinstance(current, str) and current in self.ways else None


def _entries(config: Mapping[str, Any], section: str) -> list[Mapping[str, Any]]:
    found = config.get(section)
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _way(cluster: Mapping[str, Any]) -> Way:
    try:
        ca_pem = base64.b64decode(str(cluster.get("certificate-authority-data") or "")).decode("ascii")
    except (binascii.Error, ValueError):
        ca_pem = ""
    return Way(str(cluster.get("server") or ""), ca_pem)
