# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses and what hangs on them: connections, public IPs, interfaces, tickles.

Source: Samba's ctdb/protocol/protocol.h (ctdb_sock_addr to ctdb_tickle_list).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import ClassVar, Final, Self

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.buffers import Reader, Writer, encode_text, read_entries
from ctdbpy.wire.codecs import Structure
from ctdbpy.wire.constants import UNKNOWN_PNN

# Linux' numbers, as the protocol carries the C structure.
_AF_UNSPEC: Final = 0
_AF_INET: Final = 2
_AF_INET6: Final = 10

_FAMILY: Final = struct.Struct("=H")
_V4: Final = struct.Struct("!H4s20x")
_V6: Final = struct.Struct("!HI16s")
_SCOPE: Final = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class SockAddr(Structure):
    """An IPv4 or IPv6 address and a port; `""` is a structure nobody filled in.

    The scope of a link-local address is a number behind a percent sign, as in `fe80::1%2`.
    """

    SIZE: ClassVar[int] = 28

    host: str
    port: int = 0

    @classmethod
    def of(cls, host: str, port: int = 0) -> Self:
        """The address in its canonical text, an IPv4 address mapped into IPv6 as the IPv4 address it is.

        Raises:
            ProtocolError: `host` is no address.
        """
        return cls.unpack(cls(host, port).pack()).canonical()

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    def canonical(self) -> Self:
        """The IPv4 address that an IPv6 address maps, else the address itself."""
        if not self.is_ipv6:
            return self
        mapped = IPv6Address(self.host).ipv4_mapped
        return type(self)(str(mapped), self.port) if mapped else self

    def without_port(self) -> Self:
        return type(self)(self.host)

    def write(self, writer: Writer) -> None:
        if not self.host:
            writer.pad(self.SIZE)
            return
        address, scope = _bytes_of(self.host)
        try:
            if len(address) == 4:
                writer.raw(_FAMILY.pack(_AF_INET)).raw(_V4.pack(self.port, address))
            else:
                writer.raw(_FAMILY.pack(_AF_INET6)).raw(_V6.pack(self.port, 0, address)).raw(
                    _SCOPE.pack(scope)
                )
        except struct.error as reason:
            raise ProtocolError(f"cannot encode address {self.host!r} port {self.port!r}: {reason}") from None

    @classmethod
    def read(cls, reader: Reader) -> Self:
        data = reader.take(cls.SIZE, "address")
        (family,) = _FAMILY.unpack_from(data)
        if family == _AF_INET:
            port, address = _V4.unpack_from(data, 2)
            return cls(_text_of(address, 0), port)
        if family == _AF_INET6:
            port, _flow, address = _V6.unpack_from(data, 2)
            return cls(_text_of(address, _SCOPE.unpack_from(data, 24)[0]), port)
        if family == _AF_UNSPEC:
            return cls("")
        raise reader.error("address", f"its family is {family}, neither IPv4 nor IPv6")

    def __str__(self) -> str:
        return self.host


@dataclass(frozen=True, slots=True)
class Connection(Structure):
    """A TCP connection; in what smbd reports, `src` is the client and `dst` the public address."""

    SIZE: ClassVar[int] = 56

    src: SockAddr
    dst: SockAddr

    def write(self, writer: Writer) -> None:
        self.src.write(writer)
        self.dst.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(SockAddr.read(reader), SockAddr.read(reader))


@dataclass(frozen=True, slots=True)
class PublicIp(Structure):
    """A public IP and the node it belongs on; `UNKNOWN_PNN` is nobody."""

    SIZE: ClassVar[int] = 32

    pnn: int
    address: SockAddr

    def write(self, writer: Writer) -> None:
        writer.u32(self.pnn, "pnn")
        self.address.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.u32("pnn"), SockAddr.read(reader))


@dataclass(frozen=True, slots=True)
class PublicIpList(Structure):
    ips: tuple[PublicIp, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(len(self.ips), "num")
        for ip in self.ips:
            ip.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_entries(reader, PublicIp, reader.count(PublicIp.SIZE, "num")))


@dataclass(frozen=True, slots=True)
class Iface(Structure):
    """An interface that can carry public IPs; `references` counts those on it now."""

    SIZE: ClassVar[int] = 24
    NAME_SIZE: ClassVar[int] = 18

    name: str
    link_state: int = 0
    references: int = 0

    def write(self, writer: Writer) -> None:
        name = encode_text(self.name, "interface name")
        if len(name) >= self.NAME_SIZE:
            raise writer.error("name", f"{self.name!r} is longer than {self.NAME_SIZE - 1} bytes")
        writer.raw(name.ljust(self.NAME_SIZE, b"\0"))
        writer.u16(self.link_state, "link_state").u32(self.references, "references")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        # The last byte is the NUL's place: a name that fills it could not be written back.
        name = reader.string(cls.NAME_SIZE - 1, "name")
        reader.skip(1, "name")
        return cls(name, reader.u16("link_state"), reader.u32("references"))


@dataclass(frozen=True, slots=True)
class IfaceList(Structure):
    ifaces: tuple[Iface, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(len(self.ifaces), "num")
        for iface in self.ifaces:
            iface.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_entries(reader, Iface, reader.count(Iface.SIZE, "num")))


@dataclass(frozen=True, slots=True)
class PublicIpInfo(Structure):
    """A public IP, its interfaces and which of them carries it; `UNKNOWN_PNN` as `active_idx` is none."""

    ip: PublicIp
    active_idx: int = UNKNOWN_PNN
    ifaces: tuple[Iface, ...] = ()

    def write(self, writer: Writer) -> None:
        self.ip.write(writer)
        writer.u32(self.active_idx, "active_idx")
        IfaceList(self.ifaces).write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(PublicIp.read(reader), reader.u32("active_idx"), IfaceList.read(reader).ifaces)


@dataclass(frozen=True, slots=True)
class AddrInfo(Structure):
    """A public IP to add, delete or announce: its network bits and interfaces (a comma list, or empty)."""

    address: SockAddr
    mask: int = 0
    iface: str = ""

    def write(self, writer: Writer) -> None:
        self.address.write(writer)
        writer.u32(self.mask, "mask")
        # Upstream writes no interface as no bytes at all, not as a lone NUL.
        writer.counted(encode_text(self.iface, "interface") + b"\0" if self.iface else b"", "iface")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        address, mask = SockAddr.read(reader), reader.u32("mask")
        return cls(address, mask, reader.string(reader.u32("len"), "iface"))


@dataclass(frozen=True, slots=True)
class TickleList(Structure):
    """The connections to one public IP that its next owner has to wake."""

    address: SockAddr
    connections: tuple[Connection, ...] = ()

    def write(self, writer: Writer) -> None:
        self.address.write(writer)
        writer.u32(len(self.connections), "num")
        for connection in self.connections:
            connection.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        address = SockAddr.read(reader)
        return cls(address, read_entries(reader, Connection, reader.count(Connection.SIZE, "num")))


@lru_cache(maxsize=4096)
def _bytes_of(host: str) -> tuple[bytes, int]:
    try:
        if ":" not in host:
            return IPv4Address(host).packed, 0
        address = IPv6Address(host)
        return address.packed, int(address.scope_id or 0)
    except (AddressValueError, ValueError) as reason:
        raise ProtocolError(f"cannot encode address {host!r}: {reason}") from None


@lru_cache(maxsize=4096)
def _text_of(address: bytes, scope: int) -> str:
    if len(address) == 4:
        return str(IPv4Address(address))
    text = str(IPv6Address(address))
    return f"{text}%{scope}" if scope else text
