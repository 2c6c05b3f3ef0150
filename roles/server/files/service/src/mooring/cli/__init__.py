# SPDX-License-Identifier: Apache-2.0
"""The `mooring` command. Imports lazily, so that `mooring agent` stays small."""
