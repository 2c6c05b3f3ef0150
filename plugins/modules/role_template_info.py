#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: role_template_info
short_description: Read the role templates of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns the role templates that the user may see, all of them or those that match.
options:
  name:
    description:
      - Only the one with this name.
    type: str
  context:
    description:
      - Only those of this context.
    type: str
    choices: [cluster, project]
  builtin:
    description:
      - Only those that are built in, or only the others.
    type: bool
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.role_template
"""

EXAMPLES = r"""
- name: Read what can be bound in projects
  mooring.fleet.role_template_info:
    context: project
  register: found
"""

RETURN = r"""
role_templates:
  description: The role templates, by name.
  returned: always
  type: list
  elements: dict
  sample:
    - id: rt-9rw4t7cn2ybe
      name: project-member
      context: project
      builtin: true
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.policy import listed
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

OPTIONS = ("name", "context", "builtin")


def work(module, client):
    return dict(changed=False, role_templates=listed(client, "/role-templates", module.params, OPTIONS))


def main():
    module = make_module(
        dict(
            name=dict(type="str"),
            context=dict(type="str", choices=["cluster", "project"]),
            builtin=dict(type="bool"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
