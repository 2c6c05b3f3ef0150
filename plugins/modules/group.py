#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: group
short_description: Manage a group of users of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes a group.
  - Members of the group V(admins), which is always there, administer the server and may enter every cluster.
options:
  name:
    description:
      - Name of the group. In a cluster the group is C(mooring:NAME). It cannot be changed later.
    type: str
    required: true
  description:
    description:
      - A sentence for people. Kept as it is when not set.
    type: str
  members:
    description:
      - Names of the users who are members. Kept as they are when not set.
    type: list
    elements: str
  append:
    description:
      - With V(false), O(members) are all the members of the group and others are removed. With V(true), they are added.
    type: bool
    default: false
  state:
    description:
      - Whether the group exists.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.user
  - module: mooring.fleet.membership
"""

EXAMPLES = r"""
- name: Make the group of the developers
  mooring.fleet.group:
    name: developers
    description: Who writes the applications
    members:
      - bob
      - carol

- name: Make Alice an administrator as well
  mooring.fleet.group:
    name: admins
    members:
      - alice
    append: true
"""

RETURN = r"""
group:
  description: The group.
  returned: when O(state=present)
  type: dict
  sample:
    id: g-9rw4t7cn2ybe
    name: developers
    description: Who writes the applications
    members:
      - bob
      - carol
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.client import ref
from ansible_collections.mooring.fleet.plugins.module_utils.resource import Resource, run


def work(module, client):
    params = module.params
    path = "/groups/%s" % ref(params["name"])
    resource = Resource(module, client, "/groups", path, shown=("name", "description", "members"))
    if params["state"] == "absent":
        return resource.absent()
    wished = dict((k, params[k]) for k in ("description", "members") if params[k] is not None)
    if params["append"] and "members" in wished:
        found = client.get(path)[0] or {}
        wished["members"] = sorted(set(wished["members"]) | set(found.get("members") or []))
    group, result = resource.present(wished, key=dict(name=params["name"]))
    return dict(result, group=group)


def main():
    module = make_module(
        state_option(),
        dict(
            name=dict(type="str", required=True),
            description=dict(type="str"),
            members=dict(type="list", elements="str"),
            append=dict(type="bool", default=False),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
