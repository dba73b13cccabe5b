"""The proxy that ``twistd rproxy`` makes, on a real port."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from rproxy import packets
from rproxy.tap import makeService
from tests.tapoptions import LOOPBACK, parsed


@implementer(IHalfCloseableProtocol)
class Client(Protocol):
    """Collects what it reads until the proxy closes."""

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """It has said all that it has to say."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(self.received)


class ServiceTests(TestCase):
    """The whole proxy on a loopback port."""

    timeout = 60

    def setUp(self) -> None:
        self.events = self.enterContext(capturedLogs())

    def lines(self, start: str = "") -> list[str]:
        """What was logged."""
        return [line for event in self.events if (line := formatEvent(event)).startswith(start)]

    def ports(self) -> list[int]:
        """Where the log says that the proxy listens."""
        return [int(line.rpartition(" ")[2]) for line in self.lines("Running the reverse proxy on port ")]

    def start(self, *arguments: str) -> IService:
        """Start it as twistd does."""
        service = makeService(parsed(*(arguments if "--listen" in arguments else (*arguments, "--listen", LOOPBACK))))
        service.privilegedStartService()
        service.startService()
        self.addCleanup(service.stopService)
        return service

    async def connect(self, port: int | None = None) -> Client:
        from twisted.internet import reactor

        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port or self.ports()[0])
        client: Client = await connectProtocol(endpoint, Client())
        return client

    async def ask(self, raw: bytes, port: int | None = None) -> packets.Packet:
        """Send one packet and shut the writing side; return the answer."""
        client = await self.connect(port)
        transport: Any = client.transport
        transport.write(raw)
        transport.loseWriteConnection()
        return packets.decode(await client.closed)

    def assert_refused(self, code: str, answer: packets.Packet) -> None:
        assert isinstance(answer, packets.Error)
        self.assertEqual((code, "1", "no"), (answer.error, answer.destid, answer.delivered))

    async def test_it_says_where_it_listens_and_answers_there(self) -> None:
        self.start()
        self.assertEqual(1, len(self.ports()))
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1")))

    async def test_it_listens_at_each_endpoint(self) -> None:
        self.start("--listen", LOOPBACK, "--listen", LOOPBACK)
        self.assertEqual(2, len(set(self.ports())))
        for port in self.ports():
            self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1"), port))

    async def test_it_shows_packets_only_where_it_was_asked_to(self) -> None:
        line = "Received a message from client 1 payload xyz1"
        service = self.start()
        await self.ask(packets.data("1", "111", "xyz1"))
        self.assertEqual([], self.lines(line))
        await service.stopService()
        self.start("--log-packets")
        await self.ask(packets.data("1", "111", "xyz1"), self.ports()[-1])
        self.assertEqual([line], self.lines(line))

    async def test_it_is_strict_only_where_it_was_asked_to(self) -> None:
        wrong = b'{"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1", "payloadsize": "512"}'
        service = self.start()
        self.assert_refused("no-server", await self.ask(wrong))
        await service.stopService()
        self.start("--strict")
        self.assert_refused("bad-packet", await self.ask(wrong, self.ports()[-1]))

    async def test_it_keeps_an_audit_trail_where_it_was_asked_to(self) -> None:
        folder = Path(self.enterContext(TemporaryDirectory()))
        key = folder / "key"
        key.write_text("0123456789abcdef")
        key.chmod(0o600)
        service = self.start("--audit", str(folder / "trail"), "--audit-key", str(key))
        await self.ask(packets.data("1", "111", "xyz1"))
        await service.stopService()
        lines = [json.loads(line) for line in (folder / "trail").read_text().splitlines()]
        self.assertEqual(["open", "start", "packet", "stop"], [line["event"] for line in lines])

    async def test_its_limits_hold(self) -> None:
        self.start("--max-packet", "64")
        answer = await self.ask(packets.data("1", "111", "x" * 64))
        assert isinstance(answer, packets.Error)
        self.assertEqual("too-large", answer.error)

    async def test_it_retries_only_what_it_was_told_to(self) -> None:
        self.start("--retry", "222", "--queue-timeout", "2")
        server = await self.fickle_server()
        for policy in ("111", "222"):
            setup = await self.connect()
            setup.transport.write(packets.setup("100", policy, server.getHost().port))  # type: ignore[union-attr]
            setup.transport.loseConnection()  # type: ignore[union-attr]
            await setup.closed
        lost = await self.ask(packets.data("1", "111", "lost"))
        assert isinstance(lost, packets.Error)
        self.assertEqual(("server-lost", "unknown"), (lost.error, lost.delivered))
        found = await self.ask(packets.data("1", "222", "lost"))
        assert isinstance(found, packets.Ack)
        self.assertEqual("lost", found.payload)

    async def fickle_server(self) -> Any:
        """A classic server that loses the first packet of each policy."""
        from twisted.internet import reactor

        seen = set()

        class Fickle(Protocol):
            def dataReceived(self, raw: bytes) -> None:
                packet = packets.decode(raw)
                assert isinstance(packet, packets.Data)
                transport: Any = self.transport
                if packet.policy in seen:
                    transport.write(packets.ack("100", packet.srcid, packet.payload))
                else:
                    seen.add(packet.policy)
                    transport.abortConnection()

        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Fickle))
        self.addCleanup(port.stopListening)
        return port

    def setup_port(self) -> int:
        """Where the log says that servers register."""
        return int(self.lines("Registering servers on port ")[0].rpartition(" ")[2])

    async def test_servers_register_where_they_are_told_to(self) -> None:
        """Not where clients come in; and clients are answered there, and not where servers register."""
        self.start("--register-listen", LOOPBACK, "--max-clients", "1")
        self.assertEqual(1, len(self.ports()))
        packet = packets.setup("100", "111", 5000, lease=10)
        self.assert_forbidden("100", await self.ask(packet))
        self.assert_forbidden("1", await self.ask(packets.data("1", "111", "xyz1"), self.setup_port()))
        client = await self.connect()
        self.assertIsInstance(await self.ask(packet, self.setup_port()), packets.Ack)
        client.transport.loseConnection()  # type: ignore[union-attr]
        await client.closed
        refused = "Refused setup message from server id 100 ip 127.0.0.1 privacy policy 111: forbidden"
        self.assertEqual(1, len(self.lines(refused)))

    def assert_forbidden(self, destid: str, answer: packets.Packet) -> None:
        assert isinstance(answer, packets.Error)
        self.assertEqual(("forbidden", destid, "no"), (answer.error, answer.destid, answer.delivered))

    async def test_servers_register_from_where_they_may(self) -> None:
        self.start("--register-from", "127.0.0.2/32", "--register-from", "10.0.0.0/8")
        answer = await self.ask(packets.setup("100", "111", 5000))
        self.assert_forbidden("100", answer)
        self.assertEqual("setup packets are not taken from 127.0.0.1", getattr(answer, "payload", None))

    async def test_the_policies_file_holds(self) -> None:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "policies.toml"
            file.write_text("[policy.111]\nservers.ids = ['100']\n[policy.222]\nclients.networks = []", "utf-8")
            self.start("--policies", str(file))
        self.assert_forbidden("101", await self.ask(packets.setup("101", "111", 5000)))
        self.assert_forbidden("100", await self.ask(packets.setup("100", "333", 5000)))
        self.assert_refused("forbidden", await self.ask(packets.data("1", "222", "xyz1")))
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1")))
        self.assertIsInstance(await self.ask(packets.setup("100", "111", 5000, lease=10)), packets.Ack)

    async def test_leases_end_on_time(self) -> None:
        from twisted.internet import reactor

        self.start("--queue-timeout", "0.1")
        server = await self.connect()
        transport: Any = server.transport
        transport.write(packets.setup("100", "111", 5000, lease=0.05))
        while not self.lines("Registration of server id 100"):
            await deferLater(reactor, 0.01)
        self.assertIsInstance(packets.decode(server.received), packets.Ack)
        transport.loseWriteConnection()
        await server.closed
        setup_line = "Received setup message from server id 100 ip 127.0.0.1 privacy policy 111 port 5000"
        self.assertEqual([setup_line], self.lines("Received setup"))
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1")))

    async def test_it_may_open_as_many_files_as_the_system_lets_it(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
        self.start("--max-clients", str(hard))
        self.assertEqual((hard, hard), resource.getrlimit(resource.RLIMIT_NOFILE))
        self.assertEqual(1, len(self.lines(f"Only {hard} files may be open, and {hard} connections are allowed")))

    async def test_silent_clients_are_disconnected(self) -> None:
        self.start("--idle-timeout", "0.1")
        client = await self.connect()
        self.assertEqual(b"", await client.closed)

    async def test_it_believes_whom_it_was_told_to(self) -> None:
        header = b"PROXY TCP4 203.0.113.7 203.0.113.8 40000 8000\r\n"
        self.start("--listen", f"haproxy:{LOOPBACK}", "--listen", LOOPBACK, "--proxy-from", "127.0.0.0/8")
        fronted, plain = self.ports()
        self.assert_refused("no-server", await self.ask(header + packets.data("1", "111", "xyz1"), fronted))
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1"), plain))
        answer = await self.ask(header, plain)
        assert isinstance(answer, packets.Error)
        self.assertEqual("bad-packet", answer.error)

    async def test_unfinished_packets_are_not_waited_for(self) -> None:
        self.start("--packet-timeout", "0.1")
        client = await self.connect()
        client.transport.write(b"{")  # type: ignore[union-attr]
        answer = packets.decode(await client.closed)
        assert isinstance(answer, packets.Error)
        self.assertEqual("bad-packet", answer.error)

    async def test_stopped_it_listens_no_more(self) -> None:
        service = self.start()
        port = self.ports()[0]
        await service.stopService()
        with self.assertRaises(ConnectionRefusedError):
            await self.connect(port)

    async def test_it_can_be_started_again(self) -> None:
        service = self.start()
        await service.stopService()
        service.privilegedStartService()
        service.startService()
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1"), self.ports()[1]))
