# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab keeps its word: hosts apart, cables and power that fail as real ones do, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdbpy.errors import LabError
from ctdbpy.lab import Lab, places, power, wait_until

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(nodes=2, clients=1) as built:
        yield built


def _hears(lab: Lab, host: str, other: str) -> bool:
    return lab.run(host, ["ping", "-c1", "-W1", other], timeout_s=10, check=False).returncode == 0


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for each in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            stat = Path(f"/proc/{each}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(each)
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def _processes(keeping: places.Keeping) -> list[places.Actor]:
    """The keeper and every process of its lab; its namespaces last as long as these, nothing pins them."""
    found = [places.Actor.of(pid) for pid in _family(keeping.keeper.pid)]
    networks = {os.readlink(f"/proc/{actor.pid}/ns/net") for actor in found}
    assert len(found) > len(networks) >= 3, "keeper, switch and each host; the keeper stays in ours"
    return found


def _wait_gone(processes: list[places.Actor]) -> None:
    for actor in processes:
        assert places.wait_gone(actor, timeout_s=20), f"process {actor.pid} is left"


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text(encoding="utf-8")


def _interfaces() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))


def test_nodes_hear_each_other_on_both_sides_and_clients_on_the_public_one(lab: Lab) -> None:
    assert _hears(lab, "n0", "n1")
    assert _hears(lab, "n0", "n1-pub")
    assert _hears(lab, "c0", "n1-pub")
    assert not _hears(lab, "c0", lab.address("n1", "private"))


def test_a_host_has_its_own_name_files_and_processes(lab: Lab) -> None:
    assert lab.run("n1", ["hostname"], timeout_s=5).stdout == "n1\n"
    lab.run("n0", ["sh", "-c", "echo mine >/etc/here; echo ours >/cluster/here"], timeout_s=5)
    assert lab.path("n0", "/etc/here").read_text() == "mine\n"
    assert lab.run("n1", ["cat", "/cluster/here"], timeout_s=5).stdout == "ours\n"
    assert lab.run("n1", ["test", "-e", "/etc/here"], timeout_s=5, check=False).returncode == 1
    assert not Path("/etc/here").exists()
    processes = lab.run("n0", ["ps", "-e", "-o", "pid="], timeout_s=5).stdout.split()
    assert len(processes) == 2  # Process 1, and ps itself.


def test_a_host_has_the_administrators_command(lab: Lab) -> None:
    assert lab.run("n0", ["ctdbctl", "--help"], timeout_s=30).stdout.startswith("Usage: ctdbctl")


