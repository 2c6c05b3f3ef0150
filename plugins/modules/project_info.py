#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: project_info
short_description: Read the projects of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns the projects that the user may see, all of them or those that match.
options:
  name:
    description:
      - Only the one with this name.
    type: str
  cluster:
    description:
      - Only those in this cluster, by name or id.
    type: str
  namespace:
    description:
      - Only the one that has this namespace.
    type: str
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.project
"""

EXAMPLES = r"""
- name: Whose is this namespace
  mooring.fleet.project_info:
    cluster: paris
    namespace: shop-front
  register: found
"""

RETURN = r"""
projects:
  description: The projects, by name.
  returned: always
  type: list
  elements: dict
  sample:
    - id: p-9rw4t7cn2ybe
      name: shop
      cluster: paris
      namespaces:
        - name: shop-front
          create: true
          quota: {}
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.policy import listed
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

OPTIONS = ("name", "cluster", "namespace")


def work(module, client):
    return dict(changed=False, projects=listed(client, "/projects", module.params, OPTIONS))


def main():
    module = make_module(
        dict(
            name=dict(type="str"),
            cluster=dict(type="str"),
            namespace=dict(type="str"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
