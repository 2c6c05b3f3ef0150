# SPDX-License-Identifier: Apache-2.0
"""First figures: requests per second and latency through the server, beside the direct call in the same run."""
