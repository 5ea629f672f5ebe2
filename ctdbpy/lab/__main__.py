# SPDX-License-Identifier: GPL-3.0-or-later
"""`./dev lab`: build a lab that stays up, and drive it from a shell."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable

from ctdbpy.errors import LabError
from ctdbpy.lab import places, services
from ctdbpy.lab.lab import Lab

_NAME = "lab"
_FOREVER_S = 10.0 * 365 * 86400


def main() -> int:
    """Run one command; errors go to stderr as one line, exit code 1."""
    arguments = _parser().parse_args()
    deed: Callable[[argparse.Namespace], int] = arguments.deed
    try:
        return deed(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _up(arguments: argparse.Namespace) -> int:
    lab = Lab(arguments.name, arguments.nodes, arguments.clients, stays_up=True)
    cluster = None
    if arguments.flavour != "none":
        cluster = services.Cluster(lab, arguments.flavour, fencing=arguments.fencing)
    elif arguments.fencing:
        raise LabError(
            "cannot fence bare hosts: it is the cluster daemon that does; give --flavour ctdbpy, too"
        )
    lab.up()
    if cluster is not None:
        cluster.configure()
        for host in lab.nodes:
            cluster.start(host)
        cluster.wait_healthy()
        samba = services.Samba(lab)
        samba.configure()
        for host in lab.nodes:
            samba.start(host)
    return _status(arguments)


def _sh(arguments: argparse.Namespace) -> int:
    argv = arguments.command or ["bash"]
    if sys.stdin.isatty():
        # The terminal belongs to the session out here; script(1) makes one for the session in there.
        argv = ["script", "-qec", shlex.join(argv), "/dev/null"]
    streams = (sys.stdin.buffer, sys.stdout.buffer, sys.stderr.buffer)
    environment = {"TERM": os.environ.get("TERM", "dumb")}
    process = Lab.find(arguments.name).connect(arguments.host, argv, streams, env=environment)
    try:
        code = process.wait(timeout_s=_FOREVER_S)
    except KeyboardInterrupt:
        code = -signal.SIGINT
    finally:
        process.close()
    return 128 - code if code < 0 else code


def _down(arguments: argparse.Namespace) -> int:
    names = [place.name for place in places.every()] if arguments.all else [arguments.name]
    for name in names:
        Lab.find(name).down()
        print(f"lab '{name}' is down")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    for row in Lab.find(arguments.name).status():
        addresses = " ".join(f"{side}={address}" for side, address in row["addresses"].items())
        cuts = " ".join(f"{side}-cut({manner})" for side, manner in row["cuts"].items())
        host = f"{row['name']:<5} {row['power']:<7} {row['processes']:>4} processes"
        print(f"{host}  {addresses} {cuts}".rstrip())
    return 0


def _sweep(_arguments: argparse.Namespace) -> int:
    for name in places.sweep():
        print(f"lab '{name}' was a leftover and is gone")
    return 0


def _on_host(deed: Callable[[Lab, argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        deed(Lab.find(arguments.name), arguments)
        return 0

    return run


def _with_host(deed: Callable[[Lab, str], None]) -> Callable[[Lab, argparse.Namespace], None]:
    return lambda lab, arguments: deed(lab, arguments.host)


def _parser() -> argparse.ArgumentParser:
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument(
        "--name", default=_NAME, help="which lab, when there are several (default: %(default)s)"
    )
    parser = argparse.ArgumentParser(prog="./dev lab", description="A cluster of namespaces on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, deed: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[named], help=about, description=about)
        command.set_defaults(deed=deed)
        return command

    up = add("up", _up, "build a lab of N nodes n0, n1 ... and start a cluster with Samba on it")
    up.add_argument("nodes", type=int, metavar="N")
    up.add_argument(
        "--clients", type=int, default=1, metavar="M", help="client hosts c0, c1 ... (default: 1)"
    )
    up.add_argument(
        "--flavour",
        choices=[*services.FLAVOURS, "none"],
        default="none",
        help="whose cluster daemon runs (default: %(default)s: bare hosts)",
    )
    up.add_argument(
        "--fencing", action="store_true", help="a lost node loses its power before the others go on"
    )
    sh = add("sh", _sh, "run a command on a host, or a shell")
    sh.add_argument("host", metavar="HOST")
    sh.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD")
    cut = add("cut", _on_host(lambda lab, a: lab.cut(a.host, a.side, manner=a.manner)), "cut a host's cables")
    cut.add_argument("host", metavar="HOST")
    cut.add_argument("side", choices=["private", "public", "all"])
    cut.add_argument(
        "--silent",
        action="store_const",
        const="silent",
        default="pulled",
        dest="manner",
        help="lose packets only; the host still sees a carrier",
    )
    simple: list[tuple[str, Callable[[Lab, str], None], str]] = [
        ("power-off", Lab.power_off, "kill every process of a host at once"),
        ("power-on", Lab.power_on, "boot a host with the disk it had"),
        ("mend", Lab.mend, "connect all cables of a host again"),
        ("freeze", Lab.freeze, "stop every process of a host where it stands"),
        ("thaw", Lab.thaw, "let a frozen host go on"),
    ]
    for name, deed, about in simple:
        command = add(name, _on_host(_with_host(deed)), about)
        command.add_argument("host", metavar="HOST")
    add("status", _status, "show the hosts")
    down = add("down", _down, "take a lab down; nothing is left of it")
    down.add_argument("--all", action="store_true", help="every lab on this machine, also those in use")
    add("sweep", _sweep, "end what labs of dead owners left behind; labs in use stay")
    return parser


if __name__ == "__main__":
    sys.exit(main())
