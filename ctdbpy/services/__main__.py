# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m ctdbpy.services NAME EVENT ARGUMENTS`: one event of one service, as its script is asked.

Exit status: 0 done, or nothing to do; 1 the service is not well, or the event could not be done. Then the
last line on stdout says why: the daemon logs what is printed, and keeps it as the node's reason.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from ctdbpy.errors import CtdbpyError, ServiceError
from ctdbpy.services.event import SERVICES, Event


def main(argv: Sequence[str] | None = None) -> int:
    """Run one event; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) < 2 or words[0] not in SERVICES:
        print(f"usage: ctdbpy.services {{{','.join(SERVICES)}}} EVENT [ARGUMENTS]")
        return 1
    name, event, *arguments = words
    module = importlib.import_module(SERVICES[name])
    happened = Event.from_environment(event, arguments, os.environ)
    failure: CtdbpyError | None = None
    try:
        module.run(happened)
    except CtdbpyError as error:
        failure = error
    except OSError as error:
        failure = ServiceError(f"cannot do what '{event}' asks of '{name}': {error}")
    for line in (*happened.answers, *happened.warnings, *([failure] if failure else [])):
        print(line)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
