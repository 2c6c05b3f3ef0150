# SPDX-License-Identifier: Apache-2.0
"""The REST API: one file per resource. It is an upstream of the edge, reached over a unix socket only."""
