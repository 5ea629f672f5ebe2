# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses on real interfaces: put, announced, removed, and gone with the daemon that wanted them."""

from __future__ import annotations

import itertools
import mmap
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import pytest

from ctdbpy.core.inputs import HostAddress, HostSeen
from ctdbpy.daemon.addresses import parse_seen
from ctdbpy.host.announcements import bytes_of
from ctdbpy.host.raw_packets import ArpKind
from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.lab import HostProcess

_ROOT: Final = str(Path(__file__).resolve().parents[2])
_ENVIRONMENT: Final = {"PYTHONPATH": _ROOT}
IPV4: Final = "10.78.0.200"
IPV6: Final = "fd00:78::200"
PORT: Final = 4450
LIMIT_S: Final = 10.0
#: An instant, on a machine as busy as it may be.
SOON_S: Final = 5.0


class Talk:
    """Lines from and to a program on a host."""

    def __init__(self, lab: Lab, host: str, module: str, *words: str, hears: bool = False) -> None:
        """`hears`: the program talks over its standard input, and not over its output."""
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(LIMIT_S)
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with us
        with open(theirs.detach(), "r+b", buffering=0) as talking, open(os.devnull, "rb") as nothing:
            streams: tuple[IO[bytes], IO[bytes], IO[bytes]] = (nothing, talking, self.errors)
            if hears:
                streams = (talking, self.errors, self.errors)
            command = [sys.executable, "-P", "-m", module, *words]
            self.process: HostProcess = lab.connect(host, command, streams, env=_ENVIRONMENT)
        self._lines = self.ours.makefile("r", encoding="utf-8")

    def close(self) -> None:
        self._lines.close()
        self.ours.close()
        self.process.close()
        self.errors.close()

    def say(self, *lines: str) -> None:
        self.ours.sendall("".join(f"{line}\n" for line in lines).encode())

    def hear(self) -> str:
        """The next line."""
        try:
            line = self._lines.readline()
        except TimeoutError:
            line = ""
        if not line:
            self.errors.seek(0)
            raise AssertionError(f"{self.process} says nothing: {self.errors.read().decode()}")
        return line.rstrip("\n")


class Holder(Talk):
    """An address helper on a host, and what it last said that it sees."""

    def __init__(self, lab: Lab, host: str) -> None:
        super().__init__(lab, host, "ctdbpy.host.address_helper", "0", hears=True)
        self._deed = 0
        self.seen: HostSeen = self.see()

    def close(self) -> None:
        self.ours.shutdown(socket.SHUT_RDWR)
        # Who is hung up on is killed; it removes its addresses first.
        self.process.wait(timeout_s=LIMIT_S)
        super().close()

    def see(self) -> HostSeen:
        """What it says next that it sees."""
        while not (line := self.hear()).startswith("seen "):
            assert not line.startswith("done "), line
        self.seen = parse_seen(line.removeprefix("seen "))
        return self.seen

    def do(self, verb: str, *words: str) -> str:
        """Have a deed done; what was wrong."""
        self._deed += 1
        self.say(" ".join((verb, str(self._deed), *words)))
        return self.done(self._deed)

    def take(self, address: str, prefix: int) -> None:
        """Put an address and tell the neighbours, who may know it from another host."""
        assert self.do("put", address, str(prefix), "pub0") == ""
        self.say(f"announce {address} pub0")

    def done(self, deed: int) -> str:
        """Hear of the end of a deed; what was wrong."""
        while not (line := self.hear()).startswith("done "):
            if line.startswith("seen "):
                self.seen = parse_seen(line.removeprefix("seen "))
        _verb, number, *error = line.split(" ", 2)
        assert int(number) == deed
        return "".join(error)

    def see_until(self, place: HostAddress, *, stands: bool) -> None:
        """Wait until it says that the address stands there, or does not."""
        while (place in self.seen.addresses) != stands:
            self.see()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(nodes=2, clients=1) as built:
        built.run("c0", ["ip", "addr", "add", "fd00:78::101/64", "dev", "pub0", "nodad"], timeout_s=5)
        yield built


