# SPDX-License-Identifier: Apache-2.0
"""What the control process and the workers of one server say to each other, over a unix socket of their own."""
