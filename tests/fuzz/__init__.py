# SPDX-License-Identifier: Apache-2.0
"""Fuzzing of everything that reads what strangers send: `make fuzz SECONDS=60`. docs/fuzzing.md describes it."""
