# SPDX-License-Identifier: Apache-2.0
"""The small world of the proxy, for each test anew."""

from __future__ import annotations

import pytest
from support.proxyfakes import World, make_world


@pytest.fixture
def world() -> World:
    return make_world()
