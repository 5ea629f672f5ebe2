# SPDX-License-Identifier: GPL-3.0-or-later
"""The RPC client, against servers that answer as they should and as they should not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services import oncrpc
from ctdbpy.services.oncrpc import Service, Xdr, opaque, record, uint

LIMIT_S = 5.0
HERE = "127.0.0.1"

#: What a server makes of a call: bytes to send back for its xid and arguments, piece by piece.
Answer = Callable[[bytes, bytes], list[bytes]]


def accepted(xid: bytes, result: bytes = b"", *, status: int = 0) -> bytes:
    return xid + uint(1) + uint(0) + bytes(8) + uint(status) + result


def arguments_of(message: bytes) -> bytes:
    call = Xdr(message)
    call.take(24)
    for _ in ("credential", "verifier"):
        call.uint()
        call.opaque()
    return message[len(message) - len(call.rest()) :]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Service]]:
    """Serves one TCP connection and any number of datagrams at a port."""
    sockets: list[socket.socket] = []

    def start(answer: Answer) -> Service:
        listener = socket.create_server((HERE, 0))
        port = listener.getsockname()[1]
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((HERE, port))
        sockets.extend((listener, datagrams))

        def over_tcp() -> None:
            with closing(listener.accept()[0]) as connection:
                size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big") & 0x7FFFFFFF
                message = connection.recv(size, socket.MSG_WAITALL)
                for piece in answer(message[:4], arguments_of(message)):
                    connection.sendall(piece)

        def over_udp() -> None:
            while True:
                message, sender = datagrams.recvfrom(1 << 16)
                for piece in answer(message[:4], arguments_of(message)):
                    datagrams.sendto(piece, sender)

        for work in (over_tcp, over_udp):
            threading.Thread(target=_quietly(work), daemon=True).start()
        return Service("thing", 400100, 3, port)

    yield start
    for each in sockets:
        # Who waits in it is woken by this, not by close().
        each.close()


def _quietly(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except OSError:
            pass  # The test is over.

    return run


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_call_brings_its_result(serve: Callable[[Answer], Service], transport: str) -> None:
    def double(xid: bytes, arguments: bytes) -> list[bytes]:
        reply = accepted(xid, opaque(Xdr(arguments).opaque() * 2))
        return [record(reply) if transport == "tcp" else reply]

    reply = oncrpc.call(HERE, serve(double), 7, opaque(b"abcde"), transport=transport, timeout_s=LIMIT_S)
    assert reply.opaque() == b"abcdeabcde"
    assert reply.rest() == b""


def test_a_reply_may_come_in_fragments_and_after_another(serve: Callable[[Answer], Service]) -> None:
    def answer(xid: bytes, _arguments: bytes) -> list[bytes]:
        late = record(accepted(b"late", uint(1)))
        reply = accepted(xid, uint(5))
        first = uint(10) + reply[:10]
        return [late, first[:3], first[3:], record(reply[10:])]

    assert oncrpc.call(HERE, serve(answer), 1, timeout_s=LIMIT_S).uint() == 5


def test_a_datagram_is_sent_again(serve: Callable[[Answer], Service]) -> None:
    seen = []

    def answer(xid: bytes, _arguments: bytes) -> list[bytes]:
        seen.append(xid)
        return [accepted(xid)] if len(seen) == 2 else []

    oncrpc.null(HERE, serve(answer), "udp", timeout_s=LIMIT_S)
    assert len(set(seen)) == 1, "the same call"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda xid, _: [record(accepted(xid, status=1))], "it does not serve that program"),
        (lambda xid, _: [record(accepted(xid, status=2))], "it does not serve that version"),
        (lambda xid, _: [record(accepted(xid, status=77))], "status 77"),
        (lambda xid, _: [record(xid + uint(1) + uint(1) + uint(1))], "it refuses the call: credentials"),
        (lambda xid, _: [record(xid)], "cannot read an RPC reply: it ends at byte 4"),
        (lambda _xid, _: [], "it closed the connection"),
        (lambda _xid, _: [uint(0x7FFFFFFF)], "it answers with 2147483647 bytes, more than 1049600"),
    ],
)
def test_what_is_no_answer_is_one_clear_line(
    serve: Callable[[Answer], Service], answer: Answer, reason: str
) -> None:
    with pytest.raises(ServiceError) as error:
        oncrpc.call(HERE, serve(answer), 1, timeout_s=LIMIT_S)
    assert str(error.value) == f"cannot call thing at '127.0.0.1' by tcp: {reason}"


def test_who_does_not_answer_is_given_up(serve: Callable[[Answer], Service]) -> None:
    silent = serve(lambda _xid, _arguments: [])
    with pytest.raises(ServiceError, match=r"by udp: no answer within 0\.1 s"):
        oncrpc.null(HERE, silent, "udp", timeout_s=0.1)


def test_a_datagram_that_nobody_takes_is_waited_for() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HERE, 0))
        port = taken.getsockname()[1]
    with pytest.raises(ServiceError, match=r"by udp: no answer within 0\.4 s"):
        oncrpc.null(HERE, Service("thing", 1, 1, port), "udp", timeout_s=0.4)


def test_where_nobody_listens_is_said_so() -> None:
    with socket.create_server((HERE, 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServiceError, match="by tcp: Connection refused"):
        oncrpc.null(HERE, Service("thing", 1, 1, port), timeout_s=LIMIT_S)


@pytest.mark.parametrize("size", range(5))
def test_opaque_data_are_padded_and_come_back(size: int) -> None:
    data = bytes(range(size))
    packed = opaque(data)
    assert len(packed) % 4 == 0
    reader = Xdr(packed + uint(9))
    assert (reader.opaque(), reader.uint(), reader.rest()) == (data, 9, b"")


def test_a_length_beyond_the_end_is_refused() -> None:
    with pytest.raises(ServiceError, match="it ends at byte 8"):
        Xdr(uint(1 << 31) + uint(0)).opaque()
