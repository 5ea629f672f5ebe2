# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation made from the tables of settings and tunables.

`python -m ctdbpy.config.reference settings.md` prints docs/settings.md, with `ctdbpy.conf.5` the manual page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import groupby

from ctdbpy.config.table import SETTINGS, SettingSpec
from ctdbpy.wire.tunables import OWN_TUNABLES, TUNABLES, TunableSpec

SECTIONS = {
    "logging": "The log.",
    "cluster": "This node and the others.",
    "database": "Where databases live and how they are locked.",
    "event": "Event scripts.",
    "failover": "Public addresses.",
    "legacy": "How the daemon starts.",
}


def settings_markdown() -> str:
    """Return docs/settings.md."""
    lines = [
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->",
        "<!-- Made by `python -m ctdbpy.config.reference settings.md`: change the tables, not this file. -->",
        "# Settings and tunables",
        "",
        "A *setting* is read from `/etc/ctdb/ctdb.conf` when the daemon starts. A *tunable* is a number that",
        "can be changed while it runs (`ctdb setvar`) and set from the start in `/etc/ctdb/ctdb.tunables` or",
        "in any `/etc/ctdb/tunables.d/*.tunables`, by lines `NAME=NUMBER`. Where there is a",
        "`/etc/ctdbpy/cluster.yaml`, both come from it instead, by the same names: see",
        "[configuration](configuration.md).",
        "",
        "Rows marked **ours** are not upstream's: Debian's `ctdbd` passes over such settings. Rows marked",
        "*newest* came to upstream after 4.17. Those marked *shared* have to be the same on all nodes.",
        "",
        "## Settings",
    ]
    for section, rows in _by_section():
        lines += ["", f"### [{section}]", "", SECTIONS[section], ""]
        lines += ["| option | values | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{row.option}`{_mark(row)} | "
            + " | ".join(map(_cell, (row.values, row.default, row.meaning)))
            + " |"
            for row in rows
        ]
    lines += ["", "## Tunables", ""]
    lines += _tunables_table(tuple(spec for spec in TUNABLES if not spec.obsolete))
    lines += ["", "Ours, known by name and left out of `ctdb listvars`:", ""]
    lines += _tunables_table(OWN_TUNABLES)
    obsolete = ", ".join(f"`{spec.name}`" for spec in TUNABLES if spec.obsolete)
    lines += ["", "Obsolete, readable and without effect; to set them is an error:", "", f"{obsolete}."]
    return "\n".join(lines) + "\n"


def settings_manual() -> str:
    """Return docs/man/ctdbpy.conf.5 in man(7)'s markup."""
    lines = [
        '.\\" SPDX-License-Identifier: GPL-3.0-or-later',
        '.\\" Made by python -m ctdbpy.config.reference ctdbpy.conf.5: change the tables, not this file.',
        '.TH CTDBPY.CONF 5 "" ctdbpy "File formats"',
        ".SH NAME",
        "ctdbpy.conf \\- settings and tunables of ctdbpyd",
        ".SH DESCRIPTION",
        ".BR ctdbpyd (8)",
        "reads upstream's files in",
        ".IR /etc/ctdb ,",
        "so that a node can change over from ctdbd and back.",
        ".PP",
        ".I ctdb.conf",
        "is read once, at the start. It has sections, lines",
        '.IR "option " = " value" ,',
        "and comment lines that begin with # or ;. A backslash at the end continues a line. Unknown sections",
        "and options are passed over with a warning; a wrong value stops the start and is reported with its",
        "line.",
        ".PP",
        ".I ctdb.tunables",
        "and then each",
        ".I tunables.d/*.tunables",
        "in order of name have lines",
        ".IR NAME = NUMBER .",
        "A wrong line is reported and the others count.",
        ".PP",
        "Where there is a",
        ".IR /etc/ctdbpy/cluster.yaml ,",
        "it counts instead, with the same names: see docs/configuration.md.",
    ]
    for section, rows in _by_section():
        lines += [f".SH SETTINGS IN [{section}]", _roff(SECTIONS[section])]
        for row in rows:
            lines += [
                ".TP",
                f'.BI "{row.option} = " "{_roff(row.values)}"',
                f"{_roff(row.meaning)}{_origin(row)}",
                ".br",
                f"Default: {_roff(row.default)}.",
            ]
    for title, specs in (("TUNABLES", TUNABLES), ("OWN TUNABLES", OWN_TUNABLES)):
        lines += [f".SH {title}"]
        if specs is OWN_TUNABLES:
            lines += ["Not upstream's: known by name and left out of the list of tunables."]
        for spec in specs:
            if not spec.obsolete:
                unit = f" {spec.unit}" if spec.unit else ""
                lines += [
                    ".TP",
                    f'.BR {spec.name} " (default {spec.default}{_roff(unit)})"',
                    _roff(spec.meaning),
                ]
    lines += [".SH FILES", ".I /etc/ctdb/ctdb.conf", ".br", ".I /etc/ctdb/ctdb.tunables", ".br"]
    lines += [".I /etc/ctdb/tunables.d/*.tunables", ".SH SEE ALSO", ".BR ctdbpyd (8),", ".BR ctdb (7)"]
    return "\n".join(lines) + "\n"


DOCUMENTS: dict[str, Callable[[], str]] = {
    "settings.md": settings_markdown,
    "ctdbpy.conf.5": settings_manual,
}


def _by_section() -> Iterator[tuple[str, tuple[SettingSpec, ...]]]:
    for section, rows in groupby(SETTINGS, key=lambda row: row.section):
        yield section, tuple(rows)


def _mark(row: SettingSpec) -> str:
    origin = " **ours**" if row.own else " *newest*" if row.newest else ""
    return f"{origin} *shared*" if row.shared else origin


def _origin(row: SettingSpec) -> str:
    if row.own:
        return " Not upstream's."
    return " Upstream has it in releases after 4.17 only." if row.newest else ""


def _tunables_table(specs: tuple[TunableSpec, ...]) -> list[str]:
    return [
        "| name | default | unit | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{spec.name}` | {spec.default} | {_cell(spec.unit)} | {_cell(spec.meaning)} |"
            for spec in specs
        ),
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _roff(text: str) -> str:
    """Return text that man shows as it is: no request at a line's start, plain quotes and backslashes."""
    text = text.replace("\\", "\\e").replace('"', "\\(dq").replace("'", "\\(aq").replace("-", "\\-")
    return f"\\&{text}" if text.startswith(".") else text


def main(argv: list[str]) -> int:
    """Print the document named on the command line; settings.md without a name."""
    name = argv[1] if len(argv) > 1 else "settings.md"
    if name not in DOCUMENTS:
        sys.stderr.write(f"cannot make '{name}': there is only {' and '.join(DOCUMENTS)}\n")
        return 2
    sys.stdout.write(DOCUMENTS[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
