# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of policies share: rules and subjects in the shape of the REST API, and check mode by simulation.

In check mode the server is asked (POST /policy/simulate) which Kubernetes objects would come and go in each cluster;
nothing is written. What cannot be simulated yet, because it names something that an earlier task would have made, gives
a warning and no more.
"""

from __future__ import annotations

from ansible_collections.mooring.fleet.plugins.module_utils.client import MooringError, ref
from ansible_collections.mooring.fleet.plugins.module_utils.resource import Resource
from ansible_collections.mooring.fleet.plugins.module_utils.times import parse_time

RULE_LISTS = ("verbs", "api_groups", "resources", "resource_names", "non_resource_urls")
SUBJECT_LISTS = ("users", "groups", "service_accounts")
UNKNOWN = (404, 422)  # what the simulation says of things that are not there yet


def rules_option():
    """The option that takes a list of rules."""
    lists = dict((name, dict(type="list", elements="str", required=name == "verbs")) for name in RULE_LISTS)
    return dict(type="list", elements="dict", options=lists)


def binding_options():
    """The options that all kinds of bindings have."""
    return dict(
        name=dict(type="str", required=True),
        role=dict(type="str"),
        users=dict(type="list", elements="str"),
        groups=dict(type="list", elements="str"),
        append=dict(type="bool", default=False),
        expires_at=dict(type="str"),
        reason=dict(type="str"),
    )


def simulate_option():
    return dict(simulate=dict(type="bool", default=True))


def rules(given):
    """Rules as the server writes them: each list there, sorted, without doubles."""
    return [dict((name, sorted(set(rule.get(name) or []))) for name in RULE_LISTS) for rule in given]


def texts(given):
    """A dictionary whose values YAML may have made numbers."""
    return dict((key, str(value)) for key, value in given.items())


def the_end(text):
    """When a binding ends, as the server takes it: None for an empty text. Raises MooringError for what is no time."""
    if not text:
        return None
    try:
        return parse_time(text).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError as e:
        raise MooringError("expires_at must look like 2026-12-31T18:00:00Z, it is %r" % text) from e


class PolicyObject(Resource):
    """A role, project or binding. kind names it for the simulation; where are fields that find it besides its name."""

    def __init__(self, module, client, kind, collection, shown, where=None):
        path = "%s/%s" % (collection, ref(module.params["name"]))
        self.kind = kind
        self.where = where or {}
        super().__init__(module, client, collection, path + self.query(), shown)

    def query(self):
        found = ["%s=%s" % (name, ref(value)) for name, value in sorted(self.where.items())]
        return "?" + "&".join(found) if found else ""

    def bring(self, wished, on_create=None):
        """Bring it to the wished state, as state says. Returns the result of the module."""
        name = self.module.params["name"]
        if self.module.params["state"] == "absent":
            result, op, body = self.absent(), "delete", None
        else:
            key = dict(dict(name=name), **self.where)
            item, result = self.present(wished, key=key, on_create=on_create)
            op, body = "update", wished
            if result["changed"] and not result["diff"]["before"]:
                op, body = "create", dict(dict(wished, **key), **(on_create or {}))
            result[self.kind] = item
        if self.module.check_mode and result["changed"]:
            change = dict(dict(kind=self.kind, op=op, name=name), **self.where)
            result["change"] = change if body is None else dict(change, body=body)
            if self.module.params["simulate"]:
                self._simulate(result)
        return result

    def _simulate(self, result):
        try:
            clusters = simulate(self.client, [result["change"]])
        except MooringError as e:
            if e.status not in UNKNOWN:
                raise
            self.module.warn("%s %s was not simulated: %s" % (self.kind, self.module.params["name"], e))
            return
        result["simulation"] = clusters
        result["diff"] = [result["diff"]] + [cluster_diff(cluster) for cluster in clusters]


def simulate(client, changes):
    """What the changes, one after another, would do in each cluster. Nothing is written."""
    return client.send("POST", "/policy/simulate", dict(changes=changes)).get("clusters") or []


def line(item):
    """An object of a cluster in one line."""
    parts = [part for part in (item.get("namespace"), item["name"]) if part]
    return "%s %s" % (item["kind"], "/".join(parts))


def counts(cluster):
    """How many objects come, go and change, also those that are not listed."""
    found = cluster.get("counts") or {}
    return ", ".join("%d %s" % (found.get(name, 0), name) for name in ("added", "removed", "changed"))


def cluster_diff(cluster):
    """The objects that come and go in one cluster, as a diff that Ansible shows."""
    changed = [line(item) for item in cluster.get("changed") or []]
    going = [line(item) for item in cluster.get("removed") or []]
    coming = [line(item) for item in cluster.get("added") or []]
    header = "cluster %s: %s" % (cluster["cluster"], counts(cluster))
    return dict(
        before_header=header,
        after_header=header,
        before="".join(text + "\n" for text in sorted(going + changed)),
        after="".join(text + "\n" for text in sorted(coming + [text + " (changed)" for text in changed])),
    )


def given_fields(params, plain, **converted):
    """The fields that the user gave. converted maps a name to what makes its value one of the API."""
    wished = dict((name, params[name]) for name in plain if params[name] is not None)
    for name, convert in converted.items():
        if params[name] is not None:
            wished[name] = convert(params[name])
    return wished


def bring_binding(module, client, kind, collection, where=None, accounts=False, key=None):
    """What the three modules of bindings do. key are the fields that only a new one takes, besides its role."""
    params = module.params
    lists = SUBJECT_LISTS if accounts else SUBJECT_LISTS[:2]
    shown = ("name", "role", "cluster", "project") + lists + ("expires_at", "reason")
    binding = PolicyObject(module, client, kind, collection, shown, where)
    if params["state"] == "absent":
        return binding.bring({})
    wished = given_fields(params, lists + ("reason",), expires_at=the_end)
    found = client.get(binding.path)[0] or {}
    if params["append"]:
        for name in lists:
            if name in wished:
                wished[name] = sorted(set(wished[name]) | set(found.get(name) or []))
    fixed = dict((name, value) for name, value in dict(key or {}, role=params["role"]).items() if value is not None)
    if found:
        for name, value in sorted(fixed.items()):
            if value not in (found.get(name), found.get(name + "_id")):
                raise MooringError(
                    "%s %s is for the %s %r and cannot be changed to %r: remove it first, or take another name"
                    % (kind, params["name"], name, found.get(name), value)
                )
        ends = found.get("expires_at")
        if "expires_at" in wished and ends and the_end(ends) == wished["expires_at"]:
            del wished["expires_at"]
    elif not params["role"]:
        raise MooringError("role is required to make the %s %s" % (kind, params["name"]))
    return binding.bring(wished, on_create=fixed)


def listed(client, collection, params, names):
    """All objects of a collection that the options ask for, by name."""
    query = {}
    for name in names:
        value = params[name]
        if value is not None:
            query[name] = ("true" if value else "false") if isinstance(value, bool) else value
    return sorted(client.list(collection, query or None), key=lambda item: (item["name"], item.get("cluster") or ""))
