# SPDX-License-Identifier: GPL-3.0-or-later
"""A takeover run without the waiting: from what nodes say about addresses to who releases and takes what.

    survey = survey_of(answers, flags)      what nodes know, have and could serve
    plan = allocate(survey.addresses, rules)
    transfers = transfers_of(survey, plan)  what to tell whom, the urgent first

The order rule is each address's own: it is taken when every node that said it had it has released it. An
address whose release failed is taken by nobody in this run; the others do not wait for it.

Source: reference/ctdb.md 7.14, 7.17.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ctdbpy.core.failover.allocation import Address, Plan
from ctdbpy.core.failover.slices import DECODED, Sliced, at_once
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag
from ctdbpy.wire.structures import PublicIp, SockAddr

#: What keeps a node from serving addresses, in words for "node 2 is ...": the first that applies.
_WORDS: Final = (
    (NodeFlag.DELETED, "deleted"),
    (NodeFlag.DISCONNECTED, "disconnected"),
    (NodeFlag.BANNED, "banned"),
    (NodeFlag.STOPPED, "stopped"),
    (NodeFlag.PERMANENTLY_DISABLED, "disabled"),
    (NodeFlag.UNHEALTHY, "unhealthy"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a connected node answered to GET_PUBLIC_IPS: all it knows, and what it could serve now."""

    pnn: int
    known: tuple[PublicIp, ...]
    available: tuple[PublicIp, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """All answers together; `holders` are the nodes that say of themselves that they have an address."""

    addresses: tuple[Address, ...]
    holders: Mapping[str, frozenset[int]]

    @property
    def is_idle(self) -> bool:
        """True if no address is anywhere, nor could be: nobody need be told anything but IPREALLOCATED."""
        return not any(address.available_on or self.holders[address.ip] for address in self.addresses)

    @property
    def is_wrong(self) -> bool:
        """True if some address is in several places, or nowhere although it could be somewhere."""
        return any(
            len(self.holders[address.ip]) != 1 and bool(self.holders[address.ip] or address.available_on)
            for address in self.addresses
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one address needs: releases, then its taking.

    Attributes:
        order: The body of all its RELEASE_IP and TAKEOVER_IP: the address and the node it shall be on.
        holders: Nodes that have it and must have released it before it is taken.
        others: Nodes that only hear where it is from now on; nothing waits for their answers.
        is_urgent: The address is not where it shall be, or in more places than that.
    """

    order: PublicIp
    holders: tuple[int, ...]
    others: tuple[int, ...]
    is_urgent: bool
    reason: str

    @property
    def taker(self) -> int | None:
        """The node that takes it, be it only to make sure that it is there."""
        return None if self.order.pnn == UNKNOWN_PNN else self.order.pnn


def survey_of(
    answers: Iterable[Answer], flags: Mapping[int, NodeFlag], *, hosts_when_all_disabled: bool = False
) -> Survey:
    """Draw the answers together.

    A node is believed what it says of itself alone. If two say that they have an address, it counts
    as the higher one's, as it does for upstream; both are among its holders.

    Args:
        flags: All nodes' flags, those of nodes without an answer too.
        hosts_when_all_disabled: NoIPHostOnAllDisabled is 0: when no node is healthy, those that are active
            could serve whatever they know.
    """
    return at_once(survey_in_slices(answers, flags, hosts_when_all_disabled=hosts_when_all_disabled))


def survey_in_slices(
    answers: Iterable[Answer], flags: Mapping[int, NodeFlag], *, hosts_when_all_disabled: bool = False
) -> Sliced[Survey]:
    """The same, as work that may be interrupted."""
    answers = sorted(answers, key=lambda answer: answer.pnn)
    is_last_resort = hosts_when_all_disabled and not any(not each for each in flags.values())
    known: dict[str, set[int]] = {}
    able: dict[str, set[int]] = {}
    holders: dict[str, set[int]] = {}
    for answer in answers:
        for ip in answer.known:
            known.setdefault(ip.address.host, set()).add(answer.pnn)
            if ip.pnn == answer.pnn:
                holders.setdefault(ip.address.host, set()).add(answer.pnn)
        own = flags.get(answer.pnn, NodeFlag.DISCONNECTED)
        if is_last_resort and not own & NodeFlag.INACTIVE:
            available = answer.known
        elif own:
            available = ()
        else:
            available = answer.available
        for ip in available:
            able.setdefault(ip.address.host, set()).add(answer.pnn)
        yield 2 * (len(answer.known) + len(available))
    return Survey(
        tuple(
            Address(
                ip,
                max(holders.get(ip, ()), default=None),
                frozenset(pnns | able.get(ip, set())),
                frozenset(able.get(ip, ())),
            )
            for ip, pnns in known.items()
        ),
        {ip: frozenset(holders.get(ip, ())) for ip in known},
    )


def hindrances_of(flags: Mapping[int, NodeFlag]) -> dict[int, str]:
    """Why nodes serve nothing, for `Rules.hindrances`."""
    words = {}
    for pnn, own in flags.items():
        for flag, word in _WORDS:
            if own & flag:
                words[pnn] = word
                break
    return words


def transfers_of(survey: Survey, plan: Plan) -> tuple[Transfer, ...]:
    """What to tell whom about each address: the urgent ones first, each part in the plan's order.

    Addresses that stay are told again to all who know them, as upstream does: it mends what nodes have wrong.
    """
    return at_once(transfers_in_slices(survey, plan))


def transfers_in_slices(survey: Survey, plan: Plan) -> Sliced[tuple[Transfer, ...]]:
    """The same, as work that may be interrupted."""
    addresses = {address.ip: address for address in survey.addresses}
    transfers = []
    for ip, placement in plan.placements.items():
        taker = placement.pnn
        holders = survey.holders[ip]
        releasers = sorted(addresses[ip].known_by - {taker})
        transfers.append(
            Transfer(
                order=PublicIp(UNKNOWN_PNN if taker is None else taker, SockAddr(ip)),
                holders=tuple(pnn for pnn in releasers if pnn in holders),
                others=tuple(pnn for pnn in releasers if pnn not in holders),
                is_urgent=holders != (frozenset() if taker is None else {taker}),
                reason=placement.reason,
            )
        )
        yield DECODED + len(releasers)
    return tuple(sorted(transfers, key=lambda transfer: not transfer.is_urgent))


def releases_by_node(transfers: Iterable[Transfer]) -> dict[int, tuple[PublicIp, ...]]:
    """What each node is told to release, in order: what it has before what it only hears of."""
    orders: dict[int, list[PublicIp]] = {}
    transfers = tuple(transfers)
    for transfer in transfers:
        for pnn in transfer.holders:
            orders.setdefault(pnn, []).append(transfer.order)
    for transfer in transfers:
        for pnn in transfer.others:
            orders.setdefault(pnn, []).append(transfer.order)
    return {pnn: tuple(orders[pnn]) for pnn in sorted(orders)}


def takes_by_node(transfers: Iterable[Transfer]) -> dict[int, tuple[PublicIp, ...]]:
    """What each node is told to take, in order."""
    orders: dict[int, list[PublicIp]] = {}
    for transfer in transfers:
        if transfer.taker is not None:
            orders.setdefault(transfer.taker, []).append(transfer.order)
    return {pnn: tuple(orders[pnn]) for pnn in sorted(orders)}


def may_take(transfer: Transfer, released_by: Iterable[int]) -> bool:
    """The order rule: True once nobody has the address any more."""
    return transfer.taker is not None and frozenset(transfer.holders) <= frozenset(released_by)
