# SPDX-License-Identifier: Apache-2.0
"""Live tunnel sessions: the hub (cluster to sessions), session, stream, and the carrier that moves their frames."""
