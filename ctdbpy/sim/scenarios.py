# SPDX-License-Identifier: GPL-3.0-or-later
"""Golden scenarios: a small script of deeds, and the story that the cluster tells of it.

A file reads from top to bottom:

    # A remark.
    nodes 3                     how many nodes (default 3)
    seed 7                      default 1
    fencing                     lost nodes are fenced
    at 0 boot all               deeds, at a moment in seconds; `deed_*` below lists them
    at 4 crash leader           a node is n0, n1 ..., leader, follower (a member that does not lead), or
                                it: the node that the last deed was done to
    at 6 expect leader other    expectations, as deeds; `expect_*` below
    end 9                       then peace comes, in which everything is mended and must come to rest

    story:                      what happened until then, times rounded; written by --update
        0.0 n0 boots

Clients work on every node that serves, and all checkers watch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ctdbpy.sim.cluster import Cluster
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.world import START_S
from ctdbpy.wire.constants import NodeFlag, RunState

STORY: Final = "story:"
#: Clients are looked after so often.
CLIENTS_EVERY_S: Final = 0.5
#: What the story tells, of all that the nodes log: who leads, why is recovered, who stands still, own flags.
_TOLD: Final = re.compile(
    r"n\d+ (this node leads|recovery (begins|done|failed)|stands still|serves again|own flags|exits)"
    r"|n\d+ node \d+ is (banned|lost|fenced|taken for fenced)|n\d+ cannot (lead|fence)"
    r"|^(?!n\d+ )"
    r"|n\d+ (boots|crashes|loses|pauses|goes on|stalls|has (a|n\d+) )"
    r"|n\d+ is (slow|stopped|continued|shut|told|switched)"
)
_NODE: Final = re.compile(r"n\d+ ")
_FIGURES: Final = (
    (re.compile(r" in \d+\.\d+ s: generation \d+, \d+ databases"), ""),
    # Whichever is heard first.
    (
        re.compile(r"closed by the other side|it is gone: its guard says that its daemon has ended"),
        "it is gone",
    ),
    (re.compile(r"\d+\.\d+ s\b"), "# s"),
    (re.compile(r"\d+\.\d+ ms\b"), "# ms"),
)


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a scenario."""

    story: tuple[str, ...]
    complaints: tuple[str, ...]
    cluster: Cluster


def story_of(text: str) -> tuple[str, ...]:
    """The story that a file tells."""
    _, _, story = text.partition(f"\n{STORY}\n")
    return tuple(line.strip() for line in story.splitlines() if line.strip())


def with_story(text: str, story: tuple[str, ...]) -> str:
    """The file with another story."""
    script, _, _ = text.partition(f"\n{STORY}\n")
    return script.rstrip("\n") + f"\n\n{STORY}\n" + "".join(f"    {line}\n" for line in story)


def play(text: str) -> Played:
    """Do what a script says. Raises ValueError if it says what nobody understands."""
    script, _, _ = text.partition(f"\n{STORY}\n")
    settings: dict[str, str] = {}
    deeds: list[tuple[float, list[str]]] = []
    for number, line in enumerate(script.splitlines(), start=1):
        words = line.partition("#")[0].split()
        match words:
            case []:
                pass
            case [("nodes" | "seed" | "end") as name, value]:
                settings[name] = value
            case ["fencing"]:
                settings["fencing"] = "yes"
            case ["at", moment, *rest] if rest:
                deeds.append((float(moment), rest))
            case _:
                raise ValueError(f"cannot read line {number} of a scenario: {line!r}")
    cluster = Cluster(
        int(settings.get("seed", 1)), nodes=int(settings.get("nodes", 3)), fencing="fencing" in settings
    )
    stage = _Stage(cluster)
    return stage.play(deeds, float(settings["end"]))


