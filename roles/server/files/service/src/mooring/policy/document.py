# SPDX-License-Identifier: Apache-2.0
"""docs/roles.md from the built-in roles: `python -m mooring.policy.document` (`make roles`).

Why: a table of rights that somebody keeps by hand is wrong after the second change; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from mooring.policy import builtin, rules
from mooring.policy.effective import flatten
from mooring.store.policies import GlobalRole, RoleTemplate, Rule

_HEAD = """\
# Built-in roles

Written by `make roles` from `mooring/policy/builtin.py`; do not edit it here. [policies.md](policies.md) says what
roles and bindings are.

Rules of the API group `mooring.fleet` are on our own REST API; all others are Kubernetes' own, kept by the cluster's
API server. `""` is the core group. A role has the rules listed under it and all of the roles that it inherits from.
Built-in roles cannot be changed or deleted; whether new users get a global role, and whether a template is locked,
hidden or given to the creator, can be set.

Rules that give more than they seem to:

| rule | what it comes to |
| --- | --- |
| create pods, or anything that makes pods | every secret and every service account of the namespace, through a pod |
| `pods/exec`, `pods/attach`, `pods/ephemeralcontainers` | all that the pod has: its secrets, its service account |
| get or list `secrets` | tokens of service accounts among them |
| create `serviceaccounts/token` | acting as the service account |
| `nodes/proxy` | every container of the node, past the audit of the API server |
| create `persistentvolumes` | the disks of nodes, through a hostPath |
| `impersonate` | all that the users and groups hold that may be impersonated |
| `bind`, `escalate` on roles | every right there is |

No built-in role but `admin` and `cluster-owner` has `nodes/proxy`, `impersonate`, `bind` or `escalate`; besides these
two, only `project-owner` has exec, attach, port-forward and `serviceaccounts/token`.
"""


def document() -> str:
    """The whole page."""
    out = [_HEAD, "## Global roles\n"]
    for role in builtin.GLOBAL_ROLES:
        out.append(_global(role))
    for context, title in (("cluster", "Roles in a cluster"), ("project", "Roles in a project")):
        out.append(f"## {title}\n")
        out.extend(_template(template) for template in builtin.TEMPLATES if template.context == context)
    return "\n".join(out)


def _global(role: GlobalRole) -> str:
    lines = [*_title(role), ""]
    lines += _table(role.rules)
    if role.cluster_rules:
        lines += ["", "In every cluster:", "", *_table(role.cluster_rules)]
    return "\n".join([*lines, ""])


def _template(template: RoleTemplate) -> str:
    names = {t.id: t.name for t in builtin.TEMPLATES}
    lines = _title(template)
    if template.inherits:
        parents = sorted(names[parent] for parent in template.inherits)
        lines += ["", "Inherits from " + ", ".join(f"[{parent}](#{parent})" for parent in parents) + "."]
    if template.rules:
        lines += ["", *_table(template.rules)]
    else:
        flat = flatten({t.id: t for t in builtin.TEMPLATES}, template.id)
        lines += ["", f"No rules of its own; {len(flat.rules)} by inheritance."]
    return "\n".join([*lines, ""])


def _title(role: GlobalRole | RoleTemplate) -> list[str]:
    return [f"### {role.name}", "", f"{role.display_name} (`{role.id}`). {role.description}"]


def _table(held: Iterable[Rule]) -> list[str]:
    lines = ["| group | resources or paths | verbs |", "| --- | --- | --- |"]
    for rule in held:
        if rule.non_resource_urls:
            lines.append(f"| | {_cell(rule.non_resource_urls)} | {_cell(rule.verbs)} |")
        else:
            groups = ", ".join(f"`{group}`" if group else '`""`' for group in rule.api_groups)
            lines.append(f"| {groups} | {_cell(rule.resources)} | {_verbs(rule)} |")
    return lines


def _cell(entries: Iterable[str]) -> str:
    return ", ".join(f"`{entry}`" for entry in entries)


def _verbs(rule: Rule) -> str:
    return "all" if rule.verbs == (rules.ALL,) else ", ".join(rule.verbs)


if __name__ == "__main__":
    sys.stdout.write(document())
