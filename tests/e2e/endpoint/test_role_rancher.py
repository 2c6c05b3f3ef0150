# SPDX-License-Identifier: Apache-2.0
"""The role kube_api_auth against the documented configuration files of K3s and RKE2, on machines without them.

A stand-in reads the files as K3s and RKE2 do, and refuses what their API server would refuse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import fakerancher
from support.plays import changes, said
from support.rolebed import Fleet, Play
from testbed import Machines
from testbed.machine import Machine

pytestmark = pytest.mark.timeout(600)

OWN = "token: a-join-token-of-theirs\nkube-apiserver-arg:\n  - audit-log-maxage=7\n"
UNIT = "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/usr/bin/python3 /opt/fakerancher.py server {kind}\n"
KUBELET = "[Service]\nExecStart=/usr/bin/python3 /opt/fakerancher.py kubelet {kind}\n"
FLAGS = "/etc/kubernetes/mooring/apiserver"


@pytest.fixture(scope="module", params=["k3s", "rke2"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def host(kind: str) -> Iterator[tuple[Machines, Machine]]:
    machines = Machines(1).up()
    machine = machines["m1"]
    service = fakerancher.SERVICES[kind]
    for path, text in {
        "/opt/fakerancher.py": Path(fakerancher.__file__).read_text(),
        f"/etc/systemd/system/{service}.service": UNIT.format(kind=kind),
        "/etc/systemd/system/fakekubelet.service": KUBELET.format(kind=kind),
        f"/etc/rancher/{kind}/config.yaml": OWN,
        "/run/fakerancher/version": f"v1.33.1+{kind}1",
    }.items():
        machine.ssh(f"mkdir -p $(dirname {path}) && cat > {path}", input=text)
    machine.ssh(
        f"mkdir -p /var/lib/rancher/{kind}/agent/pod-manifests && systemctl daemon-reload && "
        f"systemctl start {service} fakekubelet"
    )
    yield machines, machine
    machines.down()


@pytest.fixture(scope="module")
def play(host: tuple[Machines, Machine], kind: str, tmp_path_factory: pytest.TempPathFactory) -> Play:
    fleet = Fleet(fakerancher.UID)
    start = fleet.player(tmp_path_factory.mktemp(kind), host[0].inventory)
    fixed = {
        "mooring_api_auth_kubectl": ["python3", "/opt/fakerancher.py", "kubectl"],
        "mooring_api_auth_image": "registry.example.com/mooring-agent:1",
        "mooring_api_auth_timeout": 20,
    }
    return lambda *words, **variables: start(*words, **{**fixed, **variables})


@pytest.fixture
def machine(host: tuple[Machines, Machine]) -> Machine:
    return host[1]


def running(machine: Machine) -> list[str]:
    """The flags that the service runs with."""
    flags: list[str] = json.loads(machine.ssh("cat /run/fakerancher/flags.json").stdout)
    return flags


def drop_in(machine: Machine, kind: str) -> str:
    return machine.ssh(f"cat /etc/rancher/{kind}/config.yaml.d/zz-mooring.yaml 2>/dev/null || true").stdout


def test_check_mode_changes_nothing(play: Play, machine: Machine, kind: str) -> None:
    runner = play("--check --diff")
    assert changes(runner) > 0
    assert "kube-apiserver-arg+" in said(runner)
    assert "a-join-token-of-theirs" not in said(runner)
    assert drop_in(machine, kind) == ""
    assert running(machine) == ["audit-log-maxage=7"]


def test_settings_that_do_not_work_are_taken_back(play: Play, machine: Machine, kind: str) -> None:
    runner = play(mooring_api_auth_cache_ttl="nonsense")
    assert runner.status == "failed"
    text = said(runner)
    assert "did not come back with the settings of the endpoint" in text
    assert "The settings of before were put back and the API server is ready again" in text
    assert "invalid argument" in text
    assert drop_in(machine, kind) == ""
    assert running(machine) == ["audit-log-maxage=7"]


def test_the_flags_are_added_to_theirs(play: Play, machine: Machine, kind: str) -> None:
    assert changes(play()) > 0
    assert running(machine) == [
        "audit-log-maxage=7",
        f"authentication-token-webhook-config-file={FLAGS}/authentication.kubeconfig",
        "authentication-token-webhook-version=v1",
        "authentication-token-webhook-cache-ttl=0s",
        f"authorization-config={FLAGS}/authorization.yaml",
    ]
    mounts = f'kube-apiserver-extra-mount+:\n  - "{FLAGS}:{FLAGS}:ro"\n'
    assert (mounts in drop_in(machine, kind)) == (kind == "rke2")
    assert machine.ssh(f"cat /etc/rancher/{kind}/config.yaml").stdout == OWN
    toml = machine.ssh("cat /etc/kubernetes/mooring/kube-api-auth/kube-api-auth.toml").stdout
    assert 'audiences = ["https://kubernetes.default.svc", "k3s"]' in toml
    assert changes(play()) == 0


def test_a_broken_change_keeps_what_works(play: Play, machine: Machine) -> None:
    before = running(machine)
    assert play(mooring_api_auth_cache_ttl="nonsense").status == "failed"
    assert running(machine) == before


def test_the_guard_is_left_out_where_it_cannot_be_set(play: Play, machine: Machine, kind: str) -> None:
    machine.ssh(f"echo v1.32.3+{kind}1 > /run/fakerancher/version")
    runner = play(mooring_api_auth_revocation_guard="required")
    assert runner.status == "failed"
    assert "The revocation guard cannot be set: Kubernetes 1.32.3 is older than 1.32.4" in said(runner)
    assert changes(play()) > 0
    assert not any(flag.startswith("authorization") for flag in running(machine))
    machine.ssh(f"echo v1.33.1+{kind}1 > /run/fakerancher/version")


def test_somebody_elses_webhook_is_left_alone(play: Play, machine: Machine, kind: str) -> None:
    path = f"/etc/rancher/{kind}/config.yaml.d/10-theirs.yaml"
    machine.ssh(f"cat > {path}", input="kube-apiserver-arg+:\n- authentication-token-webhook-config-file=/etc/theirs\n")
    runner = play()
    assert runner.status == "failed"
    assert "authentication-token-webhook-config-file=/etc/theirs already" in said(runner)
    machine.ssh(f"rm {path}")


def test_removal(play: Play, machine: Machine, kind: str) -> None:
    assert changes(play("--check", mooring_api_auth_state="absent")) > 0
    assert drop_in(machine, kind) != ""
    assert changes(play(mooring_api_auth_state="absent")) > 0
    assert running(machine) == ["audit-log-maxage=7"]
    left = machine.ssh(
        f"ls /etc/kubernetes /var/lib /var/lib/rancher/{kind}/agent/pod-manifests /run/fakerancher"
    ).stdout
    assert "mooring" not in left
    assert "kube-api-auth" not in left
    assert "secret.json" not in left
    assert changes(play(mooring_api_auth_state="absent")) == 0
