# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m ctdbpy.cli.ctdb` is the program `ctdb`."""

from __future__ import annotations

import sys

from ctdbpy.cli.ctdb.program import start

sys.exit(start())
