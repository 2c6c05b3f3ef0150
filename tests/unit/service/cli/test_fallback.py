# SPDX-License-Identifier: Apache-2.0
"""The current context follows what can be reached, and nothing else in the file changes."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mooring.cli import fallback
from mooring.cli.fallback import Way
from mooring.cli.profile import Login
from mooring.kube import configtext
from mooring.kube.configmerge import merge
from mooring.kube.kubeconfig import Place, contexts, document
from mooring.lib.secrets import Secret
from support.fake_api import FakeApi

URL = "https://m:8443"
BOB = Login(url=URL, token=Secret("mrg_bob"), ca_pem="server ca")
NOW = 1_800_000_000.0
M1, M2, PROXY = Way("https://m1:6443", "node ca"), Way("https://m2:6443", "node ca"), Way(URL, "server ca")


class World:
    """A kubeconfig, what answers, and what was said."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.path = folder / "memory", folder / "config"
        self.answers = {M1: True, M2: True, PROXY: True}
        self.probed: list[Way] = []
        self.said: list[str] = []
        monkeypatch.setattr(fallback, "probe", self.probe)
        places = [
            Place(kind="proxy", cluster="lab", server=f"{URL}/k8s/clusters/lab", ca_pem="server ca"),
            Place(kind="node", cluster="lab", server=M1.server, ca_pem=M1.ca_pem, node="m1"),
            Place(kind="node", cluster="lab", server=M2.server, ca_pem=M2.ca_pem, node="m2"),
        ]
        found = contexts(places)
        ours = document(URL, found, {context.user: {"token": "x"} for context in found}, "lab-m1")
        others: dict[str, Any] = {
            "clusters": [{"name": "kind", "cluster": {"server": "https://k"}}],
            "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "k"}}],
        }
        self.path.write_text("# my clusters\n" + configtext.dump(merge(others, ours)))

    def probe(self, ways: list[Way], seconds: float = 1.0) -> list[bool]:
        self.probed += ways
        return [self.answers[way] for way in ways]

    @property
    def current(self) -> str:
        found = configtext.load(self.path.read_bytes()) or {}
        return str(found["current-context"])

    def use(self, name: str) -> None:
        self.path.write_text(
            self.path.read_text().replace(f"current-context: {self.current}", f"current-context: {name}")
        )

    def call(self, way: Way | None, later: float = 0.0, cluster: str = "lab", **more: Any) -> None:
        """kubectl calls this server; None: the way through ours."""
        ca = base64.b64encode((way or PROXY).ca_pem.encode()).decode()
        info = {"spec": {"cluster": {"server": (way or PROXY).server, "certificate-authority-data": ca}}}
        given: dict[str, Any] = {"path": self.path, "environment": {fallback.EXEC_INFO: json.dumps(info)}, **more}
        fallback.choose(
            BOB, cluster, NOW + later, endpoint=way is not None, say=self.said.append, folder=self.folder, **given
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_what_answers_is_left_as_it_is_and_not_asked_again_for_a_while(world: World) -> None:
    before = world.path.read_bytes()
    for later in (0, 10, 29):
        world.call(M1, later)
    assert world.probed == [M1]
    world.call(M1, 31)
    assert world.probed == [M1, M1]
    assert world.path.read_bytes() == before
    assert world.said == []


def test_another_direct_context_is_taken_before_the_server(world: World) -> None:
    world.answers[M1] = False
    world.call(M1)
    assert world.current == "lab-m2"
    assert world.said == [
        f"https://m1:6443 cannot be reached: the next calls use the context lab-m2 (now current in {world.path})"
    ]


def test_it_falls_back_to_the_server_and_comes_back(world: World) -> None:
    world.answers |= {M1: False, M2: False}
    before = world.path.read_text()
    world.call(M1)
    assert world.path.read_text() == before.replace("current-context: lab-m1", "current-context: lab"), "comments too"
    world.call(None, 31)
    assert world.current == "lab", "not yet"
    world.answers[M1] = True
    world.call(None, 40)
    assert world.current == "lab", "asked a moment ago"
    world.call(None, 62)
    assert world.path.read_text() == before
    assert world.said[-1] == "https://m1:6443 can be reached again: the next calls use the context lab-m1"
    world.said.clear()
    world.call(None, 100)
    assert world.said == []


def test_when_nothing_answers_nothing_changes(world: World) -> None:
    world.answers = dict.fromkeys(world.answers, False)
    world.call(M1)
    assert (world.current, world.said) == ("lab-m1", [])


def test_who_chose_the_server_stays_there(world: World) -> None:
    world.use("lab")
    world.call(None)
    assert (world.current, world.probed) == ("lab", [])


def test_who_chose_another_context_meanwhile_stays_there(world: World) -> None:
    world.answers |= {M1: False, M2: False}
    world.call(M1)
    world.use("kind")
    world.answers[M1] = True
    world.call(None, 60)
    assert world.current == "kind"
    world.use("lab")
    world.call(None, 120)
    assert world.current == "lab", "that was a person, not us"


@pytest.mark.parametrize("current", ["kind", "lab", "lab-m2"])
def test_a_call_with_another_context_than_the_current_one_changes_nothing(world: World, current: str) -> None:
    """kubectl --context lab-m1, while the file says something else."""
    world.use(current)
    world.answers[M1] = False
    world.call(M1)
    assert world.current == current


def test_another_cluster_of_the_same_server_is_not_meant(world: World) -> None:
    world.answers[M1] = False
    world.call(M1, cluster="prod")
    assert world.current == "lab-m1"


def test_an_unmarked_context_with_our_address_is_not_ours(world: World) -> None:
    world.answers[M1] = False
    world.path.write_text(world.path.read_text().replace("mooring.fleet", "somebody.else"))
    world.call(M1)
    assert world.current == "lab-m1"


def test_a_file_that_is_locked_or_broken_or_gone_stops_nobody(world: World) -> None:
    world.answers[M1] = False
    lock = world.path.with_name("config.lock")
    lock.touch()
    began = time.monotonic()
    world.call(M1)
    assert time.monotonic() - began < 5
    assert (world.current, world.said) == ("lab-m1", [])
    lock.unlink()
    text = world.path.read_text()
    for broken in ("clusters: [", "[]", "clusters: {a: b}\ncontexts: [x, {name: 1}]\ncurrent-context: [1]\n"):
        world.path.write_text(broken)
        world.call(M1)
        assert world.path.read_text() == broken
    config = configtext.load(text.encode()) or {}
    for entry in config["clusters"]:
        entry["cluster"].pop("server")
    world.path.write_text(configtext.dump(config))
    world.call(M1)
    world.path.unlink()
    world.call(M1)
    assert not world.path.exists()
    world.path.write_text(text)
    world.call(M1)
    assert world.current == "lab-m2"


@pytest.mark.parametrize(
    "info",
    ["", "{", "[]", "{}", '{"spec": null}', '{"spec": {"cluster": {}}}', '{"spec": []}', '{"spec": {"cluster": [1]}}'],
)
def test_a_client_that_does_not_say_what_it_calls_gets_no_fallback(world: World, info: str) -> None:
    world.call(M1, environment={fallback.EXEC_INFO: info} if info else {})
    assert world.probed == []


def test_the_file_is_the_one_that_kubectl_takes(tmp_path: Path) -> None:
    assert fallback.kubeconfig_path({"KUBECONFIG": f":{tmp_path}/a:{tmp_path}/b"}) == tmp_path / "a"
    assert fallback.kubeconfig_path({}) == Path.home() / ".kube" / "config"


def test_its_own_files_are_private(world: World) -> None:
    world.answers |= {M1: False, M2: False}
    world.call(M1)
    assert world.folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in world.folder.iterdir()} == {0o600}
    for file in world.folder.iterdir():
        file.write_text("rubbish")
    world.call(M1, 1)
    world.call(None, 1)


