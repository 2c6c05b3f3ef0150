# SPDX-License-Identifier: Apache-2.0
"""The REST API: one file per resource, served on a unix socket behind the edge."""
