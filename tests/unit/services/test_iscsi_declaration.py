# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of iSCSI targets: what it means, and what is said about one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.errors import ConfigError
from ctdbpy.services.iscsi import stgt
from ctdbpy.services.iscsi.declaration import Declaration, load, parse
from tests.unit.services.stand import ROOT

SMALL = """\
targets:
- name: iqn.2026-11.com.example:mail
  address: 192.0.2.1
  initiators: [iqn.2026-11.com.example:host]
  luns:
  - number: 1
    file: /cluster/mail
"""


def wrong(text: str) -> str:
    """What is said about it."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "iscsi.yaml")
    return str(caught.value)


def commands(text: str) -> list[str]:
    """What a tgtd is told to serve the file's only address."""
    ((address, targets),) = parse(text, "iscsi.yaml").by_address().items()
    return [" ".join(argv) for argv in stgt.configure(address, targets)]


def test_what_initiators_know_a_disk_by_comes_from_its_names_alone() -> None:
    (target,) = parse(SMALL, "here").targets
    (lun,) = target.luns
    (other,) = parse(
        SMALL.replace("192.0.2.1", "192.0.2.2").replace("/cluster/mail", "/else"), "there"
    ).targets
    assert (target.number, lun.identifier, lun.serial) == (
        other.number,
        other.luns[0].identifier,
        other.luns[0].serial,
    )
    assert len(lun.identifier) == 32 and lun.identifier.startswith("6")
    assert 0 < target.number < 1 << 28
    (renamed,) = parse(SMALL.replace(":mail", ":post"), "here").targets
    assert renamed.number != target.number
    assert renamed.luns[0].identifier != lun.identifier


def test_the_keeper_gets_what_was_read() -> None:
    declaration = parse(SMALL, "here")
    assert Declaration.from_json(declaration.to_json()) == declaration
    assert list(declaration.by_address()) == ["192.0.2.1"]


def test_the_example_of_the_manual_is_right() -> None:
    lines = (ROOT / "docs/iscsi.md").read_text(encoding="utf-8").splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    assert [lun.file for target in parse(example, "docs/iscsi.md").targets for lun in target.luns] == [
        "/cluster/disks/mail"
    ]


def test_a_file_that_is_not_there_is_no_mistake(tmp_path: Path) -> None:
    assert load(tmp_path / "iscsi.yaml") is None


def test_a_disk_without_write_cache_says_so_and_writes_through() -> None:
    told = commands(SMALL)
    assert any("--backing-store /cluster/mail --bstype rdwr --bsoflags sync" in line for line in told)
    assert any("mode_page=8:0:18:0x10:" in line for line in told)
    told = commands(SMALL + "    write cache: yes\n")
    assert not any("sync" in line or "mode_page" in line for line in told)


def test_the_portal_opens_when_all_else_is_complete() -> None:
    told = commands(SMALL.replace("192.0.2.1", "2001:db8::1"))
    assert told[-1].endswith("--op new --mode portal --param portal=[2001:db8::1]:3260")
    assert not any("portal" in line for line in told[:-1])


