# SPDX-License-Identifier: Apache-2.0
"""Controllers: they bring what the store says about a cluster in line with what is seen of it."""
