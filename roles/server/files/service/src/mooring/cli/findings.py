# SPDX-License-Identifier: Apache-2.0
"""One thing that the doctor looked at: what it is, how it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mooring.lib.errors import MooringError


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is the thing, `message` its condition, `remedy` what to do when it is not ok."""

    check: str
    result: Literal["ok", "warning", "failed"]
    message: str
    remedy: str = ""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """It works, but will not for long, or not for everybody."""
    return Finding(check, "warning", message, remedy)


def failed(check: str, message: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check, "failed", message, remedy)


def from_error(check: str, error: MooringError) -> Finding:
    """A known error as a finding."""
    return failed(check, error.reason, error.hint)
