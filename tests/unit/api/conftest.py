# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons to ask."""

from __future__ import annotations

from tests.unit.daemon import conftest as daemons

make = daemons.make
daemon = daemons.daemon
