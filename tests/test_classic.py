"""The classic peers are what docs/reference/protocol.rst says of those in the field: a measure must be right."""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
from contextlib import suppress
from typing import Any
from unittest import TestCase

from tests.classic import ClassicProxy, ClassicServer, Fault, Reply, send, sha1_hex
from tests.support import Process, free_port, wait_for

SECONDS = 10.0
HOST = "127.0.0.1"


def data_packet(payload: str, srcid: str = "1") -> bytes:
    """A packet as the classic client sends it."""
    return json.dumps({"type": "0", "srcid": srcid, "privPoliId": "111", "payload": payload}).encode()


class ClassicCase(TestCase):
    """Peers and sockets that are closed whatever comes."""

    def proxy(self) -> ClassicProxy:
        proxy = ClassicProxy().start()
        self.addCleanup(proxy.stop)
        return proxy

    def server(self, proxy: ClassicProxy, server_id: str, policy: str = "111", delay: float = 0.0) -> ClassicServer:
        """Start a server; without a delay it listens, and the proxy knows it, when this returns."""
        server = ClassicServer((HOST, proxy.port), free_port(), server_id, policy, delay=delay).start()
        self.addCleanup(server.stop)
        self.assertTrue(server.registered.wait(SECONDS))
        if not delay:
            self.assertTrue(server.listening.wait(SECONDS))
        wait_for(lambda: server_id in proxy.servers(policy), SECONDS, "the setup packet")
        return server

    def lonely_server(self) -> ClassicServer:
        """A server with a proxy that nobody talks to."""
        return self.server(self.proxy(), "100")

    def connect(self, port: int) -> socket.socket:
        connection = socket.create_connection((HOST, port), SECONDS)
        self.addCleanup(connection.close)
        return connection


class RouteTests(ClassicCase):
    """All three together."""

    def test_rotation(self) -> None:
        """Packets 1 to 5 go to servers 1, 2, 1, 2, 1, each over a connection of its own."""
        proxy = self.proxy()
        servers = [self.server(proxy, "100"), self.server(proxy, "101")]
        other = self.server(proxy, "200", "222")
        replies = [send(HOST, proxy.port, "7", "111", f"xyz{n}", patience=SECONDS) for n in range(1, 6)]
        self.assertEqual([reply.packet["srcid"] for reply in replies], ["100", "101", "100", "101", "100"])
        self.assertEqual(
            replies[0],
            Reply({"type": "2", "srcid": "100", "destid": "7", "payload": sha1_hex("xyz1")}, hash_ok=True),
        )
        self.assertTrue(all(reply.hash_ok for reply in replies))
        self.assertEqual([p["payload"] for p in servers[0].packets], ["xyz1", "xyz3", "xyz5"])
        self.assertEqual([p["payload"] for p in servers[1].packets], ["xyz2", "xyz4"])
        self.assertEqual([server.connections for server in servers], [3, 2])
        self.assertEqual(other.packets, [])
        for peer in (proxy, *servers, other):
            self.assertEqual((peer.faults, peer.resets), ([], 0))

    def test_packet_is_forwarded_unchanged(self) -> None:
        """The server gets the client's fields, and no ``payloadsize``."""
        proxy = self.proxy()
        server = self.server(proxy, "100")
        send(HOST, proxy.port, "1", "111", "xyz1", patience=SECONDS)
        self.assertEqual(server.packets, [{"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1"}])

    def test_no_server(self) -> None:
        """A policy that nobody serves: closed without an answer, and the client dies of that."""
        proxy = self.proxy()
        self.server(proxy, "100")
        self.assertRaises(ValueError, send, HOST, proxy.port, "1", "222", "xyz1", patience=SECONDS)
        fault = wait_for(lambda: next(iter(proxy.faults), None), SECONDS, "the fault")
        self.assertEqual(fault.error, "KeyError: '222'")

    def test_setup_is_not_answered(self) -> None:
        """The proxy closes a setup packet's connection without a word."""
        connection = self.connect(self.proxy().port)
        connection.sendall(json.dumps({"type": "1", "id": "1", "privPolyId": "1", "listenport": "1"}).encode())
        self.assertEqual(connection.recv(2048), b"")


