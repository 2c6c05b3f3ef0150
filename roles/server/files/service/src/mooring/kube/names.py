# SPDX-License-Identifier: Apache-2.0
"""Names of objects that the manifest makes or allows and the agent uses. Alone in a module, since the agent's image
does not have what the manifest is written with."""

from __future__ import annotations

from typing import Final

DEFAULT_NAMESPACE: Final = "mooring-system"
"""Where the objects of an agent are."""
POLICY_NAME: Final = "mooring-policy"
"""The Lease of the agent that applies policies, and the beginning of the names of the Secrets that keep them."""
POLICY_PARTS: Final = 16
"""Secrets that a policy may be kept in: `mooring-policy-0` and so on. RBAC has no pattern for names."""
