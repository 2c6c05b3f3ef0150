# SPDX-License-Identifier: GPL-3.0-or-later
"""Which API server counts as started anew, and what is said of one that does not start."""

from __future__ import annotations

import os

from ansible_collections.mooring.fleet.plugins.modules import kube_apiserver_wait as module


def make(proc, pid, command, ticks):
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command))
    fields = " ".join(["S", *["0"] * 18, str(ticks), "0"])
    (proc / str(pid) / "stat").write_text(f"{pid} (kube) (x 1) {fields}\n")


def test_the_one_from_before_does_not_count(tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1000\nprocesses 5\n")
    make(tmp_path, 1, ["/sbin/init"], 0)
    make(tmp_path, 2, ["kube-apiserver", "--a=1"], 50 * ticks)
    (tmp_path / "3").mkdir()  # has ended
    found = module.processes(str(tmp_path))
    assert found == [(1050.0, ["kube-apiserver", "--a=1"])]
    assert not module.runs(found, 1100, [])
    assert module.runs(found, 1051, ["--a=1"])
    assert not module.runs(found, 1051, ["--a=2"])
    make(tmp_path, 4, ["/usr/local/bin/kube-apiserver", "--a=2"], 120 * ticks)
    found = module.processes(str(tmp_path))
    assert module.runs(found, 1100, ["--a=2"])
    assert not module.runs(found, 1100, ["--a=1"])


def test_what_the_newest_printed_is_said(tmp_path):
    assert module.last_lines(str(tmp_path)) == ""
    for number, (name, text) in enumerate((("a", "old"), ("b", "Error: unknown flag: --x"))):
        folder = tmp_path / f"kube-system_kube-apiserver-m1_{name}" / "kube-apiserver"
        folder.mkdir(parents=True)
        log = folder / "0.log"
        log.write_text(f"2026-11-29T04:00:00.0Z stderr F {text}\n")
        os.utime(log, (number, number))
    assert module.last_lines(str(tmp_path)) == "Error: unknown flag: --x"
