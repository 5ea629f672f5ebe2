# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory of the cluster lock: made if it is not there, when the daemon starts."""

from __future__ import annotations

from pathlib import Path

from ctdbpy.errors import ServiceError
from ctdbpy.services import configured
from ctdbpy.services.event import Event


def run(event: Event) -> None:
    """Do an event. Raises ServiceError."""
    if event.name != "init":
        return
    lock = configured.settings(event).lock
    # A command for a lock looks after itself.
    if not lock or lock.startswith("!"):
        return
    directory = Path(lock).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(
            f"cannot make the directory '{directory}' of the cluster lock: {error.strerror}; "
            "is its file system mounted?"
        ) from None
