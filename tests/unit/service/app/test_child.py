# SPDX-License-Identifier: Apache-2.0
"""A process of a server whose supervisor has died ends, whatever it waits for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
from mooring.app.orders import BeginWorker
from mooring.bus.channel import pair
from mooring.lib import config

# A worker that never gets to the end of its stop, as a connection of the database did whose thread was not woken.
STUCK = """
import asyncio, sys
from mooring.app import child, worker

class Stuck:
    def __init__(self, begin, send): pass
    async def start(self): pass
    async def wait(self, stop): await stop.wait()
    async def stop(self, order):
        print("stopping", flush=True)
        await asyncio.Event().wait()

worker.Worker = Stuck
child.ALONE_MOST = 0.2
sys.exit(child.main(int(sys.argv[1])))
"""


def test_a_process_that_could_not_stop_outlived_its_supervisor_by_an_hour(tmp_path: Path) -> None:
    data = {
        "server": {"data_dir": str(tmp_path), "listen": "127.0.0.1:1", "url": "https://localhost"},
        "tls": {"cert": "a", "key": "b", "ca": "c"},
    }
    made = config.parse(data, tmp_path / "mooring.toml")
    order = msgspec.msgpack.encode(BeginWorker(config=made, instance="w-1", slot=0, workers=1, listen=[]))
    ours, theirs = pair()
    number = theirs.fileno()
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(number)], pass_fds=[number], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        theirs.close()
        ours.setblocking(True)
        ours.sendall(len(order).to_bytes(4, "big") + order)
        assert ours.recv(1024)  # it is ready
        ours.close()
        said, _unused = process.communicate(timeout=30)
        assert said == b"stopping\n"
        assert process.returncode == 1
    finally:
        process.kill()
        process.wait()
