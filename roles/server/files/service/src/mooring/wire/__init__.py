# SPDX-License-Identifier: Apache-2.0
"""Protocols as pure functions and state machines: bytes and time in, events and bytes out; no asyncio, no ssl."""
