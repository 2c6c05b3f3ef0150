# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree of policy as the flat lists that modules take, in an order in which each finds what it names."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy_plan
short_description: The steps from the policy of a server to a tree of policy
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Takes the tree of the role P(mooring.fleet.policies#role) and returns the lists that its tasks work through.
  - A template comes after those that it inherits.
options:
  _input:
    description:
      - The tree.
    type: dict
    required: true
  found:
    description:
      - What is on the server, as the info modules return it. Its keys are C(global_roles), C(role_templates),
        C(projects), C(global_bindings), C(cluster_bindings) and C(project_bindings).
      - What is not given counts as empty.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show what the tree comes to
  ansible.builtin.debug:
    msg: "{{ mooring_policy | mooring.fleet.policy_plan }}"
"""

RETURN = r"""
_value:
  description:
    - C(role_templates), C(global_roles), C(projects), C(global_bindings), C(cluster_bindings) and C(project_bindings)
      are in the order in which they can be made, with C(cluster) and C(project) in each that has one.
    - C(leaving) are projects with the namespaces that they keep, before others take what they give up.
    - C(extra) has lists of the same names with what is on the server and not in the tree, in an order for removing it.
      What is built in is never among it, nor is what belongs to a cluster that the tree does not name.
  type: dict
"""

from ansible.errors import AnsibleFilterError

KINDS = ("global_roles", "role_templates", "projects", "global_bindings", "cluster_bindings", "project_bindings")


def policy_plan(policy, found=None):
    """The plan; raises AnsibleFilterError for a tree that names something twice or inherits in a circle."""
    if not isinstance(policy, dict):
        raise AnsibleFilterError("policy_plan takes a dictionary, not %s" % type(policy).__name__)
    found = dict((kind, list((found or {}).get(kind) or [])) for kind in KINDS)
    plan = flat(policy)
    for kind in KINDS:
        check_names(kind, plan[kind])
    plan["role_templates"] = parents_first(plan["role_templates"])
    plan["leaving"] = leaving(plan["projects"], found["projects"])
    plan["extra"] = extra(plan, found, [cluster["name"] for cluster in policy.get("clusters") or []])
    return plan


def flat(policy):
    plan = dict((kind, list(policy.get(kind) or [])) for kind in ("global_roles", "role_templates", "global_bindings"))
    plan.update(projects=[], cluster_bindings=[], project_bindings=[])
    for cluster in policy.get("clusters") or []:
        for binding in cluster.get("bindings") or []:
            plan["cluster_bindings"].append(dict(binding, cluster=cluster["name"]))
        for project in cluster.get("projects") or []:
            own = dict((name, value) for name, value in project.items() if name != "bindings")
            plan["projects"].append(dict(own, cluster=cluster["name"]))
            for binding in project.get("bindings") or []:
                plan["project_bindings"].append(dict(binding, cluster=cluster["name"], project=project["name"]))
    return plan


def name_of(kind, item):
    """What tells objects of a kind apart: projects of two clusters may have one name."""
    return (item["cluster"], item["name"]) if kind == "projects" else item["name"]


def check_names(kind, items):
    seen = set()
    for item in items:
        name = name_of(kind, item)
        if name in seen:
            raise AnsibleFilterError("the policy has %s twice among its %s" % (item["name"], kind.replace("_", " ")))
        seen.add(name)


def parents_first(templates):
    """In the order given, but none before one that it inherits."""
    left = dict((template["name"], template) for template in templates)
    done = []
    while left:
        free = [t for t in left.values() if not any(name in left for name in t.get("inherits") or [])]
        if not free:
            raise AnsibleFilterError("the role templates %s inherit in a circle" % ", ".join(sorted(left)))
        for template in free:
            done.append(template)
            del left[template["name"]]
    return done


def leaving(projects, found):
    """What the projects that are there keep, where another one of the tree takes a namespace of theirs."""
    steps = []
    for project in found:
        taken = set()
        kept = None
        for wished in projects:
            if wished["cluster"] not in (project["cluster"], project.get("cluster_id")):
                continue
            names = set(space["name"] for space in wished.get("namespaces") or [])
            if wished["name"] == project["name"]:
                kept = names if wished.get("namespaces") is not None else None
            else:
                taken |= names
        has = project.get("namespaces") or []
        stay = [space for space in has if space["name"] not in taken or space["name"] in (kept or ())]
        if len(stay) < len(has):
            steps.append(dict(name=project["name"], cluster=project["cluster"], namespaces=stay))
    return steps


def extra(plan, found, clusters):
    """What is on the server and not in the tree, where the tree has a say."""
    result = {}
    for kind in KINDS:
        named = set(name_of(kind, item) for item in plan[kind])
        left = []
        for item in found[kind]:
            cluster = item.get("cluster")
            if item.get("builtin") or (cluster and cluster not in clusters and item.get("cluster_id") not in clusters):
                continue
            if kind == "projects":
                known = (cluster, item["name"]) in named or (item.get("cluster_id"), item["name"]) in named
            else:
                known = item["name"] in named
            if not known:
                left.append(item)
        result[kind] = left
    result["role_templates"] = list(reversed(parents_first(result["role_templates"])))
    return result


class FilterModule:
    """The filter mooring.fleet.policy_plan."""

    def filters(self):
        return dict(policy_plan=policy_plan)
