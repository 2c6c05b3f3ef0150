# SPDX-License-Identifier: Apache-2.0
"""Asyncio shells that both halves use: HTTP/1.1 client connections, TLS contexts, socket options."""
