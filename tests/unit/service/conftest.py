# SPDX-License-Identifier: Apache-2.0
"""Settings for all unit tests of the service."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("service", deadline=None)
settings.load_profile("service")
