# SPDX-License-Identifier: Apache-2.0
"""What an agent says of its endpoint goes into kubeconfigs, so that only what has its form is taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.control.endpointstatus import MAX_NODES, certificates, is_host, is_url, read
from mooring.lib.pki import make_ca
from mooring.store.records import EndpointNode, EndpointStatus
from support.records import NOW

CA, CA_KEY = make_ca("kubernetes", NOW)


def node(name: str = "m1", host: str = "10.0.0.1", port: int = 6443) -> dict[str, Any]:
    return {"name": name, "host": host, "port": port}


def test_what_has_its_form_is_taken() -> None:
    message = {
        "kind": "endpoint-status",
        "revision": 12,
        "digest": "ab" * 32,
        "problem": "two\nlines",
        "nodes": [node("m2", "fd00::1"), node("m1"), node("m1", "10.0.0.9"), node("m3", "m3.example")],
        "ca_pem": f"-- of the cluster --\n{CA}",
        "serving": {"url": "https://endpoint.example:8443", "ca_pem": CA + CA},
        "more": "of a newer agent",
    }
    assert read(message, NOW) == EndpointStatus(
        nodes=(EndpointNode("m1", "10.0.0.1", 6443), EndpointNode("m2", "fd00::1", 6443),
               EndpointNode("m3", "m3.example", 6443)),
        ca_pem=CA,
        serving_url="https://endpoint.example:8443",
        serving_ca_pem=CA + CA,
        revision=12,
        digest="ab" * 32,
        problem="two lines",
        at=NOW,
    )  # fmt: skip
    assert read({"kind": "endpoint-status", "serving": None}, NOW) == EndpointStatus(at=NOW)


@pytest.mark.parametrize(
    "message",
    [{"nodes": "m1"}, {"nodes": [{"name": "m1"}]}, {"revision": "1"}, {"serving": "https://x"}, {"ca_pem": 3}],
)
def test_what_is_no_message_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(message, NOW)


@pytest.mark.parametrize(
    "bad",
    [node("M1"), node("m1/x"), node(""), node("m1\n"), node(host="10.0.0.1:6443"), node(host="https://m1"),
     node(host="fe80::1%eth0"), node(host="m1 "), node(host=""), node(port=0), node(port=65536), node(port=-1)],
)  # fmt: skip
def test_a_node_that_is_none_is_left_out(bad: dict[str, Any]) -> None:
    assert read({"nodes": [bad, node("m9")]}, NOW).nodes == (EndpointNode("m9", "10.0.0.1", 6443),)


def test_only_so_many_nodes_are_taken() -> None:
    assert len(read({"nodes": [node(f"m{number}") for number in range(100)]}, NOW).nodes) == MAX_NODES


@pytest.mark.parametrize(
    "url",
    ["", "http://a", "https://", "https://a/b", "https://a?b", "https://u@a", "https://a:0", "https://a:65536",
     "https://a:", "https://[::1", "https://A", "https://-a", "https://a#b", "https://[::1%25lo]", " https://a"],
)  # fmt: skip
def test_a_url_that_leads_elsewhere_is_left_out(url: str) -> None:
    assert not is_url(url)
    status = read({"serving": {"url": url, "ca_pem": CA}}, NOW)
    assert (status.serving_url, status.serving_ca_pem) == ("", "")


@pytest.mark.parametrize("url", ["https://a", "https://a.b:1", "https://10.0.0.1:65535", "https://[fd00::1]:8443"])
def test_a_url_of_host_and_port_is_one(url: str) -> None:
    assert is_url(url)


def test_no_key_and_nothing_else_comes_with_certificates() -> None:
    assert certificates(CA_KEY.reveal()) == ""
    assert certificates(CA + CA_KEY.reveal()) == CA
    assert certificates("x" * 70_000 + CA) == ""
    assert certificates(CA * 17) == ""
    assert certificates(CA[:-60]) == ""
    assert certificates("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") == ""
    assert read({"serving": {"url": "https://a", "ca_pem": "none"}}, NOW).serving_url == ""


def test_numbers_and_digests_are_within_bounds() -> None:
    assert read({"revision": -1}, NOW).revision == 0
    assert read({"revision": 2**80}, NOW).revision == 2**53
    assert read({"digest": "AB" * 32}, NOW).digest == ""
    assert len(read({"problem": "x" * 5_000}, NOW).problem) == 1024


@given(st.text(max_size=40))
def test_nothing_but_an_address_is_one(text: str) -> None:
    assert not is_host(text) or set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEF0123456789.-:")
