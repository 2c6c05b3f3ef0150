# SPDX-License-Identifier: Apache-2.0
"""What must outlive a restart: ports, SQL tables, repositories and migrations."""
