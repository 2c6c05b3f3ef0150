#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cluster_binding
short_description: Bind subjects to a role in a cluster
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes a binding of users, groups and service accounts to a role template in one cluster.
  - Who is bound may enter the cluster as well.
options:
  role:
    description:
      - Name or id of a role template of the context V(cluster). Needed to make the binding; it cannot be changed later.
    type: str
  cluster:
    description:
      - Name or id of the cluster. It cannot be changed later.
    type: str
    required: true
  service_accounts:
    description:
      - All the service accounts that are bound, as C(NAMESPACE/NAME) of the cluster. Kept as they are when not set.
    type: list
    elements: str
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.policy
  - mooring.fleet.policy.binding
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.role_template
  - module: mooring.fleet.cluster_binding_info
  - module: mooring.fleet.project_binding
"""

EXAMPLES = r"""
- name: The developers see everything in Paris
  mooring.fleet.cluster_binding:
    name: paris-viewers
    cluster: paris
    role: cluster-viewer
    groups: [developers]
"""

RETURN = r"""
cluster_binding:
  description: The binding.
  returned: when O(state=present)
  type: dict
  sample:
    id: b-9rw4t7cn2ybe
    name: paris-viewers
    role: cluster-viewer
    cluster: paris
    groups:
      - developers
change:
  description: The change as the API's C(POST /policy/simulate) takes it.
  returned: in check mode, when something would change
  type: dict
  sample:
    kind: cluster_binding
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
        "cluster_binding",
        "/cluster-bindings",
        accounts=True,
        key=dict(cluster=module.params["cluster"]),
    )


def main():
    module = make_module(
        state_option(),
        simulate_option(),
        binding_options(),
        dict(
            cluster=dict(type="str", required=True),
            service_accounts=dict(type="list", elements="str"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
