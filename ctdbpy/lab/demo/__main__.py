# SPDX-License-Identifier: GPL-3.0-or-later
"""`./dev demo`: the main job on one machine, with checks. Exit code 0 if all of them are right, else 1."""

from __future__ import annotations

import argparse
import sys

from ctdbpy.errors import LabError
from ctdbpy.lab import places
from ctdbpy.lab.demo import endurance, story
from ctdbpy.lab.demo.screen import Screen
from ctdbpy.lab.demo.stage import Stage

_NAME = "demo"


def main() -> int:
    """Show it, and judge."""
    given = _parser().parse_args()
    screen = Screen()
    name: str = given.name
    if places.find(name) is not None:
        print(
            f"demo: a cluster of an earlier demo is up: take it down with ./dev lab down --name {name}",
            file=sys.stderr,
        )
        return 1
    stage = Stage(name, stays_up=given.keep)
    is_good = False
    try:
        stage.lab.up()
        try:
            if given.minutes:
                result = endurance.endure(stage, screen, given.minutes * 60.0, given.seed)
            else:
                result = story.play(stage, screen, given.mailboxes)
            screen.step("What came out")
            is_good = result.is_good
        except (LabError, KeyboardInterrupt) as error:
            screen.say(f"cannot go on: {error if isinstance(error, LabError) else 'interrupted'}")
            for host in stage.lab.nodes if isinstance(error, LabError) else ():
                print(f"--- the log of {host} ends:\n{stage.cluster.log_end(host)}", file=sys.stderr)
            return 1
        finally:
            stage.close()
            if not given.keep:
                stage.lab.down()
        if not given.keep:
            left = places.find(name)
            result.add("left behind", f"'{left.root}'" if left else "nothing", left is None)
            is_good = result.is_good
        screen.table(result.rows)
        if given.keep:
            screen.step("The cluster is still up. Try:")
            print(story.next_commands(name))
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0 if is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up, and say what to try on it")
    parser.add_argument(
        "--mailboxes",
        type=int,
        default=500,
        metavar="N",
        help="how large the store is (default: %(default)s)",
    )
    parser.add_argument(
        "--name", default=_NAME, help="of the lab, for several at once (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=0,
        metavar="N",
        help="instead of the story: messages all the time, and a fault every 30 s, for so long",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the faults' order (default: by chance)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
