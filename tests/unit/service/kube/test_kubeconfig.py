# SPDX-License-Identifier: Apache-2.0
"""Names of contexts are each there once, whatever a cluster calls its nodes; entries say whose they are."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.kube import configtext
from mooring.kube.configmerge import SECTIONS, mark_of
from mooring.kube.kubeconfig import Kind, Place, contexts, document, exec_user, https, https_of

URL = "https://mooring.example:8443"


def place(kind: Kind, cluster: str = "lab", node: str = "", server: str = "https://a", ca_pem: str = "") -> Place:
    return Place(kind=kind, cluster=cluster, node=node, server=server, ca_pem=ca_pem)


def names(*places: Place, prefix: str = "", taken: tuple[str, ...] = ()) -> list[str]:
    return [context.name for context in contexts(places, prefix=prefix, taken=taken)]


def test_a_cluster_has_a_context_for_each_way_and_two_credentials() -> None:
    found = contexts([place("node", node="m2"), place("fqdn"), place("proxy"), place("node", node="m1")])
    assert [(context.name, context.user) for context in found] == [
        ("lab", "mooring-lab"),
        ("lab-fqdn", "mooring-lab-endpoint"),
        ("lab-m1", "mooring-lab-endpoint"),
        ("lab-m2", "mooring-lab-endpoint"),
    ]


def test_no_node_takes_the_name_of_another_cluster() -> None:
    """Who names the nodes of `a` must not get hold of what people mean for `a-b`."""
    assert names(place("proxy", "a"), place("node", "a", "b"), place("proxy", "a-b")) == ["a", "a-b-direct", "a-b"]
    assert names(place("proxy", "a"), place("node", "a", "b"), taken=("a-b",)) == ["a", "a-b-direct"]
    assert names(place("fqdn", "a"), place("node", "a", "fqdn")) == ["a-fqdn", "a-fqdn-direct"]
    assert names(place("node", "a", "b"), taken=("a-b", "a-b-direct", "a-b-direct-2")) == ["a-b-direct-3"]


@pytest.mark.parametrize("node", ["", "A", "a b", "a\n", "-a", "a..b", "a/b", "a" * 254, "é", "a\x00"])
def test_a_node_whose_name_is_none_gives_no_context(node: str) -> None:
    assert names(place("proxy"), place("node", node=node)) == ["lab"]


def test_a_prefix_is_before_every_name() -> None:
    found = contexts([place("proxy"), place("fqdn")], prefix="work-")
    assert [(c.name, c.user) for c in found] == [
        ("work-lab", "work-mooring-lab"),
        ("work-lab-fqdn", "work-mooring-lab-endpoint"),
    ]


LABEL = st.from_regex(r"[ab]([ab-]{0,3}[ab])?", fullmatch=True)


@given(st.lists(st.tuples(LABEL, st.sampled_from(("proxy", "fqdn", "node")), LABEL), unique=True), st.sets(LABEL))
def test_names_are_unique_and_do_not_depend_on_the_order(wished: list[tuple[str, Kind, str]], taken: set[str]) -> None:
    places = [place(kind, cluster, node if kind == "node" else "") for cluster, kind, node in dict.fromkeys(wished)]
    places = list(dict.fromkeys(places))
    found = contexts(places, taken=taken)
    assert len({context.name for context in found}) == len(found) == len(places)
    assert contexts(reversed(places), taken=taken) == found
    for context in found:
        if context.place.kind == "proxy":
            assert context.name == context.place.cluster
        else:
            assert context.name not in taken


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("k8s.example", "https://k8s.example"),
        ("k8s.example:6443", "https://k8s.example:6443"),
        ("k8s.example:443", "https://k8s.example"),
        ("https://k8s.example:6443/", "https://k8s.example:6443"),
        ("192.0.2.1:6443", "https://192.0.2.1:6443"),
        ("[2001:db8::1]:6443", "https://[2001:db8::1]:6443"),
        ("2001:db8::1", None),
        ("http://k8s.example", None),
        ("https://bob@k8s.example", None),
        ("k8s.example/path", None),
        ("k8s.example?a", None),
        ("k8s.example:0", None),
        ("k8s.example:99999", None),
        ("k8s example", None),
        ("k8s.example\n", None),
        ("", None),
        ("[::1", None),
    ],
)
def test_an_address_is_a_url_or_nothing(address: str, url: str | None) -> None:
    assert https_of(address) == url


def test_hosts_that_a_cluster_reports_are_checked() -> None:
    assert https("10.0.0.1", 6443) == "https://10.0.0.1:6443"
    assert https("fd00::1", 6443) == "https://[fd00::1]:6443"
    for host, port in (("a/b", 1), ("a@b", 1), ("a", 0), ("a", 65536), ("fd00::1]", 1), ("a:b", 1), ("a" * 254, 1),
                       ("fe80::1%eth0", 1)):  # fmt: skip
        assert https(host, port) is None, host


def test_the_document_bears_our_mark_on_every_entry_and_the_ca_of_each_way() -> None:
    found = contexts([place("proxy", ca_pem="one"), place("fqdn", server="https://b", ca_pem="two"),
                      place("node", node="m1", server="https://c")])  # fmt: skip
    users = {"mooring-lab": exec_user(["--cluster", "lab"]), "mooring-lab-endpoint": {"token": "mre_x"}}
    made = document(URL, found, users, "lab-fqdn")
    assert [entry["cluster"].get("certificate-authority-data") for entry in made["clusters"]] == [
        base64.b64encode(b"one").decode(), base64.b64encode(b"two").decode(), None,
    ]  # fmt: skip
    assert [entry["name"] for entry in made["users"]] == ["mooring-lab", "mooring-lab-endpoint"]
    assert made["users"][0]["user"]["exec"]["args"] == ["credential", "--cluster", "lab"]
    assert made["current-context"] == "lab-fqdn"
    for section, kind in SECTIONS.items():
        assert {mark_of(entry, kind) for entry in made[section]} == {(URL, "lab")}
    assert configtext.load(configtext.dump(made).encode()) == made
