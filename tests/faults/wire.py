# SPDX-License-Identifier: Apache-2.0
"""A network link in user space: carries IP packets between this machine and a namespace, badly when told to.

Two TUN devices (Linux, Documentation/networking/tuntap.rst), one in each network namespace; this process moves packets
from one to the other and applies loss, delay and cuts by the address on the near side. Why not tc's netem: kernels of
small virtual machines are built without it.

Run as a process of its own (`python -m faults.wire`), told what to do over a unix socket: one JSON object per
connection, answered by one with the counters. It must not know what the packets carry.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
QUEUE_MAX = 4096  # packets under way; more are dropped, as a router would
PER_TURN = 64  # packets read from a device before the other has its turn


@dataclass
class Rule:
    """What happens to the packets of one near address: `loss` in 0..1, `delay` in seconds, directions that are cut."""

    loss: float = 0.0
    delay: float = 0.0
    cut_to_far: bool = False
    cut_to_near: bool = False


CLEAN = Rule()


def tun(name: str) -> int:
    """A TUN device in this thread's network namespace. It goes with the file descriptor, so with this process."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def enter(netns: str) -> None:
    """Move this thread into a network namespace. (`os.setns` came with Python 3.12.)"""
    with open(netns) as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {netns}")


class Wire:
    """Moves the packets."""

    def __init__(self, near: int, far: int, control: socket.socket, seed: int) -> None:
        self._near, self._far, self._control = near, far, control
        self._rules: dict[bytes, Rule] = {}
        self._random = random.Random(seed)
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self.carried = 0
        self.dropped = 0

    def run(self) -> None:
        """For ever."""
        poll = select.poll()
        for fd in (self._near, self._far, self._control.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            wait = None if not self._queue else max(0.0, self._queue[0][0] - time.monotonic()) * 1000
            for fd, _event in poll.poll(wait):
                if fd == self._near:
                    self._shovel(self._near, self._far)
                elif fd == self._far:
                    self._shovel(self._far, self._near)
                else:
                    self._obey()
            now = time.monotonic()
            while self._queue and self._queue[0][0] <= now:
                _due, _number, target, packet = heapq.heappop(self._queue)
                self._send(target, packet)

    def _shovel(self, source: int, target: int) -> None:
        for _unused in range(PER_TURN):
            try:
                packet = os.read(source, 65536)
            except BlockingIOError:
                return
            if len(packet) < 20 or packet[0] >> 4 != 4:
                continue  # IPv6 neighbours and the like: nothing of ours
            to_far = target == self._far
            rule = self._rules.get(packet[12:16] if to_far else packet[16:20], CLEAN)
            if (
                (rule.cut_to_far if to_far else rule.cut_to_near)
                or (rule.loss and self._random.random() < rule.loss)
                or len(self._queue) >= QUEUE_MAX
            ):
                self.dropped += 1
            elif rule.delay:
                self._number += 1
                heapq.heappush(self._queue, (time.monotonic() + rule.delay, self._number, target, packet))
            else:
                self._send(target, packet)

    def _send(self, target: int, packet: bytes) -> None:
        try:
            os.write(target, packet)
            self.carried += 1
        except OSError:
            self.dropped += 1  # the device is not up yet, or its queue is full

    def _obey(self) -> None:
        peer, _unused = self._control.accept()
        with peer, peer.makefile("rwb") as file:
            peer.settimeout(2)
            order: dict[str, dict[str, Any]] = json.loads(file.readline())
            for address, words in order.items():
                self._rules[socket.inet_aton(address)] = Rule(**words)
            file.write(json.dumps({"carried": self.carried, "dropped": self.dropped}).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--netns", "--near", "--far", "--control"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    near = tun(words.near)
    enter(words.netns)
    far = tun(words.far)
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(words.control)
        control.listen(4)
        Wire(near, far, control, words.seed).run()


if __name__ == "__main__":
    main()
