# SPDX-License-Identifier: Apache-2.0
"""Merging into a file that others use: nothing of theirs is lost, and the second time nothing happens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.kube import configtext
from mooring.kube.configmerge import SECTIONS, CannotMerge, mark_of, merge
from mooring.kube.kubeconfig import Place, contexts, document

URL = "https://mooring.example:8443"


def ours(*clusters: str, url: str = URL, nodes: tuple[str, ...] = (), secret: int = 1, current: str = "") -> Any:
    places = [Place(kind="proxy", cluster=name, server=f"{url}/k8s/clusters/{name}", ca_pem="ca") for name in clusters]
    places += [
        Place(kind="node", cluster=name, server=f"https://{node}:6443", node=node)
        for name in clusters
        for node in nodes
    ]
    found = contexts(places)
    users = {context.user: {"token": f"mrg_{secret}"} for context in found}
    return document(url, found, users, current or (found[0].name if found else ""))


def named(config: Any, section: str) -> list[str]:
    return [entry["name"] for entry in config[section]]


def entry(config: Any, section: str, name: str) -> Any:
    (found,) = [item[SECTIONS[section]] for item in config[section] if item["name"] == name]
    return found


OTHERS: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "preferences": {"colors": True},
    "extensions": [{"name": "e", "extension": {"a": 1}}],
    "future": {"unknown": [1, 2]},
    "clusters": [{"name": "kind", "cluster": {"server": "https://k", "insecure-skip-tls-verify": True}, "odd": 1}],
    "users": [{"name": "kind", "user": {"client-certificate-data": "xx"}}],
    "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "kind", "namespace": "a"}}],
    "current-context": "kind",
}


def test_all_that_is_there_stays_and_ours_comes_after_it() -> None:
    before = copy.deepcopy(OTHERS)
    made = merge(OTHERS, ours("lab"))
    assert before == OTHERS
    for key in ("apiVersion", "kind", "preferences", "extensions", "future", "current-context"):
        assert made[key] == OTHERS[key]
    for section in SECTIONS:
        assert made[section][0] == OTHERS[section][0]
    assert named(made, "contexts") == ["kind", "lab"]


def test_a_file_that_is_not_there_becomes_ours() -> None:
    for nothing in (None, {}, {"preferences": {}, "clusters": None, "users": [], "contexts": None}):
        assert merge(nothing, ours("lab")) == ours("lab")


def test_what_kubectl_writes_where_nothing_was_is_no_change() -> None:
    there = merge(None, ours("lab"))
    entry(there, "users", "mooring-lab")["env"] = None
    assert merge(there, ours("lab")) == there


def test_the_current_context_is_changed_only_when_asked_or_when_there_is_none() -> None:
    assert merge(OTHERS, ours("lab"))["current-context"] == "kind"
    assert merge(OTHERS, ours("lab"), make_current=True)["current-context"] == "lab"
    assert merge({**OTHERS, "current-context": ""}, ours("lab"))["current-context"] == "lab"
    nodes = merge(None, ours("lab", nodes=("m1",), current="lab-m1"))
    assert merge(nodes, ours("lab"))["current-context"] == "lab", "ours that is gone"
    assert merge({**OTHERS, "current-context": "dangling"}, ours("lab"))["current-context"] == "dangling"


def test_what_a_cluster_has_no_longer_goes_and_other_clusters_stay() -> None:
    before = merge(OTHERS, ours("lab", "prod", nodes=("m1", "m2")))
    made = merge(before, ours("lab", nodes=("m2", "m3")))
    assert named(made, "contexts") == [
        "kind", "lab", "lab-m2", "prod", "prod-m1", "prod-m2", "lab-m3",
    ]  # fmt: skip
    assert "lab-m1" not in named(made, "clusters")
    proxy_only = merge(before, ours("lab"))
    assert "mooring-lab-endpoint" not in named(proxy_only, "users")
    assert "mooring-prod-endpoint" in named(proxy_only, "users")


def test_what_a_context_of_somebody_uses_is_kept() -> None:
    before = merge(OTHERS, ours("lab", nodes=("m1",)))
    mine = {"name": "mine", "context": {"cluster": "lab-m1", "user": "mooring-lab-endpoint", "namespace": "dev"}}
    before["contexts"].append(mine)
    made = merge(before, ours("lab"))
    assert mine in made["contexts"]
    assert {"lab-m1"} <= set(named(made, "clusters"))
    assert "mooring-lab-endpoint" in named(made, "users")
    assert "lab-m1" not in named(made, "contexts")


def test_what_people_added_to_our_entries_stays() -> None:
    before = merge(None, ours("lab"))
    entry(before, "contexts", "lab")["namespace"] = "dev"
    entry(before, "contexts", "lab")["extensions"].append({"name": "kubens", "extension": {"a": 1}})
    entry(before, "clusters", "lab")["proxy-url"] = "http://proxy:3128"
    made = merge(before, ours("lab", secret=2))
    assert entry(made, "contexts", "lab")["namespace"] == "dev"
    assert [item["name"] for item in entry(made, "contexts", "lab")["extensions"]] == ["mooring.fleet", "kubens"]
    assert entry(made, "clusters", "lab")["proxy-url"] == "http://proxy:3128"
    assert entry(made, "users", "mooring-lab")["token"] == "mrg_2"


def test_nothing_weakens_what_we_trust_and_no_other_credential_stays_in_our_entry() -> None:
    before = merge(None, ours("lab"))
    entry(before, "clusters", "lab").update({"insecure-skip-tls-verify": True, "certificate-authority": "/tmp/ca"})
    entry(before, "users", "mooring-lab").update({"username": "x", "password": "y", "as": "admin"})
    made = merge(before, ours("lab"))
    assert made == merge(None, ours("lab"))


def test_a_name_that_another_has_stops_the_merge() -> None:
    for section, kind in SECTIONS.items():
        name = "mooring-lab" if section == "users" else "lab"
        there = {**OTHERS, section: [*OTHERS[section], {"name": name, kind: {}}]}
        with pytest.raises(CannotMerge, match=f"the {kind} '{name}' in it is not from {URL}") as refused:
            merge(there, ours("lab"))
        assert "--prefix" in refused.value.hint


def test_the_same_cluster_of_another_server_is_anothers() -> None:
    there = merge(None, ours("lab", url="https://elsewhere:8443"))
    with pytest.raises(CannotMerge, match="is not from"):
        merge(there, ours("lab"))
    assert mark_of(there["contexts"][0], "context") == ("https://elsewhere:8443", "lab")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "Pod"}, "no kubeconfig but a Pod"),
        ({"apiVersion": "v2"}, "no kubeconfig"),
        ({"clusters": {"a": 1}}, "clusters are no list"),
        ({"users": ["x"]}, "number 1 of its users has no name"),
        ({"contexts": [{"name": 3}]}, "number 1 of its contexts has no name"),
        ({"contexts": [{"name": "a", "context": [1]}]}, "context 'a' in it is no mapping"),
        ({"current-context": 5}, "current-context"),
    ],
)
def test_what_is_no_kubeconfig_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(CannotMerge, match=says):
        merge({**OTHERS, **change}, ours("lab"))


@pytest.mark.parametrize("mark", [None, 3, {}, {"server": URL}, {"server": URL, "cluster": 3}, {"cluster": "lab"}])
def test_half_a_mark_is_none(mark: Any) -> None:
    assert mark_of({"context": {"extensions": [{"name": "mooring.fleet", "extension": mark}]}}, "context") is None
    assert mark_of({"context": {"extensions": {"name": "mooring.fleet"}}}, "context") is None


# --- whatever is there ---------------------------------------------------------------------------------------------

NAME = st.sampled_from(["kind", "prod", "a", "b", "1e3", "mooring-x", "lab2"])
ANY = st.recursive(
    st.one_of(st.text("ab1:e.", max_size=4), st.booleans(), st.integers(), st.none()),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
EXTRA = st.dictionaries(st.sampled_from(["server", "token", "namespace", "extensions", "odd", "cluster", "user"]), ANY)


def entries(kind: str) -> st.SearchStrategy[Any]:
    one = st.fixed_dictionaries({"name": NAME, kind: EXTRA}, optional={"odd": ANY})
    return st.none() | st.lists(one, max_size=3)


CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "apiVersion": st.just("v1"),
        "kind": st.just("Config"),
        "preferences": ANY,
        "extensions": ANY,
        "future": ANY,
        "current-context": st.one_of(NAME, st.just(""), st.none()),
        **{section: entries(kind) for section, kind in SECTIONS.items()},
    },
)
OURS = st.builds(
    ours,
    st.sampled_from(["lab", "test"]),
    nodes=st.sets(st.sampled_from(["m1", "m2"])).map(lambda found: tuple(sorted(found))),
    secret=st.sampled_from([1, 2]),
)


@given(CONFIG, st.lists(OURS, min_size=1, max_size=3), st.booleans())
def test_nothing_of_anothers_is_lost_and_it_is_idempotent(there: Any, documents: list[Any], current: bool) -> None:
    kept = copy.deepcopy(there)
    made = there
    for wanted in documents:
        made = merge(made, wanted, make_current=current)
        assert merge(made, wanted, make_current=current) == made
        for section, kind in SECTIONS.items():
            assert [item for item in made[section] if mark_of(item, kind) is None] == list(kept.get(section) or ())
            assert {item["name"] for item in wanted[section]} <= {item["name"] for item in made[section]}
        assert {key: made[key] for key in ("extensions", "future") if key in kept} == {
            key: kept[key] for key in ("extensions", "future") if key in kept
        }
    if not current and kept.get("current-context"):
        assert made["current-context"] == kept["current-context"]
    assert there == kept
    assert configtext.load(configtext.dump(made).encode()) == made
