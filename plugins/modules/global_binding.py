#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: global_binding
short_description: Bind users and groups to a global role of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes a binding of users and groups to a global role.
options:
  role:
    description:
      - Name or id of the global role. Needed to make the binding; it cannot be changed later.
    type: str
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.policy
  - mooring.fleet.policy.binding
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.global_role
  - module: mooring.fleet.global_binding_info
"""

EXAMPLES = r"""
- name: The platform team administers the server until the end of the year
  mooring.fleet.global_binding:
    name: platform-admins
    role: admin
    groups: [platform]
    expires_at: "2026-12-31T18:00:00Z"
    reason: migration
"""

RETURN = r"""
global_binding:
  description: The binding.
  returned: when O(state=present)
  type: dict
  sample:
    id: b-9rw4t7cn2ybe
    name: platform-admins
    role: admin
    groups:
      - platform
    expires_at: "2026-12-31T18:00:00Z"
change:
  description: The change as the API's C(POST /policy/simulate) takes it.
  returned: in check mode, when something would change
  type: dict
  sample:
    kind: global_binding
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
    return bring_binding(module, client, "global_binding", "/global-bindings")


def main():
    module = make_module(
        state_option(),
        simulate_option(),
        binding_options(),
    )
    run(module, work)


if __name__ == "__main__":
    main()
