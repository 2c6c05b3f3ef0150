# SPDX-License-Identifier: Apache-2.0
"""Guards against the attack classes 11 to 20."""

from __future__ import annotations

from mutants.guard import Guard

GUARDS: tuple[Guard, ...] = ()
