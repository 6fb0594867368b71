"""A connection of TVM's RPC that does not wait for ever.

TVM reads from its socket without a limit and does not hand it out. It is found among the
descriptors of this process, and told to give up on a machine that is gone (TCP keepalive, RFC 9293
section 3.8.4, and TCP_USER_TIMEOUT, tcp(7)) or that sends nothing (SO_RCVTIMEO, socket(7)).
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from stat import S_ISSOCK
from typing import Any

from tvm import rpc

_REACH = 5.0  # seconds; TVM's own attempt waits for minutes where an address swallows packets
_HANDSHAKE = 20.0  # seconds; takes one round trip and a fork
_IDLE, _BETWEEN, _PROBES = 10, 5, 4  # of keepalive: a machine switched off is noticed after 30 s
_UNSENT = 30_000  # milliseconds that sent data may stay unacknowledged

_connecting = threading.Lock()  # one at a time, so that a new descriptor is known by being new


class Connection:
    """A session of an RPC server, with limits to how long it may be silent.

    Attributes:
        session: TVM's session.
        close: Gives up the means to `cut`; the session goes on.
    """

    def __init__(self, host: str, port: int, silence: float) -> None:
        """Connect; a call that gets no byte for `silence` seconds fails from then on.

        Raises:
            OSError: nobody answers, or what answers does not greet as an RPC server does.
            RuntimeError: TVM refuses what answers.
        """
        reachable(host, port, _REACH)
        with _connecting:
            before = set(_connections(port))
            self.session = _within(
                _HANDSHAKE,
                lambda: rpc.connect(host, port),
                lambda: _cut(set(_connections(port)) - before),
            )
            found = set(_connections(port)) - before
            self._ends = [os.dup(number) for number in found]  # ours, whatever TVM closes
        self.close = weakref.finalize(self, _close, self._ends)
        for number in self._ends:
            with _socket(number) as end:
                _limit(end, silence)

    def cut(self) -> None:
        """Break the connection: calls under way and to come fail at once.

        Without it even the release of a tensor waits for an answer of the far side.
        """
        if self.close.alive:
            _cut(self._ends)


def _close(ends: Iterable[int]) -> None:
    for number in ends:
        os.close(number)


def reachable(host: str, port: int, seconds: float = _REACH) -> None:
    """Raise `OSError` if no server takes connections at an address within some seconds."""
    socket.create_connection((host, port), timeout=seconds).close()


def _within(seconds: float, function: Callable[[], Any], give_up: Callable[[], object]) -> Any:
    """The result of a function; `give_up` has to end it when the time is over."""
    done: list[Any] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(function())
        except Exception as problem:
            failed.append(problem)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        give_up()
        raise TimeoutError(
            None, f"it does not greet within {seconds:g} s: it hangs or serves somebody else"
        )
    if failed:
        raise failed[0]
    return done[0]


def _limit(end: socket.socket, silence: float) -> None:
    for option, value in (
        (socket.TCP_KEEPIDLE, _IDLE),
        (socket.TCP_KEEPINTVL, _BETWEEN),
        (socket.TCP_KEEPCNT, _PROBES),
        (socket.TCP_USER_TIMEOUT, _UNSENT),
    ):
        end.setsockopt(socket.IPPROTO_TCP, option, value)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    time = struct.pack("ll", int(silence), int(silence % 1 * 1e6))  # struct timeval
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, time)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, time)


def _cut(descriptors: Iterable[int]) -> None:
    for number in descriptors:
        with suppress(OSError), _socket(number) as end:
            end.shutdown(socket.SHUT_RDWR)


def _connections(port: int) -> Iterator[int]:
    """Descriptors of this process that are connected to a port."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile, or not connected
            if S_ISSOCK(os.fstat(int(name)).st_mode):
                with _socket(int(name)) as end:
                    peer = end.getpeername()
                if peer[1:2] == (port,):
                    yield int(name)


@contextmanager
def _socket(number: int) -> Iterator[socket.socket]:
    """A socket of its own for a descriptor: closing it leaves the descriptor open."""
    with socket.socket(fileno=os.dup(number)) as end:
        yield end
