# SPDX-License-Identifier: Apache-2.0
"""Small parts that everything may use: they know nothing of HTTP, tunnels or Kubernetes and import nothing above."""
