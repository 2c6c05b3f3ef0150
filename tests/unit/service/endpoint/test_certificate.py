# SPDX-License-Identifier: Apache-2.0
"""The endpoint shows the certificate that it was given, or one of its own that is renewed in time."""

from __future__ import annotations

import base64
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mooring.endpoint.certificate import MADE, Keeper, Shown
from mooring.kube.client import KubeError
from mooring.kube.names import ENDPOINT_TLS
from mooring.lib import pki
from mooring.lib.clock import ManualClock
from mooring.lib.secrets import Secret

DAY = 86_400.0
NAMES = ("prod.example.com", "192.0.2.10")


class FakeSecrets:
    """One namespace's Secrets, as the API server keeps them."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.writes: list[str] = []
        self.away = False
        self.race: dict[str, Any] | None = None

    async def json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        if self.away:
            raise KubeError(503, "the API server is away")
        name = path.rpartition("/secrets")[2].lstrip("/")
        if method == "GET":
            if name not in self.kept:
                raise KubeError(404, "not found")
            return self.kept[name]
        if self.race is not None:
            self.kept[ENDPOINT_TLS], self.race = self.race, None
        name = body["metadata"]["name"]
        have = self.kept.get(name)
        conflict = have is not None and body["metadata"].get("resourceVersion") != have["metadata"]["resourceVersion"]
        if (method == "POST" and have is not None) or (method == "PUT" and (have is None or conflict)):
            raise KubeError(409, "conflict")
        self.writes.append(method)
        self.put(body["stringData"], body["metadata"].get("annotations", {}))
        return {}

    def put(self, data: dict[str, str], annotations: dict[str, str]) -> dict[str, Any]:
        self.version += 1
        self.kept[ENDPOINT_TLS] = {
            "metadata": {"name": ENDPOINT_TLS, "annotations": annotations, "resourceVersion": str(self.version)},
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
        }
        return self.kept[ENDPOINT_TLS]


class Scene:
    def __init__(self) -> None:
        self.secrets = FakeSecrets()
        self.clock = ManualClock(time.time())
        self.shown: list[Shown] = []

    def keeper(self, names: tuple[str, ...] = NAMES) -> Keeper:
        return Keeper(self.secrets, "mooring-system", names, self.clock, self.shown.append)  # type: ignore[arg-type]

    def given(self, days: float = 90) -> tuple[str, Secret, str]:
        ca, ca_key = pki.make_ca("a company", self.clock.now())
        cert, key = pki.make_server_certificate(ca, ca_key, NAMES, self.clock.now() - (397 - days) * DAY)
        self.secrets.put({"tls.crt": cert, "tls.key": key.reveal(), "ca.crt": ca}, {})
        return cert, key, ca


@pytest.fixture
def scene() -> Iterator[Scene]:
    yield Scene()
    files = Path("/proc/self/fd")
    assert not [n for n in os.listdir(files) if (files / n).is_symlink() and "memfd" in os.readlink(files / n)], (
        "a descriptor with a key was left open"
    )


async def test_where_there_is_none_one_is_made_and_kept(scene: Scene) -> None:
    keeper = scene.keeper()
    await keeper.look()
    (shown,) = scene.shown
    assert pki.problems(shown.certificate, shown.key, shown.ca, "prod.example.com", scene.clock.now()) == []
    assert set(NAMES) <= set(pki.inspect(shown.certificate).names)
    await keeper.look()
    other = scene.keeper()
    await other.look()
    assert scene.secrets.writes == ["POST"], "it is made once, for all replicas"
    assert other.shown == shown


async def test_a_replica_that_is_slower_takes_what_is_there(scene: Scene) -> None:
    first = scene.keeper()
    await first.look()
    made = scene.secrets.kept.pop(ENDPOINT_TLS)
    scene.secrets.race = made
    second = scene.keeper()
    await second.look()
    assert second.shown == first.shown


async def test_what_ends_is_renewed_by_the_same_authority(scene: Scene) -> None:
    keeper = scene.keeper()
    await keeper.look()
    scene.clock.advance((397 - 31) * DAY)
    await keeper.look()
    assert len(scene.shown) == 1
    scene.clock.advance(2 * DAY)
    await keeper.look()
    assert len(scene.shown) == 2
    assert scene.shown[0].ca == scene.shown[1].ca, "kubeconfigs stay good"
    assert pki.inspect(scene.shown[1].certificate).days_left(scene.clock.now()) > 390


async def test_an_authority_that_ends_is_made_anew(scene: Scene) -> None:
    keeper = scene.keeper()
    await keeper.look()
    scene.clock.advance(3640 * DAY)
    await keeper.look()
    assert scene.shown[0].ca != scene.shown[1].ca
    assert keeper.problem == ""


async def test_other_names_need_another_certificate(scene: Scene) -> None:
    await scene.keeper().look()
    keeper = scene.keeper((*NAMES, "second.example.com"))
    await keeper.look()
    assert "second.example.com" in pki.inspect(scene.shown[-1].certificate).names
    assert scene.shown[0].ca == scene.shown[-1].ca


async def test_what_somebody_gave_is_shown_and_never_written(scene: Scene) -> None:
    cert, _key, ca = scene.given()
    keeper = scene.keeper(("elsewhere.example.com",))
    await keeper.look()
    assert (scene.shown[0].certificate, scene.shown[0].ca) == (cert, ca)
    renewed, _key, _ca = scene.given()
    await keeper.look()
    assert scene.shown[1].certificate == renewed, "cert-manager has renewed it"
    assert scene.secrets.writes == []


async def test_what_cannot_be_used_leaves_the_one_from_before(scene: Scene) -> None:
    keeper = scene.keeper()
    await keeper.look()
    good = keeper.shown
    cert, _key, ca = scene.given()
    _cert, other, _ca = scene.given()
    for data in (
        {"tls.crt": cert, "tls.key": other.reveal(), "ca.crt": ca},
        {"tls.crt": "rubbish", "tls.key": other.reveal()},
        {"tls.crt": cert},
        {},
    ):
        scene.secrets.put(data, {})
        await keeper.look()
        assert keeper.problem
        assert keeper.shown == good
    scene.given(days=-1)
    await keeper.look()
    assert "ended" in keeper.problem
    scene.secrets.away = True
    await keeper.look()
    assert keeper.shown == good


async def test_a_mark_on_what_the_agent_did_not_make_is_only_a_mark(scene: Scene) -> None:
    """Marked as ours, but of an authority whose key is not there: made anew, with an authority of our own."""
    cert, key, ca = scene.given()
    scene.secrets.put({"tls.crt": cert, "tls.key": key.reveal(), "ca.crt": ca}, {MADE: "mooring-agent"})
    keeper = scene.keeper((*NAMES, "third.example.com"))
    await keeper.look()
    assert "third.example.com" in pki.inspect(scene.shown[-1].certificate).names
    assert scene.shown[-1].ca != ca


async def test_connections_from_then_on_see_it(scene: Scene) -> None:
    keeper = scene.keeper()
    await keeper.look()
    shown = keeper.shown
    assert shown is not None
    assert "BEGIN" not in repr(shown.key)
    client = ssl.create_default_context(cadata=shown.ca)
    incoming, outgoing, back = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(incoming, outgoing, server_hostname="prod.example.com")
    two = keeper.context.wrap_bio(outgoing, back, server_side=True)
    for _unused in range(6):
        for side in (one, two):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
        incoming.write(back.read())
    one.do_handshake()
