# SPDX-License-Identifier: Apache-2.0
"""Each resource command makes the call that it says it makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.fake_api import FakeApi, reason

CLUSTER = {"name": "lab", "id": "c-1", "state": "pending", "labels": {"env": "test", "old": "x"}, "version": 3}
USER = {"name": "bob", "groups": ["dev"]}
GROUP = {"name": "dev", "members": ["bob"]}
TOKEN = {"id": "t-1", "user": "bob", "token": "mrg_t-1_canary", "expires_at": "2030-01-01T00:00:00.000Z"}
MEMBER = {"id": "m-1", "cluster": "lab", "user": "bob", "group": None}
RULES = [{"verbs": ["get"], "api_groups": [""], "resources": ["pods"]}]
ROLE = {"name": "g", "id": "gr-1", "rules": RULES, "builtin": False, "created_at": "x", "version": 1}
PROJECT = {"name": "web", "id": "p-1", "cluster": "lab", "namespaces": [{"name": "web", "create": True, "quota": {}}]}
BINDING = {"name": "x", "id": "b-1", "role": "r", "users": ["bob"], "groups": [], "expires_at": None}
ENDPOINT: dict[str, Any] = {
    "cluster": "lab", "enabled": True, "mode": "webhook", "fqdn": "k", "ca_pem": "pem", "ttl_seconds": 3600,
    "grace_seconds": 5, "version": 3,
    "status": {"nodes": [{"name": "m1", "host": "10.0.0.1", "port": 6443}], "problem": "", "revision": 3},
}  # fmt: skip
EMPTY: dict[str, Any] = {"items": [], "next": None, "total": 0}


@pytest.fixture(autouse=True)
def logged_in(api: FakeApi, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.log_in(monkeypatch, home)
    (home / "pw").write_text("correct horse\n")
    (home / "role").write_text(json.dumps({"id": "gr-1", "version": 3, "builtin": False, "rules": RULES}))
    (home / "changes").write_text("changes:\n  - {kind: cluster_binding, op: delete, name: x}\n")


CALLS: list[tuple[str, str, str, Any, Any]] = [
    # command, method, path, what the server answers, the body that it must have got
    ("cluster list", "GET", "/clusters?limit=200", EMPTY, None),
    ("cluster list --state connected --label a=b", "GET", "/clusters?state=connected&label=a%3Db&limit=200", EMPTY,
     None),
    ("cluster get lab", "GET", "/clusters/lab", CLUSTER, None),
    ("cluster create lab --description d --label a=b --label c=", "POST", "/clusters", CLUSTER,
     {"name": "lab", "description": "d", "labels": {"a": "b", "c": ""}}),
    ("cluster create lab --profile read-only", "POST", "/clusters", CLUSTER,
     {"name": "lab", "description": "", "labels": {}, "profile": "read-only"}),
    ("cluster update lab --profile proxy-only", "PATCH", "/clusters/lab", CLUSTER, {"profile": "proxy-only"}),
    ("cluster update lab --label env=prod --remove-label old", "PATCH", "/clusters/lab", CLUSTER,
     {"labels": {"env": "prod"}}),
    ("cluster update lab --description ''", "PATCH", "/clusters/lab", CLUSTER, {"description": ""}),
    ("cluster delete lab --yes", "DELETE", "/clusters/lab", "", None),
    ("cluster manifest lab", "POST", "/clusters/lab/manifest", "kind: Namespace\n", {}),
    ("cluster manifest lab --image i:1 --image-pull-policy Never --replicas 2 --no-admin-binding --no-workload "
     "--no-join-token --ttl 2h", "POST", "/clusters/lab/manifest", "kind: Namespace\n",
     {"image": "i:1", "image_pull_policy": "Never", "replicas": 2, "admin_binding": False, "workload": "none",
      "join_token": False, "ttl_seconds": 7200}),
    ("cluster manifest lab --endpoint-service NodePort --endpoint-node-port 30443 --endpoint-name a.example "
     "--endpoint-name 192.0.2.1", "POST", "/clusters/lab/manifest", "kind: Namespace\n",
     {"endpoint_service": "NodePort", "endpoint_node_port": 30443, "endpoint_names": ["a.example", "192.0.2.1"]}),
    ("cluster join-token lab --ttl 15m", "POST", "/clusters/lab/join-tokens", {"join_token": "mrj_x"},
     {"ttl_seconds": 900}),
    ("cluster endpoint show lab", "GET", "/clusters/lab/endpoint", ENDPOINT, None),
    ("cluster endpoint set lab --mode agent --fqdn k:1 --ca-file PW --ttl 10m --grace 0",
     "PUT", "/clusters/lab/endpoint", ENDPOINT,
     {"mode": "agent", "fqdn": "k:1", "ca_pem": "correct horse\n", "ttl_seconds": 600, "grace_seconds": 0}),
    ("cluster endpoint set lab --no-ca", "PUT", "/clusters/lab/endpoint", ENDPOINT,
     {"mode": "webhook", "fqdn": "k", "ca_pem": "", "ttl_seconds": 3600, "grace_seconds": 5}),
    ("cluster endpoint set lab --fqdn ''", "PUT", "/clusters/lab/endpoint", ENDPOINT,
     {"mode": "webhook", "fqdn": "", "ttl_seconds": 3600, "grace_seconds": 5}),
    ("cluster endpoint off lab --yes", "DELETE", "/clusters/lab/endpoint", "", None),
    ("user list --group dev", "GET", "/users?group=dev&limit=200", EMPTY, None),
    ("user get a/b", "GET", "/users/a%2Fb", USER, None),
    ("user create bob --group dev --password-file PW", "POST", "/users", USER,
     {"name": "bob", "display_name": "", "groups": ["dev"], "password": "correct horse"}),
    ("user create robot --no-password", "POST", "/users", USER, {"name": "robot", "display_name": "", "groups": []}),
    ("user update bob --disable --no-groups --password-file PW --display-name Bob", "PATCH", "/users/bob", USER,
     {"enabled": False, "groups": [], "password": "correct horse", "display_name": "Bob"}),
    ("user delete bob -y", "DELETE", "/users/bob", "", None),
    ("user set-password --old-password-file PW --password-file PW", "POST", "/users/me/password", "",
     {"old": "correct horse", "new": "correct horse"}),
    ("group list", "GET", "/groups?limit=200", EMPTY, None),
    ("group get dev", "GET", "/groups/dev", GROUP, None),
    ("group create dev --description d --member bob", "POST", "/groups", GROUP,
     {"name": "dev", "description": "d", "members": ["bob"]}),
    ("group update dev --add al --remove bob --description d", "PATCH", "/groups/dev", GROUP,
     {"add_members": ["al"], "remove_members": ["bob"], "description": "d"}),
    ("group delete dev --yes", "DELETE", "/groups/dev", "", None),
    ("token list --user bob --cluster lab", "GET", "/tokens?user=bob&cluster=lab&limit=200", EMPTY, None),
    ("token get t-1", "GET", "/tokens/t-1", TOKEN, None),
    ("token create --description ci --ttl 30d --user bob --cluster lab", "POST", "/tokens", TOKEN,
     {"description": "ci", "ttl_seconds": 2592000, "user": "bob", "cluster": "lab"}),
    ("token create --cluster lab --endpoint", "POST", "/tokens", {**TOKEN, "delivered": False},
     {"cluster": "lab", "endpoint": True}),
    ("token revoke t-1 --yes", "DELETE", "/tokens/t-1", "", None),
    ("membership list --cluster lab --group dev", "GET", "/memberships?cluster=lab&group=dev&limit=200", EMPTY, None),
    ("membership create lab --group dev", "POST", "/memberships", MEMBER, {"cluster": "lab", "group": "dev"}),
    ("membership create lab --user bob", "POST", "/memberships", MEMBER, {"cluster": "lab", "user": "bob"}),
    ("membership delete m-1 --yes", "DELETE", "/memberships/m-1", "", None),
    ("global-role list", "GET", "/global-roles?limit=200", EMPTY, None),
    ("global-role get g", "GET", "/global-roles/g", ROLE, None),
    ("global-role create g -f ROLE --title T --selector a=b --new-user-default", "POST", "/global-roles", ROLE,
     {"name": "g", "display_name": "T", "rules": RULES, "cluster_selector": {"a": "b"}, "new_user_default": True}),
    ("global-role update g -f ROLE", "PATCH", "/global-roles/g", ROLE, {"rules": RULES}),
    ("global-role delete g --yes", "DELETE", "/global-roles/g", "", None),
    ("role-template list --context project", "GET", "/role-templates?context=project&limit=200", EMPTY, None),
    ("role-template get r", "GET", "/role-templates/r", ROLE, None),
    ("role-template create r -f ROLE --context cluster --inherit a --inherit b --hidden", "POST", "/role-templates",
     ROLE, {"name": "r", "context": "cluster", "rules": RULES, "inherits": ["a", "b"], "hidden": True}),
    ("role-template update r --locked --external '' --no-creator-default", "PATCH", "/role-templates/r", ROLE,
     {"locked": True, "external": "", "creator_default": False}),
    ("role-template delete r -y", "DELETE", "/role-templates/r", "", None),
    ("project list --cluster lab", "GET", "/projects?cluster=lab&limit=200", EMPTY, None),
    ("project get web --cluster lab", "GET", "/projects/web?cluster=lab", PROJECT, None),
    ("project create web --cluster lab --namespace web --existing old --quota pods=10 --namespace-quota pods=5 "
     "--container-limit memory=1Gi --container-request cpu=100m --pod-security restricted --isolated",
     "POST", "/projects", PROJECT,
     {"name": "web", "cluster": "lab", "quota": {"pods": "10"}, "namespace_quota": {"pods": "5"},
      "container_limits": {"memory": "1Gi"}, "container_requests": {"cpu": "100m"}, "pod_security": "restricted",
      "isolated": True, "namespaces": [{"name": "web", "create": True}, {"name": "old", "create": False}]}),
    ("project update web --cluster lab --pod-security none --no-isolated", "PATCH", "/projects/web?cluster=lab",
     PROJECT, {"pod_security": None, "isolated": False}),
    ("project delete web --yes", "DELETE", "/projects/web", "", None),
    ("project add-namespace web api --move --quota pods=5", "POST", "/projects/web/namespaces", PROJECT,
     {"name": "api", "create": True, "move": True, "quota": {"pods": "5"}}),
    ("project remove-namespace web api --yes", "DELETE", "/projects/web/namespaces/api", "", None),
    ("global-binding list --role admin --user bob --no-expired", "GET",
     "/global-bindings?role=admin&user=bob&expired=false&limit=200", EMPTY, None),
    ("global-binding create x --role user --group dev --reason r", "POST", "/global-bindings", BINDING,
     {"name": "x", "role": "user", "groups": ["dev"], "reason": "r"}),
    ("cluster-binding list --cluster lab", "GET", "/cluster-bindings?cluster=lab&limit=200", EMPTY, None),
    ("cluster-binding get x", "GET", "/cluster-bindings/x", BINDING, None),
    ("cluster-binding create x --role r --cluster lab --user bob --service-account ci/robot "
     "--expires-at 2030-01-01T00:00:00Z", "POST", "/cluster-bindings", BINDING,
     {"name": "x", "role": "r", "cluster": "lab", "users": ["bob"], "service_accounts": ["ci/robot"], "reason": "",
      "expires_at": "2030-01-01T00:00:00Z"}),
    ("cluster-binding update x --add-user al --remove-group dev --no-end --reason r", "PATCH", "/cluster-bindings/x",
     BINDING, {"add_users": ["al"], "remove_groups": ["dev"], "expires_at": None, "reason": "r"}),
    ("cluster-binding delete x --yes", "DELETE", "/cluster-bindings/x", "", None),
    ("project-binding list --project web --expired", "GET",
     "/project-bindings?project=web&expired=true&limit=200", EMPTY, None),
    ("project-binding create x --role r --cluster lab --project web --user bob", "POST", "/project-bindings", BINDING,
     {"name": "x", "role": "r", "cluster": "lab", "project": "web", "users": ["bob"], "reason": ""}),
    ("project-binding update x --remove-service-account web/robot", "PATCH", "/project-bindings/x", BINDING,
     {"remove_service_accounts": ["web/robot"]}),
    ("policy explain create deployments.apps/scale --cluster lab -n web --name n", "GET",
     "/policy/explain?verb=create&cluster=lab&namespace=web&name=n&resource=deployments&group=apps&subresource=scale",
     EMPTY, None),
    ("policy explain get --path /metrics --cluster lab", "GET",
     "/policy/explain?verb=get&cluster=lab&path=%2Fmetrics", EMPTY, None),
    ("policy access --user bob --cluster lab", "GET", "/policy/access?user=bob&cluster=lab", EMPTY, None),
    ("policy access", "GET", "/policy/access", EMPTY, None),
    ("policy simulate -f CHANGES", "POST", "/policy/simulate", {"clusters": []},
     {"changes": [{"kind": "cluster_binding", "op": "delete", "name": "x"}]}),
    ("policy status lab", "GET", "/clusters/lab/policy", {"cluster": "lab", "errors": []}, None),
    ("policy status", "GET", "/policy/status?limit=200", EMPTY, None),
    ("whoami", "GET", "/whoami", {"user": "bob"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("command", "method", "path", "answer", "body"), CALLS, ids=[call[0] for call in CALLS])
def test_a_command_is_a_call(
    command: str, method: str, path: str, answer: Any, body: Any,
    api: FakeApi, home: Path, mooring: Callable[..., Result],
) -> None:  # fmt: skip
    if method in ("PUT", "PATCH"):
        api.answer("GET", f"/api/v1{path}", answer, ETag='"3"')
    api.answer(method, f"/api/v1{path}", answer)
    files = {"PW": "pw", "ROLE": "role", "CHANGES": "changes"}
    words = [str(home / files[word]) if word in files else word.replace("''", "") for word in command.split()]
    result = mooring(*words)
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    last = api.asked[-1]
    assert (last.method, last.path, last.body) == (method, f"/api/v1{path}", body)
    if method in ("PUT", "PATCH"):
        assert last.headers["If-Match"] == '"3"'


def test_the_manifest_can_go_to_a_private_file(api: FakeApi, home: Path, mooring: Callable[..., Result]) -> None:
    api.answer("POST", "/api/v1/clusters/lab/manifest", "kind: Namespace\n")
    assert mooring("cluster", "manifest", "lab", "-f", home / "m.yaml").output == ""
    assert (home / "m.yaml").read_text() == "kind: Namespace\n"
    assert (home / "m.yaml").stat().st_mode & 0o777 == 0o600


def test_a_token_written_to_a_file_is_not_shown(api: FakeApi, home: Path, mooring: Callable[..., Result]) -> None:
    api.answer("POST", "/api/v1/tokens", dict(TOKEN), 201)
    assert "canary" not in mooring("token", "create", "-f", home / "token").output
    assert (home / "token").read_text() == "mrg_t-1_canary\n"
    assert (home / "token").stat().st_mode & 0o777 == 0o600
    assert "canary" in mooring("token", "create").output


def test_a_revoked_token_looked_alive_in_the_list(api: FakeApi, mooring: Callable[..., Result]) -> None:
    revoked = {**TOKEN, "id": "t-2", "revoked_at": "2026-11-29T18:43:26.242Z"}
    api.answer("GET", "/api/v1/tokens?limit=200", {"items": [{**TOKEN, "revoked_at": None}, revoked], "next": None})
    head, alive, dead = mooring("token", "list").output.splitlines()
    assert "REVOKED" in head
    assert "2026-11-29T18:43" not in alive
    assert "2026-11-29T18:43:26.242Z" in dead


def test_an_endpoint_is_shown_with_what_the_agent_says(api: FakeApi, mooring: Callable[..., Result]) -> None:
    api.answer("GET", "/api/v1/clusters/lab/endpoint", ENDPOINT)
    shown = dict(line.split(None, 1) for line in mooring("cluster", "endpoint", "show", "lab").output.splitlines())
    assert (shown["nodes"], shown["ca_pem"], shown["revision"]) == ("m1=10.0.0.1:6443", "given", "3")
    assert json.loads(mooring("cluster", "endpoint", "show", "lab", "-o", "json").output) == ENDPOINT
    api.answer("GET", "/api/v1/clusters/lab/endpoint", {**ENDPOINT, "status": None, "ca_pem": ""})
    assert mooring("cluster", "endpoint", "show", "lab").exit_code == 0


def test_a_new_endpoint_is_of_the_webhook_and_both_wishes_for_a_ca_are_too_many(
    api: FakeApi, home: Path, mooring: Callable[..., Result]
) -> None:
    api.answer("GET", "/api/v1/clusters/lab/endpoint", {**ENDPOINT, "enabled": False})
    api.answer("PUT", "/api/v1/clusters/lab/endpoint", ENDPOINT)
    assert mooring("cluster", "endpoint", "set", "lab").exit_code == 0
    assert api.asked[-1].body == {"mode": "webhook"}
    assert "do not go together" in reason(
        mooring("cluster", "endpoint", "set", "lab", "--no-ca", "--ca-file", home / "pw")
    )


def test_documents_are_what_the_server_said(api: FakeApi, mooring: Callable[..., Result]) -> None:
    api.answer("GET", "/api/v1/clusters/lab", CLUSTER)
    assert json.loads(mooring("cluster", "get", "lab", "-o", "json").output) == CLUSTER


@pytest.mark.parametrize(
    "command",
    [
        "cluster delete lab",
        "cluster endpoint off lab",
        "user delete bob",
        "group delete dev",
        "token revoke t-1",
        "membership delete m-1",
        "global-role delete g",
        "role-template delete r",
        "project delete p",
        "project remove-namespace p n",
        "cluster-binding delete x",
    ],
)
def test_nothing_is_deleted_unasked_without_a_terminal(
    command: str, api: FakeApi, mooring: Callable[..., Result]
) -> None:
    assert "--yes" in reason(mooring(*command.split()))
    assert api.asked == []


@pytest.mark.parametrize(
    "command", ["cluster update lab", "user update bob", "group update dev", "membership create lab",
                "membership create lab --user a --group b", "global-role update g", "role-template update r",
                "role-template create r", "project update p", "project create p", "cluster-binding update x",
                "cluster-binding create x --role r", "project-binding create x --role r --cluster lab",
                "cluster-binding update x --no-end --expires-in 8h", "policy access --user a --group b",
                "policy explain get"]
)  # fmt: skip
def test_a_command_without_a_point_says_what_it_needs(
    command: str, api: FakeApi, mooring: Callable[..., Result]
) -> None:
    assert "give --" in reason(mooring(*command.split())) or "--help" in reason(mooring(*command.split()))


def test_several_labels_must_all_be_there(api: FakeApi, mooring: Callable[..., Result]) -> None:
    both = {**CLUSTER, "name": "both", "labels": {"a": "1", "b": "2"}}
    one = {**CLUSTER, "name": "one", "labels": {"a": "1"}}
    api.answer("GET", "/api/v1/clusters?label=a%3D1&limit=200", {"items": [both, one], "next": None, "total": 2})
    output = mooring("cluster", "list", "--label", "a=1", "--label", "b=2").output
    assert "both" in output
    assert "one" not in output


@pytest.mark.parametrize("ttl", ["0", "5x", "-1h", "1.5h", ""])
def test_a_strange_time_span_is_a_usage_error(ttl: str, mooring: Callable[..., Result]) -> None:
    result = mooring("token", "create", "--ttl", ttl)
    assert result.exit_code == 2
    assert "90s, 15m, 12h or 30d" in result.output


def test_names_complete_from_the_servers_list(
    api: FakeApi, home: Path, mooring: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.shell_completion import ShellComplete
    from mooring.cli.main import cli

    api.answer("GET", "/api/v1/clusters?limit=200", {"items": [{"name": "lab"}, {"name": "prod"}]})
    completion = ShellComplete(cli, {}, "mooring", "_MOORING_COMPLETE")
    assert [item.value for item in completion.get_completions(["cluster", "get"], "l")] == ["lab"]
    monkeypatch.delenv("MOORING_TOKEN")
    assert completion.get_completions(["cluster", "get"], "l") == []


class TestLogin:
    """`mooring login` and `logout`."""

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("MOORING_URL", "MOORING_TOKEN", "MOORING_CA_FILE"):
            monkeypatch.delenv(name)

    def log_in(self, api: FakeApi, home: Path, mooring: Callable[..., Result], **more: str) -> Result:
        api.answer("POST", "/api/v1/login", {**TOKEN, **more}, 201)
        return mooring(
            "login", api.url, "-u", "bob", "--password-file", home / "pw", "--ca-file", home / "ca.pem", "--ttl", "600"
        )

    def test_a_login_is_remembered_with_its_ca(self, api: FakeApi, home: Path, mooring: Callable[..., Result]) -> None:
        result = self.log_in(api, home, mooring)
        assert result.exit_code == 0, result.exception
        assert "canary" not in result.output
        asked = api.asked[0].body
        assert (asked["username"], asked["password"], asked["ttl_seconds"]) == ("bob", "correct horse", 600)
        api.answer("GET", "/api/v1/whoami", {"user": "bob"})
        assert "bob" in mooring("whoami").output
        assert api.asked[-1].headers["Authorization"] == "Bearer mrg_t-1_canary"

    def test_the_password_can_come_from_standard_input(
        self, api: FakeApi, home: Path, mooring: Callable[..., Result]
    ) -> None:
        api.answer("POST", "/api/v1/login", TOKEN, 201)
        words = ("login", api.url, "-u", "bob", "--password-file", "-", "--ca-file", home / "ca.pem")
        assert mooring(*words, stdin="from stdin\n").exit_code == 0
        assert api.asked[0].body["password"] == "from stdin"

    def test_a_wrong_password_changes_nothing(self, api: FakeApi, home: Path, mooring: Callable[..., Result]) -> None:
        self.log_in(api, home, mooring)
        api.answer("POST", "/api/v1/login", {"detail": "wrong user name or password"}, 401)
        result = mooring("login", api.url, "-u", "bob", "--password-file", home / "pw")
        assert "wrong user name" in reason(result)
        api.answer("GET", "/api/v1/whoami", {"user": "bob"})
        assert mooring("whoami").exit_code == 0

    def test_a_new_login_revokes_the_token_of_the_old_one(
        self, api: FakeApi, home: Path, mooring: Callable[..., Result]
    ) -> None:
        self.log_in(api, home, mooring, token="mrg_old")
        api.answer("POST", "/api/v1/logout", "", 204)
        self.log_in(api, home, mooring, token="mrg_new")
        assert (api.asked[-1].path, api.asked[-1].headers["Authorization"]) == ("/api/v1/logout", "Bearer mrg_old")

    def test_a_logout_revokes_and_forgets(self, api: FakeApi, home: Path, mooring: Callable[..., Result]) -> None:
        self.log_in(api, home, mooring)
        api.answer("POST", "/api/v1/logout", "", 204)
        assert mooring("logout").exit_code == 0
        assert api.asked[-1].path == "/api/v1/logout"
        assert "not logged in" in reason(mooring("whoami"))
        assert "mrg_" not in (home / "xdg" / "mooring" / "config.toml").read_text()

    def test_a_logout_with_a_dead_token_forgets_all_the_same(
        self, api: FakeApi, home: Path, mooring: Callable[..., Result]
    ) -> None:
        self.log_in(api, home, mooring)
        api.answer("POST", "/api/v1/logout", {"detail": "expired"}, 401)
        assert mooring("logout").exit_code == 0
        assert "not logged in" in reason(mooring("logout"))
