"""A server that keeps a journal and does wrong when it is ordered to: ``python -S -m tests.chaos.faultserver``.

It knows nothing of rproxy and starts within a few hundredths of a second. Without ``--pipeline`` it is one of the old
kind (docs/reference/protocol.rst, "Peers in the field"): it registers once and then binds its port, serves one
connection at a time, and takes each read for one packet. With it, it holds a lease for each policy, takes connections
as they come, and drains on SIGTERM.

Orders come in a file, one a line; each is for the next packet that comes, whichever that is:

- ``late SECONDS``: answer it so much later.
- ``reset``: reset the connection in the middle of the answer.
- ``garbage FORM``: answer something that is no answer; the forms are in :data:`GARBAGE`.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tests.chaos.journal import ANSWERED, WORK, Journal, sha1_hex

HOST = "127.0.0.1"
#: The most that a server of the old kind takes from a socket at a time, and how many connections wait for it.
CLASSIC_READ = 2048
CLASSIC_BACKLOG = 10
#: Seconds between two attempts to register, when the proxy is gone.
RETRY = 0.1
#: Seconds that a proxy may take to acknowledge a setup packet, and that draining may take.
PATIENCE = 5.0
#: Seconds between two looks at what is still open while draining.
LOOK = 0.01

#: What is sent for an answer: no JSON; JSON that is no packet; an ACK for a client that isn't the packet's.
GARBAGE = {
    "noise": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "nonsense": b'{"type": "2", "payload": []}',
    "stranger": b"",
}


class Orders:
    """What the server was told to do to the packets that come; orders given before it started are void."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        os.lseek(self._file, 0, os.SEEK_END)
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()

    def next(self) -> str:
        """Return the order for a packet that came."""
        with self._lock:
            # Orders are written whole, each by one write.
            self._waiting.extend(os.read(self._file, 1 << 16).decode().splitlines())
            return self._waiting.popleft() if self._waiting else ANSWERED


