# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that mooring.fleet.kubeconfig writes: private, whole, kept while it works, and nobody else's."""

from __future__ import annotations

import os

import pytest
import yaml
from fake_api import Failed


@pytest.fixture
def clusters(api, run_module):
    for name in ("paris", "lyon"):
        run_module("cluster", name=name)
    api.log.clear()


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "kubeconfig"


pytestmark = pytest.mark.usefixtures("clusters")


def tokens(api):
    return [t for t in api.objects["tokens"].values() if t["description"] == "kubeconfig"]


def test_written_once_and_private(api, run_module, dest):
    would = run_module("kubeconfig", check=True, dest=str(dest))
    assert would["changed"]
    assert not dest.exists()
    assert api.writes() == []
    made = run_module("kubeconfig", dest=str(dest))
    assert made["changed"]
    assert made["contexts"] == ["lyon", "paris"]
    assert made["expires_at"]
    assert dest.stat().st_mode & 0o777 == 0o600
    assert dest.read_text().count("token: mrg_") == 2
    assert [p.name for p in dest.parent.iterdir()] == ["kubeconfig"]
    again = run_module("kubeconfig", dest=str(dest))
    assert not again["changed"]
    assert len(tokens(api)) == 2
    assert again["expires_at"] == made["expires_at"]


def test_no_token_is_printed(api, run_module, dest):
    results = [run_module("kubeconfig", dest=str(dest)), run_module("kubeconfig", dest=str(dest), clusters=["paris"])]
    secrets = [line.split("token: ")[1] for line in dest.read_text().splitlines() if "token: mrg_" in line]
    assert secrets
    for result in results:
        assert not any(secret in result["_printed"] for secret in secrets)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clusters": ["paris"]}, "clusters changed"),
        ({"contexts": ["proxy"]}, "ways changed"),
        ({"prefer_direct": True}, "prefer_direct changed"),
        ({"mode": "exec"}, "mode changed"),
        ({"current_context": "paris"}, "current_context changed"),
        ({"renew_before": 100000}, "has less than 100000 seconds left"),
    ],
)
def test_written_anew_when_it_does_not_fit(run_module, dest, change, reason):
    run_module("kubeconfig", dest=str(dest))
    would = run_module("kubeconfig", check=True, dest=str(dest), **change)
    before = dest.read_text()
    assert reason in would["reason"]
    assert would["changed"]
    result = run_module("kubeconfig", dest=str(dest), **change)
    assert reason in result["reason"]
    assert dest.read_text() != before


def test_written_anew_when_a_cluster_came(run_module, dest):
    run_module("kubeconfig", dest=str(dest))
    run_module("cluster", name="nice")
    assert run_module("kubeconfig", dest=str(dest))["contexts"] == ["lyon", "nice", "paris"]


def test_written_anew_when_a_token_in_it_was_revoked(api, run_module, dest):
    run_module("kubeconfig", dest=str(dest))
    tokens(api)[0]["revoked_at"] = "2001-01-01T00:00:00Z"
    assert run_module("kubeconfig", dest=str(dest))["reason"] == "a token in it is expired or revoked"
    assert not run_module("kubeconfig", dest=str(dest))["changed"]


def test_written_anew_when_it_was_edited(run_module, dest):
    run_module("kubeconfig", dest=str(dest))
    dest.write_text(dest.read_text() + "# mine\n")
    assert run_module("kubeconfig", dest=str(dest))["reason"] == "the file was edited"


def test_made_private_again(run_module, dest):
    run_module("kubeconfig", dest=str(dest))
    dest.chmod(0o644)
    assert run_module("kubeconfig", check=True, dest=str(dest))["changed"]
    assert dest.stat().st_mode & 0o777 == 0o644
    assert run_module("kubeconfig", dest=str(dest))["changed"]
    assert dest.stat().st_mode & 0o777 == 0o600
    dest.chmod(0o644)
    run_module("kubeconfig", dest=str(dest), clusters=["paris"])
    assert dest.stat().st_mode & 0o777 == 0o600


