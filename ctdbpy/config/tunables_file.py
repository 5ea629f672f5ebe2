# SPDX-License-Identifier: GPL-3.0-or-later
"""ctdb.tunables and tunables.d: tunables that an administrator wants from the start.

Source: ctdb-tunables(7). As upstream, a wrong line is reported and the others still count.
"""

from __future__ import annotations

import difflib
import locale
import re
from pathlib import Path

from ctdbpy.config.files import read_text
from ctdbpy.config.inifile import Malformed, Option, Section, parse_items
from ctdbpy.config.values import Invalid, c_integer
from ctdbpy.errors import ConfigError
from ctdbpy.wire.tunables import OWN_TUNABLES, TUNABLES, Tunables

UINT32_MAX = 2**32 - 1

_NUMBER = re.compile(r"\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_SPECS = {spec.name.lower(): spec for spec in (*TUNABLES, *OWN_TUNABLES)}


def load_tunables(file: Path, directory: Path) -> tuple[Tunables, tuple[str, ...]]:
    """Read `file`, then each *.tunables of `directory` in collation order; later lines win.

    Both may be missing. Return the tunables and one text for each wrong line; no file makes it raise.
    """
    tunables = Tunables()
    errors: list[str] = []
    for path in (file, *_files_of(directory, errors)):
        try:
            text = read_text(path)
        except ConfigError as error:
            errors.append(str(error))
            continue
        if text is not None:
            tunables = _apply(tunables, text, str(path), errors)
    return tunables, tuple(errors)


def _files_of(directory: Path, errors: list[str]) -> list[Path]:
    try:
        found = [path for path in directory.iterdir() if path.name.endswith(".tunables")]
    except FileNotFoundError:
        return []
    except OSError as error:
        errors.append(f"cannot read '{directory}': {error.strerror}")
        return []
    return sorted(found, key=lambda path: locale.strxfrm(path.name))


def _apply(tunables: Tunables, text: str, source: str, errors: list[str]) -> Tunables:
    for item in parse_items(text):
        match item:
            case Malformed(line, bad, reason):
                errors.append(f"{source}:{line}: '{bad}' is ignored: {reason}")
            case Section(line, name):
                errors.append(
                    f"{source}:{line}: '[{name}]' is ignored: this file has no sections; remove the line"
                )
            case Option(line, name, value):
                found = read_tunable(name, value)
                if isinstance(found, str):
                    errors.append(f"{source}:{line}: '{name}' is ignored: {found}")
                else:
                    tunables = tunables.replaced(*found)
    return tunables


def read_tunable(name: str, value: str | None) -> tuple[str, int] | str:
    """Return the tunable's own name and its number, or what is wrong with the line and how to mend it."""
    spec = _SPECS.get(name.lower())
    if spec is None:
        near = difflib.get_close_matches(name.lower(), sorted(_SPECS), n=1)
        return "there is no such tunable" + (f"; did you mean '{_SPECS[near[0]].name}'?" if near else "")
    if spec.obsolete:
        return "this tunable is obsolete and does nothing; remove the line"
    if not value:
        return "it has no value; write NAME=NUMBER"
    found = _NUMBER.fullmatch(value)
    if found is None:
        return f"'{value}' is not a whole number from 0 (0x for hexadecimal, a leading 0 for octal)"
    try:
        number = c_integer(found.group())
    except Invalid as error:
        return str(error)
    return (spec.name, number) if number <= UINT32_MAX else f"'{value}' is more than {UINT32_MAX}"
