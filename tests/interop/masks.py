# SPDX-License-Identifier: GPL-3.0-or-later
"""What two runs of the same conversation may differ in: times, process ids, generations and the like.

A mask replaces as little as it can, so that layout, padding and every other number are still compared.
"""

from __future__ import annotations

import difflib
import re

_DAY = r"(?:Sun|Mon|Tue|Wed|Thu|Fri|Sat) (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d"
_CTIME = rf"{_DAY} \d\d:\d\d:\d\d \d{{4}}"

_SEQNUM_KEY = r'key\(23\) = "__db_sequence_number__\\00"\n'
_DUMPED_BYTE = r'(?:\\[0-9A-F]{2}|[^\\"\n])'

_MASKS = [
    (rf"{_CTIME}", "<time>"),
    (r"(?:Sun|Mon|Tue|Wed|Thu|Fri|Sat), \d\d [JFMASOND][a-z][a-z] \d{4} \d\d:\d\d:\d\d UTC", "<time>"),
    (r"S-1-5-21-\d+-\d+-\d+", "<domain>"),
    (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "<time>"),
    (r"\(\d{3} \d\d:\d\d:\d\d\)", "(<ago>)"),
    (r"(?<=Generation:)\d+", "<generation>"),
    (r"(?<=Duration of last recovery/failover: )\d+\.\d+", "<duration>"),
    # How many connections the daemon has besides the tool's is its own affair: upstream's recoverd is one.
    (r"time=\d+\.\d+ sec  \(\d+ clients\)", "time=<duration> sec  (<count> clients)"),
    # Asked for the sequence number of a database that has none, upstream's daemon stores an empty record for
    # it, flags AUTOMATIC, and commits keep the flag. Ours writes nothing when it is asked (docs/protocol.md).
    (rf"({_SEQNUM_KEY}dmaster: \d+\nrsn: \d+\nflags: )0x00040000 AUTOMATIC\n", r"\g<1>0x00000000\n"),
    # The same in a dump of the file: the flags are the header's bytes 16 to 19.
    (rf'({_SEQNUM_KEY}data\(\d+\) = "{_DUMPED_BYTE}{{16}})\\00\\00\\04\\00', r"\g<1>\\00\\00\\00\\00"),
]
_COMPILED = [(re.compile(pattern), word) for pattern, word in _MASKS]


def masked(transcript: str) -> str:
    """The transcript without what is chance."""
    for pattern, word in _COMPILED:
        transcript = pattern.sub(word, transcript)
    return transcript


def outline(transcript: str) -> str:
    """The transcript with every number masked, its width kept: for counters and latencies."""
    return re.sub(r"\d+(?:\.\d+)?", lambda found: "#", re.sub(r" +(?=\d)", " ", masked(transcript)))


def check_same(ours: str, debians: str) -> None:
    """Fail with a diff, what ours says marked "+", unless two transcripts agree."""
    lines = list(
        difflib.unified_diff(debians.splitlines(), ours.splitlines(), "Debian's", "ours", lineterm="", n=6)
    )
    # Raised by hand: pytest cuts what a failing comparison shows.
    if lines:
        raise AssertionError("the transcripts differ\n" + "\n".join(lines))
