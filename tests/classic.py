"""The peers already in the field, rebuilt from their description (docs/reference/protocol.rst, "Peers in the field").

They are plain blocking scripts: one read is one packet, whatever TCP made of it, and nobody checks anything. rproxy
must not disturb them, so they share no code with it and are no better than what they stand for. Where such a script
would have died of a traceback, a :class:`Fault` is recorded, and what would have closed closes.

In tests they are a function and two classes that run in threads; ``python -m tests.classic client|server|proxy`` runs
each in a process of its own, with the lines that people know on its terminal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

from attrs import frozen

#: The most that any of them takes from a socket at a time, in bytes; each read is taken for exactly one packet.
READ_BYTES = 2048
#: How many connections wait for a classic server.
BACKLOG = 10
#: Seconds that a peer waits where the real one waits for ever: a test must end.
PATIENCE = 30.0

#: What the plain code of such a script dies of when a read isn't the packet it takes it for.
_CRASHES = (ValueError, LookupError, TypeError, AttributeError, RecursionError)

Say = Callable[[str], None]


def sha1_hex(text: str) -> str:
    """Return what every classic server answers: the SHA-1 of the payload's UTF-8 in hex."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def silent(line: str) -> None:
    """Print nothing: how the peers run in tests, unless they are given something else, as ``[].append``."""


@frozen
class Reply:
    """What the classic client made of its one read.

    :ivar packet: the object, whatever its type: the client doesn't look.
    :ivar hash_ok: whether its payload is the SHA-1 of what was sent.
    """

    packet: dict[str, Any]
    hash_ok: bool


@frozen
class Fault:
    """Where a real peer would have died: what it had read, and the error's text."""

    read: bytes
    error: str


def send(
    host: str, port: int, srcid: str, policy: str, payload: str, *, say: Say = silent, patience: float = PATIENCE
) -> Reply:
    """Be the classic client: one packet out, one read, no goodbye (docs/reference/protocol.rst, "Peers in the field").

    :param patience: seconds to wait for the connection and for the answer; the real one waits for ever.
    :raises OSError: nobody listens, or nothing came in time (``TimeoutError``).
    :raises ValueError: the one read was no whole object; a real client dies here.
    :raises KeyError: the object has no payload; likewise.
    """
    say(f"Sending message {payload} to privacy policy {policy} through reverse proxy running on port {port}")
    packet = {"type": "0", "srcid": srcid, "privPoliId": policy, "payload": payload}
    with socket.create_connection((host, port), patience) as connection:
        connection.sendall(json.dumps(packet).encode())
        answer = json.loads(connection.recv(READ_BYTES))
    say(f"Receiving a response from the server payload: {answer['payload']}")
    hash_ok = answer["payload"] == sha1_hex(payload)
    say(f"Hash of payload is {'correct' if hash_ok else 'incorrect'}")
    return Reply(answer, hash_ok)


class Peer:
    """A blocking script in a thread that can be stopped: its sockets are shut, which wakes whoever waits on them.

    :ivar faults: where a real one would have died, in order. A test of rproxy wants none.
    :ivar resets: connections that ended with a reset. The description doesn't say that the scripts survive one, so a
        test of rproxy wants none of these either.
    """

    def __init__(self, say: Say) -> None:
        self.faults: list[Fault] = []
        self.resets = 0
        self._say = say
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def serve(self) -> None:
        """Do what the script does, in this thread, until stopped or dead."""
        raise NotImplementedError

    def start(self) -> Self:
        """Run :meth:`serve` in a thread."""
        self._spawn(self.serve)
        return self

    def stop(self) -> None:
        """Shut every socket and wait for the threads; harmless if it ended before.

        :raises AssertionError: a thread didn't end.
        """
        with self._lock:
            self._stopping.set()
            for each in self._open:
                _shut(each)
        while self._threads:
            thread = self._threads.pop()
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} of a classic peer didn't end"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, target: Callable[[], None]) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=target, name=type(self).__name__, daemon=True)
        thread.start()
        self._threads.append(thread)

    @contextmanager
    def _kept(self, each: socket.socket) -> Iterator[socket.socket]:
        """Close the socket in the end; :meth:`stop` can shut it meanwhile."""
        with each:
            with self._lock:
                self._open.add(each)
                if self._stopping.is_set():
                    _shut(each)
            try:
                yield each
            finally:
                with self._lock:
                    self._open.discard(each)

    def _accept(self, listener: socket.socket) -> socket.socket | None:
        """Return the next connection, or None once stopped."""
        try:
            return listener.accept()[0]
        except OSError:
            if self._stopping.is_set():
                return None
            raise

    def _fault(self, read: bytes, error: Exception) -> None:
        if not self._stopping.is_set():
            self.faults.append(Fault(read, f"{type(error).__name__}: {error}"))


