# SPDX-License-Identifier: Apache-2.0
"""Keeps large and mostly untouched buffers out of the C heap.

Why: uvloop gives each TLS connection a read buffer of 256 KiB, of which an idle one touches a page or two. glibc takes
such blocks from the kernel, one mapping each, until the first of them is freed; from then on it cuts them out of the
heap, from memory that others have used and that is resident. Of an idle tunnel that was a quarter.

It must not: matter where there is no glibc. There, nothing is done.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
MMAP_FROM: Final = 256 * 1024
"""Bytes from which a block gets a mapping of its own: uvloop's buffer, and hardly anything else of the data path."""
TRIM_FROM: Final = 4 * 1024 * 1024
"""Free bytes at the heap's end that are given back. Setting the other fixes this one, at too little for bodies."""


def keep_buffers_out() -> bool:
    """Fix glibc's thresholds, for this process. Returns whether that was possible. Call it before there is traffic."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_FROM) and mallopt(_M_TRIM_THRESHOLD, TRIM_FROM))