class ServerTests(ClassicCase):
    """What the proxy in front of a classic server has to live with."""

    def ask(self, connection: socket.socket, payload: str) -> Any:
        connection.sendall(data_packet(payload))
        return json.loads(connection.recv(2048))["payload"]

    def died_of(self, server: ClassicServer, read: bytes) -> None:
        """Assert that it died of that read, and listens no more."""
        self.assertTrue(server.ended.wait(SECONDS))
        self.assertEqual([fault.read for fault in server.faults], [read])
        self.assertRaises(ConnectionRefusedError, self.connect, server.port)

    def test_answers_until_closed(self) -> None:
        """A connection may bring packet after packet, one after the other's answer."""
        server = self.lonely_server()
        connection = self.connect(server.port)
        self.assertEqual(self.ask(connection, "a"), sha1_hex("a"))
        self.assertEqual(self.ask(connection, "\N{GREEK SMALL LETTER PI}"), sha1_hex("\N{GREEK SMALL LETTER PI}"))
        self.assertEqual(server.connections, 1)

    def test_one_connection_at_a_time(self) -> None:
        """A second connection is made, but only read after the first is closed."""
        server = self.lonely_server()
        first, second = self.connect(server.port), self.connect(server.port)
        self.assertEqual(self.ask(first, "first"), sha1_hex("first"))
        second.sendall(data_packet("second"))
        # It has time for another packet of the first, though that came later.
        self.assertEqual(self.ask(first, "third"), sha1_hex("third"))
        self.assertEqual([p["payload"] for p in server.packets], ["first", "third"])
        self.assertEqual(select.select([second], [], [], 0)[0], [])
        first.close()
        self.assertEqual(json.loads(second.recv(2048))["payload"], sha1_hex("second"))
        self.assertEqual(server.connections, 2)

    def test_registers_before_it_binds(self) -> None:
        """Whoever is quicker than the server finds its port closed, and finds it open later."""
        proxy = self.proxy()
        server = self.server(proxy, "100", delay=3600)
        self.assertFalse(server.listening.is_set())
        self.assertRaises(ConnectionRefusedError, self.connect, server.port)
        self.assertRaises(ValueError, send, HOST, proxy.port, "1", "111", "early", patience=SECONDS)
        server.bind_now()
        self.assertTrue(server.listening.wait(SECONDS))
        self.assertTrue(send(HOST, proxy.port, "1", "111", "late", patience=SECONDS).hash_ok)
        self.assertEqual([p["payload"] for p in server.packets], ["late"])

    def test_stops_before_it_binds(self) -> None:
        """A server that is stopped while it waits ends without a fault."""
        server = self.server(self.proxy(), "100", delay=3600)
        server.stop()
        self.assertTrue(server.ended.is_set())
        self.assertEqual(server.faults, [])

    def test_two_packets_in_one_read(self) -> None:
        """It takes them for one, and dies: a proxy must send one packet, and await the answer or its end."""
        server = self.lonely_server()
        read = data_packet("a") + data_packet("b")
        connection = self.connect(server.port)
        connection.sendall(read)
        self.assertEqual(connection.recv(2048), b"")
        self.died_of(server, read)
        self.assertEqual(server.packets, [])

    def test_half_a_packet(self) -> None:
        """It doesn't wait for the rest."""
        server = self.lonely_server()
        read = data_packet("a")[:-1]
        self.connect(server.port).sendall(read)
        self.died_of(server, read)

    def test_long_packet(self) -> None:
        """More than 2,048 bytes are never one read."""
        server = self.lonely_server()
        packet = data_packet("x" * 2048)
        self.connect(server.port).sendall(packet)
        self.assertTrue(server.ended.wait(SECONDS))
        # TCP may have delivered less than a whole read's worth.
        self.assertEqual(len(server.faults), 1)
        self.assertTrue(packet.startswith(server.faults[0].read))

    def test_no_proxy(self) -> None:
        """Without a proxy to register at it never binds."""
        server = ClassicServer((HOST, free_port()), free_port(), "100", "111")
        with server:
            self.assertTrue(server.ended.wait(SECONDS))
            self.assertRaises(ConnectionRefusedError, self.connect, server.port)
        self.assertFalse(server.registered.is_set())
        self.assertEqual([fault.read for fault in server.faults], [b""])

    def test_port_is_free_after_stop(self) -> None:
        """A stopped server, also one amid a connection, can be started again at its port."""
        proxy = self.proxy()
        first = self.server(proxy, "100")
        connection = self.connect(first.port)
        self.assertEqual(self.ask(connection, "a"), sha1_hex("a"))
        first.stop()
        self.assertEqual(connection.recv(2048), b"")
        with ClassicServer((HOST, proxy.port), first.port, "100", "111") as second:
            self.assertTrue(second.listening.wait(SECONDS))
            self.assertEqual(self.ask(self.connect(second.port), "b"), sha1_hex("b"))
        self.assertEqual((first.faults, second.faults), ([], []))