# --- what answers --------------------------------------------------------------------------------------------------


def test_only_a_server_with_a_certificate_of_its_ca_answers(api: FakeApi) -> None:
    port = int(api.url.rpartition(":")[2])
    ways = [
        Way(api.url, api.ca_pem),
        Way(api.url, ""),
        Way(f"https://localhost:{port}", api.ca_pem),
        Way(api.url, "rubbish"),
        Way("https://127.0.0.1:1", api.ca_pem),
        Way("https://127.0.0.1:99999", api.ca_pem),
        Way("https://nosuch.invalid", api.ca_pem),
        Way("https://[::1", ""),
        Way("", ""),
    ]
    assert fallback.probe(ways, 5.0) == [True, *[False] * 8]


def test_all_are_asked_at_once_and_nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def hang(_way: Way, _seconds: float) -> bool:
        return let_go.wait(30)

    monkeypatch.setattr(fallback, "_handshake", hang)
    began = time.monotonic()
    assert fallback.probe([M1, M2, PROXY], 0.1) == [False] * 3
    assert time.monotonic() - began < 2
    let_go.set()


def test_the_command_takes_the_file_and_hands_out_its_token_all_the_same(
    api: FakeApi, home: Path, mooring: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.log_in(monkeypatch, home)
    made = {"token": "mre_x", "created_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T01:00:00.000Z"}
    api.answer("POST", "/api/v1/tokens", made, 201)
    gone = Way("https://127.0.0.1:1", api.ca_pem)
    places = [
        Place(kind="proxy", cluster="lab", server=f"{api.url}/k8s/clusters/lab", ca_pem=api.ca_pem),
        Place(kind="fqdn", cluster="lab", server=gone.server, ca_pem=gone.ca_pem),
    ]
    found = contexts(places)
    config = document(api.url, found, {context.user: {} for context in found}, "lab-fqdn")
    (home / "config").write_text(configtext.dump(config))
    ca = base64.b64encode(gone.ca_pem.encode()).decode()
    info = {"spec": {"cluster": {"server": gone.server, "certificate-authority-data": ca}}}
    monkeypatch.setenv(fallback.EXEC_INFO, json.dumps(info))
    words = ("credential", "--server", api.url, "--cluster", "lab", "--endpoint", "--prefer-direct")
    result = mooring(*words, "--kubeconfig", home / "config")
    assert json.loads(result.stdout)["status"]["token"] == "mre_x"
    assert "cannot be reached: the next calls use the context lab (" in result.stderr
    assert (configtext.load((home / "config").read_bytes()) or {})["current-context"] == "lab"