class ClassicServer(Peer):
    """A server that registers first and binds afterwards, and serves one connection at a time.

    The source of each quirk is docs/reference/protocol.rst, "Peers in the field": the setup packet has the four classic
    fields and its connection is closed at once; only then is the port bound, with a backlog of 10; the next connection
    is only read after the one before is closed; a read of at most 2,048 bytes is one packet.

    :param proxy: host and port to register at.
    :param port: the port to bind; it can't be 0, for it is registered before it is bound.
    :param host: the address to bind, and to register from.
    :param delay: seconds between registering and binding; :meth:`bind_now` cuts them short.
    :ivar packets: the packets that it got, in order.
    :ivar connections: how many connections it accepted.
    :ivar registered: set when the setup packet was sent and its connection is closed.
    :ivar listening: set when the port is bound.
    :ivar ended: set when it neither listens nor serves any more: stopped, or dead of a fault.
    """

    def __init__(
        self,
        proxy: tuple[str, int],
        port: int,
        server_id: str,
        policy: str,
        *,
        host: str = "127.0.0.1",
        delay: float = 0.0,
        say: Say = silent,
    ) -> None:
        super().__init__(say)
        self.port = port
        self.packets: list[dict[str, Any]] = []
        self.connections = 0
        self.registered = threading.Event()
        self.listening = threading.Event()
        self.ended = threading.Event()
        self._proxy = proxy
        self._id = server_id
        self._policy = policy
        self._host = host
        self._delay = delay
        self._bind = threading.Event()

    def bind_now(self) -> None:
        """End the delay between registering and binding."""
        self._bind.set()

    def stop(self) -> None:
        """End it, wherever it is, and wait for its thread."""
        self.bind_now()
        super().stop()

    def serve(self) -> None:
        """Register, wait, bind, serve; a socket that can't be had is a fault too."""
        try:
            self._register()
            self._bind.wait(self._delay)
            with self._kept(_listen(self._host, self.port, BACKLOG)) as listener:
                self.listening.set()
                while (connection := self._accept(listener)) is not None:
                    self.connections += 1
                    with self._kept(connection):
                        if not self._serve_one(connection):
                            return
        except OSError as error:
            self._fault(b"", error)
        finally:
            self.ended.set()

    def _register(self) -> None:
        self._say(f"Server running with id {self._id}")
        self._say(f"Server serving privacy policy {self._policy}")
        # The line comes before the truth: the port is bound after registering.
        self._say(f"Listening on port {self.port}")
        self._say(f"Connecting to the reverse proxy on port {self._proxy[1]}")
        setup = {"type": "1", "id": self._id, "privPolyId": self._policy, "listenport": str(self.port)}
        with self._kept(socket.create_connection(self._proxy, PATIENCE, (self._host, 0))) as connection:
            connection.sendall(json.dumps(setup).encode())
        self.registered.set()

    def _serve_one(self, connection: socket.socket) -> bool:
        """Answer read by read until the connection is closed; False if a real server would be dead now."""
        try:
            while read := connection.recv(READ_BYTES):
                try:
                    answer = self._answer(read)
                except _CRASHES as error:
                    self._fault(read, error)
                    return False
                connection.sendall(answer)
        except (ConnectionResetError, BrokenPipeError):
            self.resets += 1
        return True

    def _answer(self, read: bytes) -> bytes:
        packet = json.loads(read)
        client, payload = packet["srcid"], packet["payload"]
        digest = sha1_hex(payload)
        self.packets.append(packet)
        self._say(f"Received a message from client {client} payload {payload}")
        self._say(f"Sending a message to the client {client} payload {digest}")
        return json.dumps({"type": "2", "srcid": self._id, "destid": client, "payload": digest}).encode()


@frozen
class _Target:
    """A server as the classic proxy remembers it."""

    server_id: str
    host: str
    port: int