class ClientTests(ClassicCase):
    """What whoever answers a classic client has to live with."""

    def answering(self, answer: bytes) -> int:
        """Return a port where one connection is read once, gets that answer and is closed when the client is gone."""
        listener = socket.create_server((HOST, 0))

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                connection.settimeout(SECONDS)
                connection.recv(2048)
                connection.sendall(answer)
                # It's a reset where the client left before it had read all.
                with suppress(ConnectionResetError):
                    connection.recv(1)

        listener.settimeout(SECONDS)
        thread = threading.Thread(target=serve, daemon=True)
        self.addCleanup(thread.join, SECONDS)
        thread.start()
        port: int = listener.getsockname()[1]
        return port

    def test_any_object_is_an_answer(self) -> None:
        """It prints the payload of an error packet just the same."""
        lines: list[str] = []
        port = self.answering(b'{"type":"3","error":"no-server","payload":"Nobody serves 111"}')
        reply = send(HOST, port, "1", "111", "xyz1", say=lines.append, patience=SECONDS)
        self.assertFalse(reply.hash_ok)
        self.assertEqual(reply.packet["error"], "no-server")
        self.assertEqual(lines[1], "Receiving a response from the server payload: Nobody serves 111")

    def test_reads_once(self) -> None:
        """An answer of which only a part has come is not waited for."""
        port = self.answering(b'{"type":"2","srcid":"100","destid":"1",')
        self.assertRaises(ValueError, send, HOST, port, "1", "111", "xyz1", patience=SECONDS)

    def test_reads_2048_bytes(self) -> None:
        """An answer may have as many, and no more."""
        packet = {"type": "2", "payload": ""}
        packet["payload"] = "x" * (2048 - len(json.dumps(packet)))
        fits = json.dumps(packet).encode()
        self.assertEqual(send(HOST, self.answering(fits), "1", "111", "a", patience=SECONDS).packet, packet)
        too_long = fits.replace(b"x", b"xx", 1)
        self.assertRaises(ValueError, send, HOST, self.answering(too_long), "1", "111", "a", patience=SECONDS)


class ProxyTests(ClassicCase):
    """What the old proxy does where it is confused."""

    def test_fault_ends_one_connection(self) -> None:
        """Two packets in one read end that connection only."""
        proxy = self.proxy()
        self.server(proxy, "100")
        read = data_packet("a") + data_packet("b")
        connection = self.connect(proxy.port)
        connection.sendall(read)
        self.assertEqual(connection.recv(2048), b"")
        self.assertEqual([fault.read for fault in proxy.faults], [read])
        self.assertIsInstance(proxy.faults[0], Fault)
        self.assertTrue(send(HOST, proxy.port, "1", "111", "xyz1", patience=SECONDS).hash_ok)

    def test_never_started(self) -> None:
        """A proxy has its port before it runs, and gives it back."""
        proxy = ClassicProxy()
        proxy.stop()
        self.assertRaises(ConnectionRefusedError, self.connect, proxy.port)


class TerminalTests(ClassicCase):
    """As scripts they show what docs/reference/protocol.rst, "What the terminals show", has word for word."""

    def peer(self, *arguments: str, ready: str) -> Process:
        process = Process([sys.executable, "-m", "tests.classic", *arguments], ready=ready).start()
        self.addCleanup(process.stop)
        return process

    def test_lines(self) -> None:
        proxy = self.peer("proxy", "--port", "0", ready=r"^Running the reverse proxy on port (\d+)\n")
        to_proxy = ("--proxy-port", str(proxy.port))
        port = free_port()
        server = self.peer("server", *to_proxy, "--port", str(port), ready=rf"^Listening on port {port}\n")
        proxy.wait_for_log("Received setup message", SECONDS)

        # It prints that it listens before it does.
        def reachable() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((HOST, port)) == 0

        wait_for(reachable, SECONDS, "the server's port")
        client = self.peer("client", *to_proxy, ready="Hash")
        self.assertEqual(client.wait(), 0)
        digest = "b0400cf1f3919fdba057dbd2acc52f148fbb43ac"
        self.assertEqual(
            client.log.splitlines(),
            [
                f"Sending message xyz1 to privacy policy 111 through reverse proxy running on port {proxy.port}",
                f"Receiving a response from the server payload: {digest}",
                "Hash of payload is correct",
            ],
        )
        self.assertEqual(
            server.log.splitlines(),
            [
                "Server running with id 100",
                "Server serving privacy policy 111",
                f"Listening on port {port}",
                f"Connecting to the reverse proxy on port {proxy.port}",
                "Received a message from client 1 payload xyz1",
                f"Sending a message to the client 1 payload {digest}",
            ],
        )
        self.assertEqual(
            proxy.log.splitlines(),
            [
                f"Running the reverse proxy on port {proxy.port}",
                f"Received setup message from server id 100 ip 127.0.0.1 privacy policy 111 port {port}",
                "Received a message from client 1 payload xyz1",
                f"Forwarding a data message to server id 100 server ip 127.0.0.1 port {port} payload xyz1",
                f"Received a data message from server id 100 payload {digest}",
            ],
        )