class Stage:
    """The lab, and what runs on its hosts until the end of a test."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.running: list[Talk] = []

    def talk(self, host: str, *words: str) -> Talk:
        """Start a program of `talker` and hear its first line."""
        talk = Talk(self.lab, host, "tests.cluster.talker", *words)
        self.running.append(talk)
        return talk

    def hold(self, host: str) -> Holder:
        """Start an address helper."""
        holder = Holder(self.lab, host)
        self.running.append(holder)
        return holder

    def run(self, host: str, command: str) -> str:
        """Run a command without blanks in its words."""
        return self.lab.run(host, command.split(), timeout_s=5).stdout

    def standing(self, host: str) -> list[str]:
        """The test's public addresses that a host has."""
        lines = self.run(host, "ip -o addr show").splitlines()
        words = [line.split()[3] for line in lines]
        return [word for word in words if word.startswith(("10.78.0.200", "10.78.1.", "fd00:78::200"))]

    def serve(self, host: str) -> Talk:
        """Start a server."""
        server = self.talk(host, "serve", str(PORT))
        assert server.hear() == "ready"
        return server

    def connect(self, server: Talk, address: str) -> tuple[Talk, int]:
        """Have the client connect; its port."""
        client = self.talk("c0", "connect", address, str(PORT))
        assert server.hear() == "accepted"
        word, port = client.hear().split()
        assert word == "connected"
        return client, int(port)


@pytest.fixture
def stage(lab: Lab) -> Iterator[Stage]:
    stage = Stage(lab)
    yield stage
    for talk in stage.running:
        talk.close()
    wait_until(
        "no public address is left",
        lambda: not (stage.standing("n0") or stage.standing("n1")),
        timeout_s=LIMIT_S,
    )


@pytest.fixture
def holder(stage: Stage) -> Holder:
    return stage.hold("n0")


def place(address: str, prefix: int, interface: str = "pub0") -> HostAddress:
    return HostAddress(address, prefix, interface)


@pytest.mark.parametrize(("address", "prefix"), [(IPV4, 24), (IPV6, 64)])
def test_an_address_that_is_put_is_seen_and_answers_at_once(
    stage: Stage, holder: Holder, address: str, prefix: int
) -> None:
    holder.take(address, prefix)
    stage.run("c0", f"ping -c1 -W1 {address}")
    holder.see_until(place(address, prefix), stands=True)
    assert holder.do("put", address, str(prefix), "pub0") == "", "it stands there already"
    assert holder.do("remove", address) == ""
    holder.see_until(place(address, prefix), stands=False)
    assert holder.do("remove", address, "pub0") == "", "it stands nowhere any more"
    assert stage.standing("n0") == []


@pytest.mark.parametrize(("address", "prefix"), [(IPV4, 24), (IPV6, 64)])
def test_an_address_moves_to_the_interface_it_is_put_on(holder: Holder, address: str, prefix: int) -> None:
    assert holder.do("put", address, str(prefix), "pub0") == ""
    assert holder.do("put", address, str(prefix), "priv0") == ""
    holder.see_until(place(address, prefix, "pub0"), stands=False)
    holder.see_until(place(address, prefix, "priv0"), stands=True)
    assert holder.do("put", address, str(prefix - 1), "priv0") == ""
    holder.see_until(place(address, prefix, "priv0"), stands=False)
    holder.see_until(place(address, prefix - 1, "priv0"), stands=True)
    assert holder.do("remove", address, "pub0") == ""
    assert place(address, prefix - 1, "priv0") in holder.seen.addresses, "only that interface was meant"
    assert holder.do("remove", address, "priv0") == ""
    holder.see_until(place(address, prefix - 1, "priv0"), stands=False)


def test_a_deed_that_cannot_be_done_says_why(holder: Holder) -> None:
    assert holder.do("put", IPV4, "24", "eth9") == (
        "cannot find interface 'eth9': this host has none of that name"
    )
    assert "cannot put '10.78.0.200/33' on 'pub0'" in holder.do("put", IPV4, "33", "pub0")


def test_other_addresses_stay_when_the_first_of_their_network_is_removed(
    stage: Stage, holder: Holder
) -> None:
    for number in range(3):
        assert holder.do("put", f"10.78.1.{number + 1}", "24", "pub0") == ""
    assert holder.do("remove", "10.78.1.1") == ""
    assert stage.standing("n0") == ["10.78.1.2/24", "10.78.1.3/24"]


