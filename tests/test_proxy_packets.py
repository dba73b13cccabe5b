"""What streams and packets may look like, and what the proxy says where they go wrong."""

from __future__ import annotations

import json
from typing import Any

from tests.memory import HOST, MemoryServerHost, Packet, Proxy, ProxyCase, data, encode, setup


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
