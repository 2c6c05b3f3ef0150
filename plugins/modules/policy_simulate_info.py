#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: policy_simulate_info
short_description: Ask a Mooring server what changes of its policy would do
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns the Kubernetes objects that would come and go in each cluster if the changes were made, one after another.
  - Nothing is written. The changes are checked as if they were made.
options:
  changes:
    description:
      - The changes, as RV(mooring.fleet.project_binding#module:change) of modules in check mode.
    type: list
    elements: dict
    required: true
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.project_binding
  - module: mooring.fleet.policy_explain_info
"""

EXAMPLES = r"""
- name: What would it do to end these bindings
  mooring.fleet.policy_simulate_info:
    changes:
      - kind: project_binding
        op: delete
        name: shop-members
  register: simulated
"""

RETURN = r"""
clusters:
  description: The clusters where something would change, with the objects and with counts of them all.
  returned: always
  type: list
  elements: dict
  sample:
    - cluster: paris
      counts:
        added: 0
        removed: 1
        changed: 0
lines:
  description: The same for people, one line for each object.
  returned: always
  type: list
  elements: str
  sample:
    - "paris: 0 added, 1 removed, 0 changed"
    - "paris: - RoleBinding shop/mooring:project-member:0f3a5b7c9d:always"
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.policy import counts, line, simulate
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

SIGNS = (("added", "+"), ("removed", "-"), ("changed", "~"))


def lines(cluster):
    told = [counts(cluster)]
    for name, sign in SIGNS:
        told += ["%s %s" % (sign, line(item)) for item in cluster.get(name) or []]
    return ["%s: %s" % (cluster["cluster"], text) for text in told]


def work(module, client):
    changes = module.params["changes"]
    clusters = simulate(client, changes) if changes else []
    return dict(changed=False, clusters=clusters, lines=[text for cluster in clusters for text in lines(cluster)])


def main():
    module = make_module(
        dict(
            changes=dict(type="list", elements="dict", required=True),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
