"""What clients and registering servers see of the proxy: docs/reference/protocol.rst, from their end."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.address import IPv6Address, UNIXAddress

from tests.memory import BIG, HOST, Client, MemoryServerHost, Packet, Proxy, ProxyCase, data, encode, setup


class StreamTests(ProxyCase):
    """The stream, and where it goes wrong."""

    def assert_refused_and_closed(self, proxy: Proxy, stream: bytes, code: str) -> None:
        """The stream gets this error and then the end, and what comes after it gets nothing."""
        client = proxy.client()
        client.send(stream)
        client.send(data("after"))
        self.assertEqual(client.answers(), [f"{code}/no"], stream)
        self.assertTrue(client.ended, stream)

    def assert_refused_only(self, stream: bytes) -> Packet:
        """The stream gets bad-packet, and the connection goes on; the error is returned."""
        client = self.proxy().client()
        client.send(stream)
        (error,) = client.take()
        self.assertEqual((error["type"], error["error"], error["delivered"]), ("3", "bad-packet", "no"), stream)
        client.ask("after", policy="unheard of")
        self.assertEqual(client.answers(), ["no-server/no"], stream)
        self.assertFalse(client.gone, stream)
        return error

    def test_not_json(self) -> None:
        """Bytes that are not JSON: bad-packet, then closed."""
        proxy = self.proxy()
        for stream in (b"hello", b"}", b'{"type":}', b"{'type':'0'}", b"\xff", b'{"a":"\xff"}', b"{a}", b'{"a":1 2}'):
            with self.subTest(stream):
                self.assert_refused_and_closed(proxy, stream, "bad-packet")

    def test_no_object(self) -> None:
        """A top-level value that is no object: bad-packet, then closed."""
        proxy = self.proxy()
        for stream in (b"[]", b"17", b'"text"', b"null", b'[{"type":"0"}]'):
            with self.subTest(stream):
                self.assert_refused_and_closed(proxy, stream, "bad-packet")

    def test_nested_too_deep(self) -> None:
        """An object nested deeper than 32: bad-packet, then closed; one nested 32 deep goes through."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        server = proxy.server(5000)
        deepest = encode(data("deep"))[:-1] + b', "more": ' + b"[" * 31 + b"]" * 31 + b"}"
        client = proxy.client()
        client.send(deepest)
        server.answer()
        self.assertEqual(client.answers(), ["deep by 100"])
        too_deep = encode(data("deep"))[:-1] + b', "more": ' + b"[" * 32 + b"]" * 32 + b"}"
        self.assert_refused_and_closed(proxy, too_deep, "bad-packet")
        self.assertEqual(server.payloads, ["deep"])

    def test_too_long(self) -> None:
        """An object longer than max_packet: too-large, then closed; one just as long goes through."""
        longest = encode(data("x" * 1000))
        proxy = self.proxy(max_packet=len(longest))
        proxy.register("100", "111", 5000)
        server = proxy.server(5000)
        client = proxy.client()
        client.send(longest)
        self.assertEqual(len(server.packets), 1)
        self.assert_refused_and_closed(proxy, encode(data("x" * 1001)), "too-large")
        self.assertEqual(len(server.packets), 1)

    def test_too_long_before_its_end(self) -> None:
        """What is too long is refused without waiting for its end, which may never come."""
        client = self.proxy(max_packet=100).client()
        client.send(b'{"payload": "')
        client.send(b"x" * 80)
        self.assertEqual(client.answers(), [])
        client.send(b"x" * 80)
        self.assertEqual(client.answers(), ["too-large/no"])
        self.assertTrue(client.ended)

    def test_unknown_type(self) -> None:
        """An unknown type: bad-packet, the connection goes on."""
        kinds: list[object] = ["4", 17, "data", None, True, [], {}, 0.0]
        for kind in kinds:
            with self.subTest(kind):
                self.assert_refused_only(encode({**data("a"), "type": kind}))

    def test_missing_field(self) -> None:
        """A field missing: bad-packet, the connection goes on."""
        for packet in (data("a"), setup("100", "111", 5000)):
            for name in packet:
                with self.subTest(packet=packet, name=name):
                    self.assert_refused_only(encode({key: value for key, value in packet.items() if key != name}))

    def test_wrong_kind(self) -> None:
        """A field of the wrong kind: bad-packet, the connection goes on."""
        values: list[object] = [None, True, 1.5, [], {}, ["1"]]
        for name in ("srcid", "privPoliId", "payload"):
            for value in values:
                with self.subTest(name=name, value=value):
                    self.assert_refused_only(encode({**data("a"), name: value}))

    def test_too_long_field(self) -> None:
        """A field over 256 characters: bad-packet, the connection goes on; the payload may be longer."""
        for name in ("srcid", "privPoliId", "payloadsize"):
            with self.subTest(name):
                self.assert_refused_only(encode({**data("a"), name: "1" * 257}))
        proxy = self.proxy()
        proxy.register("1" * 256, "2" * 256, 5000)
        server = proxy.server(5000)
        client = proxy.client()
        client.ask("x" * 257, policy="2" * 256, client_id="3" * 256)
        server.answer()
        self.assertEqual(client.answers(), ["x" * 257 + " by " + "1" * 256])

    def test_key_twice(self) -> None:
        """A key that stands twice: bad-packet, the connection goes on, and no server gets to read the other value."""
        proxy = self.proxy()
        for port, policy in enumerate(("111", "222"), start=5000):
            proxy.register("100", policy, port)
        servers = [proxy.server(5000), proxy.server(5001)]
        client = proxy.client()
        for twice in (b'"privPoliId": "222"', b'"privPoliId": "111"', b'"\\u0070rivPoliId": "222"', b'"payload": "b"'):
            client.send(encode(data("a"))[:-1] + b", " + twice + b"}")
            self.assertEqual(client.answers(), ["bad-packet/no"], twice)
        self.assertEqual([server.payloads for server in servers], [[], []])
        client.ask("after")
        self.assertEqual([server.payloads for server in servers], [["after"], []])

    def test_id_that_cant_be_echoed(self) -> None:
        """Ids are 1 to 256 printable characters or integers of at most 64 bits."""
        for name in ("srcid", "privPoliId"):
            for value in ("", "a\nb", "\x7f", 1 << 64, -(1 << 63) - 1):
                with self.subTest(name=name, value=value):
                    self.assert_refused_only(encode({**data("a"), name: value}))

    def test_both_spellings_at_once(self) -> None:
        """privPoliId and privPolyId at once: which counts?"""
        self.assert_refused_only(encode(data("a", privPolyId="111")))
        self.assert_refused_only(encode(setup("100", "111", 5000, privPoliId="111")))

    def test_packets_for_others(self) -> None:
        """ACKs and errors are not for the proxy."""
        answer = {"type": "2", "srcid": "100", "destid": "1", "payload": "a"}
        self.assertEqual(self.assert_refused_only(encode(answer))["destid"], "100")
        self.assert_refused_only(encode({**answer, "type": "3", "error": "timeout", "delivered": "no"}))

    def test_form_of_an_error(self) -> None:
        """An error names the proxy, whom it answers, a code, and carries a sentence with its right size."""
        error = self.assert_refused_only(encode({**data("a", client_id="Zoë"), "payload": 17}))
        self.assertEqual(
            set(error), {"type", "srcid", "destid", "error", "delivered", "payload", "payloadsize"}, "no further field"
        )
        self.assertEqual((error["type"], error["srcid"], error["destid"]), ("3", "rproxy", "Zoë"))
        self.assertIn(" ", error["payload"])
        self.assertEqual(int(error["payloadsize"]), len(error["payload"]))
        self.assertEqual(self.assert_refused_only(b'{"type": "0"}')["destid"], "", "unknown")

    def test_two_packets_in_one_segment(self) -> None:
        """Two packets in one segment are two packets, with white space between them or none."""
        for between in (b"", b" ", b"\r\n\t \n"):
            with self.subTest(between):
                proxy = self.proxy()
                proxy.register("100", "111", 5000)
                server = proxy.server(5000)
                client = proxy.client()
                client.send(between + encode(data("a")) + between + encode(data("b")) + between)
                self.assertEqual(server.payloads, ["a", "b"])
                server.answer()
                self.assertEqual(client.answers(), ["a by 100", "b by 100"])

    def test_one_packet_in_a_hundred_segments(self) -> None:
        """One packet in a hundred segments is one packet, forwarded once it is whole."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        server = proxy.server(5000)
        client = proxy.client()
        raw = encode(data("}{" * 20))
        self.assertGreater(len(raw), 100)
        for byte in raw[:99]:
            client.send(bytes([byte]))
        self.assertEqual(server.attempted, 0)
        client.send(raw[99:])
        self.assertEqual(server.payloads, ["}{" * 20])
        server.answer()
        self.assertEqual(len(client.answers()), 1)


class PacketTests(ProxyCase):
    """What a packet may look like, and that nothing of it changes on its way."""

    def setUp(self) -> None:
        self.world = self.proxy()

    def serve(self, policy: str = "111", **modern: Any) -> MemoryServerHost:
        """A server of that policy, registered and listening."""
        self.world.register("100", policy, 5000, **modern)
        return self.world.server(5000)

    def assert_passes(self, raw: bytes, policy: str = "111") -> None:
        """These bytes, and no others, arrive at the policy's server."""
        server = self.serve(policy)
        client = self.world.client()
        client.send(raw)
        self.assertEqual(client.answers(), [], raw)
        self.assertEqual(server.connection.take_bytes(), raw)

    def test_ids_as_integers(self) -> None:
        """111 and "111" are the same policy, 0 and "0" the same type; the packet stays as it was written."""
        for raw in (
            b'{"type":0,"srcid":1,"privPoliId":111,"payload":"a"}',
            b'{"type":"0","srcid":1,"privPoliId":"111","payload":"a"}',
            b'{"type":0,"srcid":"1","privPoliId":"111","payload":"a","payloadsize":1}',
            b'{"type":"0","srcid":-9223372036854775808,"privPoliId":111,"payload":"a","payloadsize":"1"}',
        ):
            with self.subTest(raw):
                self.assert_passes(raw)

    def test_registration_with_integers(self) -> None:
        """A server may register with integers for a policy that is asked for with a string."""
        client = self.world.client(HOST)
        client.send(b'{"type":1,"id":100,"privPolyId":111,"listenport":5000,"lease":"60","pipeline":"2"}')
        self.assertEqual(client.answers(), ["registered"])
        server = self.world.server(5000)
        self.world.ids["111", HOST, 5000] = "100"
        asker = self.world.client()
        asker.ask("a")
        server.connection.answer()
        self.assertEqual(asker.answers(), ["a by 100"])

    def test_answer_with_integers(self) -> None:
        """An ACK's ids match as integers too, whatever the packet and the registration had."""
        server = self.serve()
        for client_id in ("7", 7):
            client = self.world.client()
            client.send({**data("a"), "srcid": client_id})
            server.connection.send(b'{"type":2,"srcid":100,"destid":7,"payload":"done"}')
            self.assertEqual(client.answers(), ["done"])

    def test_either_spelling(self) -> None:
        """privPoliId and privPolyId are accepted in both kinds of packet."""
        self.assert_passes(b'{"type":"0","srcid":"1","privPolyId":"111","payload":"a"}')
        registering = self.world.client(HOST)
        registering.send(b'{"type":"1","id":"200","privPoliId":"222","listenport":"6000","lease":60}')
        self.assertEqual(registering.answers(), ["registered"])
        server = self.world.server(6000)
        self.world.client().ask("b", policy="222")
        self.assertEqual(server.payloads, ["b"])

    def test_policy_may_be_a_word(self) -> None:
        """Policies may be words."""
        self.assert_passes(b'{"type":"0","srcid":"1","privPoliId":"PP_1","payload":"a"}', "PP_1")

    def test_bytes_are_forwarded_as_they_came(self) -> None:
        """Unknown fields, escapes, the order of the fields and the spaces between them pass through untouched."""
        for raw in (
            b'{ "payload" : "\\u0061\\/b\\n" ,\r\n"privPoliId":\t"111", "srcid":"1","type":"0" }',
            b'{"type":"0","srcid":"1","privPoliId":"111","payload":"a","trace":{"id":[1,2.50,null,{"x":"}"}]},"z":1e2}',
            '{"type":"0","srcid":"Zoë","privPoliId":"111","payload":"€ 😀","payloadsize":"3"}'.encode(),
            b'{"type":"0","srcid":"1","\\u0070rivPoliId":"\\u0031\\u0031\\u0031","payload":"\\ud83d\\ude00"}',
            b'{"type":"0","srcid":"1","privPoliId":"111","payload":""}',
        ):
            with self.subTest(raw):
                self.assert_passes(raw)

    def test_answers_are_forwarded_as_they_came(self) -> None:
        """So do the bytes of an answer."""
        server = self.serve()
        for raw in (
            b'{"payload": "\\u0061\\/", "x": [1.0, {"y": null}], "destid":"1", "srcid": "100", "type":"2"}',
            b'{"type":2,"srcid":100,"destid":1,"payload":"a"}',
            '{"type":"2","srcid":"100","destid":"1","payloadsize":"1","payload":"€"}'.encode(),
        ):
            with self.subTest(raw):
                client = self.world.client()
                client.ask("a")
                server.connection.send(b" \n" + raw + b"\n")
                self.assertEqual(client.take_bytes(), raw)

    def test_wrong_size_is_counted_not_refused(self) -> None:
        """A wrong payloadsize is counted, not refused: peers' samples carry placeholders."""
        server = self.serve(pipeline=4)
        client = self.world.client()
        client.send(data("abc", payloadsize="512"), data("abc", payloadsize="<size>"), data("abc", payloadsize=3))
        self.assertEqual(server.payloads, ["abc", "abc", "abc"])
        self.assertEqual(self.world.factory.counters.wrong_size, 2)
        server.connection.answer(payloadsize="1000")
        self.assertEqual(client.answers(), ["abc by 100"] * 3)
        self.assertEqual(self.world.factory.counters.wrong_size, 5)

    def test_size_is_counted_in_characters(self) -> None:
        """The size is the number of characters, not of bytes."""
        server = self.serve()
        self.world.client().send(data("€ 😀", payloadsize="3"))
        self.assertEqual(server.payloads, ["€ 😀"])
        self.assertEqual(self.world.factory.counters.wrong_size, 0)

    def test_strict(self) -> None:
        """Where the proxy is strict, a wrong size is refused, and the right one or none goes through."""
        self.world = self.proxy(strict=True)
        server = self.serve(pipeline=4)
        client = self.world.client()
        client.send(data("a", payloadsize="2"), data("b", payloadsize="1"), data("c"), data("d", payloadsize="<size>"))
        self.assertEqual(server.payloads, ["b", "c"])
        server.answer()
        self.assertEqual(client.answers(), ["bad-packet/no", "b by 100", "c by 100", "bad-packet/no"])

    def test_strict_with_servers(self) -> None:
        """There an ACK with a wrong size isn't an answer."""
        self.world = self.proxy(strict=True)
        server = self.serve()
        client = self.world.client()
        client.ask("a")
        server.connection.answer(payloadsize="1000")
        self.assertEqual(client.answers(), ["server-lost/unknown"])

    def test_client_that_reads_once(self) -> None:
        """The classic client: one packet, one read of 2,048 bytes, one object in it that has a payload."""
        client = self.world.client()
        client.ask("a")
        answer = json.loads(client.take_bytes()[:2048])
        self.assertIn("payload", answer)
        client.close()
        self.assertTrue(client.gone)


