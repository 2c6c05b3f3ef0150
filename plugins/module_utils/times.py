# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times as the REST API writes them: RFC 3339, UTC."""

from __future__ import annotations

from datetime import datetime, timezone


def parse_time(text):
    """A datetime from a text such as 2026-12-01T12:00:00Z or with a fraction. Raises ValueError for another shape."""
    whole, dot, fraction = text.rstrip("Z").replace("+00:00", "").partition(".")
    return datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)


def seconds_left(text, now=None):
    """Seconds until the time, negative when it has passed, or None where there is no time (it never comes)."""
    if not text:
        return None
    return (parse_time(text) - (now or datetime.now(timezone.utc))).total_seconds()