def test_direct_contexts_come_and_go_with_the_endpoint(api, run_module, dest):
    run_module("kubeconfig", dest=str(dest))
    run_module("cluster_endpoint", name="paris", mode="webhook", fqdn="paris.example.com:6443")
    made = run_module("kubeconfig", dest=str(dest))
    assert made["reason"] == "endpoints changed"
    assert made["contexts"] == ["lyon", "paris", "paris-fqdn"]
    assert "token: mre_e-" in dest.read_text()
    again = run_module("kubeconfig", dest=str(dest))
    assert not again["changed"]
    assert again["contexts"] == ["lyon", "paris", "paris-fqdn"]
    [direct] = [token for token in tokens(api) if token["id"].startswith("e-")]
    direct["revoked_at"] = "2001-01-01T00:00:00Z"
    assert run_module("kubeconfig", dest=str(dest))["reason"] == "a token in it is expired or revoked"
    only = run_module("kubeconfig", dest=str(dest), contexts=["fqdn"], clusters=["paris"])
    assert only["contexts"] == ["paris-fqdn"]


def test_short_tokens_are_not_renewed_at_once(run_module, dest):
    run_module("kubeconfig", dest=str(dest), ttl=600)
    assert not run_module("kubeconfig", dest=str(dest), ttl=600)["changed"]


THEIRS = """\
# a comment
apiVersion: v1
kind: Config
clusters:
- name: home
  cluster: {server: "https://home.example.com", insecure-skip-tls-verify: true}
users:
- name: me
  user: {token: "my secret"}
contexts:
- name: home
  context: {cluster: home, user: me, namespace: kitchen, extensions: [{name: other, extension: {a: 1}}]}
current-context: home
preferences: {colors: true}
extensions:
- name: tool
  extension: {theirs: true}
"""


def test_merged_into_a_file_of_others_and_out_again(api, run_module, dest):
    dest.write_text(THEIRS)
    theirs = yaml.safe_load(THEIRS)
    would = run_module("kubeconfig", check=True, dest=str(dest), merge=True)
    assert would["changed"]
    assert dest.read_text() == THEIRS
    made = run_module("kubeconfig", dest=str(dest), merge=True)
    assert made["changed"]
    assert "my secret" not in made["_printed"]
    document = yaml.safe_load(dest.read_text())
    assert [entry["name"] for entry in document["contexts"]] == ["home", "lyon", "paris"]
    for key in ("clusters", "users", "contexts"):
        assert document[key][0] == theirs[key][0]
    assert document["current-context"] == "home"
    assert document["preferences"] == theirs["preferences"]
    assert theirs["extensions"][0] in document["extensions"]
    assert dest.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in dest.parent.iterdir()] == ["kubeconfig"]
    assert not run_module("kubeconfig", dest=str(dest), merge=True)["changed"]
    named = run_module("kubeconfig", dest=str(dest), merge=True, current_context="paris")
    assert named["changed"]
    assert yaml.safe_load(dest.read_text())["current-context"] == "paris"
    held = [token for token in tokens(api) if token["id"] in dest.read_text()]
    assert len(held) == 2
    assert run_module("kubeconfig", dest=str(dest), merge=True, state="absent")["changed"]
    left = yaml.safe_load(dest.read_text())
    assert left == dict(theirs, **{"current-context": ""})
    assert all(token["revoked_at"] for token in held)
    assert not run_module("kubeconfig", dest=str(dest), merge=True, state="absent")["changed"]


def entry(document, key, name):
    (found,) = [e[key.removesuffix("s")] for e in document[key] if e["name"] == name]
    return found