class _Stage:
    """A cluster on which a script is played."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._network = cluster.network
        self._it: SimNode | None = None
        self._complaints: list[str] = []

    def play(self, deeds: list[tuple[float, list[str]]], end_s: float) -> Played:
        for moment_s, words in deeds:
            self._world.later(moment_s, lambda words=words: self._do(words))  # type: ignore[misc]
        told = 0
        try:
            while self._world.now_s < START_S + end_s:
                self._world.run(min(CLIENTS_EVERY_S, START_S + end_s - self._world.now_s))
                self._cluster.start_programs()
            told = len(self._world.trace)
            self._cluster.peace()
        except AssertionError as violation:
            self._complaints.append(str(violation))
        story = tuple(_told(self._world.trace[: told or None]))
        return Played(story, tuple(self._complaints), self._cluster)

    def _do(self, words: list[str]) -> None:
        verb, *rest = words
        if verb == "expect":
            what, *rest = rest
            wrong = self._named(f"expect_{what}")(*rest)
            if wrong:
                moment_s = self._world.now_s - START_S
                self._complaints.append(f"at {moment_s:g}: expected {' '.join(words[1:])}: {wrong}")
        else:
            self._named(f"deed_{verb}")(*rest)

    def _named(self, name: str) -> Callable[..., str | None]:
        found: Callable[..., str | None] | None = getattr(self, name, None)
        if found is None:
            raise ValueError(f"a scenario says what nobody understands: {name!r}")
        return found

    def _node(self, name: str) -> SimNode:
        """The node that a word means; `it` afterwards."""
        if name != "it":
            leader = self._leader()
            if name == "leader":
                self._it = self._cluster.nodes[leader]
            elif name == "follower":
                self._it = next(
                    node for node in self._cluster.nodes if node.is_up and node.pnn not in (leader, self._pnn)
                )
            else:
                self._it = self._cluster.nodes[int(name.removeprefix("n"))]
        assert self._it is not None
        return self._it

    @property
    def _pnn(self) -> int:
        return self._it.pnn if self._it else -1

    def _leader(self) -> int:
        """Who leads, as its followers say."""
        leaders = [
            node.node.state.leader
            for node in self._cluster.nodes
            if node.is_up and not node.is_held and not node.node.state.suspended
        ]
        return max(leaders, key=leaders.count, default=-1)

    # -- deeds: nodes ---------------------------------------------------------------------------

    def deed_boot(self, who: str) -> None:
        """boot all | dead | NODE"""
        if who in ("all", "dead"):
            for index, node in enumerate(each for each in self._cluster.nodes if not each.is_up):
                self._world.later(index * 0.05, node.boot)
        else:
            self._node(who).boot()

    def deed_crash(self, who: str) -> None:
        """crash NODE"""
        self._node(who).crash()

    def deed_power(self, who: str) -> None:
        """power NODE: off"""
        self._node(who).power_off()

    def deed_shutdown(self, who: str) -> None:
        """shutdown NODE"""
        self._cluster.shut_down(self._node(who))

    def deed_pause(self, who: str, seconds: str) -> None:
        """pause NODE SECONDS: the whole machine"""
        self._node(who).pause(float(seconds))

    def deed_stall(self, who: str, seconds: str) -> None:
        """stall NODE SECONDS: its daemon"""
        self._node(who).stall(float(seconds))

    def deed_stop(self, who: str) -> None:
        """stop NODE: `ctdb stop`"""
        node = self._node(who)
        self._cluster.end_programs(node)
        self._cluster.faults.set_stopped(node, True)
        self._cluster.node_gone(node)

    def deed_continue(self, who: str) -> None:
        """continue NODE: `ctdb continue`"""
        self._cluster.faults.set_stopped(self._node(who), False)

    def deed_recover(self, who: str) -> None:
        """recover NODE: `ctdb recover` there"""
        self._cluster.ask_to_recover(self._node(who))

    def deed_add(self, what: str) -> None:
        """add node: to every nodes file, then `ctdb reloadnodes`"""
        assert what == "node"
        self._it = self._cluster.add_node()

    def deed_kill(self, who: str, *when: str) -> None:
        """kill NODE in recovery SECONDS: so long after the next one has begun"""
        assert when[:2] == ("in", "recovery")
        delay_s = float(when[2])

        def kill() -> None:
            node = self._node(who)
            self._world.later(delay_s, lambda: node.crash() if node.is_up else None)

        self._cluster.when_recovering(kill)

    # -- deeds: the network, the lock, the disk ---------------------------------------------------

    def deed_cut(self, one: str, how: str, other: str) -> None:
        """cut NODE <-> NODE, cut NODE -> NODE"""
        source = self._node(one).pnn
        self._network.cut(source, self._node(other).pnn, both=how == "<->")

    def deed_isolate(self, who: str) -> None:
        """isolate NODE: its private link is cut"""
        self._network.split([self._node(who).pnn])

    def deed_split(self, *who: str) -> None:
        """split NODE...: these from the others"""
        self._network.split([self._node(each).pnn for each in who])

    def deed_mend(self) -> None:
        """mend: the network, the lock, disks; dead nodes boot, stopped ones continue"""
        self._cluster.faults.mend()

    def deed_lock(self, what: str) -> None:
        """lock lost | hangs | fails"""
        lock = self._cluster.lock
        {"lost": lock.lose, "hangs": lock.hang, "fails": lock.refuse}[what]()

    def deed_disk(self, who: str, what: str) -> None:
        """disk NODE full | hangs"""
        workers = self._node(who).workers
        (workers.fill_disk if what == "full" else workers.hang)()

    # -- expectations -----------------------------------------------------------------------------

    def expect_leader(self, who: str) -> str:
        """expect leader NODE | other (than the last deed was done to) | none"""
        leader = self._leader()
        if who == "none":
            is_so = leader not in range(len(self._cluster.nodes))
        elif who == "other":
            is_so = leader in range(len(self._cluster.nodes)) and leader != self._pnn
        else:
            is_so = leader == self._node(who).pnn
        return "" if is_so else f"node {leader} leads"

    def expect_serving(self, *who: str) -> str:
        """expect serving NODE...: these and no others"""
        serving = [f"n{node.pnn}" for node in self._cluster.nodes if _serves(node)]
        return "" if serving == list(who) else f"{' '.join(serving) or 'nobody'} serve"

    def expect_still(self, who: str) -> str:
        """expect still NODE: it is up and serves nobody"""
        node = self._node(who)
        return "" if node.is_up and not _serves(node) else "it serves"

    def expect_banned(self, *who: str) -> str:
        """expect banned NODE... | nobody"""
        banned = [
            f"n{node.pnn}"
            for node in self._cluster.nodes
            if node.is_up and node.node.state.own.flags & NodeFlag.BANNED
        ]
        wanted = [] if who == ("nobody",) else list(who)
        return "" if banned == wanted else f"{' '.join(banned) or 'nobody'} are banned"

    def expect_rest(self) -> str:
        """expect rest: everybody agrees, nothing moves"""
        return "; ".join(self._cluster.unrest())


def _serves(node: SimNode) -> bool:
    if not node.is_up or node.is_held:
        return False
    state = node.node.state
    is_good = state.runstate is RunState.RUNNING and state.own.is_active and not state.suspended
    return is_good and not state.is_recovering


def _told(trace: list[str]) -> list[str]:
    """The story: lines of the trace that tell it, with times and figures that may vary taken out."""
    story: list[tuple[float, str, str]] = []
    for line in trace:
        moment, _, text = line.strip().partition(" ")
        if _TOLD.match(text):
            for pattern, instead in _FIGURES:
                text = pattern.sub(instead, text)
            node = text.partition(" ")[0] if _NODE.match(text) else ""
            # Rounded down: most follows a deed within less than a tenth of a second.
            story.append((math.floor(float(moment) * 10 + 1e-3) / 10, node, text))
    # What nodes do within a tenth of a second is told node by node: it is often a matter of chance.
    story.sort(key=lambda each: each[:2])
    return [f"{moment_s:.1f} {text}" for moment_s, _, text in story]
