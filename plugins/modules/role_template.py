#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: role_template
short_description: Manage a role template of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes a role template.
  - Its rules hold in a cluster, or in the namespaces of a project, once a binding says where and for whom.
  - Who is bound to a template has its new rules in all clusters as soon as it is changed.
  - Templates that are built in cannot be changed.
  - One that somebody is bound to, or that another inherits, cannot be removed.
options:
  name:
    description:
      - Name of the template. It cannot be changed later.
    type: str
    required: true
  context:
    description:
      - Where it is bound. Needed to make it; it cannot be changed later.
    type: str
    choices: [cluster, project]
  display_name:
    description:
      - What people see. Kept as it is when not set.
    type: str
  description:
    description:
      - A sentence for people. Kept as it is when not set.
    type: str
  rules:
    description:
      - All the rules. Those of the API group V(mooring.fleet) are on the server, the others in the cluster.
      - Kept as they are when not set.
    type: list
    elements: dict
    suboptions:
      verbs:
        description:
          - Verbs, such as V(get), V(list), V(create), V(update), V(delete), or V(*) for all.
        type: list
        elements: str
        required: true
      api_groups:
        description:
          - API groups. The empty text is the core group, V(mooring.fleet) the API of the server, V(*) any other.
        type: list
        elements: str
      resources:
        description:
          - Resources in lower case, with a subresource such as V(pods/log) where one is meant.
        type: list
        elements: str
      resource_names:
        description:
          - Names of objects. Without them the rule is for all.
        type: list
        elements: str
      non_resource_urls:
        description:
          - Paths of the Kubernetes API that are no resources, such as V(/metrics); may end in V(*).
        type: list
        elements: str
  inherits:
    description:
      - Names of all the templates of the same context whose rules it has as well. Kept as they are when not set.
    type: list
    elements: str
  external:
    description:
      - Name of a ClusterRole that is in the clusters already, in place of rules. Kept as it is when not set.
    type: str
  locked:
    description:
      - Whether nobody can be bound to it any more. Kept as it is when not set.
    type: bool
  hidden:
    description:
      - Whether it is not offered to people. Kept as it is when not set.
    type: bool
  creator_default:
    description:
      - Whether who makes a cluster or project is bound to it there. Kept as it is when not set.
    type: bool
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.policy
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.cluster_binding
  - module: mooring.fleet.project_binding
  - module: mooring.fleet.role_template_info
"""

EXAMPLES = r"""
- name: A role for who deploys
  mooring.fleet.role_template:
    name: deployer
    context: project
    inherits: [project-read-only]
    rules:
      - verbs: [create, update, patch, delete]
        api_groups: [apps]
        resources: [deployments, statefulsets]

- name: Nobody shall be bound to it any more
  mooring.fleet.role_template:
    name: deployer
    locked: true
"""

RETURN = r"""
role_template:
  description: The template.
  returned: when O(state=present)
  type: dict
  sample:
    id: rt-9rw4t7cn2ybe
    name: deployer
    context: project
    inherits:
      - project-read-only
    builtin: false
change:
  description: The change as the API's C(POST /policy/simulate) takes it.
  returned: in check mode, when something would change
  type: dict
  sample:
    kind: role_template
    op: delete
    name: deployer
simulation:
  description: The Kubernetes objects that would come and go in each cluster, with counts of them all.
  returned: in check mode with O(simulate=true), when something would change and could be simulated
  type: list
  elements: dict
  sample:
    - cluster: paris
      counts:
        added: 0
        removed: 1
        changed: 0
      added: []
      removed:
        - kind: RoleBinding
          namespace: shop
          name: mooring:project-member:0f3a5b7c9d:always
      changed: []
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.client import MooringError
from ansible_collections.mooring.fleet.plugins.module_utils.policy import (
    PolicyObject,
    given_fields,
    rules,
    rules_option,
    simulate_option,
)
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

PLAIN = ("display_name", "description", "inherits", "external", "locked", "hidden", "creator_default")
SHOWN = ("name", "context", "rules") + PLAIN


def work(module, client):
    params = module.params
    template = PolicyObject(module, client, "role_template", "/role-templates", SHOWN)
    if params["state"] == "absent":
        return template.bring({})
    found = client.get(template.path)[0]
    if found and params["context"] not in (None, found["context"]):
        raise MooringError("the template %s is for a %s: take another name" % (found["name"], found["context"]))
    if not found and not params["context"]:
        raise MooringError("context is required to make the template %s" % params["name"])
    wished = given_fields(params, PLAIN, rules=rules)
    return template.bring(wished, on_create=dict(context=params["context"]))


def main():
    module = make_module(
        state_option(),
        simulate_option(),
        dict(
            name=dict(type="str", required=True),
            context=dict(type="str", choices=["cluster", "project"]),
            display_name=dict(type="str"),
            description=dict(type="str"),
            rules=rules_option(),
            inherits=dict(type="list", elements="str"),
            external=dict(type="str"),
            locked=dict(type="bool"),
            hidden=dict(type="bool"),
            creator_default=dict(type="bool"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
