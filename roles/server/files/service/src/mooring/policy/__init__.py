# SPDX-License-Identifier: Apache-2.0
"""May they: pure decisions, with no input or output."""
