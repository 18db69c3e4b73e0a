"""How ranks that no MPI connects find each other, before and beside their sums."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import weakref
from typing import Any

from evenflow.errors import ConfigError, RanksError

PAUSE, ANSWER_SECONDS = 0.1, 10.0
"""Between two attempts to connect, and for a message on a connection."""
LONGEST = 1 << 20  # bytes of a message


def exchange(mine: Any, rank: int, size: int, at: tuple[str, int], job: str, seconds: float) -> list[Any]:
    """The small things of all ranks, by rank, which JSON can hold.

    Rank 0 collects them at the address, and hands them round. RanksError where one does not come in time.
    """
    deadline = time.monotonic() + seconds
    if rank > 0:
        return _follow({"job": job, "size": size, "rank": rank, "thing": mine}, at, deadline, seconds)
    things = {0: mine}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(at[1]))
        answers = {}
        while len(things) < size:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                connection = stack.enter_context(server.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(r) for r in range(size) if r not in things)
                raise RanksError(f"[torchrun] expected all {size} ranks at {at[0]}:{at[1]} within {seconds:g} s, "
                                 f"got none from rank {missing}") from None
            theirs = _receive(connection)
            if (isinstance(theirs, dict) and theirs.get("job") == job and theirs.get("size") == size
                    and theirs.get("rank") in range(1, size) and "thing" in theirs):
                things[theirs["rank"]], answers[theirs["rank"]] = theirs["thing"], connection
        in_order = [things[r] for r in range(size)]
        for connection in answers.values():
            with contextlib.suppress(OSError):  # a rank that has died since is missed at the first sum
                _send(connection, in_order)
    return in_order


def _server(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise ConfigError(f"[torchrun] expected port {port}, MASTER_PORT + 1, to be free on rank 0, "
                          f"got: {error}") from error


def _follow(mine: dict[str, Any], at: tuple[str, int], deadline: float, seconds: float) -> list[Any]:
    problem = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(at, timeout=left) as connection:
                _send(connection, mine)
                connection.settimeout(left)
                answer = _receive(connection, left)
                if isinstance(answer, list):
                    return answer
        except OSError as error:
            problem = str(error)
        time.sleep(PAUSE)
    raise RanksError(f"[torchrun] expected rank 0 to answer at {at[0]}:{at[1]} within {seconds:g} s, "
                     f"got: {problem}")


def _send(connection: socket.socket, thing: Any) -> None:
    connection.sendall(json.dumps(thing).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float = ANSWER_SECONDS) -> Any:
    """None where what comes is no message."""
    connection.settimeout(seconds)
    try:
        with connection.makefile("rb") as file:
            return json.loads(file.readline(LONGEST))
    except (OSError, ValueError):
        return None


class Notes:
    """Signs from rank to rank, by UDP: they wait for nobody, and may be lost."""

    def __init__(self, job: str, address: str):
        try:
            family, kind, _, _, there = socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind)
            weakref.finalize(self, self._socket.close)
            self._socket.bind(("", 0))
            self._socket.setblocking(False)
            with socket.socket(family, kind) as route:  # sends nothing, but has the address of this side
                route.connect(there)
                host = route.getsockname()[0]
        except OSError as error:
            raise ConfigError(f"[torchrun] expected the name of a host as MASTER_ADDR, got {address!r}: "
                              f"{error}") from error
        self._job = job
        self._come: set[tuple[int, int]] = set()
        self.place: tuple[str, int] = (host, self._socket.getsockname()[1])
        self.places: list[tuple[str, int]] = []  # of all ranks

    def send(self, rank: int, dest: int, tag: int) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendto(json.dumps([self._job, rank, tag]).encode(), self.places[dest])

    def has_come(self, source: int, tag: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                with contextlib.suppress(ValueError, TypeError):  # no note of this job's
                    job, rank, its_tag = json.loads(self._socket.recv(1024))
                    if job == self._job:
                        self._come.add((rank, its_tag))
        return (source, tag) in self._come

    def take(self, source: int, tag: int) -> None:
        self._come.discard((source, tag))
