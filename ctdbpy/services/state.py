# SPDX-License-Identifier: GPL-3.0-or-later
"""What scripts remember between events, as small JSON files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from ctdbpy.errors import ServiceError
from ctdbpy.services.event import Event

#: What is kept when the daemon starts: 00.ctdb empties all else.
LASTING: Final = "lasting"


def read(path: Path) -> Any:
    """What was written there last; None if nothing was, or it makes no sense."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write(path: Path, value: object) -> None:
    """Remember. Raises ServiceError."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(value), encoding="utf-8")
        new.rename(path)
    except OSError as error:
        raise ServiceError(f"cannot write '{path}': {error.strerror}") from None


def forget(path: Path) -> None:
    """Remember nothing."""
    path.unlink(missing_ok=True)


def lasting(event: Event, name: str) -> Path:
    """A file that stays when the daemon starts again."""
    return event.state / LASTING / name
