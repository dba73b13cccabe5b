"""Connections to the admin listener, in memory: nobody holds one, or what it costs, and hostile HTTP harms nothing."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from rproxy.admin.channel import DEADLINE, IDLE, LINGER, MOST_BYTES
from rproxy.admin.site import MOST_CONNECTIONS, MOST_TOLD
from tests.adminclient import LOCAL, TOKEN, Admin, Transport, control_of, hang_up, read_reply
from tests.memory import ProxyCase

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /api/v1/servers/100/drain HTTP/1.1\r\nHost: 127.0.0.1\r\n"
ALLOWED = POST + f"Authorization: Bearer {TOKEN}\r\n".encode()
JSON = b"Content-Type: application/json\r\n"


class ChannelCase(ProxyCase):
    def setUp(self) -> None:
        self.admin = Admin(control_of(self.proxy()))
        self.events = self.enterContext(capturedLogs())

    def send(self, raw: bytes) -> tuple[Any, Transport]:
        """A connection on which this came."""
        channel, transport = self.admin.connect()
        channel.dataReceived(raw)
        return channel, transport

    def statuses(self, transport: Transport) -> list[int]:
        """Those of all answers."""
        return [int(part.split()[0]) for part in transport.value().split(b"HTTP/1.1 ")[1:]]

    def assert_quiet(self) -> None:
        """The log has nothing that whoever asks can make it have."""
        self.assertEqual([event for event in self.events if event["log_level"] != LogLevel.debug], [])


class DeadlineTests(ChannelCase):
    def test_trickle(self) -> None:
        """A request that comes byte by byte has no more time than any other."""
        for raw in (HEAD + b"\r\n", ALLOWED + JSON + b"Content-Length: 60\r\n\r\n" + b" " * 60):
            channel, transport = self.admin.connect()
            for byte in raw[: int(DEADLINE)]:
                channel.dataReceived(bytes([byte]))
                self.assertEqual(transport.value(), b"")
                self.admin.clock.advance(1)
            self.assertEqual(self.statuses(transport), [408])
            self.assertTrue(transport.disconnecting)
            channel.dataReceived(raw[int(DEADLINE) :])
            self.assertEqual(self.statuses(transport), [408])
        self.assert_quiet()

    def test_body(self) -> None:
        """The body's time is the head's too."""
        channel, transport = self.send(ALLOWED + JSON + b"Content-Length: 60\r\n\r\n")
        for _ in range(int(DEADLINE)):
            self.assertEqual(transport.value(), b"")
            channel.dataReceived(b" ")
            self.admin.clock.advance(1)
        self.assertEqual(self.statuses(transport), [408])

    def test_idle(self) -> None:
        """One that asks nothing is closed, before its first request and after each."""
        channel, transport = self.admin.connect()
        self.admin.clock.advance(IDLE - 1)
        self.assertFalse(transport.disconnecting)
        channel.dataReceived(HEAD + b"\r\n")
        self.admin.clock.advance(IDLE - 1)
        channel.dataReceived(HEAD + b"\r\n")
        self.assertEqual(self.statuses(transport), [200, 200])
        self.admin.clock.advance(IDLE - 1)
        self.assertFalse(transport.disconnecting)
        self.admin.clock.advance(1)
        self.assertEqual((transport.disconnecting, transport.disconnected), (True, False))
        self.assert_quiet()

    def test_answer_late(self) -> None:
        """No time runs while a request is answered, however much comes meanwhile."""
        channel, transport = self.send(b"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        channel.dataReceived(HEAD)
        self.admin.clock.pump([1] * int(IDLE + DEADLINE + LINGER))
        self.assertFalse(transport.disconnecting)
        hang_up(channel)

    def test_half_of_the_next(self) -> None:
        """What begins while an answer is awaited has its time from then."""
        channel, transport = self.send(HEAD + b"\r\n" + HEAD)
        self.admin.clock.advance(1)
        channel.dataReceived(b"X: 1\r\n")
        self.admin.clock.advance(DEADLINE)
        self.assertEqual(self.statuses(transport), [200, 408])

    def test_never_closes(self) -> None:
        """Who doesn't read on, or doesn't close, is closed."""
        for raw in (b"\0\r\n\r\n", HEAD + b"Connection: close\r\n\r\n"):
            _, transport = self.send(raw)
            self.admin.clock.advance(LINGER - 1)
            self.assertEqual((transport.disconnecting, transport.disconnected), (True, False))
            self.admin.clock.advance(1)
            self.assertTrue(transport.disconnected)

    def test_no_timer_is_left(self) -> None:
        channel, _ = self.send(HEAD)
        hang_up(channel)
        self.assertEqual(self.admin.clock.getDelayedCalls(), [])


class BoundTests(ChannelCase):
    def test_connections(self) -> None:
        """Those beyond the bound are told, those far beyond aren't even that; each that goes makes room."""
        channels = [self.admin.connect()[0] for _ in range(MOST_CONNECTIONS)]
        told = [self.admin.connect() for _ in range(MOST_TOLD)]
        for _, transport in told:
            reply = read_reply(transport.value())
            self.assertEqual((reply.status, transport.disconnecting), (503, True))
            self.assertIn("too many are connected", reply.json["error"])
        self.assertIsNone(self.admin.site.buildProtocol(LOCAL))
        self.admin.clock.advance(LINGER)
        self.assertTrue(all(transport.disconnected for _, transport in told))
        for channel, _ in told[:3]:
            hang_up(channel)
        self.assertEqual(self.admin.get("/healthz").status, 503)
        for channel in channels[:4]:
            hang_up(channel)
        self.assertEqual(self.admin.get("/healthz").status, 503)
        for channel, _ in told[3:]:
            hang_up(channel)
        self.assertEqual(self.admin.get("/healthz").status, 200)
        self.assert_quiet()

    def test_told_and_gone(self) -> None:
        """No timer is left of one that was told."""
        channels = [self.admin.connect()[0] for _ in range(MOST_CONNECTIONS + 1)]
        for channel in channels:
            hang_up(channel)
        self.assertEqual(self.admin.clock.getDelayedCalls(), [])

    def test_reads_nothing(self) -> None:
        """Who doesn't read its answers is asked nothing more, and goes on where it stopped when it does."""
        channel, transport = self.admin.connect()
        # As a connection does whose buffer is full after the first answer.
        write, producer = transport.write, cast(Any, transport.producer)
        transport.write = lambda data: (write(data), producer.pauseProducing())  # type: ignore[method-assign]
        channel.dataReceived((HEAD + b"\r\n") * 5 + HEAD)
        channel.dataReceived(b"\r\n")
        self.assertEqual((self.statuses(transport), transport.producerState), ([200], "paused"))
        # It isn't the other side that is late.
        self.admin.clock.advance(DEADLINE)
        for number in (2, 3, 4, 5, 6):
            producer.resumeProducing()
            self.assertEqual(len(self.statuses(transport)), number)
        producer.resumeProducing()
        self.assertEqual((len(self.statuses(transport)), transport.producerState), (6, "producing"))
        self.admin.clock.advance(IDLE)
        self.assertTrue(transport.disconnecting)

    def test_head(self) -> None:
        for raw in (HEAD + b"X: " + b"a" * 70_000, b"GET /" + b"a" * 70_000):
            _, transport = self.send(raw)
            self.assertEqual((self.statuses(transport), transport.disconnecting), ([431], True))
        for raw in (HEAD + b"X: 1\r\n" * 600 + b"\r\n", HEAD + (b"X: " + b"a" * 1000 + b"\r\n") * 17 + b"\r\n"):
            _, transport = self.send(raw)
            self.assertEqual((self.statuses(transport), transport.disconnecting), ([400], True))
        self.assert_quiet()

    def test_body(self) -> None:
        """One that is too long is refused as soon as that is known, and what comes of it is dropped."""
        for length in (str(MOST_BYTES + 1), "99999999999", "9" * 5000):
            head = ALLOWED + JSON + f"Content-Length: {length}\r\nX: 1\r\n\r\n".encode()
            channel, transport = self.send(head)
            channel.dataReceived(b" " * 100_000 + HEAD + b"\r\n")
            self.assertEqual((self.statuses(transport), transport.disconnecting), ([413], True), length)
            self.assertLess(len(channel.clearLineBuffer()), len(head))
        chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        _, transport = self.send(ALLOWED + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5 + b"0\r\n\r\n")
        self.assertEqual((self.statuses(transport), transport.disconnecting), ([413], True))
        self.assert_quiet()


