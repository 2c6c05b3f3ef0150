#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: user
short_description: Manage a local user of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes a local user.
  - A user who has no password can use tokens that an administrator made for them.
options:
  name:
    description:
      - Name of the user. In a cluster the user is C(mooring:NAME). It cannot be changed later.
    type: str
    required: true
  password:
    description:
      - Password of the user.
      - It is written for a new user. See O(update_password) for a user who exists.
    type: str
  update_password:
    description:
      - V(on_create) writes O(password) for a new user only.
      - V(always) writes it each time, and the task then always reports a change, because a password cannot be compared.
    type: str
    choices: [on_create, always]
    default: on_create
  display_name:
    description:
      - Name for people. Kept as it is when not set.
    type: str
  enabled:
    description:
      - Whether the user may do anything at all. Kept as it is when not set; a new user is enabled.
    type: bool
  groups:
    description:
      - Names of all the groups of the user, who is removed from others. Kept as they are when not set.
    type: list
    elements: str
  state:
    description:
      - Whether the user exists. Removing a user revokes the user's tokens.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.group
  - module: mooring.fleet.membership
  - module: mooring.fleet.token
"""

EXAMPLES = r"""
- name: Make Bob
  mooring.fleet.user:
    name: bob
    display_name: Bob
    password: "{{ vault_bob_password }}"
    groups:
      - developers

- name: Lock Bob out, everywhere, at once
  mooring.fleet.user:
    name: bob
    enabled: false
"""

RETURN = r"""
user:
  description: The user, without any secret.
  returned: when O(state=present)
  type: dict
  sample:
    id: u-6jt2m5xq3kfa
    name: bob
    display_name: Bob
    enabled: true
    uid: 3f0c1f0e-6b0e-4d8b-9d5a-0c7d2f1c9b1e
    groups:
      - developers
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.client import ref
from ansible_collections.mooring.fleet.plugins.module_utils.resource import Resource, run


def work(module, client):
    params = module.params
    shown = ("name", "display_name", "enabled", "groups")
    resource = Resource(module, client, "/users", "/users/%s" % ref(params["name"]), shown, hidden=("password",))
    if params["state"] == "absent":
        return resource.absent()
    wished = dict((k, params[k]) for k in ("display_name", "enabled", "groups") if params[k] is not None)
    password = dict(password=params["password"]) if params["password"] else {}
    always = password if params["update_password"] == "always" else {}  # noqa: S105
    user, result = resource.present(wished, dict(name=params["name"]), on_create=password, always=always)
    return dict(result, user=user)


def main():
    module = make_module(
        state_option(),
        dict(
            name=dict(type="str", required=True),
            password=dict(type="str", no_log=True),
            update_password=dict(type="str", choices=["on_create", "always"], default="on_create", no_log=False),
            display_name=dict(type="str"),
            enabled=dict(type="bool"),
            groups=dict(type="list", elements="str"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
