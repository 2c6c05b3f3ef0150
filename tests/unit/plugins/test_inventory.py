# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin as users run it: ansible-inventory on a file, against the fake API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_api import later

SOURCE = {
    "plugin": "mooring.fleet.clusters",
    "strict": True,
    "keyed_groups": [{"key": "mooring_state", "prefix": "state"}, {"key": "mooring_labels", "prefix": "label"}],
    "groups": {"big": "mooring_node_count > 2"},
    "compose": {"site": "mooring_labels.site | default('unknown')"},
}


@pytest.fixture
def fleet(api):
    for name, state, nodes, labels in (
        ("paris", "connected", 3, {"site": "paris"}),
        ("lyon", "disconnected", 1, {"site": "lyon"}),
        ("nice", "pending", 0, {}),
    ):
        item = {
            "id": api.new_id("c"), "name": name, "state": state, "state_reason": "", "labels": labels,
            "node_count": nodes, "version": 1,
            "description": "{{ 271828 * 314159 }}", "kubernetes_version": "v1.36.3",
            "proxy_url": api.url + "/k8s/clusters/" + name,
        }  # fmt: skip
        api.objects["clusters"][item["id"]] = item
    return api


@pytest.fixture
def inventory(fleet, tmp_path):
    """inventory(**options) -> (hosts' variables, groups) as ansible-inventory prints them."""
    program = Path(sys.executable).with_name("ansible-inventory")

    def call(name="fleet.mooring.yml", extra=(), token=fleet.token, **options):
        source = tmp_path / name
        source.write_text(json.dumps(dict(SOURCE, **options)))
        done = subprocess.run(
            [program, "-i", source, "--list", "--export", *extra],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": next(
                    p for p in sys.path if Path(p, "ansible_collections", "mooring").exists()
                ),
                "ANSIBLE_HOME": str(tmp_path / "home"),
                "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
                "MOORING_URL": fleet.url,
                "MOORING_TOKEN": token,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise AssertionError(done.stderr)
        listed = json.loads(done.stdout)
        return listed.pop("_meta")["hostvars"], {k: sorted(v.get("hosts", [])) for k, v in listed.items()}, done.stdout

    return call


def plain(value):
    return value["__ansible_unsafe"] if isinstance(value, dict) and "__ansible_unsafe" in value else value


def test_each_cluster_is_a_host_that_kubernetes_core_can_use(fleet, inventory):
    hosts, groups, printed = inventory(ca_file="/etc/mooring/ca.pem")
    assert sorted(hosts) == ["lyon", "nice", "paris"]
    assert groups["state_connected"] == ["paris"]
    assert groups["label_site_lyon"] == ["lyon"]
    assert groups["big"] == ["paris"]
    paris = {name: plain(value) for name, value in hosts["paris"].items()}
    assert paris["ansible_connection"] == "local"
    assert paris["site"] == "paris"
    assert {k: plain(v) for k, v in paris["mooring_k8s_environment"].items()} == {
        "K8S_AUTH_HOST": fleet.url + "/k8s/clusters/paris",
        "K8S_AUTH_API_KEY": "{{ lookup('ansible.builtin.env', 'MOORING_TOKEN') }}",
        "K8S_AUTH_SSL_CA_CERT": "/etc/mooring/ca.pem",
        "K8S_AUTH_VERIFY_SSL": "true",
    }
    assert plain(hosts["nice"]["site"]) == "unknown"
    assert fleet.token not in printed


def test_what_the_server_says_is_never_a_template(inventory):
    hosts, _groups, printed = inventory()
    assert plain(hosts["paris"]["mooring_description"]) == "{{ 271828 * 314159 }}"
    assert str(271828 * 314159) not in printed


def test_only_the_wished_states_and_labels(inventory):
    assert sorted(inventory(state=["connected", "pending"])[0]) == ["nice", "paris"]
    assert sorted(inventory(labels={"site": "lyon"})[0]) == ["lyon"]


def test_the_cache_saves_requests_and_holds_no_token(fleet, inventory, tmp_path):
    folder = tmp_path / "cache"
    options = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(folder)}
    first = inventory(**options)
    asked = len(fleet.log)
    second = inventory(**options)
    assert len(fleet.log) == asked
    assert second == first
    assert not any(fleet.token in path.read_text() for path in folder.iterdir())
    inventory(extra=["--flush-cache"], **options)
    assert len(fleet.log) > asked


def test_a_session_of_a_password_ends(fleet, inventory):
    inventory(token="", login_username="alice", login_password=fleet.passwords["alice"])
    assert fleet.writes() == [("POST", "/login"), ("POST", "/logout")]


def test_an_error_says_what_to_do(fleet, inventory):
    fleet.objects["tokens"].clear()
    with pytest.raises(AssertionError, match=r"401: the token is not known\. .*MOORING_TOKEN"):
        inventory()


def test_other_files_are_left_to_other_plugins(inventory):
    with pytest.raises(AssertionError, match=r"fleet\.yml"):
        inventory(name="fleet.yml")


def test_times_are_read_as_the_server_writes_them():
    from ansible_collections.mooring.fleet.plugins.module_utils.times import seconds_left

    assert 50 < seconds_left(later(60)) <= 60
    assert seconds_left("2001-01-01T00:00:00.123Z") < 0
    assert seconds_left(None) is None
    with pytest.raises(ValueError, match="does not match"):
        seconds_left("tomorrow")
