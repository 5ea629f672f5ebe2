# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m ctdbpy.cli` is ctdbctl."""

from __future__ import annotations

import sys

from ctdbpy.cli.ctdbctl import main

sys.exit(main())
