# SPDX-License-Identifier: Apache-2.0
"""The proxy chain: sanitise, authenticate, route, authorise, impersonate, forward; and its audit log."""
