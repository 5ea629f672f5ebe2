# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbpyd`: start one node's daemon."""

from __future__ import annotations

import sys

from ctdbpy.daemon.start import main

if __name__ == "__main__":
    sys.exit(main())
