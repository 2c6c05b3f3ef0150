# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where the options of the modules are built.

Every module takes the same connection options, so that C(module_defaults) can set them for the action group. They are
documented once, in the doc fragment C(mooring.fleet.connection); the two change together.
"""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule, env_fallback


def connection_options():
    """The options that say which server to talk to and as whom."""
    return dict(
        url=dict(type="str", required=True, fallback=(env_fallback, ["MOORING_URL"])),
        token=dict(type="str", no_log=True, fallback=(env_fallback, ["MOORING_TOKEN"])),
        login_username=dict(type="str", fallback=(env_fallback, ["MOORING_USERNAME"])),
        login_password=dict(type="str", no_log=True, fallback=(env_fallback, ["MOORING_PASSWORD"])),
        ca_file=dict(type="path", fallback=(env_fallback, ["MOORING_CA_FILE"])),
        validate_certs=dict(type="bool", default=True, fallback=(env_fallback, ["MOORING_VALIDATE_CERTS"])),
        timeout=dict(type="int", default=30, fallback=(env_fallback, ["MOORING_TIMEOUT"])),
    )


def state_option():
    """The option of every module that makes or removes one object."""
    return dict(state=dict(type="str", choices=["present", "absent"], default="present"))


def build(*parts):
    """Connection options plus the module's own, which must not reuse a name of theirs."""
    spec = connection_options()
    for part in parts:
        taken = sorted(set(spec) & set(part))
        if taken:
            raise ValueError("options defined twice: %s" % ", ".join(taken))
        spec.update(part)
    return spec


def make_module(*parts, **rules):
    """An AnsibleModule with check mode and the rules that hold for the connection options."""
    return AnsibleModule(
        argument_spec=build(*parts),
        supports_check_mode=True,
        required_together=[("login_username", "login_password")] + rules.pop("required_together", []),
        **rules,
    )