class ClassicProxy(Peer):
    """The proxy that rproxy replaces: a thread and one read for each connection, one connection for each packet.

    From docs/reference/protocol.rst, "Peers in the field": it routes on ``privPoliId``, reads the answer once and
    passes it on. A setup packet is added to the policy's list and not answered; a data packet that it can't deliver
    isn't either. A fault ends the thread of its connection, not the proxy.

    :param port: the port to listen on; 0 takes a free one.
    :ivar port: the port it listens on.
    """

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1", say: Say = silent) -> None:
        super().__init__(say)
        self._listener = _listen(host, port, 128)
        self.port: int = self._listener.getsockname()[1]
        self._servers: dict[str, list[_Target]] = {}
        self._turns: dict[str, int] = {}

    def servers(self, policy: str) -> list[str]:
        """Return the ids registered for the policy, in the order of their setup packets."""
        with self._lock:
            return [target.server_id for target in self._servers.get(policy, [])]

    def stop(self) -> None:
        """End it, also where it was never started, and wait for its threads."""
        super().stop()
        self._listener.close()

    def serve(self) -> None:
        """Accept, a thread for each connection."""
        self._say(f"Running the reverse proxy on port {self.port}")
        with self._kept(self._listener):
            while (connection := self._accept(self._listener)) is not None:
                self._spawn_for(connection)

    def _spawn_for(self, connection: socket.socket) -> None:
        self._spawn(lambda: self._serve_one(connection))

    def _serve_one(self, connection: socket.socket) -> None:
        with self._kept(connection):
            read = b""
            try:
                read = connection.recv(READ_BYTES)
                packet = json.loads(read)
                if packet["type"] == "1":
                    self._remember(packet, connection.getpeername()[0])
                elif packet["type"] == "0":
                    self._forward(packet, read, connection)
            except (*_CRASHES, OSError) as error:
                self._fault(read, error)

    def _remember(self, packet: dict[str, Any], host: str) -> None:
        policy, port = packet["privPolyId"], int(packet["listenport"])
        with self._lock:
            self._servers.setdefault(policy, []).append(_Target(packet["id"], host, port))
        self._say(f"Received setup message from server id {packet['id']} ip {host} privacy policy {policy} port {port}")

    def _next_target(self, policy: str) -> _Target:
        with self._lock:
            targets, turn = self._servers[policy], self._turns.get(policy, 0)
            self._turns[policy] = turn + 1
            return targets[turn % len(targets)]

    def _forward(self, packet: dict[str, Any], read: bytes, client: socket.socket) -> None:
        payload = packet["payload"]
        self._say(f"Received a message from client {packet['srcid']} payload {payload}")
        target = self._next_target(packet["privPoliId"])
        self._say(
            f"Forwarding a data message to server id {target.server_id} server ip {target.host} "
            f"port {target.port} payload {payload}"
        )
        with self._kept(socket.create_connection((target.host, target.port), PATIENCE)) as server:
            server.sendall(read)
            answer = server.recv(READ_BYTES)
        self._say(f"Received a data message from server id {target.server_id} payload {json.loads(answer)['payload']}")
        client.sendall(answer)


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def _shut(each: socket.socket) -> None:
    # Closing alone wouldn't wake a thread that waits in accept or recv. Not connected any more: nothing waits on it.
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.classic", description="A peer as it is in the field.")
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("client", "server", "proxy"):
        each = roles.add_parser(role)
        if role != "client":
            each.add_argument("--host", default="127.0.0.1", help="the address to bind")
            each.add_argument("--port", type=int, default=8000 if role == "proxy" else 5000, help="the port to bind")
        if role != "proxy":
            each.add_argument("--proxy-host", default="127.0.0.1")
            each.add_argument("--proxy-port", type=int, default=8000)
            each.add_argument("--id", default="1" if role == "client" else "100")
            each.add_argument("--policy", default="111")
        if role == "client":
            each.add_argument("--payload", default="xyz1")
        if role == "server":
            each.add_argument("--delay", type=float, default=0.0, help="seconds between registering and binding")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one peer in this process; 1 if it died, or if the client's hash was wrong."""
    options = _parser().parse_args(argv)
    if options.role == "client":
        reply = send(options.proxy_host, options.proxy_port, options.id, options.policy, options.payload, say=_print)
        return 0 if reply.hash_ok else 1
    peer: Peer
    if options.role == "server":
        proxy = (options.proxy_host, options.proxy_port)
        peer = ClassicServer(
            proxy, options.port, options.id, options.policy, host=options.host, delay=options.delay, say=_print
        )
    else:
        peer = ClassicProxy(options.port, host=options.host, say=_print)
    with suppress(KeyboardInterrupt):
        peer.serve()
    for fault in peer.faults:
        sys.stderr.write(f"{fault.error} in {fault.read!r}\n")
    return 1 if peer.faults else 0


if __name__ == "__main__":
    sys.exit(main())
