# SPDX-License-Identifier: Apache-2.0
"""All guards."""

from __future__ import annotations

from mutants.guards_01_10 import GUARDS as FIRST
from mutants.guards_11_20 import GUARDS as SECOND
from mutants.guards_api import GUARDS as API
from mutants.guards_applier import GUARDS as APPLIER
from mutants.guards_bounds import GUARDS as BOUNDS
from mutants.guards_delivery import GUARDS as DELIVERY
from mutants.guards_endpoint import GUARDS as ENDPOINT
from mutants.guards_entry import GUARDS as ENTRY
from mutants.guards_grants import GUARDS as GRANTS
from mutants.guards_kubeconfig import GUARDS as KUBECONFIG
from mutants.guards_policies import GUARDS as POLICIES
from mutants.guards_rules import GUARDS as RULES
from mutants.guards_served import GUARDS as SERVED

GUARDS = (
    *FIRST,
    *SECOND,
    *RULES,
    *BOUNDS,
    *POLICIES,
    *DELIVERY,
    *GRANTS,
    *ENTRY,
    *API,
    *APPLIER,
    *ENDPOINT,
    *KUBECONFIG,
    *SERVED,
)
