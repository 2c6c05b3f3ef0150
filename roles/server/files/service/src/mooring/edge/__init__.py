# SPDX-License-Identifier: Apache-2.0
"""The TLS listener and its HTTP/1.1 connections: the server's security surface."""
