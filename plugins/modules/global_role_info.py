#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: global_role_info
short_description: Read the global roles of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns the global roles that the user may see, all of them or those that match.
options:
  name:
    description:
      - Only the one with this name.
    type: str
  builtin:
    description:
      - Only those that are built in, or only the others.
    type: bool
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.global_role
"""

EXAMPLES = r"""
- name: Read the roles that were made here
  mooring.fleet.global_role_info:
    builtin: false
  register: found
"""

RETURN = r"""
global_roles:
  description: The global roles, by name.
  returned: always
  type: list
  elements: dict
  sample:
    - id: gr-9rw4t7cn2ybe
      name: admin
      builtin: true
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.policy import listed
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

OPTIONS = ("name", "builtin")


def work(module, client):
    return dict(changed=False, global_roles=listed(client, "/global-roles", module.params, OPTIONS))


def main():
    module = make_module(
        dict(
            name=dict(type="str"),
            builtin=dict(type="bool"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
