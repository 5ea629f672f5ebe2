# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a small text file that an administrator wrote."""

from __future__ import annotations

from pathlib import Path

from ctdbpy.errors import ConfigError

FILE_BYTES_MAX = 1 << 20
"""A configuration file above this is a mistake (a wrong path, a device), not a configuration."""


def read_text(path: Path) -> str | None:
    """Return the file's text, or None when there is no such file.

    Raises ConfigError when it cannot be read, is too big or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(
            f"cannot read '{path}': it is larger than {FILE_BYTES_MAX} bytes; is this the right file?"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"cannot read '{path}:{line}': byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from error
