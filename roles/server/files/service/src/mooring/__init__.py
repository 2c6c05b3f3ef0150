# SPDX-License-Identifier: Apache-2.0
"""Mooring: one server in front of many Kubernetes clusters that dial out to it."""