def test_what_is_not_ours_is_not_lost_when_it_is_used_with_ours(run_module, dest):
    """A context of ours with one's own credential, and one's own context for a cluster of ours."""
    dest.write_text(THEIRS)
    run_module("kubeconfig", dest=str(dest), merge=True)
    document = yaml.safe_load(dest.read_text())
    entry(document, "contexts", "paris")["user"] = "me"
    entry(document, "contexts", "lyon")["namespace"] = "kitchen"
    entry(document, "clusters", "lyon").update({"proxy-url": "http://proxy", "insecure-skip-tls-verify": True})
    mine = {"name": "mine", "context": {"cluster": "paris", "user": "mooring-paris"}}
    document["contexts"].append(mine)
    dest.write_text(yaml.safe_dump(document))
    assert run_module("kubeconfig", dest=str(dest), merge=True, clusters=["lyon"])["changed"]
    assert not run_module("kubeconfig", dest=str(dest), merge=True, clusters=["lyon"])["changed"]
    left = yaml.safe_load(dest.read_text())
    assert entry(left, "users", "me") == {"token": "my secret"}
    assert entry(left, "contexts", "lyon")["namespace"] == "kitchen"
    assert "insecure-skip-tls-verify" not in entry(left, "clusters", "lyon")
    assert entry(left, "clusters", "lyon")["proxy-url"] == "http://proxy"
    assert mine in left["contexts"]
    assert {"paris", "lyon", "home"} == {e["name"] for e in left["clusters"]}
    assert "paris" not in [e["name"] for e in left["contexts"]]
    run_module("kubeconfig", dest=str(dest), merge=True)
    run_module("kubeconfig", dest=str(dest), merge=True, state="absent")
    left = yaml.safe_load(dest.read_text())
    assert [e["name"] for e in left["contexts"]] == ["home", "mine"]
    assert [e["name"] for e in left["clusters"]] == ["home", "paris"], "somebody uses it"


def test_a_link_is_followed_and_the_owner_stays(run_module, dest):
    real = dest.with_name("real")
    real.write_text(THEIRS)
    dest.symlink_to("real")
    if os.geteuid() == 0:
        os.chown(real, 12345, 23456)
    before = real.stat()
    run_module("kubeconfig", dest=str(dest), merge=True)
    assert dest.is_symlink()
    assert "paris" in real.read_text()
    assert (real.stat().st_uid, real.stat().st_gid) == (before.st_uid, before.st_gid)
    assert real.stat().st_mode & 0o777 == 0o600


def test_what_is_not_text_stays_as_it_is(run_module, dest):
    dest.write_bytes(b"users: []\n# \xff\n")
    with pytest.raises(Failed, match="is not UTF-8"):
        run_module("kubeconfig", dest=str(dest), merge=True)
    assert dest.read_bytes() == b"users: []\n# \xff\n"


def test_what_others_change_in_a_merged_file_is_no_reason_to_write_it(run_module, dest):
    run_module("kubeconfig", dest=str(dest), merge=True)
    document = yaml.safe_load(dest.read_text())
    assert document["current-context"] == "lyon"
    document["clusters"].append({"name": "home", "cluster": {"server": "https://home.example.com"}})
    document["current-context"] = "paris"
    dest.write_text(yaml.safe_dump(document))
    assert not run_module("kubeconfig", dest=str(dest), merge=True)["changed"]
    document["contexts"][0]["context"]["user"] = "me"
    dest.write_text(yaml.safe_dump(document))
    made = run_module("kubeconfig", dest=str(dest), merge=True)
    assert made["reason"] == "our part of the file was edited"
    assert yaml.safe_load(dest.read_text())["current-context"] == "paris"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("clusters: [{name: paris, cluster: {server: 'https://x'}}]\n", "has a cluster 'paris' already"),
        ("a: [\n", "is not YAML"),
        ("- a\n", "is no kubeconfig"),
        ("users: {a: 1}\n", "is no kubeconfig"),
        ("users: [{name: 1}]\n", "is no kubeconfig"),
        ("users: [a]\n", "is no kubeconfig"),
        ("contexts: [{name: a, context: [1]}]\n", "is no kubeconfig"),
        ("a: 1\na: 2\n", "line 1: a key is there twice"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
    ],
)
def test_what_cannot_be_merged_stays(run_module, dest, text, why):
    dest.write_text(text)
    with pytest.raises(Failed, match=why):
        run_module("kubeconfig", dest=str(dest), merge=True)
    assert dest.read_text() == text


