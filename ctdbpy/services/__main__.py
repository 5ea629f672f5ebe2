# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m ctdbpy.services NAME EVENT ARGUMENTS`: one event of one service, as its script is asked.

Exit status: 0 done, or nothing to do; 1 the service is not well, or the event could not be done: one line on
stdout says why, which is what the daemon logs and keeps as the node's reason.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from ctdbpy.errors import CtdbpyError
from ctdbpy.services.event import SERVICES, Event


def main(argv: Sequence[str] | None = None) -> int:
    """Run one event; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) < 2 or words[0] not in SERVICES:
        print(f"usage: ctdbpy.services {{{','.join(SERVICES)}}} EVENT [ARGUMENTS]")
        return 1
    name, event, *arguments = words
    module = importlib.import_module(SERVICES[name])
    try:
        module.run(Event.from_environment(event, arguments, os.environ))
    except CtdbpyError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
