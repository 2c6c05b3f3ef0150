# SPDX-License-Identifier: GPL-3.0-or-later
"""The module cluster_endpoint: a write replaces the whole, so what is not given has to be kept."""

from __future__ import annotations

import pytest
from fake_api import Failed


@pytest.fixture
def endpoint(api, run_module):
    run_module("cluster", name="paris")
    api.log.clear()

    def call(check=False, **arguments):
        return run_module("cluster_endpoint", check=check, name="paris", **arguments)

    return call


def test_on_once_and_off_once(api, endpoint, run_module):
    would = endpoint(check=True, mode="webhook")
    assert would["changed"]
    assert would["endpoint"]["enabled"]
    assert api.writes() == []
    made = endpoint(mode="webhook")
    assert made["changed"]
    assert made["diff"]["before"] == {}
    assert made["endpoint"]["ttl_seconds"] == 3600
    assert not endpoint(mode="webhook")["changed"]
    found = run_module("cluster_endpoint_info", name="paris")["endpoint"]
    assert found == made["endpoint"]
    assert endpoint(check=True, state="absent")["changed"]
    assert api.endpoints
    assert endpoint(state="absent")["changed"]
    assert not api.endpoints
    assert not endpoint(state="absent")["changed"]


def test_what_is_not_given_is_kept(endpoint):
    endpoint(mode="webhook", fqdn="paris.example.com:6443", grace=60)
    changed = endpoint(token_ttl=600)
    assert changed["diff"]["before"]["ttl_seconds"] == 3600
    assert changed["diff"]["after"] == {
        "mode": "webhook", "fqdn": "paris.example.com:6443", "ca_pem": "", "ttl_seconds": 600, "grace_seconds": 60,
    }  # fmt: skip
    assert changed["endpoint"]["fqdn"] == "paris.example.com:6443"
    assert endpoint(fqdn="")["endpoint"]["fqdn"] == ""


def test_somebody_else_was_faster(api, endpoint):
    api.race = 1
    assert endpoint(mode="agent")["changed"]


def test_what_cannot_be_says_why(endpoint, run_module):
    with pytest.raises(Failed, match="mode is needed to turn the endpoint of paris on"):
        endpoint(fqdn="x")
    with pytest.raises(Failed, match="there is no cluster 'lyon'"):
        run_module("cluster_endpoint", name="lyon", mode="agent")
    assert not run_module("cluster_endpoint", name="lyon", state="absent")["changed"]
    with pytest.raises(Failed, match="there is no cluster 'lyon'"):
        run_module("cluster_endpoint_info", name="lyon")
