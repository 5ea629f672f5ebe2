# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that answer for a service, installed where upstream's are."""

from __future__ import annotations

import os
import subprocess
from typing import Final

from ctdbpy.errors import ClientError

_VARIABLES: Final = {"ctdb_lvs": "CTDB_LVS_HELPER", "ctdb_natgw": "CTDB_NATGW_HELPER"}
_DIRECTORY: Final = "/usr/libexec/ctdb"


def path_of(program: str) -> str:
    """Where the program is: as the environment says, or where packages put it."""
    directory = os.environ.get("CTDB_HELPER_BINDIR", _DIRECTORY)
    return os.environ.get(_VARIABLES[program]) or f"{directory}/{program}"


def run_program(program: str, *arguments: str) -> int:
    """Run it, and return its exit code. Raises ClientError."""
    path = path_of(program)
    try:
        code = subprocess.run([path, *arguments], check=False).returncode
    except OSError as error:
        raise ClientError(f"cannot run '{path}': {error.strerror}; is the package whole?") from error
    if code < 0:
        raise ClientError(f"cannot run '{path}': signal {-code} ended it")
    return code
