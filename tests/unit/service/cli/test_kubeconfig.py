# SPDX-License-Identifier: Apache-2.0
"""`mooring kubeconfig` asks for what was wished, and puts it where it was told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from mooring.kube import configtext
from mooring.kube.kubeconfig import Place, contexts, document
from support.fake_api import FakeApi, reason

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def logged_in(api: FakeApi, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.log_in(monkeypatch, home)
    answer(api)


def answer(api: FakeApi, *, direct: bool = False, token: str = "1", **more: Any) -> None:  # noqa: S107
    """What the server says: the cluster lab, with or without a direct way."""
    places = [Place(kind="proxy", cluster="lab", server=f"{api.url}/k8s/clusters/lab", ca_pem="ca")]
    if direct:
        places.append(Place(kind="fqdn", cluster="lab", server="https://k8s.example", ca_pem="ca"))
    found = contexts(places)
    config = document(api.url, found, {context.user: {"token": token} for context in found}, "lab")
    body = {
        "kubeconfig": configtext.dump(config),
        "contexts": [context.name for context in found],
        "details": [{"name": c.name, "cluster": c.place.cluster, "kind": c.place.kind} for c in found],
        "expires_at": None,
        "undelivered": [],
        **more,
    }
    api.answer("POST", "/api/v1/kubeconfig", body)


def test_a_kubeconfig_file_is_private(api: FakeApi, home: Path, mooring: Run) -> None:
    result = mooring("kubeconfig", "--token", "--ttl", "2h", "--cluster", "lab", "-o", home / "kc")
    assert result.exit_code == 0, result.exception
    assert (configtext.load((home / "kc").read_bytes()) or {})["current-context"] == "lab"
    assert (home / "kc").stat().st_mode & 0o777 == 0o600
    assert api.asked[0].body == {"mode": "token", "ttl_seconds": 7200, "clusters": ["lab"]}
    assert "1 context: lab" in result.output


def test_what_is_wished_is_asked_for(api: FakeApi, home: Path, mooring: Run) -> None:
    words = ("--contexts", "fqdn, nodes", "--prefer-direct", "--prefix", "w-", "--current-context", "lab-fqdn")
    assert mooring("kubeconfig", *words, "-o", home / "kc").exit_code == 0
    wished = {"contexts": ["fqdn", "nodes"], "prefer_direct": True, "prefix": "w-", "current_context": "lab-fqdn"}
    assert api.asked[0].body == {"mode": "exec", **wished, "path": str(home / "kc")}
    mooring("kubeconfig", "--token", "--prefer-direct", "-o", home / "kc")
    assert api.asked[1].body == {"mode": "token", "prefer_direct": True}, "no plugin in it, so no file to tell it"
    mooring("kubeconfig", "--prefer-direct")
    assert api.asked[2].body == {"mode": "exec", "prefer_direct": True}
    assert "'node' is none of proxy, fqdn, nodes" in mooring("kubeconfig", "--contexts", "node").output


def test_it_is_merged_into_a_file_that_others_use(api: FakeApi, home: Path, mooring: Run) -> None:
    file = home / ".kube" / "config"
    file.parent.mkdir()
    file.write_text(
        "contexts: [{name: kind, context: {cluster: kind, user: kind, namespace: x}}]\ncurrent-context: kind\n"
    )
    file.chmod(0o600)
    result = mooring("kubeconfig", "--merge", file)
    assert result.output == f"{file}: 1 context merged, 1 other kept; current: kind\n"
    made = configtext.load(file.read_bytes()) or {}
    assert [entry["name"] for entry in made["contexts"]] == ["kind", "lab"]
    before = file.stat()
    assert "as they were" in mooring("kubeconfig", "--merge", file).output
    assert file.stat().st_ino == before.st_ino
    assert "current: lab" in mooring("kubeconfig", "--merge", file, "--current", "lab").output


def test_a_file_that_others_can_read_is_told(api: FakeApi, home: Path, mooring: Run) -> None:
    file = home / "config"
    file.write_text("{}")
    file.chmod(0o644)
    assert "others can read" not in mooring("kubeconfig", "--merge", file).stderr
    answer(api, token="2")
    assert f"run: chmod 600 {file}" in mooring("kubeconfig", "--token", "--merge", file).stderr
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_name_that_is_taken_and_a_broken_file_are_said_and_nothing_is_lost(home: Path, mooring: Run) -> None:
    file = home / "config"
    for text, says in (
        ("contexts: [{name: lab, context: {}}]\n", "--prefix"),
        ("contexts: [", "is no kubeconfig"),
        ("a: 1\n---\nb: 2\n", "more than one document"),
    ):
        file.write_text(text)
        assert says in reason(mooring("kubeconfig", "--merge", file))
        assert file.read_text() == text


def test_output_and_merge_do_not_go_together(api: FakeApi, home: Path, mooring: Run) -> None:
    assert "do not go together" in reason(mooring("kubeconfig", "-o", home / "a", "--merge", home / "b"))
    assert api.asked == []


def test_tokens_for_direct_contexts_are_at_hand_before_the_server_is_away(
    api: FakeApi, home: Path, mooring: Run
) -> None:
    answer(api, direct=True)
    made = {"token": "mre_1", "created_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T01:00:00.000Z"}
    api.answer("POST", "/api/v1/tokens", made, 201)
    mooring("kubeconfig", "-o", home / "kc")
    assert api.asked[1].body["endpoint"] is True
    api.answers.clear()
    result = mooring("credential", "--server", api.url, "--cluster", "lab", "--endpoint")
    assert json.loads(result.output)["status"]["token"] == "mre_1"
    assert len(api.asked) == 2
    mooring("kubeconfig", "--token", "-o", home / "kc")
    assert len(api.asked) == 3, "a file with tokens needs no other"


def test_a_file_is_written_also_when_no_token_can_be_kept_at_hand(api: FakeApi, home: Path, mooring: Run) -> None:
    answer(api, direct=True, undelivered=["lab"])
    result = mooring("kubeconfig", "-o", home / "kc")
    assert result.exit_code == 0, result.exception
    assert "the agent of lab did not yet say that it has the token" in result.stderr


def test_words_are_completed() -> None:
    from click import Context
    from mooring.cli.kubeconfig import kubeconfig

    context = Context(kubeconfig)
    (option,) = [p for p in kubeconfig.params if p.name == "contexts"]
    for typed, offered in (("", ["proxy", "fqdn", "nodes"]), ("proxy,f", ["proxy,fqdn"]), ("fqdn,n", ["fqdn,nodes"])):
        assert [item.value for item in option.type.shell_complete(context, option, typed)] == offered