def test_what_others_do_is_seen(stage: Stage, holder: Holder) -> None:
    stage.run("n0", f"ip addr add {IPV4}/24 dev pub0")
    holder.see_until(place(IPV4, 24), stands=True)
    assert holder.do("remove", IPV4) == ""
    holder.see_until(place(IPV4, 24), stands=False)
    assert {link.name: link.is_up for link in holder.seen.links} == {"lo": True, "priv0": True, "pub0": True}
    stage.lab.cut("n0", "public")
    try:
        while next(link for link in holder.see().links if link.name == "pub0").is_up:
            pass
    finally:
        stage.lab.mend("n0")
    while not next(link for link in holder.see().links if link.name == "pub0").is_up:
        pass


def test_neighbours_learn_of_an_address_three_times(stage: Stage, holder: Holder) -> None:
    sniffer = stage.talk("c0", "sniff", "pub0")
    assert sniffer.hear() == "ready"
    assert holder.do("put", IPV4, "24", "pub0") == ""
    assert holder.do("put", IPV6, "64", "pub0") == ""
    holder.say(f"announce {IPV4} pub0", f"announce {IPV6} pub0")
    card = stage.run("n0", "cat /sys/class/net/pub0/address").strip().replace(":", "")
    heard: dict[str, list[float]] = {"request": [], "reply": [], "advertisement": []}
    while not all(len(times) == 3 for times in heard.values()):
        when, text = sniffer.hear().split()
        frame = bytes.fromhex(text)
        kind = _announced(frame)
        if kind:
            assert frame[6:12].hex() == card
            assert frame[22:28].hex() == card or frame[-6:].hex() == card
            heard[kind].append(float(when))
    for times in heard.values():
        gaps_s = [later - sooner for sooner, later in itertools.pairwise(times)]
        assert gaps_s == pytest.approx([1.1, 1.1], abs=0.3)
    learned = stage.run("c0", "ip neigh show dev pub0")
    assert f"{IPV4} " not in learned or card in learned.replace(":", "")


def _announced(frame: bytes) -> str:
    """What a frame announces our addresses with, if it does."""
    protocol = int.from_bytes(frame[12:14], "big")
    if protocol == 0x0806 and frame[28:32] == frame[38:42] == bytes_of(IPV4):
        assert frame[:6] == b"\xff" * 6
        return {ArpKind.REQUEST: "request", ArpKind.REPLY: "reply"}[ArpKind(frame[21])]
    if protocol == 0x86DD and frame[54:55] == b"\x88" and frame[62:78] == bytes_of(IPV6):
        assert frame[:6] == bytes.fromhex("333300000001")
        assert frame[21] == 255
        return "advertisement"
    return ""


@pytest.mark.parametrize(("address", "prefix"), [(IPV4, 24), (IPV6, 64)])
def test_a_tickle_makes_the_client_find_out_that_its_server_moved(
    stage: Stage, holder: Holder, address: str, prefix: int
) -> None:
    second = stage.hold("n1")
    server = stage.serve("n0")
    holder.take(address, prefix)
    client, port = stage.connect(server, address)
    local = stage.lab.address("c0") if prefix == 24 else "fd00:78::101"
    assert holder.do("remove", address) == ""
    assert server.hear() == "ECONNABORTED"
    assert second.do("put", address, str(prefix), "pub0") == ""
    began_s = time.monotonic()
    second.say(f"announce {address} pub0 {address} {PORT} {local} {port}")
    assert client.hear() == "ECONNRESET"
    assert time.monotonic() - began_s < SOON_S


@pytest.mark.parametrize(("address", "prefix"), [(IPV4, 24), (IPV6, 64)])
def test_killed_connections_are_reset_on_both_ends_and_the_listener_goes_on(
    stage: Stage, holder: Holder, address: str, prefix: int
) -> None:
    server = stage.serve("n0")
    holder.take(address, prefix)
    client, _port = stage.connect(server, address)
    holder.say(f"kill {address}")
    assert server.hear() == "ECONNABORTED"
    assert client.hear() == "ECONNRESET"
    stage.connect(server, address)


