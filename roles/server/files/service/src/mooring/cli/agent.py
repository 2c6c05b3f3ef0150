# SPDX-License-Identifier: Apache-2.0
"""`mooring agent`: starts the agent. It must not import anything of the server."""

from __future__ import annotations
