#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: server_info
short_description: Read what a Mooring server is, and who we are to it
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns the version and settings of the server that others need, and the user and groups of the credential that is
    used.
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.cluster_info
"""

EXAMPLES = r"""
- name: Read the server
  mooring.fleet.server_info:
  register: mooring

- name: Go on only as an administrator
  ansible.builtin.assert:
    that: mooring.whoami.admin
"""

RETURN = r"""
server:
  description: The server.
  returned: always
  type: dict
  sample:
    version: 0.1.0
    instance: i-7cq2h5mx4zkd
    url: https://mooring.example.com:8443
    identity_prefix: "mooring:"
    clusters_total: 12
    clusters_connected: 11
whoami:
  description: The user of the credential.
  returned: always
  type: dict
  sample:
    user: alice
    groups:
      - admins
    admin: true
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run


def work(module, client):
    return dict(changed=False, server=client.send("GET", "/server"), whoami=client.send("GET", "/whoami"))


def main():
    run(make_module(), work)


if __name__ == "__main__":
    main()
