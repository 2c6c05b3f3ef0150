# SPDX-License-Identifier: Apache-2.0
"""Attack class 19: template and path injection through names of clusters, users and labels, and what agents report.

A name ends up in a manifest, a kubeconfig, a file's name, a shell, a terminal, and as a variable of Ansible, whose
templates run commands on the controller. What could mean something there is refused, or is only data there. Guards:
`lib/names.py`, `api/common.py` (labels, texts), YAML and JSON written by libraries, `plugins/inventory/clusters.py`
(values of the server are no templates), `proxy/requestinfo.py` (`printable`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from support.glass import Glass
from support.rawhttp import RawClient, bearer
from support.road import BIN, run, until

from .conftest import Road

ROOT = Path(__file__).resolve().parents[2]
CODES = [
    "{{7*7}}",
    "{% raw %}",
    "${7*7}",
    "#{7*7}",
    "<%= 7 %>",
    "$(id)",
    "`id`",
    "%s%n",
    "a\nb: c",
    "a\r\nX: y",
    "a\0b",
    "../../etc/x",
    "/etc/x",
    "..",
    "a/b",
    "a\\b",
    "a: b",
    "- a",
    "&a",
    "*a",
    "!!python/object:os.system",
    "? a",
    "'",
    '"',
    "a#b",
    "<script>",
    "a b",
    "-n",
    "--help",
    "a;id",
    "a|id",
    "a\x1b[2J",
    "a\u202eb",
    "a\u2028b",
    "con",
    "a.",
    "ä",
    "Ａ",
    "a" * 64,
    "",
]

PASSWORD = "a long enough one"


def test_cluster_names_labels_and_texts_that_mean_something_elsewhere_are_refused(
    road: Road, client: RawClient
) -> None:
    admin = bearer(road.server.admin_token, (b"Content-Type", b"application/json"))
    before = road.server.api("GET", "/clusters")["total"]

    def post(body: dict[str, Any]) -> int:
        return client.request("POST", "/api/v1/clusters", admin, json.dumps(body).encode()).status

    for code in CODES:
        if code != "con":
            assert post({"name": code}) in (400, 422), repr(code)
        if code not in ("", "con", "a" * 64):
            if code != "a/b":  # a label's key with a prefix
                assert post({"name": "x", "labels": {code: "v"}}) in (400, 422), repr(code)
            assert post({"name": "x", "labels": {"k": code}}) in (400, 422), repr(code)
    for text in ("a\0b", "a\x1b[31mb", "\x7f"):
        assert post({"name": "x", "description": text}) in (400, 422), repr(text)
    assert road.server.api("GET", "/clusters")["total"] == before


def test_names_that_are_allowed_stay_data_wherever_they_go(
    road: Road, client: RawClient, fresh_name: Callable[[str], str], tmp_path: Path
) -> None:
    """User and group names may hold almost anything that prints: in YAML, in headers, in the audit, in a shell."""
    server = road.server
    end = fresh_name("")
    names = [
        f"{{{{ 7*7 }}}} $(touch /tmp/x) `id` ${{x}} {end}",
        f"a: b, - c '\"#&*!|> --as=x {end}",
        f"%0d%0aX: y ÄÖ 码 ../../x <b>&amp;</b> {end}",
    ]
    begin = road.a.position()
    for name in names:
        server.api("POST", "/groups", {"name": f"group of {name}"})
        server.api("POST", "/users", {"name": name, "password": PASSWORD, "groups": [f"group of {name}"]})
        server.api("POST", "/memberships", {"cluster": "aft", "user": name})
        token = server.login(name, PASSWORD)
        answer = client.request(
            "POST", "/api/v1/kubeconfig", bearer(token, (b"Content-Type", b"application/json")), b"{}"
        )
        assert answer.status == 200, (name, str(answer))
        text = answer.json()["kubeconfig"]
        [document] = list(yaml.safe_load_all(text))
        assert [cluster["name"] for cluster in document["clusters"]] == ["aft"], name
        assert document["clusters"][0]["cluster"]["server"] == f"{server.url}/k8s/clusters/aft", name
        assert all(set(user["user"]) == {"token", "extensions"} for user in document["users"]), name
        who = road.whoami(client, road.a, token)
        assert who.status == 201, (name, str(who))
        info = who.json()["status"]["userInfo"]
        assert info["username"] == f"mooring:{name}"
        assert f"mooring:group of {name}" in info["groups"], name
    known = {f"mooring:{name}" for name in names}
    seen = {
        event["impersonatedUser"]["username"]
        for event in road.seen_until(road.a, begin)
        if event.get("impersonatedUser")
    }
    assert known <= seen <= known | {"mooring:admin"}
    lines = (server.folder / "data" / "audit.log").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {record["user"] for record in records} >= set(names)


def test_a_manifest_holds_the_objects_that_it_should_and_no_others(
    road: Road, fresh_name: Callable[[str], str]
) -> None:
    server = road.server
    name = fresh_name("manifest")
    server.api(
        "POST",
        "/clusters",
        {"name": name, "description": "---\nkind: ClusterRoleBinding\n{{ x }}: [", "labels": {"tier": "a.b_c"}},
    )
    usual = list(yaml.safe_load_all(server.mooring("cluster", "manifest", name).stdout))
    kinds = [(thing["kind"], thing["metadata"]["name"]) for thing in usual]
    other = fresh_name("plain")
    server.api("POST", "/clusters", {"name": other})
    plain = [
        (t["kind"], t["metadata"]["name"])
        for t in yaml.safe_load_all(server.mooring("cluster", "manifest", other).stdout)
    ]
    assert kinds == plain
    for options in (
        {"namespace": "a\nb: c"},
        {"namespace": "../x"},
        {"image": "a\nb: c"},
        {"image": "a b"},
        {"image": "{{x}}\n---\n"},
        {"image_pull_policy": "x"},
        {"replicas": -1},
    ):
        answer = server.call("POST", f"/api/v1/clusters/{name}/manifest", options, token=server.admin_token)
        if answer.status == 200:
            made = yaml.safe_load_all(answer.json()["manifest"])
            assert [(t["kind"], t["metadata"]["name"]) for t in made] == plain, options
            assert "\n" not in str(options.get("image", ""))
        else:
            assert answer.status in (400, 422), (options, answer.body)


def test_what_an_agent_reports_runs_nothing_on_the_controller(road: Road, glass: Glass, tmp_path: Path) -> None:
    """An agent says what it likes of its cluster; Ansible makes variables of it."""
    proof = tmp_path / "proof"
    code = f"{{{{ lookup('ansible.builtin.pipe', 'touch {proof}; echo done') }}}}"
    report = {
        "kind": "status",
        "kubernetes_version": code,
        "node_count": 1,
        "nodes_ready": 1,
        "api_server_healthy": False,
        "api_server_message": code,
        "agent_version": code,
        "conditions": [{"type": "Ready", "status": "False", "reason": code, "message": code}],
    }

    async def say() -> None:
        for session in glass.sessions:
            session.message(report)

    glass.run(say())

    def arrived() -> bool:
        return "lookup(" in json.dumps(road.server.api("GET", "/clusters/glass"))

    try:
        until("the report is in the cluster's state", arrived, 10)
        reported = True
    except AssertionError:
        reported = False  # refused as a whole, which is as good
    link = tmp_path / "collections" / "ansible_collections" / "mooring" / "fleet"
    link.parent.mkdir(parents=True)
    link.symlink_to(ROOT)
    inventory = tmp_path / "fleet.mooring.yml"
    inventory.write_text(
        "plugin: mooring.fleet.clusters\nstrict: false\nkeyed_groups: [{key: mooring_kubernetes_version, prefix: v}]\n"
    )
    book = tmp_path / "book.yml"
    book.write_text(
        "- hosts: glass\n  gather_facts: false\n  tasks:\n"
        '    - debug: {msg: "{{ mooring_state_reason }} {{ mooring_kubernetes_version }} {{ mooring_description }}"}\n'
        '    - command: {argv: [echo, "{{ mooring_kubernetes_version }}", "{{ hostvars.glass | string | length }}"]}\n'
        "    - copy: {content: \"{{ hostvars['glass'] | dict2items | map(attribute='key') | join }}\", dest: "
        # a file of the test's own: the module puts a new file in the place of whatever is there, also of a device
        f"{tmp_path / 'keys'}}}\n"
    )
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "MOORING_URL": road.server.url,
        "MOORING_TOKEN": road.server.admin_token,
        "MOORING_CA_FILE": str(road.server.ca),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    done = run([BIN / "ansible-playbook", "-i", inventory, book], env=environment, check=False, timeout=240)
    assert "glass" in done.stdout, done.stdout + done.stderr
    assert not proof.exists(), done.stdout
    assert "msg" in done.stdout, done.stdout + done.stderr
    if reported:
        assert "lookup(" in done.stdout, done.stdout
