"""What the proxy's terminal shows of packets, word for word; and that no payload can forge a line of it."""

from __future__ import annotations

import json

from hypothesis import given
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.figures.tallies import PolicyTally, ServerTally
from rproxy.health import FULL_SHARE
from rproxy.logs.packets import SHOWN, ProxyLog, shown
from rproxy.registry.registration import Registration
from rproxy.request import Request
from rproxy.rotation import Member
from tests.strategies import texts

SHA1 = "b0400cf1f3919fdba057dbd2acc52f148fbb43ac"


class Nobody:
    """Stands for the client and for the server's connections, which a line of the log doesn't need."""

    takes_at_most = 0

    def deliver(self, now: float) -> None:
        raise AssertionError("the log answers nobody")

    def deliver_soon(self) -> None:
        raise AssertionError("the log answers nobody")

    share = FULL_SHARE

    def take(self, request: Request, member: Member) -> bool:
        raise AssertionError("the log sends nothing")


class LinesTests(SynchronousTestCase):
    """docs/reference/protocol.rst, What the terminals show."""

    def setUp(self) -> None:
        self.events = self.enterContext(capturedLogs())
        self.log = ProxyLog()

    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_source"] is self.log]

    def received(self, payload: str) -> None:
        data = packets.peek_data(packets.data("1", "111", payload))
        assert data is not None
        self.log.received(data)

    def forwarding(self, raw: bytes) -> None:
        request = Request(raw, "111", "1", 30.0, Nobody())
        request.server = Member(
            Registration("111", "100", "172.31.21.234", 5000), Nobody(), ServerTally(PolicyTally(30.0))
        )
        self.log.forwarding(request, "172.31.21.234", 5000)

    def test_a_packet_on_its_way_through(self) -> None:
        self.received("xyz1")
        self.forwarding(packets.data("1", "111", "xyz1"))
        ack = packets.peek_ack(packets.ack("100", "1", SHA1))
        assert ack is not None
        self.log.answered(ack)
        self.assertEqual(
            [
                "Received a message from client 1 payload xyz1",
                "Forwarding a data message to server id 100 server ip 172.31.21.234 port 5000 payload xyz1",
                f"Received a data message from server id 100 payload {SHA1}",
            ],
            self.lines(),
        )

    def test_what_is_forwarded_may_have_any_form_that_the_protocol_allows(self) -> None:
        self.forwarding(b'{"more": [1], "type": 0, "srcid": 1, "privPolyId": 111, "payload": "x\\u0079z1"}')
        self.assertEqual(
            ["Forwarding a data message to server id 100 server ip 172.31.21.234 port 5000 payload xyz1"],
            self.lines(),
        )

    def test_a_payload_is_no_format(self) -> None:
        self.received("{client_id} {} {{ %s")
        self.assertEqual(["Received a message from client 1 payload {client_id} {} {{ %s"], self.lines())

    def test_a_payload_cannot_forge_a_line(self) -> None:
        self.received("xyz1\nReceived a message from client 2 payload forged")
        self.assertEqual(
            [r"Received a message from client 1 payload xyz1\nReceived a message from client 2 payload forged"],
            self.lines(),
        )

    @given(texts)
    def test_a_line_is_one_line_of_printable_ascii(self, payload: str) -> None:
        self.received(payload)
        line = self.lines()[-1]
        self.assertTrue(line.isascii() and line.isprintable(), repr(line))


class ShownTests(SynchronousTestCase):
    """A payload as text that is safe to show."""

    def test_what_is_escaped(self) -> None:
        for payload, text in {
            "": "",
            "xyz1 {}[],:'/": "xyz1 {}[],:'/",
            "a\nb\r\tc": r"a\nb\r\tc",
            'say "x"': r"say \"x\"",
            "a\\nb": r"a\\nb",
            "\0\x07\x1b[31m": r"\u0000\u0007\u001b[31m",
            "\x7f": r"\u007f",
            "\x85\x9b31m": r"\u0085\u009b31m",
            "é€": r"\u00e9\u20ac",
            "😀": r"\ud83d\ude00",
            "\u2028\u202e\ufeff": r"\u2028\u202e\ufeff",
        }.items():
            with self.subTest(payload=payload):
                self.assertEqual(text, shown(payload))

    def test_two_hundred_characters_are_shown_whole(self) -> None:
        self.assertEqual("x" * 200, shown("x" * 200))

    def test_longer_ones_are_cut(self) -> None:
        self.assertEqual("x" * 200, shown("x" * 201))
        self.assertEqual("x" * 200, shown("x" * 1_000_000))

    def test_what_escaping_made_longer_is_cut_too(self) -> None:
        self.assertEqual(r"\n" * 100, shown("\n" * 200))
        self.assertEqual(r"\u20ac" * 33 + r"\u", shown("€" * 200))

    @given(texts)
    def test_a_short_one_can_be_read_back(self, payload: str) -> None:
        text = shown(payload)
        if len(text) < SHOWN:
            self.assertEqual(payload, json.loads(f'"{text}"'))
