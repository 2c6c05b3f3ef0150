#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: project_binding_info
short_description: Read the project bindings of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns the project bindings that the user may see, all of them or those that match.
options:
  name:
    description:
      - Only the one with this name.
    type: str
  cluster:
    description:
      - Only those in this cluster, by name or id.
    type: str
  project:
    description:
      - Only those in this project, by name or id.
    type: str
  role:
    description:
      - Only those to this role, by name or id.
    type: str
  user:
    description:
      - Only those that this user is bound by.
    type: str
  group:
    description:
      - Only those that this group is bound by.
    type: str
  expired:
    description:
      - Only those that have ended, or only the others.
    type: bool
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.project_binding
"""

EXAMPLES = r"""
- name: Read what the developers are bound to
  mooring.fleet.project_binding_info:
    group: developers
    expired: false
  register: found
"""

RETURN = r"""
project_bindings:
  description: The project bindings, by name.
  returned: always
  type: list
  elements: dict
  sample:
    - id: b-9rw4t7cn2ybe
      name: some-people
      role: some-role
      groups:
        - developers
      expires_at: null
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.policy import listed
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

OPTIONS = ("name", "cluster", "project", "role", "user", "group", "expired")


def work(module, client):
    return dict(changed=False, project_bindings=listed(client, "/project-bindings", module.params, OPTIONS))


def main():
    module = make_module(
        dict(
            name=dict(type="str"),
            cluster=dict(type="str"),
            project=dict(type="str"),
            role=dict(type="str"),
            user=dict(type="str"),
            group=dict(type="str"),
            expired=dict(type="bool"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