def test_a_host_cannot_write_what_belongs_to_the_machine(lab: Lab) -> None:
    done = lab.run("n0", ["touch", "/usr/here"], timeout_s=5, check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


def test_a_user_can_be_added_to_one_host(lab: Lab) -> None:
    lab.run("n0", ["useradd", "--no-create-home", "carol"], timeout_s=10)
    assert lab.run("n0", ["id", "-un", "carol"], timeout_s=5).stdout == "carol\n"
    assert lab.run("n1", ["id", "carol"], timeout_s=5, check=False).returncode != 0


def test_run_passes_input_output_environment_and_exit_code(lab: Lab) -> None:
    script = 'cat; echo "$WORD" >&2; exit 7'
    done = lab.run("n0", ["sh", "-c", script], timeout_s=5, check=False, input="in\n", env={"WORD": "err"})
    assert (done.stdout, done.stderr, done.returncode) == ("in\n", "err\n", 7)
    with pytest.raises(LabError, match="exit code 7"):
        lab.run("n0", ["sh", "-c", "exit 7"], timeout_s=5)
    with pytest.raises(LabError, match="cannot run 'frobnicate' on 'n0': No such file"):
        lab.run("n0", ["frobnicate"], timeout_s=5)


def test_a_command_gets_its_three_streams_and_nothing_else(lab: Lab) -> None:
    opened = lab.run("n0", ["sh", "-c", "ls /proc/$$/fd"], timeout_s=5).stdout.split()
    assert opened == ["0", "1", "2"]


def test_run_kills_what_takes_too_long_with_its_whole_group(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"still runs after 3 s; it said:\nbegun"):
        lab.run("n0", ["sh", "-c", "echo begun; sleep 1000 & sleep 1000"], timeout_s=3)
    _wait_no_process(lab, "n0", "sleep")


def test_a_spawned_command_takes_signals_and_dies_with_its_handle(lab: Lab) -> None:
    log = lab.path("n0", "/var/log/spawned")
    first = lab.spawn("n0", ["sleep", "1000"], log)
    assert first.poll() is None
    first.signal(signal.SIGTERM)
    assert first.wait(timeout_s=5) == -signal.SIGTERM
    second = lab.spawn("n0", ["sleep", "1000"], log)
    second.close()
    _wait_no_process(lab, "n0", "sleep")


def test_a_host_outlives_commands_that_end_as_their_caller_hangs_up(lab: Lab) -> None:
    for _ in range(100):
        ours, theirs = socket.socketpair()
        with ours, open(os.devnull, "r+b") as nothing, open(theirs.detach(), "rb") as given:
            process = lab.connect("c0", ["cat"], (given, nothing, nothing))
            given.close()
            ours.close()
            process.close()
    assert lab.run("c0", ["true"], timeout_s=10).returncode == 0


@pytest.mark.parametrize("manner", ["pulled", "silent"])
def test_a_cut_cable_carries_nothing_until_it_is_mended(lab: Lab, manner: str) -> None:
    lab.cut("n1", "private", manner=manner)
    assert not _hears(lab, "n0", "n1")
    assert _hears(lab, "n0", "n1-pub")
    carrier = lab.run("n1", ["cat", "/sys/class/net/priv0/carrier"], timeout_s=5).stdout
    assert carrier == ("0\n" if manner == "pulled" else "1\n")
    lab.cut("n1", "all", manner=manner)
    assert not _hears(lab, "n0", "n1-pub")
    lab.mend("n1")
    wait_until("n0 hears n1 again", lambda: _hears(lab, "n0", "n1"), timeout_s=10)
    assert _hears(lab, "c0", "n1-pub")


def test_a_silenced_host_is_not_heard_by_one_peer_and_hears_it(lab: Lab) -> None:
    program = "import socket; s = socket.socket(2, 2); s.settimeout({}); s.bind(('', 700)); {}"
    hear = program.format(10, "print(s.recv(9))")
    hear_nothing = program.format(1, "s.recv(9)")
    say = "import socket; socket.socket(2, 2).sendto(b'word', ({!r}, 700))"

    def hears(host: str, other: str, listen: str) -> bool:
        log = lab.path(host, "/tmp/heard")
        listening = lab.spawn(host, ["python3", "-c", listen], log)
        wait_until(
            "it listens",
            lambda: lab.run(host, ["ss", "-Hlun", "sport = 700"], timeout_s=5).stdout,
            timeout_s=5,
        )
        lab.run(other, ["python3", "-c", say.format(lab.address(host, "private"))], timeout_s=5)
        return listening.wait(timeout_s=15) == 0

    assert hears("n1", "n0", hear)
    lab.silence("n0", "n1", "private")
    assert not hears("n1", "n0", hear_nothing)
    assert hears("n0", "n1", hear)
    assert _hears(lab, "n0", "n1-pub")
    lab.mend("n0")
    assert hears("n1", "n0", hear)


def test_a_power_cut_kills_every_process_at_once_and_keeps_the_disk(lab: Lab) -> None:
    lab.run("n1", ["sh", "-c", "echo kept >/var/log/kept; echo lost >/run/lost"], timeout_s=5)
    running = lab.spawn(
        "n1", ["sh", "-c", "trap '' TERM INT; while :; do sleep 1; done"], lab.path("n1", "/var/log/x")
    )
    lab.power_off("n1")
    assert running.wait(timeout_s=5) == -signal.SIGKILL
    assert [row["power"] for row in lab.status()] == ["on", "off", "on"]
    assert not _hears(lab, "n0", "n1")
    with pytest.raises(LabError, match="has it power"):
        lab.run("n1", ["true"], timeout_s=5)
    lab.power_on("n1")
    assert lab.run("n1", ["cat", "/var/log/kept"], timeout_s=5).stdout == "kept\n"
    assert lab.run("n1", ["ls", "/run"], timeout_s=5).stdout == ""
    assert _hears(lab, "n0", "n1")


def test_a_power_cut_is_silent_towards_peers(lab: Lab) -> None:
    """A peer's TCP connection neither closes nor resets, as when the plug of a real machine is pulled."""
    listen = (
        "import socket; s = socket.create_server(('', 700)); print('up', flush=True); s.accept()[0].recv(1)"
    )
    log = lab.path("n1", "/var/log/listen")
    lab.spawn("n1", ["python3", "-c", listen], log)
    wait_until("n1 listens", lambda: "up" in log.read_text(), timeout_s=10)
    peer = (
        "import socket; s = socket.create_connection(('n1', 700)); print('up', flush=True); print(s.recv(1))"
    )
    heard = lab.path("n0", "/var/log/heard")
    heard.unlink(missing_ok=True)
    waiting = lab.spawn("n0", ["python3", "-c", peer], heard)
    wait_until("n0 is connected", lambda: "up" in heard.read_text(), timeout_s=10)
    lab.power_off("n1")
    with pytest.raises(LabError, match="still runs"):
        waiting.wait(timeout_s=0.5)
    waiting.kill()
    lab.power_on("n1")


def test_a_frozen_host_stands_still_and_goes_on_when_thawed(lab: Lab) -> None:
    log = lab.path("n1", "/tmp/ticks")
    ticking = lab.spawn("n1", ["sh", "-c", "while :; do echo tick; sleep 0.01; done"], log)
    wait_until("it ticks", lambda: log.read_text() != "", timeout_s=5)
    lab.freeze("n1")
    ticks = log.read_text()
    assert _hears(lab, "n0", "n1"), "the kernel of a frozen host still answers"
    assert log.read_text() == ticks
    assert [row["power"] for row in lab.status()] == ["on", "frozen", "on"]
    lab.thaw("n1")
    wait_until("it ticks again", lambda: log.read_text() != ticks, timeout_s=5)
    assert ticking.poll() is None
    ticking.kill()


def _ask_strip(lab: Lab, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-IS", power.__file__, *arguments]
    return lab.run(host, argv, timeout_s=30, check=False)


def test_a_node_takes_the_power_of_a_frozen_one_and_gives_it_back(lab: Lab) -> None:
    address = lab.address("n1", "private")
    log = lab.path("n1", "/var/log/x")
    frozen = lab.spawn("n1", ["sh", "-c", "trap '' TERM INT; while :; do sleep 1; done"], log)
    lab.cut("n0", "all")
    lab.freeze("n1")
    assert lab.power("n1") == "frozen"
    assert _ask_strip(lab, "n0", "status", "1", address).stdout == "on\n"
    for _again in range(2):
        done = _ask_strip(lab, "n0", "off", "1", address)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert lab.power("n1") == "off"
    assert frozen.wait(timeout_s=5) == -signal.SIGKILL
    with pytest.raises(LabError, match="cannot reach 'n1': it has no power"):
        lab.thaw("n1")
    assert _ask_strip(lab, "n0", "status", "1", address).stdout == "off\n"
    assert _ask_strip(lab, "n0", "on", "1", address).returncode == 0
    lab.mend("n0")
    assert lab.power("n1") == "on"
    assert _ask_strip(lab, "n1", "status", "1", address).stdout == "on\n", "it has it again after a boot"


def test_the_power_strip_says_no_to_what_it_does_not_know_and_clients_do_not_have_it(lab: Lab) -> None:
    done = _ask_strip(lab, "n0", "off", "2", "10.77.0.9")
    assert done.returncode == 1
    assert "cannot switch node 2 (10.77.0.9) off: no node has the private address '10.77.0.9'" in done.stderr
    done = _ask_strip(lab, "c0", "off", "1", lab.address("n1", "private"))
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
    done = lab.run("n0", ["rm", power.SOCKET], timeout_s=5, check=False)
    assert "Read-only file system" in done.stderr
    assert lab.power("n1") == "on"


def test_programs_that_ask_the_power_strip_nothing_keep_nobody_waiting(lab: Lab) -> None:
    mute = (
        "import socket; all = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(10)]; "
        f"[each.connect({power.SOCKET!r}) for each in all]; print('up', flush=True); input()"
    )
    log = lab.path("n1", "/var/log/mute")
    ours, theirs = socket.socketpair()
    with ours, log.open("wb") as out, open(theirs.detach(), "rb") as given:
        connected = lab.connect("n1", [sys.executable, "-c", mute], (given, out, out))
        given.close()
        wait_until("it is connected", lambda: "up" in log.read_text(), timeout_s=10)
        lab.freeze("n1")
        assert _ask_strip(lab, "n0", "off", "1", lab.address("n1", "private")).returncode == 0
        assert connected.wait(timeout_s=5) == -signal.SIGKILL
    lab.power_on("n1")


def test_an_unknown_host_or_side_is_refused_by_name(lab: Lab) -> None:
    with pytest.raises(LabError, match="cannot find host 'n9': the lab has n0, n1, c0"):
        lab.power_off("n9")
    with pytest.raises(LabError, match="cannot cut 'c0' on side 'private'"):
        lab.cut("c0", "private")
    with pytest.raises(LabError, match="cannot power on 'n0': it has power"):
        lab.power_on("n0")


def test_two_labs_do_not_hear_each_other(lab: Lab) -> None:
    with Lab(nodes=1, clients=0) as other:
        assert not _hears(other, "n0", other.address("n0", "private").removesuffix(".1") + ".2")
    with pytest.raises(LabError, match="it is there already"):
        Lab(lab.name).up()
    assert _hears(lab, "n0", "n1"), "the failed attempt took nothing from the lab that is up"


def test_down_leaves_nothing() -> None:
    before = _mounts(), _interfaces()
    lab = Lab(nodes=2, clients=1)
    lab.up()
    place, keeping = _place_of(lab.name)
    lab.spawn("n0", ["sleep", "1000"], lab.path("n0", "/var/log/x"))
    own = _processes(keeping)
    assert (_mounts(), _interfaces()) == before
    lab.down()
    assert not keeping.keeper.is_alive()
    assert not place.root.exists()
    _wait_gone(own)
    assert (_mounts(), _interfaces()) == before


def test_a_killed_owner_leaves_nothing() -> None:
    with _owner() as (owner, name):
        place, keeping = _place_of(name)
        own = _processes(keeping)
        owner.kill()
        assert places.wait_gone(keeping.keeper, timeout_s=20)
        assert not place.root.exists()
        _wait_gone(own)


def test_a_killed_keeper_takes_the_lab_with_it_and_sweep_removes_the_rest() -> None:
    with _owner() as (_, name):
        place, keeping = _place_of(name)
        own = _processes(keeping)
        assert name not in places.sweep(), "a lab in use is no leftover"
        os.kill(keeping.keeper.pid, signal.SIGKILL)
        assert places.wait_gone(keeping.keeper, timeout_s=20)
        _wait_gone(own)
        assert place.root.exists()
        assert name in places.sweep()
        assert not place.root.exists()


def test_a_lab_from_the_command_line_stays_up_until_told() -> None:
    name = f"shell-{os.getpid()}"

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "ctdbpy.lab", *arguments]
        return subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False)

    try:
        assert command("up", "1", "--clients", "0", "--name", name).returncode == 0
        said = command("sh", "--name", name, "n0", "sh", "-c", "hostname; exit 3")
        assert (said.stdout, said.returncode) == ("n0\n", 3)
        assert command("power-off", "--name", name, "n0").returncode == 0
        assert "n0    off" in command("status", "--name", name).stdout
    finally:
        down = command("down", "--name", name)
    assert down.returncode == 0, down.stderr
    assert "it is not up" in command("status", "--name", name).stderr


@contextlib.contextmanager
def _owner() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another program that has a lab with a busy host; and the lab's name."""
    program = (
        "from ctdbpy.lab import Lab\n"
        "lab = Lab(nodes=1, clients=1)\n"
        "lab.up()\n"
        "lab.spawn('n0', ['sleep', '1000'], lab.path('n0', '/var/log/x'))\n"
        "print(lab.name, flush=True)\n"
        "input()\n"
    )
    argv = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=_ROOT, text=True, stdin=pipe, stdout=pipe) as owner:
        try:
            assert owner.stdout is not None
            yield owner, owner.stdout.readline().strip()
        finally:
            owner.kill()


def _place_of(name: str) -> tuple[places.Place, places.Keeping]:
    place = places.find(name)
    assert place is not None
    keeping = place.keeping()
    assert keeping is not None
    return place, keeping


def _wait_no_process(lab: Lab, host: str, name: str) -> None:
    wait_until(
        f"no '{name}' runs on '{host}'",
        lambda: lab.run(host, ["pgrep", "-x", name], timeout_s=5, check=False).returncode == 1,
        timeout_s=5,
    )
