# SPDX-License-Identifier: Apache-2.0
"""The file that says which processes there are, and who of them lives."""

from __future__ import annotations

import os
import subprocess

from mooring.app import state


def test_a_process_that_ended_and_was_not_waited_for_is_not_alive() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert state.alive(child.pid)
    finally:
        child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays as a zombie
    assert not state.alive(child.pid)
    child.wait()
    assert not state.alive(child.pid)
