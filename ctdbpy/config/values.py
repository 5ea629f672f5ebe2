# SPDX-License-Identifier: GPL-3.0-or-later
"""How the text of one setting becomes a value, or is refused with a reason.

The rules are those of the upstream program that reads the same file; checked against ctdb-config 4.17.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ctdbpy.config.addresses import parse_address, why_not_an_address
from ctdbpy.config.loglevels import LOG_LEVELS, parse_log_level

INT_MAX = 2**31 - 1
DIGITS_MAX = 30
SYSLOG_METHODS = ("nonblocking", "udp", "udp-rfc5424")
LOG_FORMATS = ("text", "json")


class Quorum(Enum):
    """What a node needs before it serves."""

    AUTO = "auto"
    MAJORITY = "majority"
    LOCK = "lock"
    NONE = "none"


Value = bool | int | str | Path | Quorum | None


class Invalid(Exception):
    """A value a setting refuses; the text says why and how to mend it. Never leaves this room."""


@dataclass(frozen=True, slots=True)
class Context:
    """What reading a value may need: the directory of scripts, and where warnings about the value go."""

    etc: Path
    warn: Callable[[str], None]


def read_string(text: str, _context: Context) -> str:
    return text


def read_boolean(text: str, _context: Context) -> bool:
    match text.lower():
        case "true" | "yes":
            return True
        case "false" | "no":
            return False
    raise Invalid("write true, yes, false or no")


def read_automatic(text: str, context: Context) -> bool | None:
    if text.lower() == "auto":
        return None
    try:
        return read_boolean(text, context)
    except Invalid:
        raise Invalid("write auto, true, yes, false or no") from None


def read_integer(least: int) -> Callable[[str, Context], int]:
    def read(text: str, context: Context) -> int:
        # C's strtol with base 0, because that is what reads the same file in ctdbd.
        found = re.match(r"0[xX][0-9a-fA-F]+|[+-]?[0-9]+", text)
        if found is None:
            raise Invalid("write a whole number")
        number = c_integer(found.group())
        if found.end() < len(text):
            context.warn(
                f"reads {number} and ignores '{text[found.end() :].strip()}'; write the number alone"
            )
        if not least <= number <= INT_MAX:
            raise Invalid(f"write a number from {least} to {INT_MAX}")
        return number

    return read


def c_integer(digits: str) -> int:
    """Read a number as C does: 0x is base 16, a leading 0 base 8 (up to the first digit not octal).

    Raises Invalid for more digits than any setting can have.
    """
    if len(digits) > DIGITS_MAX:
        raise Invalid("the number is far too long")
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    if digits[:2].lower() == "0x":
        return sign * int(digits, 16)
    if digits.startswith("0"):
        octal = re.match(r"[0-7]+", digits)
        return sign * int(octal.group() if octal else "0", 8)
    return sign * int(digits)


def read_port(text: str, context: Context) -> int:
    number = read_integer(1)(text, context)
    if number > 65535:
        raise Invalid("write a port from 1 to 65535")
    return number


def read_log_level(text: str, _context: Context) -> int:
    level = parse_log_level(text)
    if level is None:
        raise Invalid(f"write {', '.join(LOG_LEVELS)} or a number from 0 to 10")
    return level


def read_log_location(text: str, _context: Context) -> str:
    kind, colon, rest = text.partition(":")
    if kind == "file" and colon and rest not in ("", "-") and not Path(rest).parent.is_dir():
        raise Invalid(f"the directory '{Path(rest).parent}' does not exist; create it or name another")
    if kind == "file" or (kind == "syslog" and (not colon or rest in SYSLOG_METHODS)):
        return text
    raise Invalid(f"write file:PATH, syslog or syslog:METHOD, where METHOD is {', '.join(SYSLOG_METHODS)}")


def read_log_format(text: str, _context: Context) -> str:
    if text.lower() not in LOG_FORMATS:
        raise Invalid(f"write {' or '.join(LOG_FORMATS)}")
    return text.lower()


def read_command(text: str, _context: Context) -> str:
    program = text.split(maxsplit=1)[0]
    if not program.startswith("/"):
        raise Invalid("write the full path of the program")
    if not os.path.isfile(program) or not os.access(program, os.X_OK):
        raise Invalid(f"'{program}' is not there or not executable; install it or name another")
    return text


def read_address(text: str, _context: Context) -> str:
    address = parse_address(text)
    if address is None:
        raise Invalid(why_not_an_address(text))
    return address


def read_transport(text: str, _context: Context) -> str:
    if text != "tcp":
        raise Invalid("only 'tcp' exists; leave the line out")
    return text


def read_directory(text: str, _context: Context) -> Path:
    if not Path(text).is_dir():
        raise Invalid("this directory does not exist; create it or name another")
    return Path(text)


def read_script(text: str, context: Context) -> Path:
    script = context.etc / Path(text).name
    if not script.is_file():
        raise Invalid(f"'{script}' is not there; scripts live in '{context.etc}'")
    if not os.access(script, os.X_OK):
        raise Invalid(f"'{script}' is not executable; run chmod +x on it")
    return script


def read_quorum(text: str, _context: Context) -> Quorum:
    try:
        return Quorum(text.lower())
    except ValueError:
        raise Invalid("write auto, majority, lock or none") from None


def read_deprecated_lock(text: str, context: Context) -> str:
    context.warn("is the old name; write 'cluster lock'")
    return text
