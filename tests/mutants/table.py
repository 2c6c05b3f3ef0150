# SPDX-License-Identifier: Apache-2.0
"""All guards."""

from __future__ import annotations

from mutants.guards_01_10 import GUARDS as FIRST
from mutants.guards_11_20 import GUARDS as SECOND
from mutants.guards_bounds import GUARDS as BOUNDS
from mutants.guards_rules import GUARDS as RULES

GUARDS = (*FIRST, *SECOND, *RULES, *BOUNDS)
