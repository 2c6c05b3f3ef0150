# SPDX-License-Identifier: Apache-2.0
"""The one error of the test bed."""

from __future__ import annotations


class TestbedError(Exception):
    """Something that the test bed needs is missing or did not come up; the message says what and where to look."""

    __test__ = False  # pytest: not a test class


class BuildError(TestbedError):
    """A program of the test bed could not be built; the message ends with what the compiler said."""
