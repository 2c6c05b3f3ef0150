# SPDX-License-Identifier: Apache-2.0
"""Large blocks are mapped one by one, also after one of them was freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from mooring.lib import heap
if not heap.keep_buffers_out():
    print("no glibc")
    raise SystemExit
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes = (ctypes.c_size_t,)
c.free.argtypes = (ctypes.c_void_p,)

def heap_end():
    c.sbrk.restype = ctypes.c_void_p
    return c.sbrk(0)

c.free(c.malloc(heap.MMAP_FROM))
end = heap_end()
blocks = [c.malloc(heap.MMAP_FROM) for _ in range(40)]
print("outside" if heap_end() - end < 10 * heap.MMAP_FROM else "inside")
"""


def test_large_blocks_stay_out_of_the_heap() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    if run.stdout.strip() == "no glibc":
        pytest.skip("this C library has no mallopt")
    assert run.stdout.strip() == "outside"