@pytest.mark.parametrize(("address", "prefix"), [(IPV4, 24), (IPV6, 64)])
def test_packets_reset_both_ends_where_the_kernel_does_not(
    stage: Stage, holder: Holder, address: str, prefix: int
) -> None:
    server = stage.serve("n0")
    holder.take(address, prefix)
    client, _port = stage.connect(server, address)
    assert stage.talk("n0", "reset", address).hear() == "reset 1"
    assert client.hear() == "ECONNRESET"
    assert server.hear() == "ECONNRESET"


def test_an_address_of_the_host_keeps_its_connections(stage: Stage, holder: Holder) -> None:
    server = stage.serve("n0")
    holder.take(IPV4, 24)
    other, _port = stage.connect(server, stage.lab.address("n0"))
    holder.say(f"kill {IPV4}")
    assert holder.do("remove", IPV4) == ""
    other.process.kill()
    assert server.hear() == "closed"


def test_a_killed_daemon_takes_its_addresses_with_it(stage: Stage) -> None:
    watcher = stage.hold("n0")
    places = [f"10.78.1.{number + 1}" for number in range(100)]
    daemon = stage.talk("n0", "hold", *(word for each in places for word in (each, "24", "pub0")))
    assert daemon.hear().startswith("held")
    watcher.see_until(place(places[-1], 24), stands=True)
    daemon.process.kill()
    began_s = time.monotonic()
    while any(each.address in places for each in watcher.see().addresses):
        pass
    # 50 ms on an idle machine, with what it takes to tell of it.
    assert time.monotonic() - began_s < SOON_S


def test_a_new_helper_takes_over_what_a_killed_one_held(stage: Stage) -> None:
    daemon = stage.talk("n0", "hold", IPV4, "24", "pub0", IPV6, "64", "pub0")
    first = daemon.hear().split()[1]
    stage.run("n0", f"kill -KILL {first}")
    second = daemon.hear().split()[1]
    assert second != first
    assert stage.standing("n0") == [f"{IPV4}/24", f"{IPV6}/64"]
    daemon.process.kill()
    # The stage waits until they are gone.


