# SPDX-License-Identifier: Apache-2.0
"""The client half, which runs in or beside the downstream cluster within a memory budget."""
