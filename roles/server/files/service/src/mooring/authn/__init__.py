# SPDX-License-Identifier: Apache-2.0
"""Who is asking: users by token or password, cluster agents by signed JWT."""
