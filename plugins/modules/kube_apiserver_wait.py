#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kube_apiserver_wait
short_description: Wait until the kubelet runs a kube-apiserver as its static pod's manifest says
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Waits until a process C(kube-apiserver) of this machine has started after its manifest was written, has the flags
    that it shall have, and says that it is ready. The one from before, which answers for some seconds more, does not
    count.
  - Where it does not become ready in time, the task fails with the last lines that it printed.
  - Needs nothing but Python on the machine.
options:
  manifest:
    description:
      - Manifest of the static pod.
    type: path
    default: /etc/kubernetes/manifests/kube-apiserver.yaml
  flags:
    description:
      - Words that must be in its command line, such as V(--profiling=false).
    type: list
    elements: str
    default: []
  url:
    description:
      - Address that answers 200 when it is ready, such as V(https://10.0.0.11:6443/readyz). Without it, only the
        process is looked at.
    type: str
  ca_file:
    description:
      - CA (PEM) of its certificate.
    type: path
  client_cert:
    description:
      - Certificate (PEM) to ask with, for where it answers nobody else. Not used where there is no such file.
    type: path
  client_key:
    description:
      - Key (PEM) of O(client_cert).
    type: path
  timeout:
    description:
      - Seconds to wait.
    type: int
    default: 180
  log_dir:
    description:
      - Where the kubelet keeps what pods print.
    type: path
    default: /var/log/pods
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
    support: full
    details:
      - This module changes nothing. In check mode it does not wait.
  diff_mode:
    description: Will return details on what has changed when in diff mode.
    support: N/A
    details:
      - This module changes nothing.
"""

EXAMPLES = r"""
- name: Wait until the API server is back
  mooring.fleet.kube_apiserver_wait:
    url: https://10.0.0.11:6443/readyz
    ca_file: /etc/kubernetes/pki/ca.crt
    flags:
      - --profiling=false
"""

RETURN = r"""
seconds:
  description: How long it took.
  returned: when it became ready
  type: float
  sample: 21.4
log:
  description: The last lines that it printed.
  returned: when it did not
  type: str
  sample: "Error: unknown flag: --profilling"
"""

import glob
import os
import re
import ssl
import time
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_text

NAME = "kube-apiserver"
LINES = 20
CHARACTERS = 3000
PREFIX = re.compile(r"^\S+ (stdout|stderr) [FP] ")  # what the container runtime puts before each line
SLACK = 1.5  # seconds: the time of the boot is known to the second


def read(path):
    with open(path, "rb") as f:
        return f.read()


def processes(proc="/proc"):
    """(time of start, words of the command) of each kube-apiserver of this machine."""
    boot = int(re.search(rb"^btime (\d+)$", read(proc + "/stat"), re.M).group(1))
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    for folder in glob.glob(proc + "/[0-9]*"):
        try:
            words = [to_text(word) for word in read(folder + "/cmdline").split(b"\0")[:-1]]
            if not words or os.path.basename(words[0]) != NAME:
                continue
            # the name in parentheses may hold anything, blanks too
            started = int(read(folder + "/stat").rpartition(b")")[2].split()[19])
        except (OSError, IndexError, ValueError):
            continue  # it has ended
        found.append((boot + started / ticks, words))
    return found


def runs(found, since, flags):
    """Whether one of the processes started since then and has all the flags."""
    return any(started >= since - SLACK and set(flags) <= set(words) for started, words in found)


def ready(opener, url):
    """An empty text if it is ready, else why not."""
    try:
        with opener.open(url, timeout=5):
            return ""
    except HTTPError as e:
        return "it answered %d" % e.code
    except (URLError, OSError, ValueError) as e:
        return to_text(getattr(e, "reason", e))


def make_opener(params):
    context = ssl.create_default_context(cafile=params["ca_file"])
    if params["client_cert"] and os.path.exists(params["client_cert"]):
        context.load_cert_chain(params["client_cert"], params["client_key"])
    return build_opener(ProxyHandler({}), HTTPSHandler(context=context))


def last_lines(log_dir):
    """The end of the newest log of a kube-apiserver, or an empty text."""
    logs = glob.glob("%s/*_%s-*/%s/*.log" % (glob.escape(log_dir), NAME, NAME))
    try:
        newest = max(logs, key=os.path.getmtime)
        lines = to_text(read(newest)[-64 * 1024 :], errors="replace").splitlines()[-LINES:]
    except (OSError, ValueError):
        return ""
    return "\n".join(PREFIX.sub("", line) for line in lines)[-CHARACTERS:]


def wait(params, clock=time):
    """(whether it became ready, seconds, why not)."""
    since = os.path.getmtime(params["manifest"])
    opener = make_opener(params) if params["url"] else None
    begin = clock.time()
    times = 0
    while True:
        why = "none runs that was started after the change with all of its flags"
        if runs(processes(), since, params["flags"]):
            why = ready(opener, params["url"]) if opener else ""
        times = 0 if why else times + 1
        passed = clock.time() - begin
        if times == 2:  # not only for a moment
            return True, passed, ""
        if passed > params["timeout"]:
            return False, passed, why
        clock.sleep(1)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            manifest=dict(type="path", default="/etc/kubernetes/manifests/kube-apiserver.yaml"),
            flags=dict(type="list", elements="str", default=[]),
            url=dict(type="str"),
            ca_file=dict(type="path"),
            client_cert=dict(type="path"),
            client_key=dict(type="path", no_log=False),
            timeout=dict(type="int", default=180),
            log_dir=dict(type="path", default="/var/log/pods"),
        ),
        required_together=[("client_cert", "client_key"), ("url", "ca_file")],
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False)
    try:
        done, passed, why = wait(module.params)
    except (OSError, ssl.SSLError) as e:
        module.fail_json(msg="kube-apiserver cannot be asked: %s" % e)
    if not done:
        log = last_lines(module.params["log_dir"])
        module.fail_json(msg="kube-apiserver was not ready within %d s: %s" % (module.params["timeout"], why), log=log)
    module.exit_json(changed=False, seconds=round(passed, 1))


if __name__ == "__main__":
    main()
