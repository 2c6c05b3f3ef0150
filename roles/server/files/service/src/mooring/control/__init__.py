# SPDX-License-Identifier: Apache-2.0
"""Controllers: what follows from a change of state, outside of any request."""