class Worker:
    """From a packet to what is answered, or done instead."""

    def __init__(self, server_id: str, journal: Journal, orders: Orders) -> None:
        self._id = server_id
        self._journal = journal
        self._orders = orders

    def handle(self, connection: socket.socket, packet: dict[str, Any]) -> bool:
        """Write the packet down and answer it as ordered; False if the connection is gone then."""
        order = self._orders.next()
        client, digest = packet["srcid"], sha1_hex(packet["payload"])
        self._journal.add(digest, client, packet["privPoliId"], order)
        deed, _, detail = order.partition(" ")
        answer = self._ack(client, digest)
        time.sleep(float(detail) if deed == "late" else WORK)
        if deed == "reset":
            connection.sendall(answer[: len(answer) // 2])
            reset(connection)
            return False
        if deed == "garbage":
            answer = GARBAGE[detail] or self._ack("nobody", digest)
        connection.sendall(answer)
        return True

    def _ack(self, client: str, digest: str) -> bytes:
        return json.dumps({"type": "2", "srcid": self._id, "destid": client, "payload": digest}).encode()


def reset(connection: socket.socket) -> None:
    """Close a connection by a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Objects:
    """The JSON objects in a stream, however TCP cut them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._text = ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                packet, end = self._json.raw_decode(self._text)
            except ValueError:
                read = self._connection.recv(1 << 16)
                if not read:
                    return
                self._text += self._utf8.decode(read)
            else:
                self._text = self._text[end:].lstrip()
                yield packet


class Lease:
    """The connection that a registration for one policy lives by; made again whenever it is lost."""

    def __init__(self, proxy: int, setup: dict[str, Any], lease: float) -> None:
        self._proxy = proxy
        self._setup = setup
        self._lease = lease
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._draining = False
        self._drained = threading.Event()

    def start(self) -> None:
        """Register, and stay registered."""
        threading.Thread(target=self._run, daemon=True).start()

    def drain(self) -> None:
        """Have nothing new sent, and never register again; returns when the proxy knows it, if there is one."""
        with self._lock:
            self._draining = True
            registered = self._connection is not None and self._send(self._connection, drain=True)
        if registered:
            self._drained.wait(PATIENCE)

    def _run(self) -> None:
        while not self._draining:
            try:
                with socket.create_connection((HOST, self._proxy), PATIENCE) as connection:
                    self._hold(connection)
            except OSError:
                pass  # The proxy is gone, or just going: it will be back.
            time.sleep(RETRY)
        self._drained.set()

    def _hold(self, connection: socket.socket) -> None:
        """Register over this connection, and renew until it is lost."""
        answers = iter(Objects(connection))
        with self._lock:
            if self._draining or not self._send(connection):
                return
            self._connection = connection
        try:
            while (answer := next(answers, None)) is not None and answer["type"] == "2":
                if answer["payload"] == "draining":
                    self._drained.set()
                # Its answer comes at once, so nothing else is waiting to be read meanwhile.
                elif not select.select([connection], [], [], self._lease / 3)[0]:
                    with self._lock:
                        self._send(connection)
        finally:
            with self._lock:
                self._connection = None

    def _send(self, connection: socket.socket, *, drain: bool = False) -> bool:
        try:
            connection.sendall(json.dumps({**self._setup, "drain": drain or self._draining}).encode())
        except OSError:
            return False
        return True


class ModernServer:
    """Takes connections as they come, many packets on each."""

    def __init__(self, listener: socket.socket, leases: list[Lease], worker: Worker) -> None:
        self._listener = listener
        self._leases = leases
        self._worker = worker
        self._lock = threading.Lock()
        self._open = 0

    def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        # Threads inherit the mask, so the signal waits for this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._accept, daemon=True).start()
        for lease in self._leases:
            lease.start()
        signal.sigwait({signal.SIGTERM})
        for lease in self._leases:
            lease.drain()
        deadline = time.monotonic() + PATIENCE
        while not self._idle() and time.monotonic() < deadline:
            time.sleep(LOOK)

    def _idle(self) -> bool:
        """Whether the proxy has closed every connection, also those that weren't accepted yet."""
        with self._lock:
            return not self._open and not _readable(self._listener, 0)

    def _accept(self) -> None:
        while True:
            _readable(self._listener, None)
            with self._lock:
                connection = self._listener.accept()[0]
                self._open += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for packet in Objects(connection):
                    if not self._worker.handle(connection, packet):
                        return
        except OSError:
            pass  # The proxy gave the connection up.
        finally:
            with self._lock:
                self._open -= 1


def _readable(listener: socket.socket, seconds: float | None) -> bool:
    return bool(select.select([listener], [], [], seconds)[0])


def serve_classic(listener: socket.socket, worker: Worker) -> None:
    """Serve one connection after the other, for ever; a read is a packet."""
    while True:
        connection = listener.accept()[0]
        try:
            with connection:
                while read := connection.recv(CLASSIC_READ):
                    if not worker.handle(connection, json.loads(read)):
                        break
        except OSError:
            pass  # The proxy gave the connection up.


def listen(port: int, backlog: int) -> socket.socket:
    """Bind the port, and say so."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(backlog)
    sys.stdout.write(f"Listening on port {port}\n")
    sys.stdout.flush()
    return listener


def setup_packet(server_id: str, policy: str, port: int) -> dict[str, Any]:
    """Return the setup packet of a server of the old kind."""
    return {"type": "1", "id": server_id, "privPolyId": policy, "listenport": str(port)}


def register_classic(proxy: int, server_id: str, policy: str, port: int) -> None:
    """Register as servers of the old kind do: one packet, and no wait for an answer.

    :raises OSError: the proxy is gone.
    """
    with socket.create_connection((HOST, proxy), PATIENCE) as connection:
        connection.sendall(json.dumps(setup_packet(server_id, policy, port)).encode())


def main() -> None:
    """Run the server that the options ask for."""
    parser = argparse.ArgumentParser(prog="python -S -m tests.chaos.faultserver")
    parser.add_argument("--id", required=True)
    parser.add_argument("--policy", action="append", required=True)
    for option in ("--port", "--proxy"):
        parser.add_argument(option, type=int, required=True)
    for option in ("--journal", "--orders"):
        parser.add_argument(option, required=True)
    parser.add_argument("--pipeline", type=int, default=0)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--lease", type=float, default=1.0)
    options = parser.parse_args()
    worker = Worker(options.id, Journal(options.journal), Orders(options.orders))
    if options.pipeline:
        terms = {"pipeline": options.pipeline, "connections": options.connections, "lease": options.lease}
        leases = [
            Lease(options.proxy, {**setup_packet(options.id, policy, options.port), **terms}, options.lease)
            for policy in options.policy
        ]
        ModernServer(listen(options.port, socket.SOMAXCONN), leases, worker).run()
    else:
        for policy in options.policy:
            # Without a proxy, it's for the operator to register it when that is back.
            with suppress(OSError):
                register_classic(options.proxy, options.id, policy, options.port)
        serve_classic(listen(options.port, CLASSIC_BACKLOG), worker)


if __name__ == "__main__":
    main()
