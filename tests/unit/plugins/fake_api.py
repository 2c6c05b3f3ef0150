# SPDX-License-Identifier: GPL-3.0-or-later
"""A small stand-in for the REST API of the server, in this process, over real HTTP.

It keeps objects in dictionaries and answers with the shapes of docs/api/openapi.json. It writes the requests down, so
that a test can say what a module must not send.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
ENDPOINT = {"fqdn": "", "ca_pem": "", "ttl_seconds": 3600, "grace_seconds": 0}
BINDING = {"users": [], "groups": [], "service_accounts": [], "expires_at": None, "reason": "", "builtin": False}
FIELDS = {
    "clusters": {
        "description": "",
        "labels": {},
        "profile": "admin",
        "state": "pending",
        "state_reason": "no agent has registered yet",
        "cluster_uid": None,
    },
    "users": {"display_name": "", "enabled": True, "groups": []},
    "groups": {"description": "", "members": []},
    "memberships": {"user": None, "group": None},
    "global-roles": {
        "display_name": "", "description": "", "rules": [], "cluster_rules": [], "cluster_selector": {},
        "new_user_default": False, "builtin": False,
    },
    "role-templates": {
        "display_name": "", "description": "", "rules": [], "inherits": [], "external": "", "locked": False,
        "hidden": False, "creator_default": False, "builtin": False,
    },
    "projects": {
        "description": "", "namespaces": [], "quota": {}, "namespace_quota": {}, "container_limits": {},
        "container_requests": {}, "pod_security": None, "isolated": False,
    },
    "global-bindings": dict(BINDING, cluster=None, project=None),
    "cluster-bindings": dict(BINDING, project=None),
    "project-bindings": dict(BINDING),
}  # fmt: skip


def later(seconds):
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Problem(Exception):
    def __init__(self, status, detail, errors=(), hint=""):
        super().__init__(detail)
        self.status = status
        self.body = {
            "status": status,
            "title": "no",
            "detail": detail,
            "code": "x",
            "hint": hint,
            "errors": list(errors),
        }


class FakeApi:
    """One server on a free loopback port. `objects[kind]` is what it knows, `log` the (method, path) of requests."""

    def __init__(self):
        self._numbers = itertools.count(1)
        self.objects = {kind: {} for kind in (*FIELDS, "tokens")}
        self.log = []
        self.exchanges = []  # (method, path, names in the query, body, answer), for the contract
        self.manifests = []
        self.simulation = []  # what a simulation answers, or the status of its refusal
        self.simulated = []
        self.asked = []  # (path, query) of questions to the policy
        self.endpoints = {}  # cluster id -> settings
        self.policy_key = "A" * 43
        self.page = 2  # items per page, so that every list of more is paged
        self.race = 0  # how many writes find that somebody else was faster
        self.passwords = {"alice": "correct horse battery"}
        self.token = self.issue("alice", "first", None, 3600)["token"]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet

            def log_message(self, *arguments):
                """Tests read the log of the fake, not standard error."""

            def handle_one(self):
                outer.answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = "http://127.0.0.1:%d" % self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def writes(self):
        return [entry for entry in self.log if entry[0] != "GET"]

    # -- objects

    def new_id(self, prefix):
        number, digits = next(self._numbers), []
        for _place in range(12):
            number, digit = divmod(number, 32)
            digits.append(ALPHABET[digit])
        return "%s-%s" % (prefix, "".join(reversed(digits)))

    def issue(self, user, description, cluster, ttl, what="mrg"):
        token_id = self.new_id("t" if what == "mrg" else "e")
        token = {
            "id": token_id, "user": user, "description": description, "cluster": cluster, "created_at": later(0),
            "expires_at": later(ttl), "last_used_at": None, "revoked_at": None,
        }  # fmt: skip
        self.objects["tokens"][token_id] = token
        return dict(token, token="%s_%s_%s" % (what, token_id, "s" * 52))

    def active(self, token):
        return not token["revoked_at"] and token["expires_at"] > later(0)

    def find(self, kind, ref):
        for item in self.objects[kind].values():
            if ref in (item["id"], item.get("name")):
                return item
        raise Problem(404, "there is no %s %r" % (kind[:-1], ref))

    # -- HTTP

    def answer(self, handler):
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else {}
        sent = copy.deepcopy(body)
        parts = urlsplit(handler.path)
        self.log.append((handler.command, parts.path[len("/api/v1") :]))
        kind, headers = "application/json", {}
        try:
            status, result, headers = self.route(
                handler.command,
                [unquote(p) for p in parts.path.split("/")[3:]],
                dict(parse_qsl(parts.query, keep_blank_values=True)),
                body,
                handler.headers,
            )
        except Problem as problem:
            status, result, kind = problem.status, problem.body, "application/problem+json"
        answer = copy.deepcopy(result)
        self.exchanges.append((handler.command, parts.path, sorted(dict(parse_qsl(parts.query))), sent, answer))
        if isinstance(result, str):
            raw, kind = result.encode(), "application/yaml"
        else:
            raw = b"" if result is None else json.dumps(result).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(raw)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(raw)

    def caller(self, headers):
        bearer = (headers.get("Authorization") or "").replace("Bearer ", "")
        for token in self.objects["tokens"].values():
            if bearer.startswith("mrg_%s_" % token["id"]) and self.active(token):
                return token
        raise Problem(401, "the token is not known")

    def route(self, method, path, query, body, headers):
        if path == ["login"]:
            if self.passwords.get(body["username"]) != body["password"]:
                raise Problem(401, "the user name or the password is wrong")
            made = self.issue(body["username"], body["description"], None, body.get("ttl_seconds", 43200))
            return 201, {name: made[name] for name in ("token", "id", "user", "cluster", "expires_at")}, {}
        caller = self.caller(headers)
        if path == ["logout"]:
            caller["revoked_at"] = later(0)
            return 204, None, {}
        if path == ["whoami"]:
            return 200, {"user": caller["user"], "groups": ["admins"], "admin": True, "token": {"id": caller["id"]}}, {}
        if path == ["server"]:
            return 200, {"version": "0.1.0", "url": self.url, "ca_pem": "PEM", "identity_prefix": "mooring:"}, {}
        if path == ["kubeconfig"]:
            return 200, self.kubeconfig(caller, body), {}
        if path == ["policy", "simulate"]:
            self.simulated.append(body)
            if isinstance(self.simulation, int):
                raise Problem(self.simulation, "changes[0]: there is no such role")
            return 200, {"clusters": self.simulation, "hidden": 0}, {}
        if path[0] == "policy":
            self.asked.append((path, query))
            return 200, {"items": [], **({"more": False} if path[1] == "access" else {"total": 0})}, {}
        if path[0] == "tokens":
            return self.tokens(method, path, query, body, caller)
        if path[2:] == ["manifest"]:
            cluster = self.find("clusters", path[1])
            self.manifests.append(body)
            secret = "kind: Secret\n" if body["join_token"] else "kind: Namespace\n"
            return 200, "# %s\n%s" % (cluster["name"], secret), {}
        if path[2:] == ["endpoint"]:
            return self.endpoint(method, path, body, headers)
        if path[2:] == ["join-tokens"]:
            token_id = self.new_id("j")
            return 201, {"id": token_id, "join_token": "mrj_%s_%s" % (token_id, "s" * 52), "expires_at": later(60)}, {}
        return self.plain(method, path, query, body, headers)

    def endpoint(self, method, path, body, headers):
        cluster = self.find("clusters", path[1])
        if method != "GET" and self.race:
            self.race -= 1
            cluster["version"] += 1
        if headers.get("If-Match", '"%d"' % cluster["version"]) != '"%d"' % cluster["version"]:
            raise Problem(412, "the object is at version %d now" % cluster["version"])
        if method == "DELETE":
            self.endpoints.pop(cluster["id"], None)
            return 204, None, {}
        if method == "PUT":
            self.endpoints[cluster["id"]] = {**ENDPOINT, **body}
            cluster["version"] += 1
        found = self.endpoints.get(cluster["id"])
        return (
            200,
            {
                "cluster": cluster["name"], "cluster_id": cluster["id"], "cluster_uid": cluster["cluster_uid"],
                "policy_key": self.policy_key, "enabled": found is not None, "status": None,
                "version": cluster["version"],
                **(found or {"mode": None, "fqdn": "", "ca_pem": "", "ttl_seconds": None, "grace_seconds": None}),
            },
            {"ETag": '"%d"' % cluster["version"]},
        )  # fmt: skip

    def paged(self, items, query):
        start = int(base64.b64decode(query["cursor"])) if "cursor" in query else 0
        size = min(int(query.get("limit", 100)), self.page)
        following = base64.b64encode(str(start + size).encode()).decode() if start + size < len(items) else None
        return {"items": items[start : start + size], "next": following, "total": len(items)}

    def plain(self, method, path, query, body, headers):
        kind = path[0]
        items = self.objects[kind]
        if len(path) == 1 and method == "GET":
            wished = {k: v for k, v in query.items() if k not in ("limit", "cursor", "label")}
            found = [item for item in items.values() if all(item.get(k) == v for k, v in wished.items())]
            if "label" in query:
                key, _equals, value = query["label"].partition("=")
                found = [item for item in found if item["labels"].get(key) == value]
            return 200, self.paged(found, query), {}
        if len(path) == 1:
            if body.get("name", "").startswith("system:"):
                error = {"field": "name", "message": "must not begin with 'system:'"}
                raise Problem(422, "name: must not begin with 'system:'", [error])
            item = {**FIELDS[kind], **body, "id": self.new_id(kind[0])}
            item.pop("password", None)
            items[item["id"]] = item
            if kind == "memberships":
                return 201, item, {}
            item["version"] = 1
            return 201, item, {"ETag": '"1"'}
        item = self.find(kind, path[1])
        if method == "GET":
            return 200, item, {"ETag": '"%d"' % item["version"]}
        if self.race:
            self.race -= 1
            item["version"] += 1
        now = '"%d"' % item.get("version", 0)
        if headers.get("If-Match", now) != now:
            raise Problem(412, "the object is at version %d now" % item["version"])
        if method == "DELETE":
            del items[item["id"]]
            return 204, None, {}
        body.pop("password", None)
        item.update(body, version=item["version"] + 1)
        return 200, item, {"ETag": '"%d"' % item["version"]}

    def tokens(self, method, path, query, body, caller):
        items = self.objects["tokens"]
        if method == "GET":
            user = caller["user"] if query.get("user") == "me" else query.get("user")
            found = [t for t in items.values() if user in (None, t["user"])]
            if query.get("active") == "true":
                found = [t for t in found if self.active(t)]
            return 200, self.paged(found, query), {}
        if method == "DELETE":
            self.find("tokens", path[1])["revoked_at"] = later(0)
            return 204, None, {}
        made = self.issue(
            body.get("user", caller["user"]), body["description"], body.get("cluster"), body.get("ttl_seconds", 3600)
        )
        return 201, made, {}

    def kubeconfig(self, caller, body):
        names = sorted(body.get("clusters") or [c["name"] for c in self.objects["clusters"].values()])
        ways = body.get("contexts") or ["proxy", "fqdn", "nodes"]
        ttl = body.get("ttl_seconds", 7200)
        found = []  # (context, user, cluster, address)
        for name in names:
            settings = self.endpoints.get(self.find("clusters", name)["id"])
            if "proxy" in ways:
                found.append((name, "mooring-" + name, name, self.url + "/k8s/clusters/" + name))
            if settings and settings["fqdn"] and "fqdn" in ways:
                address = "https://" + settings["fqdn"]
                found.append((name + "-fqdn", "mooring-%s-endpoint" % name, name, address))
        users = {}
        for _context, user, name, _address in found:
            what = "mre" if user.endswith("-endpoint") else "mrg"
            if body["mode"] == "exec":
                users[user] = {"exec": {"command": "mooring", "args": ["credential", "--cluster", name]}}
            elif user not in users:
                users[user] = {"token": self.issue(caller["user"], "kubeconfig", name, ttl, what)["token"]}
        owners = {user: name for _context, user, name, _address in found}

        def marked(name, kind, content, cluster):
            mark = {"name": "mooring.fleet", "extension": {"server": self.url, "cluster": cluster}}
            return {"name": name, kind: dict(content, extensions=[mark])}

        contexts = [context for context, _user, _cluster, _address in found]
        current = body.get("current_context") or (contexts[0] if contexts else "")
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [marked(c, "cluster", {"server": where}, name) for c, _user, name, where in found],
            "users": [marked(user, "user", content, owners[user]) for user, content in users.items()],
            "contexts": [marked(c, "context", {"cluster": c, "user": u}, name) for c, u, name, _where in found],
            "current-context": current,
        }
        return {
            "kubeconfig": yaml.safe_dump(document, sort_keys=False),
            "contexts": contexts,
            "details": [],
            "current_context": current,
            "expires_at": later(ttl) if body["mode"] == "token" else None,
            "undelivered": [],
        }


class Failed(Exception):
    """The module ended with fail_json; `result` is what it printed."""

    def __init__(self, result):
        super().__init__(result.get("msg"))
        self.result = result
