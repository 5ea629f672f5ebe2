# SPDX-License-Identifier: GPL-3.0-or-later
"""Node links over real sockets on the loopback."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from ctdbpy.errors import HostError
from ctdbpy.net import links
from ctdbpy.net.links import Links, explain, explain_end, listen, listen_as_one_of

LIMIT_S = 20.0

_numbers = itertools.count()


class Node:
    """One node's links, with what the record engine does to them: it owns the sockets and hears of ends."""

    def __init__(self, network: Network, pnn: int) -> None:
        self.pnn = pnn
        self.address = network.addresses[pnn]
        self.port = network.port
        self.happened: list[str] = []
        self.logged: list[str] = []
        self.sockets: dict[int, tuple[socket.socket, int, bool]] = {}
        self.changed = asyncio.Condition()
        self.tasks: set[asyncio.Task[None]] = set()
        self.opened = 0
        self.read = b""
        self.start()

    def start(self) -> None:
        self.links = Links(
            listen(self.address, self.port),
            self.address,
            self.port,
            on_connection=self._on_connection,
            on_up=lambda pnn: self._note(f"up {pnn}"),
            on_down=lambda pnn, reason: self._note(f"down {pnn}: {reason}"),
            close=self._close,
            log=self._log,
            spawn=self._spawn,
        )
        self.links.start()

    def _spawn(self, _name: str, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _on_connection(self, link_id: int, pnn: int, outgoing: bool, fd: int) -> None:
        self.opened += 1
        connection = socket.socket(fileno=fd)
        self.sockets[link_id] = connection, pnn, outgoing
        asyncio.get_running_loop().add_reader(fd, self._readable, link_id)
        self._note(f"{'to' if outgoing else 'from'} {pnn}")

    def _readable(self, link_id: int) -> None:
        try:
            data = self.sockets[link_id][0].recv(4096)
            if data:
                self.read += data
                self._note("")
                return
            self._end(link_id, "closed by the other side")
        except OSError as error:
            self._end(link_id, os.strerror(error.errno or 0))

    def _end(self, link_id: int, reason: str) -> None:
        connection, _pnn, _outgoing = self.sockets.pop(link_id)
        asyncio.get_running_loop().remove_reader(connection.fileno())
        connection.close()
        self.links.closed(link_id, reason)

    def _close(self, link_id: int, reason: str) -> None:
        asyncio.get_running_loop().call_soon(
            lambda: self._end(link_id, reason) if link_id in self.sockets else None
        )

    def _log(self, text: str) -> None:
        self.logged.append(text)
        self._note("")

    def _note(self, text: str) -> None:
        if text:
            self.happened.append(text)
        self._spawn("", self._tell())

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, claim: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_S), self.changed:
            await self.changed.wait_for(claim)

    async def stays(self, claim: Callable[[], object], limit_s: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(limit_s), self.changed:
                await self.changed.wait_for(lambda: not claim())

    @property
    def is_up(self) -> bool:
        ups = [text for text in self.happened if text.startswith(("up ", "down "))]
        return bool(ups) and ups[-1].startswith("up ")

    async def die(self) -> None:
        """As a process that is killed: the kernel closes everything at once."""
        self.links.stop()
        for connection, _pnn, _outgoing in self.sockets.values():
            asyncio.get_running_loop().remove_reader(connection.fileno())
            connection.close()
        self.sockets.clear()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Network:
    """Loopback addresses for some nodes, and a port free on all of them."""

    def __init__(self, nodes: int) -> None:
        net = f"127.{os.getpid() % 250 + 1}.{next(_numbers) % 250 + 1}"
        self.addresses = [f"{net}.{number + 1}" for number in range(nodes)]
        with socket.socket() as probe:
            probe.bind((self.addresses[0], 0))
            self.port = int(probe.getsockname()[1])
        self.nodes: list[Node] = []

    def node(self, pnn: int) -> Node:
        node = Node(self, pnn)
        self.nodes.append(node)
        for other, address in enumerate(self.addresses):
            if other != pnn:
                node.links.want(other, address)
        return node

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def whole() -> None:
            try:
                async with asyncio.timeout(3 * LIMIT_S):
                    await scenario()
            finally:
                for node in self.nodes:
                    await node.die()

        asyncio.run(whole())


def test_a_link_is_up_when_both_directions_stand() -> None:
    network = Network(2)

    async def scenario() -> None:
        first = network.node(0)
        await first.until(lambda: first.logged)
        assert not first.is_up
        second = network.node(1)
        await first.until(lambda: first.is_up)
        await second.until(lambda: second.is_up)
        assert sorted(outgoing for _, _, outgoing in first.sockets.values()) == [False, True]
        for node in (first, second):
            for connection, _pnn, _outgoing in node.sockets.values():
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == links.SILENCE_MS

    network.run(scenario)


def test_a_peer_that_comes_late_is_not_waited_for_longer_than_needed() -> None:
    network = Network(2)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        first = network.node(0)
        # Until it asks once a second only, and has just asked.
        await first.until(lambda: first.logged)
        await first.stays(lambda: len(first.logged) == 1, 1.6)
        assert first.links._peers[1].retry_s == links.RETRY_LAST_S
        began_s = loop.time()
        second = network.node(1)
        await first.until(lambda: first.is_up)
        await second.until(lambda: second.is_up)
        assert loop.time() - began_s < links.RETRY_LAST_S / 2

    network.run(scenario)


def test_a_refusal_is_said_once_with_node_address_errno_and_likely_cause() -> None:
    network = Network(2)

    async def scenario() -> None:
        first = network.node(0)
        tries = first.links._peers[1]
        await first.stays(lambda: tries.retry_s, 0.5)
        assert tries.retry_s > 2 * links.RETRY_FIRST_S
        (line,) = first.logged
        assert line == (
            f"cannot connect to node 1 at {network.addresses[1]} port {network.port}: "
            "ECONNREFUSED Connection refused (daemon not running?)"
        )

    network.run(scenario)


def test_a_peer_that_dies_is_noticed_and_taken_back_at_once() -> None:
    network = Network(2)

    async def scenario() -> None:
        first, second = network.node(0), network.node(1)
        await first.until(lambda: first.is_up)
        await second.until(lambda: second.is_up)
        await second.die()
        await first.until(lambda: not first.is_up)
        down = next(text for text in first.happened if text.startswith("down 1: "))
        assert network.addresses[1] in down and str(network.port) in down
        second.start()
        second.links.want(0, network.addresses[0])
        await first.until(lambda: first.is_up)
        await second.until(lambda: second.is_up)

    network.run(scenario)


def test_dropping_a_link_ends_both_directions_and_builds_it_again() -> None:
    network = Network(2)

    async def scenario() -> None:
        first, second = network.node(0), network.node(1)
        await first.until(lambda: first.is_up)
        await second.until(lambda: second.is_up)
        opened = first.opened
        first.links.drop(1, "no packet in 5 keepalive intervals", forget=False)
        assert first.happened[-1] == "down 1: no packet in 5 keepalive intervals"
        await second.until(lambda: any(text.startswith("down 0") for text in second.happened))
        await first.until(lambda: first.is_up and first.opened >= opened + 2)
        await second.until(lambda: second.is_up)

    network.run(scenario)


def test_a_forgotten_node_is_neither_called_nor_listened_to() -> None:
    network = Network(2)

    async def scenario() -> None:
        first, second = network.node(0), network.node(1)
        await first.until(lambda: first.is_up)
        await second.until(lambda: second.is_up)
        first.links.drop(1, "the nodes file does not have it any more", forget=True)
        await second.until(lambda: not second.is_up)
        await second.until(lambda: any("has its nodes file" in text for text in second.logged))
        await first.until(lambda: any("refused a connection" in text for text in first.logged))
        refusals = [text for text in first.logged if "refused" in text]
        assert refusals == [
            f"refused a connection from '{network.addresses[1]}': no node of the nodes file has this address"
        ]
        # The other one goes on trying, with pauses.
        before = second.opened
        await second.stays(lambda: second.opened - before <= 12, 1.0)

    network.run(scenario)


def test_a_second_connection_of_a_node_replaces_the_first() -> None:
    network = Network(2)

    async def scenario() -> None:
        first = network.node(0)
        mute = listen(network.addresses[1], network.port)
        loop = asyncio.get_running_loop()
        kept = [(await loop.sock_accept(mute))[0]]
        try:
            for _ in range(3):
                before = len([text for text in first.happened if text == "from 1"])
                connection = socket.socket()
                kept.append(connection)
                connection.setblocking(False)
                connection.bind((network.addresses[1], 0))
                await loop.sock_connect(connection, (network.addresses[0], network.port))
                await first.until(lambda: first.happened.count("from 1") == before + 1)  # noqa: B023
                assert sum(not outgoing for _, _, outgoing in first.sockets.values()) <= 2
            # Those before it have been closed.
            for connection in kept[1:-1]:
                assert await asyncio.wait_for(loop.sock_recv(connection, 1), LIMIT_S) == b""
            assert first.is_up
        finally:
            mute.close()
            for connection in kept:
                connection.close()

    network.run(scenario)


def test_nothing_is_read_before_it_could_be_answered() -> None:
    network = Network(2)

    async def scenario() -> None:
        first = network.node(0)
        loop = asyncio.get_running_loop()
        await first.until(lambda: first.logged)
        with socket.socket() as early:
            early.setblocking(False)
            early.bind((network.addresses[1], 0))
            await loop.sock_connect(early, (network.addresses[0], network.port))
            await loop.sock_sendall(early, b"a control")
            await first.stays(lambda: not first.happened, 0.3)
            with listen(network.addresses[1], network.port) as listener:
                ours, _address = await loop.sock_accept(listener)
                with ours:
                    await first.until(lambda: first.is_up)
                    assert first.happened == ["to 1", "from 1", "up 1"]
                    # What came early is still there.
                    await first.until(lambda: first.read == b"a control")

    network.run(scenario)


def test_a_stranger_is_refused_and_named() -> None:
    network = Network(3)

    async def scenario() -> None:
        first = network.node(0)
        first.links.drop(2, "for this test", forget=True)
        loop = asyncio.get_running_loop()
        for _ in range(5):
            with socket.socket() as stranger:
                stranger.setblocking(False)
                stranger.bind((network.addresses[2], 0))
                await loop.sock_connect(stranger, (network.addresses[0], network.port))
                assert await asyncio.wait_for(loop.sock_recv(stranger, 1), LIMIT_S) == b""
        assert [text for text in first.logged if "refused" in text and "cannot" not in text] == [
            f"refused a connection from '{network.addresses[2]}': no node of the nodes file has this address"
        ]

    network.run(scenario)


def test_both_ends_that_begin_anew_all_the_time_come_to_rest() -> None:
    network = Network(3)

    async def scenario() -> None:
        nodes = [network.node(pnn) for pnn in range(3)]
        for _ in range(6):
            opened = nodes[0].opened
            for node in nodes:
                for other in range(3):
                    node.links.drop(other, "shaken", forget=False)
            await nodes[0].until(lambda: nodes[0].opened > opened)  # noqa: B023
        for node in nodes:
            await node.until(lambda: len(node.sockets) == 4)  # noqa: B023
        before = [node.opened for node in nodes]
        await nodes[0].stays(lambda: [node.opened for node in nodes] == before, 1.0)

    network.run(scenario)


def test_without_descriptors_connecting_and_accepting_go_on_later() -> None:
    network = Network(2)

    async def scenario() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        first, second = Node(network, 0), Node(network, 1)
        network.nodes += [first, second]
        used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        plug = [os.dup(0) for _ in range(used - len(os.listdir("/proc/self/fd")) + 1)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
        try:
            first.links.want(1, second.address)
            second.links.want(0, first.address)
            await first.until(lambda: any("EMFILE" in text for text in first.logged))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in plug:
                os.close(fd)
        await first.until(lambda: first.is_up)
        await second.until(lambda: second.is_up)

    network.run(scenario)


def test_an_errno_is_explained() -> None:
    assert explain(errno.ETIMEDOUT, 4379) == (
        "ETIMEDOUT Connection timed out (host down, or is TCP 4379 blocked?)"
    )
    assert explain_end("Connection reset by peer", 4379).startswith("ECONNRESET ")
    assert explain_end("packet shorter than its header", 4379) == "packet shorter than its header"


def test_the_node_is_found_by_the_address_that_can_be_listened_on() -> None:
    network = Network(3)
    with listen(network.addresses[0], network.port), listen(network.addresses[1], network.port):
        pnn, listener = listen_as_one_of(dict(enumerate(network.addresses)), network.port, None)
        with listener:
            assert pnn == 2
        with pytest.raises(HostError, match=rf"'{network.addresses[1]}': Address already in use"):
            listen_as_one_of(dict(enumerate(network.addresses)), network.port, network.addresses[1])
