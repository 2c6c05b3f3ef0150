# SPDX-License-Identifier: Apache-2.0
"""The scenarios, a file each: `run(bench)` measures, adds rows and values, and raises Failed when it could not."""
