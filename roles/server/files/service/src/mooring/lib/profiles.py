# SPDX-License-Identifier: Apache-2.0
"""How much of a cluster its agent may change, chosen when the cluster is made.

    proxy-only   no policies: the agent passes requests on
    read-only    roles and bindings that give reading (get, list, watch), held back by the cluster's own RBAC
    admin        everything that a policy may say

It must not: be what enforces this. The cluster's RBAC does (`kube/manifest.py`); this is the vocabulary.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Profile = Literal["proxy-only", "read-only", "admin"]

PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)
DEFAULT_PROFILE: Final[Profile] = "admin"
READING: Final = frozenset({"get", "list", "watch"})
"""The verbs that the profile `read-only` can give away."""