def test_another_current_context_is_no_reason_to_write_it(run_module, dest):
    run_module("kubeconfig", dest=str(dest), mode="exec", prefer_direct=True)
    dest.write_text(dest.read_text().replace("current-context: lyon", "current-context: paris"))
    assert not run_module("kubeconfig", dest=str(dest), mode="exec", prefer_direct=True)["changed"]
    assert "current-context: paris" in dest.read_text()


def test_what_kubectl_reads_as_text_stays_text(run_module, dest):
    dest.write_text(
        "users:\n- name: 12:30\n  user: {token: 1e3, username: 0123, password: y, num: 7, part: 1.5, yes_: true}\n"
    )
    run_module("kubeconfig", dest=str(dest), merge=True)
    text = dest.read_text()
    for line in (
        'name: "12:30"',
        'token: "1e3"',
        'username: "0123"',
        'password: "y"',
        "num: 7",
        "part: 1.5",
        "yes_: true",
    ):
        assert line in text
    dest.write_text("users: []\nusers: []\n")
    with pytest.raises(Failed, match="a key is there twice"):
        run_module("kubeconfig", dest=str(dest), merge=True)


def test_a_lock_of_kubectl_is_waited_for(run_module, dest, monkeypatch):
    from ansible_collections.mooring.fleet.plugins.module_utils import kubefile

    monkeypatch.setattr(kubefile, "LOCK_SECONDS", 0.3)
    lock = dest.with_name("kubeconfig.lock")
    lock.touch()
    with pytest.raises(Failed, match=r"another program holds .*kubeconfig\.lock"):
        run_module("kubeconfig", dest=str(dest), merge=True)
    assert lock.exists()
    assert not dest.exists()


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_file_of_somebody_else_is_left_alone(run_module, dest, state):
    dest.write_text("apiVersion: v1\n")
    with pytest.raises(Failed, match="was not written by this module"):
        run_module("kubeconfig", dest=str(dest), state=state)
    assert dest.read_text() == "apiVersion: v1\n"


def test_a_missing_folder_is_named(run_module, tmp_path):
    with pytest.raises(Failed, match=r"dest: the folder .*missing does not exist"):
        run_module("kubeconfig", dest=str(tmp_path / "missing" / "kubeconfig"))


def test_exec_holds_no_secret_and_is_kept(api, run_module, dest):
    assert run_module("kubeconfig", dest=str(dest), mode="exec")["changed"]
    assert "mrg_" not in dest.read_text()
    assert tokens(api) == []
    again = run_module("kubeconfig", dest=str(dest), mode="exec")
    assert not again["changed"]
    assert again["expires_at"] == ""


def test_removed_with_its_tokens(api, run_module, dest):
    run_module("kubeconfig", dest=str(dest))
    assert run_module("kubeconfig", check=True, dest=str(dest), state="absent")["changed"]
    assert dest.exists()
    assert not any(t["revoked_at"] for t in tokens(api))
    assert run_module("kubeconfig", dest=str(dest), state="absent")["changed"]
    assert not dest.exists()
    assert all(t["revoked_at"] for t in tokens(api))
    assert not run_module("kubeconfig", dest=str(dest), state="absent")["changed"]


def test_a_session_of_a_password_lives_as_long_as_what_is_made_in_it(api, run_module, dest):
    who = {"token": None, "login_username": "alice", "login_password": api.passwords["alice"]}
    run_module("kubeconfig", dest=str(dest), ttl=100000, **who)
    (session,) = [token for token in api.objects["tokens"].values() if token["description"] == "ansible"]
    assert all(session["expires_at"] >= token["expires_at"] for token in tokens(api))
    assert session["revoked_at"]
    assert not run_module("kubeconfig", dest=str(dest), **who)["changed"]
