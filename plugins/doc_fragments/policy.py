# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of policies have in common, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  state:
    description:
      - Whether it exists.
    type: str
    choices: [present, absent]
    default: present
  simulate:
    description:
      - Whether the server is asked in check mode which Kubernetes objects would come and go in each cluster.
      - They are returned and part of the diff.
    type: bool
    default: true
"""

    BINDING = r"""
options:
  name:
    description:
      - Name of the binding, unique among those of its kind. It cannot be changed later.
    type: str
    required: true
  users:
    description:
      - Names of all the users that are bound. Kept as they are when not set.
    type: list
    elements: str
  groups:
    description:
      - Names of all the groups that are bound. Kept as they are when not set.
    type: list
    elements: str
  append:
    description:
      - With V(false), the lists of subjects are all that are bound, others are removed. With V(true), they are added.
    type: bool
    default: false
  expires_at:
    description:
      - When it ends, such as V(2026-12-31T18:00:00Z). From then on it gives nothing.
      - An empty text takes the end away. Kept as it is when not set.
    type: str
  reason:
    description:
      - Why it is there, for people. Kept as it is when not set.
    type: str
"""