def test_addresses_go_with_the_lease(stage: Stage) -> None:
    """The daemon stands still, the guard has written until when the node may serve."""
    holder = stage.hold("n0")
    page_fd = os.memfd_create("lease")
    os.ftruncate(page_fd, mmap.PAGESIZE)
    with mmap.mmap(page_fd, mmap.PAGESIZE) as page:
        shortened = os.eventfd(0)
        socket.send_fds(holder.ours, [b"lease 10000000\n"], [page_fd, shortened])
        os.close(page_fd)
        assert holder.do("put", IPV4, "24", "pub0") == ""
        holder.see_until(place(IPV4, 24), stands=True)
        _hold_until(page, time.clock_gettime(time.CLOCK_BOOTTIME) + 0.4)
        assert holder.do("put", IPV6, "64", "pub0") == ""
        holder.see_until(place(IPV4, 24), stands=False)
        assert (_hold_until_s(page) - time.clock_gettime(time.CLOCK_BOOTTIME)) < 0
        assert "the lease is over" in holder.do("put", IPV4, "24", "pub0")
        assert stage.standing("n0") == []
        _hold_until(page, time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
        assert holder.do("put", IPV4, "24", "pub0") == ""
        holder.see_until(place(IPV4, 24), stands=True)
        # What was promised for a minute is taken back: others go on at once.
        _hold_until(page, 0.000001)
        began_s = time.monotonic()
        os.eventfd_write(shortened, 1)
        holder.see_until(place(IPV4, 24), stands=False)
        assert time.monotonic() - began_s < SOON_S
        os.close(shortened)


@pytest.mark.parametrize("lease_s", [0.4, None], ids=["lease", "no lease"])
def test_a_host_that_stands_still_uses_no_address_after_its_lease(
    stage: Stage, lease_s: float | None
) -> None:
    holder = stage.hold("n0")
    server = stage.serve("n0")
    page_fd = os.memfd_create("lease")
    os.ftruncate(page_fd, mmap.PAGESIZE)
    with mmap.mmap(page_fd, mmap.PAGESIZE) as page:
        shortened = os.eventfd(0)
        wanted = b"lease -\n" if lease_s is None else b"lease 10000000\n"
        socket.send_fds(holder.ours, [wanted], [page_fd, shortened])
        os.close(page_fd)
        holder.take(IPV4, 24)
        holder.take(IPV6, 64)
        client, _port = stage.connect(server, IPV4)
        stage.run("c0", "ip neigh flush dev pub0")
        if lease_s is not None:
            # Renewed until the host stands still, as long as it takes to see that it is used.
            _hold_until(page, time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
        assert [_answers(stage, each) for each in (IPV4, IPV6)] == [True, True]
        if lease_s is not None:
            _hold_until(page, time.clock_gettime(time.CLOCK_BOOTTIME) + lease_s)
            os.eventfd_write(shortened, 1)
        for _ in range(2):
            # It looks at the lease between two deeds.
            assert holder.do("remove", "10.78.1.1") == ""
        stage.lab.freeze("n0")
        try:
            time.sleep((lease_s or 0.4) + 0.1)
            stage.run("c0", "ip neigh flush dev pub0")
            is_used = lease_s is None
            assert [_answers(stage, each) for each in (IPV4, IPV6)] == [is_used, is_used]
            assert _answers(stage, stage.lab.address("n0")), "what is not public is not concerned"
        finally:
            stage.lab.thaw("n0")
        if lease_s is not None:
            holder.see_until(place(IPV4, 24), stands=False)
            _hold_until(page, time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
            holder.take(IPV4, 24)
            assert _answers(stage, IPV4)
        client.process.kill()
        os.close(shortened)


def test_addresses_of_a_helper_that_was_killed_are_not_used_for_longer_than_its_lease(stage: Stage) -> None:
    """Its daemon has died with it: nobody removes them."""
    killed = stage.hold("n0")
    page_fd = os.memfd_create("lease")
    os.ftruncate(page_fd, mmap.PAGESIZE)
    with mmap.mmap(page_fd, mmap.PAGESIZE) as page:
        shortened = os.eventfd(0)
        _hold_until(page, time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
        socket.send_fds(killed.ours, [b"lease 10000000\n"], [page_fd, shortened])
        os.close(page_fd)
        killed.take(IPV4, 24)
        killed.take(IPV6, 64)
        stage.run("c0", "ip neigh flush dev pub0")
        assert [_answers(stage, each) for each in (IPV4, IPV6)] == [True, True]
        _hold_until(page, time.clock_gettime(time.CLOCK_BOOTTIME) + 5)
        os.eventfd_write(shortened, 1)
        assert killed.do("remove", "10.78.1.1") == ""
        stage.run("n0", "nft flush ruleset")
        _hold_until(page, time.clock_gettime(time.CLOCK_BOOTTIME) + 0.4)
        os.eventfd_write(shortened, 1)
        for _ in range(2):
            assert killed.do("remove", "10.78.1.1") == ""
        killed.process.kill()
        os.close(shortened)
    time.sleep(0.5)
    stage.run("c0", "ip neigh flush dev pub0")
    assert stage.standing("n0") == [f"{IPV4}/24", f"{IPV6}/64"]
    assert [_answers(stage, each) for each in (IPV4, IPV6)] == [False, False]
    assert _answers(stage, stage.lab.address("n0")), "what is not public is not concerned"
    later = stage.hold("n0")
    later.say("lease -")
    later.take(IPV4, 24)
    later.take(IPV6, 64)
    assert [_answers(stage, each) for each in (IPV4, IPV6)] == [True, True]


def _answers(stage: Stage, address: str) -> bool:
    """Whether the client's pings are answered."""
    ping = ["ping", "-c3", "-i0.1", "-W1", address]
    return stage.lab.run("c0", ping, timeout_s=10, check=False).returncode == 0


def _hold_until(page: mmap.mmap, when_s: float) -> None:
    struct.pack_into("=q", page, 24, int(when_s * 1_000_000))


def _hold_until_s(page: mmap.mmap) -> float:
    return float(struct.unpack_from("=q", page, 24)[0]) / 1_000_000
