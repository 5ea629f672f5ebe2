# SPDX-License-Identifier: GPL-3.0-or-later
"""What a tgtd is started with, and what it is told by tgtadm: the portal last, when all else is complete.

Source: tgtd(8), tgtadm(8), README.lu_configuration of tgt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ctdbpy.services.iscsi.declaration import Lun, Target

PORT: Final = 3260
#: Names the socket that tgtd listens on and tgtadm speaks to: each tgtd has its own.
SOCKET_VARIABLE: Final = "TGT_IPC_SOCKET"
VENDOR: Final = "CTDBPY"
PRODUCT: Final = "DISK"
#: Caching mode page as tgtd makes it, but with the bit taken back that promises a write cache (WCE).
_NO_WRITE_CACHE: Final = "8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0"

#: In the foreground: it must stay the process that holds the locks. It cannot be started without a portal;
#: this one nobody outside of the host reaches, and the kernel finds a free port.
DAEMON: Final = ("tgtd", "-f", "--iscsi", "portal=127.0.0.1:0")


def ping() -> list[str]:
    """What succeeds as soon as a tgtd listens."""
    return _adm("show", "sys")


def configure(address: str, targets: Sequence[Target]) -> Iterator[list[str]]:
    """The commands that make a new tgtd serve these targets at an address."""
    users: set[str] = set()
    for target in targets:
        tid = ("--tid", str(target.number))
        yield _adm("new", "target", *tid, "--targetname", target.name)
        for lun in target.luns:
            number = (*tid, "--lun", str(lun.number))
            flags = () if lun.write_cache else ("--bsoflags", "sync")
            yield _adm("new", "logicalunit", *number, "--backing-store", lun.file, "--bstype", "rdwr", *flags)
            yield _adm("update", "logicalunit", *number, "--params", ",".join(_parameters(lun)))
        if target.user:
            account = ("--user", target.user)
            if target.user not in users:
                yield _adm("new", "account", *account, "--password", target.password)
            users.add(target.user)
            yield _adm("bind", "account", *tid, *account)
        for initiator in target.initiators:
            yield _adm("bind", "target", *tid, *_who(initiator))
    yield _adm("new", "portal", "--param", f"portal={_host(address)}:{PORT}")


def _parameters(lun: Lun) -> Iterator[str]:
    yield f"vendor_id={VENDOR}"
    yield f"product_id={PRODUCT}"
    yield f"scsi_id={lun.identifier}"
    yield f"scsi_sn={lun.serial}"
    if lun.read_only:
        yield "readonly=1"
    if not lun.write_cache:
        yield f"mode_page={_NO_WRITE_CACHE}"


def _who(initiator: str) -> tuple[str, str]:
    if initiator == "any":
        return "--initiator-address", "ALL"
    if initiator.startswith(("iqn.", "eui.")):
        return "--initiator-name", initiator
    return "--initiator-address", initiator


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _adm(deed: str, mode: str, *words: str) -> list[str]:
    return ["tgtadm", "--lld", "iscsi", "--op", deed, "--mode", mode, *words]
