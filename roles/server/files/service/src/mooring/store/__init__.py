# SPDX-License-Identifier: Apache-2.0
"""What the server remembers: the ports (what the rest of the service asks for) and one SQL implementation."""
