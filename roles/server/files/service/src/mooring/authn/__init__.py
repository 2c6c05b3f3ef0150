# SPDX-License-Identifier: Apache-2.0
"""Who is asking: tokens, passwords, agent keys, and the in-memory index that the data path asks."""
