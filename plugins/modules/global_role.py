#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: global_role
short_description: Manage a global role of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes a global role, rights on the server itself and, with O(cluster_rules), in its clusters.
  - Roles that are built in cannot be changed. A role that somebody is bound to cannot be removed.
options:
  name:
    description:
      - Name of the role. It cannot be changed later.
    type: str
    required: true
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
      - All the rules on the API of the server. Kept as they are when not set.
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
  cluster_rules:
    description:
      - All the rules of Kubernetes in the clusters. Kept as they are when not set.
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
  cluster_selector:
    description:
      - Labels that a cluster must have for O(cluster_rules) to hold there. Empty means all clusters. Kept when not set.
    type: dict
  new_user_default:
    description:
      - Whether users that are made later are bound to it. Kept as it is when not set.
    type: bool
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.policy
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.global_binding
  - module: mooring.fleet.global_role_info
  - module: mooring.fleet.role_template
"""

EXAMPLES = r"""
- name: Let some people look at all test clusters
  mooring.fleet.global_role:
    name: test-watcher
    cluster_selector:
      tier: test
    cluster_rules:
      - verbs: [get, list, watch]
        api_groups: ["", apps]
        resources: [pods, deployments]

- name: See what removing it would do
  mooring.fleet.global_role:
    name: test-watcher
    state: absent
  check_mode: true
  diff: true
"""

RETURN = r"""
global_role:
  description: The role.
  returned: when O(state=present)
  type: dict
  sample:
    id: gr-9rw4t7cn2ybe
    name: test-watcher
    rules: []
    cluster_selector:
      tier: test
    builtin: false
change:
  description: The change as the API's C(POST /policy/simulate) takes it.
  returned: in check mode, when something would change
  type: dict
  sample:
    kind: global_role
    op: delete
    name: test-watcher
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
from ansible_collections.mooring.fleet.plugins.module_utils.policy import (
    PolicyObject,
    given_fields,
    rules,
    rules_option,
    simulate_option,
    texts,
)
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

PLAIN = ("display_name", "description", "new_user_default")
SHOWN = ("name", "rules", "cluster_rules", "cluster_selector") + PLAIN


def work(module, client):
    wished = given_fields(module.params, PLAIN, rules=rules, cluster_rules=rules, cluster_selector=texts)
    return PolicyObject(module, client, "global_role", "/global-roles", SHOWN).bring(wished)


def main():
    module = make_module(
        state_option(),
        simulate_option(),
        dict(
            name=dict(type="str", required=True),
            display_name=dict(type="str"),
            description=dict(type="str"),
            rules=rules_option(),
            cluster_rules=rules_option(),
            cluster_selector=dict(type="dict"),
            new_user_default=dict(type="bool"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