class HostileTests(ChannelCase):
    """What no client sends, by its answer; nothing of it is in the log."""

    def test_malformed(self) -> None:
        for raw in (
            b"\0\xff\x16\x03\r\n\r\n",
            b"GET /healthz\r\n\r\n",
            b"GET  /healthz HTTP/1.1\r\n\r\n",
            b"GET /healthz HTTP/3.0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"G(T /healthz HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
            HEAD + b": x\r\n\r\n",
            HEAD + b"xyz\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\0\r\n\r\n",
            POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            POST + b"Content-Length: -2\r\n\r\n{}",
            POST + b"Content-Length: \r\n\r\n{}",
            POST + b"Content-Length: 0x2\r\n\r\n{}",
            POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n{}",
            POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\nab",
            POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXX\r\n",
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 70_000,
        ):
            _, transport = self.send(raw + HEAD + b"\r\n")
            self.assertEqual((self.statuses(transport), transport.disconnecting), ([400], True), raw[:100])
        self.assert_quiet()

    def test_odd(self) -> None:
        """What is well-formed and none of what there is."""
        for status, raw in (
            (403, b"GET /healthz HTTP/1.1\r\n\r\n"),
            (403, b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
            (403, HEAD + b"Host: evil.example\r\n\r\n"),
            (403, HEAD + b"Host: 127.0.0.1\r\n\r\n"),
            (403, HEAD + b"Origin: null\r\n\r\n"),
            (403, POST + b"Sec-Fetch-Site: cross-site\r\n" + JSON + b"Content-Length: 2\r\n\r\n{}"),
            (404, b"GET http://127.0.0.1/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (404, b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (404, b"GET xhealthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (404, b"GET /healthz#x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (404, b"GET /api%2fv1%2ffigures HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (404, b"GET /%zz%ff%00\xa1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (404, b"GET /static/../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (404, b"GET * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (404, b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (403, b"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
            (400, b"GET /api/v1/explain?policy=%ff&client=%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (415, ALLOWED + b"Content-Type: ;;=\xff\r\nContent-Length: 2\r\n\r\n{}"),
            (415, ALLOWED + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b"),
            (400, ALLOWED + b"Content-Type: multipart/form-data; boundary=\xff\r\nContent-Length: 3\r\n\r\na=b"),
            (200, b"GET /%68ealthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (
                200,
                HEAD + b"Cookie: \xff;=;;a\r\nRange: bytes=0-1\r\nUpgrade: websocket\r\n\r\n",
            ),
        ):
            channel, transport = self.send(raw)
            self.assertEqual(self.statuses(transport), [status], raw[:100])
            self.assertNotIn(b"TwistedWeb", transport.value())
            hang_up(channel)
        self.assert_quiet()

    def test_pipelined(self) -> None:
        """Each is answered, in order, and nothing after the one that is the last."""
        nothing = HEAD.replace(b"healthz", b"nothing")
        raw = HEAD + b"\r\n" + nothing + b"\r\n" + HEAD + b"Connection: close\r\n\r\n" + HEAD + b"\r\n"
        _, transport = self.send(raw)
        self.assertEqual(self.statuses(transport), [200, 404, 200])

    @given(st.lists(st.binary(max_size=200) | st.sampled_from((HEAD, POST, b"\r\n", b"Content-Length: 5\r\n",
                    b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nabcde\r\n", b"0\r\n\r\n")), max_size=12))  # fmt: skip
    @settings(max_examples=150, deadline=None)
    def test_anything(self, pieces: list[bytes]) -> None:
        """Whatever comes, it ends in time, and nothing is said."""
        channel, transport = self.admin.connect()
        for piece in pieces:
            channel.dataReceived(piece)
        self.admin.clock.pump([DEADLINE, IDLE, LINGER, LINGER])
        self.assertTrue(transport.disconnected)
        self.assertEqual(set(self.statuses(transport)) & {500}, set())
        channel.connectionLost(Failure(ConnectionError()))
        self.assert_quiet()
