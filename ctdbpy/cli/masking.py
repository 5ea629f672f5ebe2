# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets are taken out of what leaves the cluster. What is called like one counts as one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

MASK: Final = "(masked)"

_WORDS: Final = (
    r"(?:pass(?:word|wd|phrase|code)|passw|pwd|pass(?=[\"']?[ \t]*[:=])|psk|secret(?!s\.tdb)|token"
    r"|credentials?|(?:api|private|access|auth)[ _-]?key|keyring)"
)
#: `a_password = x`, `password: x`, `"password": x`: the name, what separates, and what follows on the line.
_NAMED: Final = re.compile(
    rf"(?P<head>[\w .-]*{_WORDS}[\w .-]*[\"']?[ \t]*[:=][ \t]*)(?P<value>\S.*)?$", re.I
)
#: `--password x` of a command line.
_OPTION: Final = re.compile(rf"(--?[\w-]*{_WORDS}[\w-]*[ =])(\"[^\"]*\"|'[^']*'|\S+)", re.I)
#: `user%password` as Samba's programs take it, and `//user:password@host`.
_USER: Final = re.compile(r"((?:-U|--user)[ =]?\S*?%)\S+", re.I)
_URL: Final = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_KEY_BEGINS: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_ENDS: Final = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")
_NAME: Final = re.compile(_WORDS, re.I)


def mask_text(text: str) -> str:
    """A text without its secrets; its lines keep their numbers."""
    return "".join(f"{line}\n" for line in _masked(text.splitlines()))


def mask_data(data: Any) -> Any:
    """Data as JSON has it, the same way: values of names that sound like a secret, and texts."""
    match data:
        case dict():
            return {
                name: MASK
                if _NAME.search(str(name)) and not isinstance(value, dict | list)
                else mask_data(value)
                for name, value in data.items()
            }
        case list():
            return [mask_data(each) for each in data]
        case str():
            return "\n".join(_masked(data.split("\n")))
        case _:
            return data


def _masked(lines: list[str]) -> Iterator[str]:
    quote = ""
    is_key = False
    deeper_than: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if quote:
            # A value in quotes that goes on over lines.
            _before, end, after = line.partition(quote)
            yield MASK + after if end else MASK
            if end:
                quote = ""
            continue
        if is_key:
            is_key = _KEY_ENDS.search(line) is None
            yield MASK
            continue
        if deeper_than is not None and (indent > deeper_than or not line.strip()):
            # A value of YAML on lines of its own.
            yield f"{line[:indent]}{MASK}" if line.strip() else line
            continue
        deeper_than = None
        if _KEY_BEGINS.search(line):
            is_key = _KEY_ENDS.search(line) is None
            yield MASK
            continue
        named = _NAMED.search(line)
        if named is not None:
            value = (named["value"] or "").strip()
            if value[:1] in ("'", '"') and value.count(value[0]) == 1:
                quote = value[0]
            elif not value or value[0] in "|>":
                deeper_than = indent
            yield line[: named.end("head")] + (MASK if value else "")
            continue
        line = _OPTION.sub(rf"\1{MASK}", line)
        line = _USER.sub(rf"\1{MASK}", line)
        yield _URL.sub(rf"\1{MASK}@", line)