def test_who_may_log_in(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open-sesame-1\n")
    several = "[iqn.2026-11.com.example:a, 192.0.2.9, 198.51.100.0/24]\n  reservations: lost"
    text = SMALL.replace("[iqn.2026-11.com.example:host]", several)
    text = text.replace("  luns:", f"  user: joe\n  password file: {secret}\n  luns:")
    told = commands(text)
    assert [line.partition("--initiator-")[2] for line in told if "--initiator-" in line] == [
        "name iqn.2026-11.com.example:a",
        "address 192.0.2.9",
        "address 198.51.100.0/24",
    ]
    assert sum("--mode account" in line for line in told) == 2
    anybody = SMALL.replace("[iqn.2026-11.com.example:host]", "[any]\n  reservations: lost")
    assert any(line.endswith("--initiator-address ALL") for line in commands(anybody))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "address: 192.0.2.1",
            "adress: 192.0.2.1",
            "iscsi.yaml:3: a target has nothing called 'adress'; it has name",
        ),
        (
            "address: 192.0.2.1",
            "address: mail",
            "iscsi.yaml:3: 'mail' is not valid: host names are not looked up",
        ),
        ("  address: 192.0.2.1\n", "", "iscsi.yaml:2: the target has no address; write 'address:'"),
        (
            "iqn.2026-11.com.example:mail",
            "mail",
            "iscsi.yaml:2: 'mail' is not the name of a target; write it as iqn.",
        ),
        ("iqn.2026-11.com.example:mail", "[a]", "iscsi.yaml:2: 'name' is a list; write one word"),
        ("[iqn.2026-11.com.example:host]", "[any]", "iscsi.yaml:2: several initiators may share"),
        ("[iqn.2026-11.com.example:host]", "[192.0.2.0/24]", "write 'reservations: lost' if none"),
        ("[iqn.2026-11.com.example:host]", "[host]", "iscsi.yaml:4: 'host' is no initiator; write its name"),
        ("[iqn.2026-11.com.example:host]", "all", "iscsi.yaml:4: 'initiators' is 'all'; write a list"),
        (
            "  initiators: [iqn.2026-11.com.example:host]\n",
            "",
            "iscsi.yaml:2: it does not say who may log in",
        ),
        (
            "  luns:",
            "  reservations: kept\n  luns:",
            "iscsi.yaml:5: reservations cannot be 'kept': they are in",
        ),
        ("  luns:", "  user: joe\n  luns:", "iscsi.yaml:2: 'user' and 'password file' go together"),
        (
            "  luns:",
            "  user: joe\n  password file: /nowhere\n  luns:",
            "iscsi.yaml:6: the password cannot be read",
        ),
        ("number: 1", "number: 0", "iscsi.yaml:6: '0' is not the number of a LUN; write one from 1 to 255"),
        ("- number: 1\n    ", "- ", "iscsi.yaml:6: the LUN has no number; write 'number: 1'"),
        ("/cluster/mail", "mail", "iscsi.yaml:7: 'mail' cannot be used: tgtd takes whole paths"),
        ("/cluster/mail", "/a,b", "iscsi.yaml:7: '/a,b' cannot be used: tgtd takes whole paths"),
        ("/cluster/mail", "/a\n    read only: maybe", "iscsi.yaml:8: 'maybe' cannot be used for 'read only'"),
        ("/cluster/mail", "/a\n    serial: a=b", "iscsi.yaml:8: 'a=b' is not valid: serial is letters"),
        ("/cluster/mail", "/a\n    identifier: 12", "iscsi.yaml:8: '12' is not valid: identifier is 32 hex"),
        ("/cluster/mail", f"/a\n    serial: {'x' * 37}", "too long; write at most 36 letters"),
        ("  luns:\n  - number: 1\n    file: /cluster/mail\n", "", "iscsi.yaml:2: the target has no LUNs"),
        ("targets:", "target:", "iscsi.yaml:1: the file has nothing called 'target'; it has targets"),
    ],
)
def test_each_mistake_has_its_line_and_what_to_do(before: str, after: str, said: str) -> None:
    assert before in SMALL
    assert said in wrong(SMALL.replace(before, after))


def test_what_is_there_once_is_there_once() -> None:
    twice = SMALL + SMALL.removeprefix("targets:\n")
    said = wrong(twice)
    assert "iscsi.yaml:8: target 'iqn.2026-11.com.example:mail' stands on line 2 already" in said
    assert "iscsi.yaml:13: '/cluster/mail' stands on line 7 already; a file is one LUN" in said
    same = twice.replace(":mail", ":post", 1).replace("/cluster/mail", "/cluster/./post", 1)
    assert parse(same, "here").targets[0].luns[0].file == "/cluster/post"
    given = same.replace("  - number: 1", f"  - number: 1\n    identifier: {'6' * 32}")
    assert (
        f"identifier '{'6' * 32}' stands on line 6 already; initiators would take two disks for one"
        in wrong(given)
    )


def test_a_user_has_one_password_at_an_address(tmp_path: Path) -> None:
    parts = []
    for word in ("mail", "post"):
        (tmp_path / word).write_text(f"{word}{word}{word}")
        part = SMALL.removeprefix("targets:\n").replace("mail", word)
        parts.append(part.replace("  luns:", f"  user: joe\n  password file: {tmp_path / word}\n  luns:"))
    assert "'joe' has another password at '192.0.2.1' already" in wrong("targets:\n" + "".join(parts))
    (tmp_path / "post").write_text("mailmailmail")
    told = commands("targets:\n" + "".join(parts))
    assert sum("--op new --mode account" in line for line in told) == 1
    assert sum("--op bind --mode account" in line for line in told) == 2
    (tmp_path / "post").write_text("short")
    assert "has no password of 12 to 16 letters" in wrong("targets:\n" + "".join(parts))