class ClientTests(ProxyCase):
    """How clients come, stay and go."""

    def setUp(self) -> None:
        self.serve()

    def serve(self, **limits: Any) -> None:
        """Begin anew, with one modern server that takes much at a time."""
        self.world = self.proxy(**limits)
        self.world.register("100", "111", 5000, pipeline=1000)
        self.server = self.world.server(5000)

    def ask_many(self, client: Client, count: int, first: int = 0) -> list[str]:
        """Send that many packets, and return their payloads."""
        payloads = [str(number) for number in range(first, first + count)]
        client.ask(*payloads)
        return payloads

    def test_half_closed_client_gets_its_answers(self) -> None:
        """A client that has sent its packets and shut down its writing side still gets its answers."""
        client = self.world.client()
        with self.world.at_once():
            client.ask("a", "b")
            client.half_close()
        self.world.advance(1)
        self.assertFalse(client.gone)
        self.server.connection.answer(1)
        self.assertEqual(client.answers(), ["a by 100"])
        self.assertFalse(client.gone)
        self.server.answer()
        self.assertEqual(client.answers(), ["b by 100"])
        self.assertTrue(client.ended)

    def test_half_closed_client_that_awaits_nothing(self) -> None:
        """Once nothing is left to answer, a client that shut its side is let go."""
        client = self.world.client()
        client.ask("a")
        self.server.answer()
        client.half_close()
        self.assertEqual(client.answers(), ["a by 100"])
        self.assertTrue(client.ended)

    def test_half_closed_in_the_middle_of_a_packet(self) -> None:
        """A stream that ends inside a packet is none: bad-packet, after the earlier answers."""
        client = self.world.client()
        client.send(data("a"), b'{"type": "0", ')
        client.half_close()
        self.assertEqual(client.answers(), [])
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100", "bad-packet/no"])
        self.assertTrue(client.ended)

    def test_half_closed_with_more_than_it_may_have_unanswered(self) -> None:
        """All of its packets are answered, also those that weren't read yet when it shut its side."""
        client = self.world.client()
        payloads = self.ask_many(client, 300)
        client.half_close()
        for _ in range(3):
            self.server.answer()
        self.assertEqual(client.answers(), [f"{payload} by 100" for payload in payloads])
        self.assertTrue(client.ended)

    def test_client_that_leaves(self) -> None:
        """Its answer is swallowed, and never given to another."""
        leaving = self.world.client()
        leaving.ask("a")
        staying = self.world.client()
        staying.ask("b")
        leaving.reset()
        self.server.connection.answer(1)
        self.assertEqual(staying.answers(), [])
        self.server.connection.answer(1)
        self.assertEqual(staying.answers(), ["b by 100"])
        counters = self.world.factory.counters
        self.assertEqual((counters.acked, counters.client_gone, counters.swallowed), (1, 1, 1))

    def test_same_client_id_twice(self) -> None:
        """Two connections may use the same client id: each gets its own answers."""
        clients = [self.world.client(), self.world.client()]
        clients[1].ask("b")
        clients[0].ask("a")
        self.server.answer()
        self.assertEqual([client.answers() for client in clients], [["a by 100"], ["b by 100"]])

    def test_client_that_leaves_while_it_waits(self) -> None:
        """What it asked for and wasn't written yet never is."""
        self.server.hang()
        client = self.world.client()
        client.ask("a")
        client.reset()
        self.server.accept()
        self.assertEqual(self.server.payloads, [])
        self.assertEqual(self.world.factory.counters.client_gone, 1)

    def test_answers_come_in_the_order_of_the_packets(self) -> None:
        """A client that sends several packets on one connection gets the answers in the order of its packets."""
        self.world.register("200", "222", 6000)
        other = self.world.server(6000)
        client = self.world.client()
        client.ask("a")
        client.ask("b", policy="222")
        client.ask("c")
        client.ask("d", policy="333")
        client.send(b'{"type": "e"}')
        other.answer()
        self.assertEqual(client.answers(), [])
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100", "b by 200", "c by 100", "no-server/no", "bad-packet/no"])

    def test_unanswered_packets_are_bounded(self) -> None:
        """A client with 128 unanswered packets isn't read from, and is again after answers."""
        client = self.world.client()
        payloads = self.ask_many(client, 128)
        payloads += self.ask_many(client, 50, 128)
        self.assertEqual(self.server.payloads, payloads[:128])
        self.assertFalse(client.is_read_from)
        self.server.connection.answer(30)
        self.assertEqual(self.server.payloads, payloads[: 128 + 30])
        self.server.connection.answer(1)
        self.assertEqual(self.server.payloads, payloads[: 128 + 31])
        self.server.answer()
        self.assertTrue(client.is_read_from)
        self.server.answer()
        self.assertEqual(client.answers(), [f"{payload} by 100" for payload in payloads])

    def test_more_in_one_segment_than_may_be_unanswered(self) -> None:
        """It makes no difference that the packets were read already."""
        client = self.world.client()
        payloads = self.ask_many(client, 300)
        self.assertEqual(self.server.payloads, payloads[:128])
        client.send(data("300"))
        self.assertFalse(client.is_read_from)
        for _ in range(3):
            self.server.answer()
        self.assertTrue(client.is_read_from)
        self.assertEqual(len(client.answers()), 301)

    def test_refusals_dont_fill_a_client_up(self) -> None:
        """What is answered at once makes room at once."""
        client = self.world.client()
        client.send(*(data(str(number), policy="333") for number in range(300)))
        self.assertEqual(client.answers(), ["no-server/no"] * 300)
        self.assertTrue(client.is_read_from)

    def test_unanswered_bytes_are_bounded(self) -> None:
        """Long packets fill a client up before 128 of them."""
        self.serve(client_bytes=1000)
        client = self.world.client()
        for number in range(5):
            client.ask(str(number) + "x" * 400)
        self.assertEqual(len(self.server.packets), 3)
        self.assertFalse(client.is_read_from)
        self.server.answer()
        self.assertEqual(len(self.server.packets), 5)

    def test_client_that_doesnt_read(self) -> None:
        """A client that doesn't read its answers isn't read from; when it reads again, it is."""
        client = self.world.client()
        client.reads = False
        client.ask("a")
        self.server.connection.answer(payload=BIG, payloadsize=None)
        for number in range(10):
            client.ask(f"b{number}")
        self.assertEqual(self.server.payloads, ["a"])
        self.assertFalse(client.is_read_from)
        client.read_again()
        self.assertEqual(len(self.server.packets), 11)
        self.server.answer()
        self.assertEqual(client.answers(), [BIG] + [f"b{number} by 100" for number in range(10)])

    def test_client_that_doesnt_read_delays_nobody_else(self) -> None:
        """Whoever shares its server still gets answers."""
        deaf, other = self.world.client(), self.world.client()
        deaf.reads = False
        deaf.ask("a")
        self.server.connection.answer(payload=BIG)
        other.ask("b")
        self.server.answer()
        self.assertEqual(other.answers(), ["b by 100"])

    def test_idle_client(self) -> None:
        """A client that sends no packet for too long is closed; any packet will do, and white space is none."""
        self.serve(idle_timeout=10)
        client, dripping = self.world.client(), self.world.client()
        for _ in range(19):
            self.world.advance(0.5)
            dripping.send(b" \n")
        client.send(b"{}")
        self.assertEqual(client.answers(), ["bad-packet/no"])
        self.world.advance(1)
        self.assertTrue(dripping.ended)
        self.world.advance(8.5)
        self.assertFalse(client.gone)
        self.world.advance(1)
        self.assertTrue(client.ended)

    def test_unfinished_packet(self) -> None:
        """A packet that is begun and not finished in time: bad-packet, then closed, however it drips."""
        self.serve(packet_timeout=10, idle_timeout=5)
        for drips in (False, True):
            with self.subTest(drips=drips):
                client = self.world.client()
                client.send(b'{"payload": "')
                for _ in range(19):
                    self.world.advance(0.5)
                    if drips:
                        client.send(b"x")
                self.assertEqual((client.answers(), client.gone), ([], False))
                self.world.advance(1)
                client.send(b'"}', data("after"))
                self.assertEqual(client.answers(), ["bad-packet/no"])
                self.assertTrue(client.ended)
                self.world.advance(3)
                self.assertFalse(self.world.factory.clients)

    def test_unfinished_packet_behind_others(self) -> None:
        """The time counts for each packet, and the error comes after the answers to those before."""
        self.serve(packet_timeout=10)
        client = self.world.client()
        raw = encode(data("a"))
        client.send(raw[:9])
        for _ in range(3):
            self.world.advance(9)
            client.send(raw[9:] + raw[:9])
        self.world.advance(11)
        self.assertEqual((client.answers(), client.gone), ([], False))
        self.server.answer()
        self.server.answer()
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100"] * 3 + ["bad-packet/no"])
        self.assertTrue(client.ended)

    def test_unfinished_packet_of_a_server(self) -> None:
        """A lease is no reason to wait for it either."""
        self.serve(packet_timeout=10)
        connection = self.world.register("200", "222", 6000, lease=100)
        connection.take()
        connection.send(b"{")
        self.world.advance(11)
        self.assertEqual(connection.answers(), ["bad-packet/no"])

    def test_unfinished_packet_of_a_client_that_isnt_read_from(self) -> None:
        """No time runs while the proxy doesn't read: it is the proxy that keeps the packet from being finished."""
        self.serve(packet_timeout=10, idle_timeout=100)
        client = self.world.client()
        client.reads = False
        client.ask("a")
        self.server.connection.answer(payload=BIG)
        raw = encode(data("b"))
        client.send(raw[:9])
        self.world.advance(20)
        client.send(raw[9:])
        client.read_again()
        self.assertEqual(self.server.payloads, ["a", "b"])
        self.server.answer()
        self.assertEqual(client.answers()[1:], ["b by 100"])

    def test_waiting_client_is_not_idle(self) -> None:
        """Not while packets of its are in flight."""
        self.serve(idle_timeout=10)
        client = self.world.client()
        client.ask("a")
        self.world.advance(20)
        self.assertFalse(client.gone)
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100"])
        self.world.advance(10)
        self.assertTrue(client.ended)

    def test_lease_holder_is_not_idle(self) -> None:
        """Nor if a lease hangs on its connection."""
        self.serve(idle_timeout=10)
        connection = self.world.register("200", "222", 6000, lease=100)
        self.world.advance(50)
        self.assertFalse(connection.gone)

    def test_idle_client_that_doesnt_read(self) -> None:
        """A client that is silent and doesn't read its answers either is got rid of all the same."""
        self.serve(idle_timeout=10)
        client = self.world.client()
        client.reads = False
        client.ask("a")
        self.server.connection.answer(payload=BIG)
        self.world.advance(60)
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_half_closed_client_that_doesnt_read(self) -> None:
        """So is one that has shut its writing side, and so can't be silent for longer."""
        self.serve(idle_timeout=10)
        client = self.world.client()
        client.reads = False
        client.ask("a")
        client.half_close()
        self.server.connection.answer(payload=BIG)
        self.world.advance(60)
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_servers_are_no_clients(self) -> None:
        """Connections that a lease hangs on don't count, as long as it does."""
        self.serve(max_clients=2)
        holder = self.world.register("200", "222", 6000, lease=10)
        clients = [self.world.client() for _ in range(3)]
        for client in clients:
            client.ask(str(clients.index(client)))
        self.assertEqual(self.server.payloads, ["0", "1"])
        holder.close()
        self.assertEqual(self.server.payloads, ["0", "1"])
        clients[0].reset()
        self.assertEqual(self.server.payloads, ["0", "1", "2"])

    def test_lease_that_another_connection_took(self) -> None:
        """A connection whose registrations are another's now counts again, and may be closed for being silent."""
        self.serve(max_clients=2, idle_timeout=10)
        old = self.world.register("200", "222", 6000, lease=100)
        self.world.register("200", "222", 6000, lease=100)
        client = self.world.client()
        client.ask("a")
        waiting = self.world.client()
        waiting.ask("b")
        self.assertEqual(self.server.payloads, ["a"])
        self.world.advance(20)
        self.assertTrue(old.ended)
        self.assertEqual(self.server.payloads, ["a", "b"])

    def test_clients_are_bounded(self) -> None:
        """Beyond max_clients further clients wait in the backlog, and come in as others go."""
        self.serve(max_clients=2)
        clients = [self.world.client() for _ in range(4)]
        for client in clients:
            client.ask(str(clients.index(client)))
        self.assertEqual(self.server.payloads, ["0", "1"])
        self.assertFalse(self.world.port.reading)
        clients[0].reset()
        self.assertEqual(self.server.payloads, ["0", "1", "2"])
        self.assertFalse(self.world.port.reading)
        clients[1].reset()
        clients[2].reset()
        self.assertEqual(self.server.payloads, ["0", "1", "2", "3"])
        self.assertTrue(self.world.port.reading)


