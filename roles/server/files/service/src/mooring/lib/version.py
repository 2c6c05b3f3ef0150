# SPDX-License-Identifier: Apache-2.0
"""The version of this build, in one place; `pyproject.toml` reads it from here."""

VERSION = "0.1.0"
