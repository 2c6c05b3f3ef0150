# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules promise, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
    support: full
  diff_mode:
    description: Will return details on what has changed when in diff mode. Secrets are never part of them.
    support: full
  action_group:
    description: Use C(group/mooring.fleet.all) in C(module_defaults) to set the connection options once.
    support: full
    membership:
      - mooring.fleet.all
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    description: Will return details on what has changed when in diff mode.
    support: N/A
    details:
      - This module changes nothing.
  action_group:
    description: Use C(group/mooring.fleet.all) in C(module_defaults) to set the connection options once.
    support: full
    membership:
      - mooring.fleet.all
"""
