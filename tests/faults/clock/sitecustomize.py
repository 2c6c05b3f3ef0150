# SPDX-License-Identifier: Apache-2.0
"""Sets the wall clock of a Python process off, by as many seconds as the file in FAULTS_CLOCK says, also later.

Python imports it at start when its folder is in PYTHONPATH, and so do the processes that it starts. Monotonic time is
left alone, as it is when somebody sets a machine's clock. Why not libfaketime: with it, `time.sleep` raises EINVAL in
Python 3.11, or waits with a timeout never end. What it does not reach is the clock by which OpenSSL judges
certificates; see `catalogue.server_was_ahead`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_FILE = Path(os.environ["FAULTS_CLOCK"])
_real, _monotonic = time.time, time.monotonic
_state = [0.0, -1.0]  # the offset, and when it was read


def _offset() -> float:
    now = _monotonic()
    if now - _state[1] > 0.5:
        _state[:] = [float(_FILE.read_text()), now]
    return _state[0]


def _time() -> float:
    return _real() + _offset()


time.time = _time
time.time_ns = lambda: int(_time() * 1e9)
