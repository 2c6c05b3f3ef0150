#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: project_binding
short_description: Bind subjects to a role in a project
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes a binding of users, groups and service accounts to a role template in one project.
  - Who is bound has the role in each namespace of the project, also in later ones, and may enter the cluster.
options:
  role:
    description:
      - Name or id of a role template of the context V(project). Needed to make the binding; it cannot be changed later.
    type: str
  project:
    description:
      - Name or id of the project. It cannot be changed later.
    type: str
    required: true
  cluster:
    description:
      - Name or id of the cluster of the project. Needed to make the binding if O(project) is a name.
    type: str
  service_accounts:
    description:
      - All the service accounts that are bound, as C(NAMESPACE/NAME) of its namespaces. Kept as they are when not set.
    type: list
    elements: str
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.policy
  - mooring.fleet.policy.binding
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.project
  - module: mooring.fleet.role_template
  - module: mooring.fleet.project_binding_info
"""

EXAMPLES = r"""
- name: Bob and his robot work in the shop
  mooring.fleet.project_binding:
    name: shop-members
    cluster: paris
    project: shop
    role: project-member
    users: [bob]
    service_accounts: [shop-front/deployer]

- name: Carol, too
  mooring.fleet.project_binding:
    name: shop-members
    cluster: paris
    project: shop
    users: [carol]
    append: true
"""

RETURN = r"""
project_binding:
  description: The binding.
  returned: when O(state=present)
  type: dict
  sample:
    id: b-9rw4t7cn2ybe
    name: shop-members
    role: project-member
    cluster: paris
    project: shop
    users:
      - bob
    service_accounts:
      - shop-front/deployer
change:
  description: The change as the API's C(POST /policy/simulate) takes it.
  returned: in check mode, when something would change
  type: dict
  sample:
    kind: project_binding
    op: delete
    name: x-team
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
    binding_options,
    bring_binding,
    simulate_option,
)
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run


def work(module, client):
    return bring_binding(
        module,
        client,
        "project_binding",
        "/project-bindings",
        accounts=True,
        key=dict(project=module.params["project"], cluster=module.params["cluster"]),
    )


def main():
    module = make_module(
        state_option(),
        simulate_option(),
        binding_options(),
        dict(
            project=dict(type="str", required=True),
            cluster=dict(type="str"),
            service_accounts=dict(type="list", elements="str"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
