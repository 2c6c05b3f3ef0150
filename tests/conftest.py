# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the test bed's fixtures."""

from __future__ import annotations

pytest_plugins = ("testbed.fixtures",)
