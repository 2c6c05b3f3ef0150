# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection options, documented once. They are built in plugins/module_utils/argspec.py."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  url:
    description:
      - Address of the Mooring server, for example V(https://mooring.example.com:8443), without a path.
      - If not set, the environment variable E(MOORING_URL) is used.
    type: str
    required: true
  token:
    description:
      - The token to authenticate with.
      - If not set, the environment variable E(MOORING_TOKEN) is used.
      - Where there is a token, O(login_username) and O(login_password) are not used.
    type: str
  login_username:
    description:
      - Name of a local user, to log in with O(login_password) instead of a token. The session ends with the task.
      - If not set, the environment variable E(MOORING_USERNAME) is used.
    type: str
  login_password:
    description:
      - Password of O(login_username).
      - If not set, the environment variable E(MOORING_PASSWORD) is used.
    type: str
  ca_file:
    description:
      - File with the certificates (PEM) of the CAs that may sign the server's certificate. No other CA is then trusted.
      - If not set, the environment variable E(MOORING_CA_FILE) is used, and then the CAs of the system.
    type: path
  validate_certs:
    description:
      - Whether the server's certificate and name are checked. Turn it off only against a throw-away server.
      - If not set, the environment variable E(MOORING_VALIDATE_CERTS) is used.
    type: bool
    default: true
  timeout:
    description:
      - Seconds to wait for each answer of the server.
      - If not set, the environment variable E(MOORING_TIMEOUT) is used.
    type: int
    default: 30
"""
