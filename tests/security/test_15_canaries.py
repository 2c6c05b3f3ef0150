# SPDX-License-Identifier: Apache-2.0
"""Attack class 15: secrets that turn up. Known secrets are used rightly and wrongly, and then searched for everywhere.

Logs of server and agent, the audit log, metrics, answers of the API, and what Ansible prints with `-vvv`. Guards:
`lib/secrets.py` (a type that hides its value), `lib/logging.py`, `no_log` of the modules' arguments, answers that
show a secret once and never again.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from support.rawhttp import RawClient, bearer
from support.road import BIN, Done, run

from .conftest import Road, new_source

ROOT = Path(__file__).resolve().parents[2]


def spellings(secret: str) -> list[str]:
    """How a secret could stand in a text: as it is, the part that is secret, in base64, percent-encoded."""
    found = [secret, base64.b64encode(secret.encode()).decode().rstrip("=")]
    if secret.startswith(("mrg_", "mrj_")):
        found.append(secret.rsplit("_", 1)[1])
    return found


def leaks(secrets: dict[str, str], places: dict[str, str]) -> list[str]:
    return [
        f"{what} in {where}"
        for what, secret in secrets.items()
        for where, text in places.items()
        if any(spelling in text for spelling in spellings(secret))
    ]


def test_no_secret_turns_up_in_logs_metrics_or_answers(
    road: Road, client: RawClient, fresh_name: Callable[[str], str]
) -> None:
    server = road.server
    person = road.person(fresh_name("canary"), clusters=[road.a])
    wrong = "canary-of-a-wrong-password"
    join = server.api("POST", "/clusters", {"name": fresh_name("cl")})
    made = server.api("POST", f"/clusters/{join['name']}/join-tokens")
    identity = road.a.direct.json("-n", "mooring-system", "get", "secret", "mooring-agent-identity")["data"]
    private = {
        f"the agent's {key}": base64.b64decode(value).decode("latin-1")
        for key, value in identity.items()
        if "key" in key
    }
    assert private
    secrets = {
        "the admin's token": server.admin_token,
        "the admin's password": (server.folder / "admin.password").read_text(),
        "a user's token": person.token,
        "a user's password": person.password,
        "a wrong password": wrong,
        "a join token": made["join_token"],
        **private,
    }
    token = person.token
    cluster = road.a.path("/api")
    plain = (b"Content-Type", b"application/json")
    with road.dial(new_source()) as stranger:
        attempts = [
            # used rightly
            client.request("GET", cluster, bearer(token)),
            # in all the wrong places; the path and the user agent are what we do write down
            stranger.request("GET", cluster + f"?access_token={token}&token={token}"),
            stranger.request("GET", cluster, [(b"Authorization", b"Basic " + base64.b64encode(f"a:{token}".encode()))]),
            stranger.request("GET", cluster, [(b"Authorization", f"Token {token}".encode())]),
            stranger.request("GET", cluster, [*bearer(token), *bearer(token)]),
            stranger.request(
                "GET", cluster, [(b"Cookie", f"token={token}".encode()), (b"X-Remote-User", token.encode())]
            ),
            stranger.request("GET", cluster, bearer(token[:-1])),
            stranger.request("GET", cluster, bearer(token + "\xff")),
            stranger.request("GET", f"/k8s/clusters/{token}/api", bearer(token)),
            stranger.request("GET", f"/api/v1/tokens/{token}", bearer(token)),
            stranger.request("GET", f"/api/v1/users/{token}", bearer(token)),
            stranger.request(
                "POST", "/api/v1/login", [plain], json.dumps({"username": "admin", "password": wrong}).encode()
            ),
            stranger.request(
                "POST", "/api/v1/login", [plain], json.dumps({"username": person.name, "password": [wrong]}).encode()
            ),
            stranger.request(
                "POST", "/api/v1/login", [plain], json.dumps({"user": person.name, "password": wrong}).encode()
            ),
            stranger.request("POST", "/api/v1/login", [plain], f'{{"username": "x", "password": "{wrong}'.encode()),
            stranger.request(
                "POST",
                "/api/v1/agents/register",
                [plain],
                json.dumps({"join_token": made["join_token"], "public_key": wrong}).encode(),
            ),
            stranger.request(
                "POST",
                "/api/v1/agents/register",
                [plain],
                json.dumps({"join_token": made["join_token"], "x": made["join_token"]}).encode(),
            ),
            stranger.request("GET", "/tunnel/connect", bearer(token)),
            stranger.exchange(
                f"GET {cluster} HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer {token}\r\n f: {token}\r\n\r\n".encode()
            ),
            stranger.exchange(f"GET {cluster} HTTP/1.1\r\nHost: m\r\nAuthorization Bearer {token}\r\n\r\n".encode()),
        ]
    assert attempts[0].status == 200
    assert all(answer.status >= 400 for answer in attempts[1:]), [answer.status for answer in attempts]
    listed = {
        path: json.dumps(server.api("GET", path))
        for path in (
            "/users",
            "/tokens",
            "/clusters",
            "/memberships",
            "/groups",
            "/server",
            "/whoami",
            f"/clusters/{join['name']}",
        )
    }
    places = {
        "the server's log": road.server_log(),
        "the audit log": (server.folder / "data" / "audit.log").read_text(),
        "an agent's log": road.a.agent_log + road.b.agent_log,
        "the metrics": server.call("GET", "/metrics", token=server.admin_token).body.decode(),
        **{
            f"answer {number}": answer.head.decode("latin-1") + answer.body.decode("latin-1")
            for number, answer in enumerate(attempts)
        },
        **{f"GET {path}": text for path, text in listed.items()},
        "the configuration": server.config.read_text(),
    }
    assert all(places.values())
    assert leaks(secrets, places) == []
    jwt = re.compile(r"eyJ[A-Za-z0-9_-]{20,}\.")
    assert [where for where, text in places.items() if jwt.search(text)] == [], "a JWT of an agent or a service account"
    data = (server.folder / "data" / "mooring.db").read_bytes().decode("latin-1")
    wal = server.folder / "data" / "mooring.db-wal"
    data += wal.read_bytes().decode("latin-1") if wal.exists() else ""
    assert leaks(secrets, {"the database": data}) == []


def ansible(road: Road, folder: Path, task: str, **environ: str) -> Done:
    """Run one task as a playbook with -vvv; the collection is this working tree."""
    collections = folder / "collections"
    link = collections / "ansible_collections" / "mooring" / "fleet"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT)
    book = folder / "book.yml"
    book.write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks:\n{task}")
    environment = {
        **os.environ,
        **environ,
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_HOME": str(folder / "home"),
        "MOORING_URL": road.server.url,
        "MOORING_TOKEN": road.server.admin_token,
        "MOORING_CA_FILE": str(road.server.ca),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
    }
    return run([BIN / "ansible-playbook", "-vvv", "--diff", book], env=environment, check=False, timeout=240)


def test_ansible_prints_no_secret_at_vvv(road: Road, tmp_path: Path, fresh_name: Callable[[str], str]) -> None:
    name = fresh_name("playbook")
    password, wrong = "canary-password-of-a-playbook", "canary-wrong-token-of-a-playbook"
    tokens = tmp_path / "token"
    kubeconfig = tmp_path / "kubeconfig"
    done = ansible(
        road,
        tmp_path,
        f"""
    - mooring.fleet.user: {{name: {name}, password: "{{{{ lookup('env', 'CANARY') }}}}", groups: []}}
    - mooring.fleet.token: {{description: made by a playbook, ttl: 600}}
      no_log: true
      register: made
    - copy: {{content: "{{{{ made.secret }}}}", dest: {tokens}, mode: "0600"}}
      no_log: true
    - mooring.fleet.kubeconfig: {{dest: {kubeconfig}, clusters: [aft]}}
    - mooring.fleet.kubeconfig: {{dest: {kubeconfig}, clusters: [aft, bow]}}
    - mooring.fleet.user: {{name: {name}, token: "{{{{ lookup('env', 'WRONG') }}}}", groups: [admins]}}
""",
        CANARY=password,
        WRONG=wrong,
    )
    output = done.stdout + done.stderr
    assert "failed=1" in output, output[-3000:]
    assert kubeconfig.exists(), output[-3000:]
    in_file = re.findall(r"mrg_[a-z0-9_-]+", kubeconfig.read_text())
    assert len(in_file) == 2
    secrets = {
        "the admin's token": road.server.admin_token,
        "a password": password,
        "a wrong password": wrong,
        "a made token": tokens.read_text(),
        **{f"token {number} of the kubeconfig": token for number, token in enumerate(in_file)},
    }
    assert tokens.read_text().startswith("mrg_")
    assert leaks(secrets, {"Ansible's output": output, "the server's log": road.server_log()}) == []