class SetupTests(ProxyCase):
    """What a server hears of its registration. Where its packets go then: test_routing, test_upstream."""

    def test_classic_server_hears_nothing(self) -> None:
        """A classic server sends one setup packet and closes at once; no answer is forced on it."""
        proxy = self.proxy()
        connection = proxy.client(HOST)
        connection.send(setup("100", "111", 5000))
        self.assertEqual(connection.take(), [])
        with proxy.at_once():
            connection = proxy.client(HOST)
            connection.send(setup("200", "222", 6000))
            connection.close()
        server = proxy.server(6000)
        proxy.client().ask("a", policy="222")
        self.assertEqual(server.payloads, ["a"])

    def test_lease_is_answered(self) -> None:
        """Each setup with a lease is answered with an ACK from the proxy to the server's id."""
        proxy = self.proxy()
        connection = proxy.register("100", "111", 5000, lease=10)
        for _ in range(3):
            (answer,) = connection.take()
            self.assertEqual((answer["type"], answer["srcid"], answer["destid"]), ("2", "rproxy", "100"))
            self.assertEqual(int(answer["payloadsize"]), len(answer["payload"]))
            connection.send(setup("100", "111", 5000, lease=10))
        self.assertFalse(connection.gone)

    def test_lease_runs_out(self) -> None:
        """A registration that isn't renewed in time ends; its connection doesn't, and may register again."""
        proxy = self.proxy(queue_timeout=1)
        connection = proxy.register("100", "111", 5000, lease=10)
        server = proxy.server(5000)
        proxy.advance(9.75)
        connection.send(setup("100", "111", 5000, lease=10))
        proxy.advance(9.75)
        client = proxy.client()
        client.ask("a")
        server.answer()
        proxy.advance(2)
        client.ask("b")
        connection.send(setup("100", "111", 5000, lease=10))
        client.ask("c")
        server.answer()
        self.assertEqual(client.answers(), ["a by 100", "no-server/no", "c by 100"])

    def test_conflict(self) -> None:
        """A setup packet for a key that another host holds a live lease on is refused, and changes nothing."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, lease=10)
        server = proxy.server(5000)
        for modern in ({}, {"lease": 10}):
            intruder = proxy.client("10.0.0.66")
            intruder.send(setup("100", "111", 5000, **modern))
            (error,) = intruder.take()
            self.assertEqual((error["type"], error["error"], error["destid"]), ("3", "conflict", "100"))
            self.assertFalse(intruder.gone)
            intruder.reset()
        proxy.client().ask("a")
        self.assertEqual(server.payloads, ["a"])
        self.assertEqual(proxy.server_at(("10.0.0.66", 5000)).attempted, 0)

    def test_too_many(self) -> None:
        """There are so many registrations and no more; one that stands may still be renewed."""
        proxy = self.proxy(registrations=2)
        first = proxy.register("100", "111", 5000, lease=10)
        proxy.register("200", "111", 6000, lease=10)
        first.take()
        (error,) = proxy.register("300", "111", 7000, lease=10).take()
        self.assertEqual((error["type"], error["error"], error["destid"]), ("3", "overloaded", "300"))
        first.send(setup("100", "111", 5000, lease=10))
        self.assertEqual(first.answers(), ["registered"])

    def test_conflict_ends_with_the_lease(self) -> None:
        """Once the lease is over, another host may have the key."""
        proxy = self.proxy()
        holder = proxy.register("100", "111", 5000, lease=10)
        holder.close()
        other = proxy.register("100", "111", 5000, host="10.0.0.6", lease=10)
        self.assertEqual(other.answers(), ["registered"])

    def test_same_host_is_no_conflict(self) -> None:
        """A server that lost its setup connection without a goodbye registers anew over another one."""
        proxy = self.proxy()
        lost = proxy.register("100", "111", 5000, lease=10)
        again = proxy.register("100", "111", 5000, lease=10)
        self.assertEqual(again.answers(), ["registered"])
        server = proxy.server(5000)
        lost.reset()
        proxy.client().ask("a")
        self.assertEqual(server.payloads, ["a"], "the end of the old connection ended the new registration")

    def test_other_key_is_no_conflict(self) -> None:
        """The key is the policy and the id: other hosts may have the same id for other policies, and the other way."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, lease=10)
        for server_id, policy in (("100", "222"), ("200", "111")):
            connection = proxy.register(server_id, policy, 5000, host="10.0.0.6", lease=10)
            self.assertEqual(connection.answers(), ["registered"])

    def test_without_an_address(self) -> None:
        """Who isn't connected over TCP has no address to be reached at: forbidden. It may still ask."""
        proxy = self.proxy()
        local = proxy.client(address=UNIXAddress(None))
        local.send(setup("100", "111", 5000, lease=10))
        (error,) = local.take()
        self.assertEqual((error["type"], error["error"], error["destid"]), ("3", "forbidden", "100"))
        self.assertFalse(local.gone)
        local.ask("a")
        self.assertEqual(local.answers(), ["no-server/no"])

    def test_mapped_address(self) -> None:
        """A server that comes in over a dual-stack port is reached over IPv4."""
        proxy = self.proxy()
        connection = proxy.client(address=IPv6Address("TCP", f"::ffff:{HOST}", 40000))
        connection.send(setup("100", "111", 5000, lease=10))
        server = proxy.server(5000)
        proxy.client().ask("a")
        self.assertEqual(server.payloads, ["a"])

    def test_bad_setup(self) -> None:
        """A setup packet whose fields can't be: bad-packet, to the server's id, and nothing is registered."""
        wrong: list[Packet] = [
            {"listenport": "0"},
            {"listenport": "65536"},
            {"listenport": "http"},
            {"pipeline": 0},
            {"pipeline": "many"},
            {"connections": 0},
            {"lease": 0},
            {"lease": -1},
            {"weight": 0},
            {"weight": 1.5},
            {"drain": "yes"},
            {"token": []},
        ]
        for changes in wrong:
            with self.subTest(changes):
                proxy = self.proxy()
                connection = proxy.client(HOST)
                connection.send({**setup("100", "111", 5000), **changes})
                (error,) = connection.take()
                self.assertEqual((error["error"], error["destid"]), ("bad-packet", "100"))
                self.assertFalse(connection.gone)
                connection.ask("a")
                self.assertEqual(connection.answers(), ["no-server/no"])

    def test_token_is_ignored(self) -> None:
        """A token is let pass where the proxy asks for none."""
        proxy = self.proxy()
        connection = proxy.register("100", "111", 5000, lease=10, token="secret")
        self.assertEqual(connection.answers(), ["registered"])

    def test_client_and_server_in_one(self) -> None:
        """One connection may register several servers and ask, too."""
        proxy = self.proxy()
        connection = proxy.client(HOST)
        connection.send(setup("100", "111", 5000, lease=10), setup("100", "222", 5000, lease=10), data("a"))
        server = proxy.server(5000)
        self.assertEqual(connection.answers(), ["registered", "registered"])
        proxy.advance(1)
        proxy.ids["111", HOST, 5000] = "100"
        server.answer()
        self.assertEqual(connection.answers(), ["a by 100"])
