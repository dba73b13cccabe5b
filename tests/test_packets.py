"""What is a packet, what is none, and what its sender hears; the quick way of reading agrees with the thorough one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from twisted.trial.unittest import SynchronousTestCase

from rproxy.framing import Framer, StreamError
from rproxy.packets import (
    MAX_FIELD,
    PROXY_ID,
    Ack,
    Data,
    Error,
    PacketError,
    Setup,
    ack,
    data,
    decode,
    error,
    peek_ack,
    peek_data,
    peek_many_acks,
    peek_many_data,
    setup,
    size_is_wrong,
)
from tests.strategies import cut, further_fields, ids, nearly_packets, rubbish, texts, values, written

Fields = Mapping[str, object]
Values = tuple[object, ...]

DATA: Fields = {"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1"}
SETUP: Fields = {"type": "1", "id": "100", "privPolyId": "111", "listenport": "5000"}
ACK: Fields = {"type": "2", "srcid": "100", "destid": "1", "payload": "b040"}
_NOT_DONE: Fields = {"error": "no-server", "delivered": "no", "payload": "Nobody."}
ERROR: Fields = {"type": "3", "srcid": PROXY_ID, "destid": "1", **_NOT_DONE}
KINDS = (DATA, SETUP, ACK, ERROR)

#: The answers of the protocol's first table.
GOES_ON = "bad-packet, goes on"
CLOSED = "bad-packet, closed"


def wire(fields: Fields, *absent: str, **changed: object) -> bytes:
    """A packet of these fields."""
    return json.dumps({key: value for key, value in {**fields, **changed}.items() if key not in absent}).encode()


def with_raw(field: bytes) -> bytes:
    """The data packet with one more field."""
    return b'{"type":"0","srcid":"1","privPoliId":"111","payload":"xyz1",' + field + b"}"


def answers(chunks: Iterable[bytes], peek: Callable[[bytes], object] = peek_data) -> list[str]:
    """What a connection that is fed so sees: the kinds of packets, and the errors."""
    framer = Framer(peek, 1 << 20)
    seen = []
    try:
        for chunk in chunks:
            framer.feed(chunk)
            for raw, packet in iter(framer.next, None):
                try:
                    seen.append(type(packet or decode(raw)).__name__)
                except PacketError:
                    seen.append(GOES_ON)
    except StreamError as stream_error:
        seen.append(f"{stream_error.code}, closed")
    return seen


def is_object(raw: bytes) -> bool:
    """Whether this is a JSON object, by the standard library."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return isinstance(json.loads(raw.decode(), parse_constant=refuse, parse_int=len), dict)
    except (ValueError, RecursionError):
        return False


class AnswerCase(SynchronousTestCase):
    """Shows a packet to a connection in every way that it may come: whole, byte by byte, and with more behind it."""

    def assert_answer(self, answer: str, *packets: bytes) -> None:
        behind = [] if answer.endswith("closed") else ["Data"]
        for raw in packets:
            self.assertEqual(answers([raw]), [answer], raw[:200])
            self.assertEqual(answers(cut(raw, [1])), [answer], raw[:200])
            self.assertEqual(answers([raw + b"\n" + wire(DATA)]), [answer, *behind], raw[:200])
            self.assertEqual(answers([wire(DATA) + raw]), ["Data", answer], raw[:200])


class KindsTests(SynchronousTestCase):
    """The four kinds are read into their classes, ids as texts."""

    def test_data(self) -> None:
        self.assertEqual(decode(wire(DATA)), Data("0", "1", "111", "xyz1"))
        self.assertEqual(decode(wire(DATA, payloadsize="4")), Data("0", "1", "111", "xyz1", "4"))

    def test_setup(self) -> None:
        self.assertEqual(decode(wire(SETUP)), Setup(type="1", id="100", policy="111", listenport=5000))

    def test_setup_of_a_modern_server(self) -> None:
        modern: dict[str, Any] = {
            "pipeline": 16,
            "connections": 2,
            "lease": 7.5,
            "weight": 3,
            "drain": True,
            "token": "secret",
        }
        expected = Setup(type="1", id="100", policy="111", listenport=5000, **modern)
        self.assertEqual(decode(wire(SETUP, **modern)), expected)
        self.assertEqual(decode(wire(SETUP, **{**modern, "pipeline": "16", "weight": "3", "lease": "7.5"})), expected)

    def test_ack(self) -> None:
        self.assertEqual(decode(wire(ACK, payloadsize=4)), Ack("2", "100", "1", "b040", 4))

    def test_error(self) -> None:
        self.assertEqual(decode(wire(ERROR)), Error("3", PROXY_ID, "1", "no-server", "no", "Nobody."))
        self.assertEqual(decode(wire(ERROR, destid="")), Error("3", PROXY_ID, "", "no-server", "no", "Nobody."))

    def test_integers_are_the_same_as_texts(self) -> None:
        self.assertEqual(decode(wire(DATA, type=0, srcid=1, privPoliId=111)), decode(wire(DATA)))
        self.assertEqual(decode(wire(SETUP, type=1, id=100, privPolyId=111, listenport=5000)), decode(wire(SETUP)))
        self.assertEqual(decode(wire(ACK, type=2, srcid=100, destid=1)), decode(wire(ACK)))
        self.assertEqual(decode(wire(ERROR, type=3, destid=1)), decode(wire(ERROR)))

    def test_either_spelling_of_the_policy_in_both(self) -> None:
        self.assertEqual(decode(wire(DATA, "privPoliId", privPolyId="111")), decode(wire(DATA)))
        self.assertEqual(decode(wire(SETUP, "privPolyId", privPoliId=111)), decode(wire(SETUP)))

    def test_policies_may_be_words(self) -> None:
        self.assertEqual(decode(wire(DATA, privPoliId="PP_1")), Data("0", "1", "PP_1", "xyz1"))

    def test_a_setup_may_leave_its_choices_open(self) -> None:
        self.assertEqual(
            decode(wire(SETUP, pipeline=None, connections=None, lease=None, token=None)), decode(wire(SETUP))
        )

    @given(st.sampled_from(KINDS), further_fields, st.data())
    def test_further_fields_change_nothing(self, fields: Fields, further: Fields, draw: st.DataObject) -> None:
        text = draw.draw(written({**further, **fields}))
        self.assertEqual(decode(text.encode()), decode(wire(fields)))

    @given(ids, ids, texts, st.data())
    def test_however_it_is_written(self, client: str, policy: str, payload: str, draw: st.DataObject) -> None:
        fields = {"type": "0", "srcid": client, "privPoliId": policy, "payload": payload}
        text = draw.draw(written(dict(draw.draw(st.permutations(list(fields.items()))))))
        self.assertEqual(decode(text.encode()), Data("0", client, policy, payload))

    def test_a_key_may_be_written_with_escapes(self) -> None:
        raw = rb'{"type":"0","\u0073rcid":"1","privPoli\u0049d":"111","payload":"xyz1"}'
        self.assertEqual(decode(raw), decode(wire(DATA)))


class NoPacketTests(AnswerCase):
    """What is well-formed but no packet is answered, and the connection goes on."""

    def test_a_usual_packet_is_read(self) -> None:
        for fields, kind in zip(KINDS, ("Data", "Setup", "Ack", "Error"), strict=True):
            self.assert_answer(kind, wire(fields))

    def test_unknown_types(self) -> None:
        for kind in ("", "4", "00", " 0", "data", 4, -1, 0.0, 1e0, True, False, None, [], ["0"], {}, {"0": "0"}):
            self.assert_answer(GOES_ON, wire(DATA, type=kind))
        self.assert_answer(GOES_ON, b"{}", b'{"a":1}')

    def test_a_field_is_missing(self) -> None:
        for fields in KINDS:
            for name in fields:
                self.assert_answer(GOES_ON, wire(fields, name))

    def test_a_field_is_of_the_wrong_kind(self) -> None:
        for fields in KINDS:
            for name in fields:
                for value in (None, True, 1.5, 1.0, [], ["1"], {}, {"1": "1"}):
                    self.assert_answer(GOES_ON, wire(fields, **{name: value}))
        self.assert_answer(GOES_ON, wire(DATA, payload=1), wire(ACK, payload=1), wire(ERROR, payload=1))

    def test_a_size_of_minus_nothing_is_none(self) -> None:
        """The quick reader can't tell it from 0."""
        raw = with_raw(b'"payloadsize":-0')
        self.assertEqual(decode(raw), Data("0", "1", "111", "xyz1", 0))
        self.assertEqual(peek_data(raw), decode(raw))

    def test_a_size_that_only_comes_to_minus_nothing(self) -> None:
        for size in (b"-0.0", b"-0e0", b"-0E5", b"-1e-400"):
            self.assert_answer(GOES_ON, with_raw(b'"payloadsize":' + size))

    def test_a_size_of_the_wrong_kind(self) -> None:
        sizes: Values = (None, True, 1.5, 4.0, [], {}, "4" * 257, 1 << 63, 10**400, -(1 << 63) - 1)
        for size in sizes:
            self.assert_answer(GOES_ON, wire(DATA, payloadsize=size), wire(ACK, payloadsize=size))

    def test_a_key_stands_twice(self) -> None:
        for again in (
            *(b'"srcid":"1"', b'"srcid":"2"', b'"privPoliId":"112"', b'"payload":"xyz1"', b'"type":"0"'),
            *(rb'"\u0073rcid":"2"', rb'"srci\u0064":"2"', rb'"privPoli\u0049d":"112"', rb'"\u0070ayload":""'),
            *(b'"SRCID":"2"', b'"srcId":"2"', b'"PrivPoliId":"112"', rb'"\u0053rcid":"2"', '"\u017frcid":"2"'.encode()),
            *(b'"payloadsize":1,"payloadsize":"4"', b'"payloadsize":"1","payloadsize":4'),
            *(b'"x":1,"x":1', b'"x":1,"X":2', b'"":1,"":2', rb'"x\u0000":1,"x\u0000":2', '"é":1,"É":1'.encode()),
            *(b'"x":{"y":1,"y":2}', b'"x":[{"y":1},[{"y":1,"Y":2}]]', rb'"x":{"y":{"a":1,"\u0061":2}}'),
        ):
            self.assert_answer(GOES_ON, with_raw(again))

    def test_the_same_key_in_two_objects_is_no_key_twice(self) -> None:
        self.assert_answer("Data", with_raw(b'"x":{"srcid":"2","payload":{"srcid":[{"a":1},{"a":1}]}}'))

    def test_a_value_like_a_key_is_no_key_twice(self) -> None:
        self.assert_answer("Data", wire(DATA, srcid="srcid", payload='"srcid":"2"', payloadsize="payloadsize"))

    def test_both_spellings_of_the_policy(self) -> None:
        for name in ("privPoliId", "privPolyId", "PrivPoliId", "privpolyid", "PRIVPOLYID", "privPolyID"):
            if name != "privPoliId":
                self.assert_answer(GOES_ON, wire(DATA, **{name: "111"}), wire(DATA, **{name: "112"}))
            if name != "privPolyId":
                self.assert_answer(GOES_ON, wire(SETUP, **{name: "111"}), wire(SETUP, **{name: "112"}))
        self.assert_answer(GOES_ON, wire(DATA, "privPoliId", privPolyId="1", PrivPoliId="2"))

    def test_a_name_in_other_capitals_is_another_name(self) -> None:
        for name in DATA:
            self.assert_answer(GOES_ON, wire(DATA, name, **{name.upper(): DATA[name]}))

    def test_texts_have_256_characters_at_most(self) -> None:
        for character in "x", "é", "😀", '"', "\\":
            longest = character * MAX_FIELD
            for fields, names in ((DATA, ("srcid", "privPoliId")), (SETUP, ("id", "privPolyId")), (ACK, ("srcid",))):
                for name in names:
                    self.assert_answer(type(decode(wire(fields))).__name__, wire(fields, **{name: longest}))
                    self.assert_answer(GOES_ON, wire(fields, **{name: longest + character}))
        for fields, name in ((ACK, "destid"), (ERROR, "srcid"), (ERROR, "destid"), (ERROR, "error"), (SETUP, "token")):
            self.assert_answer(type(decode(wire(fields))).__name__, wire(fields, **{name: "x" * 256}))
            self.assert_answer(GOES_ON, wire(fields, **{name: "x" * 257}))
        self.assert_answer("Data", wire(DATA, payload="x" * 10_000), wire(DATA, payloadsize="9" * 256))

    def test_ids_have_one_character_at_least(self) -> None:
        self.assert_answer(GOES_ON, wire(DATA, srcid=""), wire(DATA, privPoliId=""), wire(SETUP, id=""))
        self.assert_answer(GOES_ON, wire(SETUP, privPolyId=""), wire(ACK, srcid=""), wire(ACK, destid=""))

    def test_ids_that_are_integers_have_64_bits_at_most(self) -> None:
        for number in (0, -1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)):
            packet = decode(wire(DATA, srcid=number, privPoliId=number))
            self.assertEqual(packet, Data("0", str(number), str(number), "xyz1"))
        for number in (1 << 64, 10**19 * 2, 10**20, -(1 << 63) - 1, -(10**19), 10**300, 10**400, 10**4000):
            self.assert_answer(GOES_ON, wire(DATA, srcid=number), wire(DATA, privPoliId=number))
            self.assert_answer(GOES_ON, wire(SETUP, id=number), wire(SETUP, privPolyId=number))
            self.assert_answer(GOES_ON, wire(ACK, srcid=number), wire(ACK, destid=number))

    def test_a_zero_with_a_sign_is_no_id(self) -> None:
        """Peers read a number, and echo 0."""
        for fields, name in ((DATA, "srcid"), (DATA, "privPoliId"), (SETUP, "id"), (ACK, "destid")):
            self.assert_answer(type(decode(wire(fields))).__name__, wire(fields, **{name: 0}))
            self.assert_answer(GOES_ON, wire(fields, **{name: "ZERO"}).replace(b'"ZERO"', b"-0"))

    def test_ids_can_be_printed(self) -> None:
        for character in "\0\x07\n\r\t\x1b\x7f\x80\x9b\xa0\xad\u200b\u2028\u202e\ufeff\ue000\ufffe\U000e0001":
            unprintable = f"a{character}b"
            self.assert_answer(GOES_ON, wire(DATA, srcid=unprintable), wire(DATA, privPoliId=unprintable))
            self.assert_answer(GOES_ON, wire(SETUP, id=unprintable), wire(SETUP, privPolyId=unprintable))
            self.assert_answer(GOES_ON, wire(ACK, srcid=unprintable), wire(ACK, destid=unprintable))
            self.assert_answer("Data", wire(DATA, payload=unprintable))

    def test_half_of_a_surrogate_pair(self) -> None:
        for half in (rb"\ud800", rb"\udbff", rb"\udc00", rb"\uDFFF", rb"\ude00\ud83d", rb"\ud83d\u0041", rb"\ud83dx"):
            self.assert_answer(GOES_ON, with_raw(b'"x":"' + half + b'"'), with_raw(b'"' + half + b'":1'))
            self.assert_answer(GOES_ON, with_raw(b'"x":[{"y":"' + half + b'"}]'))
            self.assert_answer(GOES_ON, wire(DATA).replace(b"xyz1", half), wire(DATA).replace(b"111", half))
        for whole in (rb"\ud83d\ude00", rb"\uD83D\uDE00", rb"\\ud800", rb"\\\\udc00"):
            self.assert_answer("Data", with_raw(b'"x":"' + whole + b'"'), wire(DATA).replace(b"xyz1", whole))

    def test_numbers_that_no_server_can_read(self) -> None:
        for number in (b"1e400", b"-1e400", b"1e99999999999", b"9" * 400, b"9" * 5000, b"-" + b"9" * 5000):
            self.assert_answer(GOES_ON, with_raw(b'"x":' + number), with_raw(b'"x":[{"y":' + number + b"}]"))
            self.assert_answer(GOES_ON, with_raw(b'"payloadsize":' + number))

    def test_numbers_in_further_fields(self) -> None:
        for number in (*b"0 -0 -0.0 1e308 1e-400 18446744073709551616".split(), b"9" * 300, b"0." + b"1" * 5000):
            self.assert_answer("Data", with_raw(b'"x":' + number))

    def test_ports_are_1_to_65535(self) -> None:
        self.assert_answer("Setup", *(wire(SETUP, listenport=port) for port in (1, 65535, "1", "65535", "05000")))
        for number in (0, -1, 65536, 10**9, 5000.0):
            self.assert_answer(GOES_ON, wire(SETUP, listenport=number), wire(SETUP, listenport=str(number)))
        for text in ("", " 5000", "5000 ", "5000\n", "5e3", "+1", "0x1388", "5_000", "\u0665", "http", "1" * 5000):
            self.assert_answer(GOES_ON, wire(SETUP, listenport=text))

    def test_what_a_modern_server_may_choose(self) -> None:
        choices: tuple[tuple[str, Values, Values], ...] = (
            ("pipeline", (1, 1024, "7"), (0, -1, 1025, 1.5, "1.5", "", True)),
            ("connections", (1, 64, "7"), (0, -1, 65, 1.5, "", True)),
            ("lease", (1, 0.1, 86400, "30", "0.5"), (0, -1, 86401, "0", "", "nan", "inf", "1e3", True)),
            ("weight", (1, 100, "7"), (0, -1, 101, 1.5, "", True, None)),
            ("drain", (True, False), (0, 1, "true", "", None)),
            ("token", ("", "secret", 7), (1.5, True, [])),
        )
        for name, allowed, refused in choices:
            for value in allowed:
                self.assert_answer("Setup", wire(SETUP, **{name: value}))
            for value in refused:
                self.assert_answer(GOES_ON, wire(SETUP, **{name: value}))

    def test_delivered_is_no_or_unknown(self) -> None:
        self.assert_answer("Error", wire(ERROR, delivered="no"), wire(ERROR, delivered="unknown"))
        self.assert_answer(GOES_ON, wire(ERROR, delivered=""), wire(ERROR, delivered="yes"), wire(ERROR, error=""))


class NoJsonTests(AnswerCase):
    """What isn't JSON ends the stream."""

    def test_malformed_objects(self) -> None:
        for raw in (
            *(b"{,}", b"{a}", b"{1}", b'{"a"}', b'{"a":}', b'{"a" 1}', b'{"a":1,}', b'{"a":1 "b":2}', b"{{}}", b"{[]}"),
            *(b"{'a':1}", b"{a:1}", b"{1:1}", b'{"a":1;}', b'{"a":/**/1}', b'{"a":1//\n}'),
            *(b'{"a":1]', b"{]", b'{"a":[1}]}', b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\\u00g0"}'),
            *(b'{"a":tru}', b'{"a":True}', b'{"a":nul}', b'{"a":undefined}', b'{"a":\x0b1}', b'{"a":\xc2\xa01}'),
        ):
            self.assert_answer(CLOSED, raw)

    def test_what_is_no_packet_anyway_must_still_be_json(self) -> None:
        for field in (
            b'"srcid":"2"',
            b'"x":{"a":1,"a":1}',
            b'"x":1e400',
            b'"x":' + b"9" * 5000,
            b'"x":[{"a":1,"A":1}]',
        ):
            self.assert_answer(GOES_ON, with_raw(field))
            for behind in (b",nonsense", b',"y":NaN', b',"y":"\xff"', b',"y":01', b",", b',"y":[1]]', b',"y":"\\x"'):
                self.assert_answer(CLOSED, with_raw(field + behind))
            self.assertRaises(StreamError, decode, b"[" + with_raw(field) + b"]")

    def test_numbers_that_are_no_json(self) -> None:
        for number in (b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf"):
            self.assert_answer(CLOSED, with_raw(b'"x":' + number), with_raw(b'"payloadsize":' + number))
        for number in "01 +1 - .5 1. 1e 0x1 1_0 --1 \u0665 \uff11".encode().split():
            self.assert_answer(CLOSED, with_raw(b'"x":' + number), with_raw(b'"payloadsize":' + number))

    def test_control_characters_in_texts(self) -> None:
        for code in range(0x20):
            self.assert_answer(CLOSED, wire(DATA).replace(b"xyz1", b"a%cb" % code), with_raw(b'"x":"%c"' % code))
            self.assert_answer(CLOSED, wire(DATA).replace(b"111", b"a%cb" % code), with_raw(b'"%c":1' % code))

    def test_what_is_no_utf_8(self) -> None:
        for text in (
            *(b"\xff", b"\x80", b"\xe9", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98"),
            *(b"\xc0\xaf", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xe0\x9f\xbf"),
            *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80"),
            *(b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80"),
        ):
            for raw in (wire(DATA).replace(b"xyz1", text), wire(DATA).replace(b"111", b"1" + text + b"1")):
                self.assert_answer(CLOSED, raw)
            self.assert_answer(CLOSED, with_raw(b'"x":"' + text + b'"'), with_raw(b'"x":["' + text + b'"]'))
            self.assert_answer(CLOSED, with_raw(b'"' + text + b'":1'), with_raw(b'"x":{"' + text + b'":1}'))

    def test_a_byte_order_mark(self) -> None:
        self.assertEqual(answers([b"\xef\xbb\xbf" + wire(DATA)]), [CLOSED])
        self.assertEqual(answers(cut(b"\xef\xbb\xbf" + wire(DATA), [1])), [CLOSED])
        self.assert_answer(CLOSED, b"{\xef\xbb\xbf" + wire(DATA)[1:])

    def test_what_is_no_object(self) -> None:
        for raw in (b"[]", b"1", b'"text"', b"null", b"", b" ", b"{", b'{"a":1', b"{} {}", b"\xef\xbb\xbf{}", b"{}x"):
            self.assertRaises(StreamError, decode, raw)

    def test_a_packet_cut_off_is_waited_for(self) -> None:
        raw = wire(DATA)
        for length in range(len(raw)):
            self.assertEqual(answers([raw[:length]]), [])
            self.assertEqual(answers([raw[:length], raw[length:]]), ["Data"])


class AnyBytesTests(SynchronousTestCase):
    """Nothing but packets and the two errors ever comes of what is received."""

    def assert_same_answers(self, stream: bytes, sizes: list[int]) -> None:
        for peek in (peek_data, peek_ack):
            self.assertEqual(answers(cut(stream, sizes), peek), answers([stream], peek))

    @given(st.binary() | rubbish, st.lists(st.integers(1, 50), min_size=1))
    def test_rubbish(self, stream: bytes, sizes: list[int]) -> None:
        self.assert_same_answers(stream, sizes)
        self.assert_same_answers(b"{" + stream + b"}", sizes)

    @given(
        st.lists(st.sampled_from(KINDS).flatmap(nearly_packets), min_size=1, max_size=4),
        st.lists(st.integers(1, 50), min_size=1),
    )
    def test_packets_after_an_accident(self, packets: list[bytes], sizes: list[int]) -> None:
        self.assert_same_answers(b"".join(packets), sizes)

    @given(st.binary() | rubbish | nearly_packets(DATA) | nearly_packets(SETUP))
    def test_unframed(self, raw: bytes) -> None:
        try:
            decode(raw)
        except (StreamError, PacketError) as refused:
            self.assertTrue(str(refused))

    @given(st.binary() | rubbish | st.sampled_from(KINDS).flatmap(nearly_packets))
    def test_exactly_what_is_no_json_object_ends_the_stream(self, raw: bytes) -> None:
        try:
            decode(raw)
        except StreamError:
            self.assertFalse(is_object(raw))
        except PacketError:
            self.assertTrue(is_object(raw))

    @given(nearly_packets(DATA) | nearly_packets(SETUP) | nearly_packets(ACK) | nearly_packets(ERROR))
    def test_what_is_read_keeps_the_rules(self, raw: bytes) -> None:
        try:
            packet = decode(raw)
        except (StreamError, PacketError):
            return
        names = {Data: ["srcid", "policy"], Setup: ["id", "policy"], Ack: ["srcid", "destid"], Error: ["error"]}
        for name in names[type(packet)]:
            text = getattr(packet, name)
            self.assertTrue(1 <= len(text) <= 256 and text.isprintable())
        objects: list[list[str]] = []
        json.loads(raw, object_pairs_hook=lambda pairs: objects.append([key.casefold() for key, _ in pairs]))
        for keys in objects:
            self.assertEqual(len(set(keys)), len(keys))
        self.assertFalse({"privpoliid", "privpolyid"} <= set(objects[-1]))


class PeekTests(SynchronousTestCase):
    """The quick way knows the usual packet, and agrees with the thorough one on it."""

    def assert_agrees(self, raw: bytes) -> None:
        for peek in (peek_data, peek_ack):
            packet = peek(raw)
            if packet is not None:
                self.assertEqual(packet, decode(raw), raw)

    @given(nearly_packets(DATA) | nearly_packets(ACK))
    def test_what_it_reads_is_what_decode_reads(self, raw: bytes) -> None:
        self.assert_agrees(raw)

    @given(st.sampled_from([DATA, ACK]), st.data())
    def test_also_where_ids_are_anything(self, fields: Fields, draw: st.DataObject) -> None:
        changed = {name: draw.draw(ids | texts) for name in fields if name != "type"}
        self.assert_agrees(draw.draw(written({**fields, **changed})).encode())
        self.assert_agrees(draw.draw(written({**fields, "payloadsize": draw.draw(values)})).encode())

    @given(st.sampled_from([DATA, ACK]), ids, ids, texts, st.sampled_from([None, "4", 4]), st.data())
    def test_it_reads_every_usual_packet(
        self,
        fields: Fields,
        source: str,
        other: str,
        payload: str,
        size: str | int | None,
        draw: st.DataObject,
    ) -> None:
        kind, _, third, _ = fields
        usual: dict[str, object] = {kind: fields[kind], "srcid": source, third: other, "payload": payload}
        if size is not None:
            usual["payloadsize"] = size
        raw = draw.draw(written(dict(draw.draw(st.permutations(list(usual.items()))))))
        peek: Callable[[bytes], object] = peek_data if fields is DATA else peek_ack
        self.assertEqual(peek(raw.encode()), decode(raw.encode()))

    def test_data_in_its_usual_forms(self) -> None:
        for raw, packet in (
            (wire(DATA), Data("0", "1", "111", "xyz1")),
            (wire(DATA, payloadsize="4"), Data("0", "1", "111", "xyz1", "4")),
            (wire(DATA, payloadsize=4), Data("0", "1", "111", "xyz1", 4)),
            (wire(DATA, payload='say "xyz1" \\'), Data("0", "1", "111", 'say "xyz1" \\')),
            (wire(DATA, payload='"', payloadsize=1), Data("0", "1", "111", '"', 1)),
            (wire(DATA, payload="\\", payloadsize="1"), Data("0", "1", "111", "\\", "1")),
            (wire(DATA, payload="}{€😀\n"), Data("0", "1", "111", "}{€😀\n")),
            (wire(DATA, payload=""), Data("0", "1", "111", "")),
            (data("1", "PP_1", "xyz1"), Data("0", "1", "PP_1", "xyz1", "4")),
        ):
            self.assertEqual(peek_data(raw), packet)
            self.assertEqual(peek_ack(raw), None)

    def test_acks_in_their_usual_forms(self) -> None:
        for raw, packet in (
            (wire(ACK), Ack("2", "100", "1", "b040")),
            (wire(ACK, payloadsize="4"), Ack("2", "100", "1", "b040", "4")),
            (wire(ACK, payloadsize=4), Ack("2", "100", "1", "b040", 4)),
            (wire(ACK, payload='{"a":"\\"}'), Ack("2", "100", "1", '{"a":"\\"}')),
            (ack("100", "1", "b040"), Ack("2", "100", "1", "b040", "4")),
        ):
            self.assertEqual(peek_ack(raw), packet)
            self.assertEqual(peek_data(raw), None)

    def test_it_leaves_to_decode_what_is_unusual(self) -> None:
        for raw in (
            *(wire(DATA, srcid=1), wire(DATA, type=0), wire(DATA, privPoliId=111), wire(DATA, x=1), wire(DATA, x="")),
            *(wire(DATA, "privPoliId", privPolyId="111"), wire(DATA, payloadsize=1 << 64), wire(SETUP), wire(ERROR)),
            *(wire(DATA, srcid="a\x07"), wire(DATA, privPoliId="a\u2028"), wire(ACK, srcid="\x07"), b"", b"{", b"{}"),
            *(wire(ACK, destid="a\n"), wire(DATA)[:-1], wire(DATA) + b"x", b'{"a":' * 5000, b'{"a":' + b"[" * 100_000),
            *(with_raw(b'"srcid":"2"'), with_raw(b'"x":"\xff"'), with_raw(b'"\xff":1'), with_raw(rb'"x":"\""')),
            *(with_raw(b'"payloadsize":1,"payloadsize":"4"'), with_raw(b'"payloadsize":"\\"","payloadsize":4')),
            *(wire(DATA).replace(b"xyz1", rb"\ud800"), wire(DATA).replace(b"xyz1", b"\xff")),
        ):
            self.assertEqual(peek_data(raw), None, raw[:200])
            self.assertEqual(peek_ack(raw), None, raw[:200])


class PeekManyTests(SynchronousTestCase):
    """Packets that came together are read together, if each of them is a usual one."""

    def assert_read(self, fields: Fields, *raws: bytes) -> None:
        peek, peek_many = (peek_data, peek_many_data) if fields is DATA else (peek_ack, peek_many_acks)
        expected = [(raw, peek(raw)) for raw in raws]
        for between in (b"", b"\n", b" ", b"\r\n", b"\n \t\n"):
            self.assertEqual(expected, peek_many(between.join(raws)), raws)

    def assert_left(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.assertIsNone(peek_many_data(chunk), chunk)
            self.assertIsNone(peek_many_acks(chunk), chunk)

    def test_usual_packets(self) -> None:
        for fields in (DATA, ACK):
            for count in range(1, 20):
                self.assert_read(fields, *(wire(fields, payload=f"xyz{number}") for number in range(count)))
            for size in ("4", 4):
                raw = wire(fields, payloadsize=size)
                self.assert_read(fields, raw)
                self.assert_read(fields, raw, wire(fields, srcid="2", payloadsize=size), raw)
        self.assert_read(DATA, data("1", "PP_1", "x{y"), data("2", "PP_2", ""))
        self.assert_read(ACK, ack("100", "1", "~ !"), ack("200", "", "0" * 40).replace(b'""', b'"2"'))

    def test_of_the_other_kind(self) -> None:
        self.assertIsNone(peek_many_data(wire(ACK) * 2))
        self.assertIsNone(peek_many_acks(wire(DATA) * 2))
        self.assert_left(wire(DATA) + wire(ACK), wire(SETUP) * 2, wire(ERROR), b"{}{}", b"{", b"")

    def test_one_that_is_unusual_has_all_be_read_one_by_one(self) -> None:
        for unusual in (
            *(wire(DATA, srcid=1), wire(DATA, x=1), wire(DATA, "payload"), wire(DATA)[:-1], with_raw(b'"x":"1"')),
            *(with_raw(b'"srcid":"2"'), with_raw(b'"payload":"y"'), with_raw(b'"payloadsize":1,"payloadsize":"4"')),
            *(wire(DATA, payload='"'), wire(DATA, payload="\\"), wire(DATA, payload="é"), wire(DATA, srcid="a\x7f")),
            wire(DATA, srcid="DEL").replace(b"DEL", b"\x7f"),
            *(wire(DATA, srcid="\x07"), wire(DATA, privPoliId="\n"), wire(DATA, payload="}"), wire(DATA, payload="}{")),
            *(
                wire(DATA, payload="x").replace(b"x", b"\xff"),
                wire(DATA, payload="é").replace(rb"\u00e9", "é".encode()),
            ),
            *(wire(DATA, payloadsize="4"), wire(DATA, payloadsize=4)),
        ):
            self.assert_left(unusual + wire(DATA), wire(DATA) + unusual, wire(DATA) + unusual + wire(DATA))

    def test_what_one_lacks_another_does_not_make_up_for(self) -> None:
        """Two quotes too many here and two too few there are the right number."""
        more, fewer = wire(DATA, payloadsize="4"), wire(DATA)
        self.assert_left(more + fewer, more + fewer + fewer, with_raw(b'"payloadsize":4') * 2 + fewer * 2)
        self.assert_left(with_raw(b'"x":""') + with_raw(b'"payloadsize":4'), with_raw(b'"payloadsize":"4"') + more[:-1])

    def test_white_space_is_no_part_of_them(self) -> None:
        for space in (b" ", b"\n", b"\r\n", b"\n \t\n"):
            lines = wire(DATA).replace(b" ", space)
            self.assert_read(DATA, lines, wire(DATA), lines.replace(b"}", space + b"}"))
            self.assertEqual([(wire(DATA), peek_data(wire(DATA)))] * 2, peek_many_data(space + wire(DATA) * 2))
        for between in (b",", b"x", b"\x0b", b"\x0c", b"\0"):
            self.assert_left(wire(DATA) + between + wire(DATA))
        self.assert_left(wire(DATA) + b"\n", wire(DATA) + b"}")

    @given(
        st.lists(nearly_packets(DATA) | st.builds(data, ids, ids, texts), min_size=1, max_size=4),
        st.sampled_from([b"", b"\n", b" "]),
    )
    def test_they_are_what_is_read_one_by_one(self, raws: list[bytes], between: bytes) -> None:
        chunk = between.join(raws)
        # The framer asks about nothing else.
        if chunk.startswith(b"{") and chunk.endswith(b"}"):
            found = peek_many_data(chunk)
            if found is not None:
                framer = Framer(peek_data, 1 << 20)
                framer.feed(chunk)
                self.assertEqual(list(iter(framer.next, None)), found)


class WordsTests(SynchronousTestCase):
    """The sender is told in words what is wrong."""

    def assert_told(self, words: str, raw: bytes) -> None:
        refused: PacketError = self.assertRaises(PacketError, decode, raw)
        self.assertEqual((words, "1"), (str(refused), refused.destid))

    def test_no_packet(self) -> None:
        for words, raw in (
            ('type must be "0" (data), "1" (setup), "2" (ACK) or "3" (error)', wire(DATA, type="9")),
            ('type must be "0" (data), "1" (setup), "2" (ACK) or "3" (error)', wire(DATA, "type")),
            ('delivered must be "no" or "unknown"', wire(ERROR, srcid="1", delivered="x")),
            ("policy has characters that can't be printed", wire(DATA, privPoliId="\n")),
            ("a number is out of range", with_raw(b'"x":1e400')),
            ("a key stands twice", with_raw(b'"payload":"x"')),
            ("half of a surrogate pair is no text", with_raw(rb'"x":"\ud800"')),
            ("privPoliId and privPolyId at once: which policy counts?", wire(DATA, privPolyId="111")),
        ):
            self.assert_told(words, raw)
        for kind, raw in (
            ("data packet", wire(DATA, "payload")),
            ("setup packet", wire(SETUP, "listenport", id="1")),
            ("ACK", wire(ACK, "payload", srcid="1")),
            ("error packet", wire(ERROR, "payload", srcid="1")),
        ):
            missing = "listenport" if kind == "setup packet" else "payload"
            self.assert_told(f"no {kind}: Object missing required field `{missing}`", raw)

    def test_nobody_is_told_unless_it_is_known_who(self) -> None:
        self.assertEqual("", PacketError("no packet").destid)
        refused: PacketError = self.assertRaises(PacketError, decode, b'{"privPoliId":"1","privPolyId":"1"}')
        self.assertEqual(
            ("privPoliId and privPolyId at once: which policy counts?", ""), (str(refused), refused.destid)
        )

    def test_no_json(self) -> None:
        for words, raw in (
            ("a packet is a JSON object", b"[]"),
            ("not JSON: NaN is no JSON", b'{"a":NaN}'),
            ("not JSON: -Infinity is no JSON", b'{"a":1,"a":-Infinity}'),
        ):
            refused: StreamError = self.assertRaises(StreamError, decode, raw)
            self.assertEqual(("bad-packet", words), (refused.code, str(refused)))
        refused = self.assertRaises(StreamError, decode, b"{")
        self.assertEqual(("bad-packet", "not JSON: Expect"), (refused.code, str(refused)[:16]))


class SenderTests(SynchronousTestCase):
    """A packet's error is for its sender, as far as it can be read who that is."""

    def assert_for(self, sender: str, *packets: bytes) -> None:
        for raw in packets:
            refused: PacketError = self.assertRaises(PacketError, decode, raw)
            self.assertEqual(refused.destid, sender, raw)

    def test_the_client_of_a_data_packet(self) -> None:
        self.assert_for("1", wire(DATA, "payload"), wire(DATA, payload=1), wire(DATA, privPoliId=""))
        self.assert_for("1", wire(DATA, type="9"))
        self.assert_for("1", wire(DATA, "type"), wire(DATA, privPolyId="111"), wire(DATA, srcid=1, payload=None))
        self.assert_for("1", wire(DATA).replace(b"xyz1", rb"\ud800"), wire(DATA, type=None))
        self.assert_for("1", wire(DATA, privPoliId="\n"))
        self.assert_for("-5", wire(DATA, "payload", srcid=-5))
        self.assert_for("k" * 256, wire(DATA, "payload", srcid="k" * 256))

    def test_the_client_of_a_packet_with_a_key_twice_or_a_number_out_of_range(self) -> None:
        self.assert_for("1", with_raw(b'"payload":""'), with_raw(b'"x":[{"a":1,"A":1}]'), with_raw(b'"x":1e400'))
        self.assert_for("1", with_raw(b'"type":"0"'), with_raw(b'"x":' + b"9" * 5000))
        self.assert_for("100", b'{"a":1,"a":2,"id":100,"type":1}', b'{"a":1e400,"type":"1","srcid":"7","id":"100"}')
        self.assert_for("", with_raw(b'"srcid":"1"'), with_raw(b'"SRCID":"2"'), with_raw(rb'"\u0073rcid":"2"'))
        self.assert_for("", b'{"srcid":1e400}', b'{"srcid":' + b"9" * 5000 + b',"a":1e400}', b'{"srcid":1e1,"a":1e400}')

    def test_the_server_of_a_setup_packet(self) -> None:
        self.assert_for("100", wire(SETUP, listenport=0), wire(SETUP, type=1, id=100, listenport="x"))
        self.assert_for("100", wire(SETUP, "listenport", srcid="7"), wire(SETUP, "privPolyId", srcid=7))

    def test_the_server_of_an_ack(self) -> None:
        self.assert_for("100", wire(ACK, "payload"), wire(ACK, "destid"), wire(ACK, destid="\n"), wire(ACK, payload=0))

    def test_nobody_where_it_cannot_be_read(self) -> None:
        senders: Values = ("", None, True, 1.5, [], {}, ["1"], "k" * 257, "a\nb", "\x07", 1 << 64, 10**30, -(10**30))
        for sender in senders:
            self.assert_for("", wire(DATA, srcid=sender, payload=1), wire(SETUP, id=sender, listenport=0))
        self.assert_for("", b"{}", wire(DATA, "srcid"), wire(SETUP, "id"), wire(SETUP, "id", srcid="1"))
        self.assert_for("", wire(DATA).replace(b'"1"', rb'"\ud800"'))

    def test_what_is_refused_is_not_sent_back(self) -> None:
        for fields in KINDS:
            for name in fields:
                if name != "payload":
                    refused = self.assertRaises(PacketError, decode, wire(fields, **{name: "\n" * 100_000}))
                    self.assertTrue(str(refused).isprintable() and len(str(refused)) < 200, str(refused)[:200])

    @given(nearly_packets(DATA) | nearly_packets(SETUP) | nearly_packets(ACK))
    def test_it_can_always_be_answered(self, raw: bytes) -> None:
        try:
            decode(raw)
        except PacketError as refused:
            to, text = refused.destid, str(refused)
            answer = decode(error(PROXY_ID, to, "bad-packet", "no", text))
            self.assertEqual(answer, Error("3", PROXY_ID, to, "bad-packet", "no", text, str(len(text))))
        except StreamError as refused:
            self.assertEqual(refused.code, "bad-packet")


class EncodeTests(SynchronousTestCase):
    """What is written is read again, by the quick way too, with the right size."""

    @given(ids, ids, texts)
    def test_data(self, client: str, policy: str, payload: str) -> None:
        raw = data(client, policy, payload)
        self.assertEqual(decode(raw), Data("0", client, policy, payload, str(len(payload))))
        self.assertEqual(peek_data(raw), decode(raw))

    @given(ids, ids, texts)
    def test_ack(self, source: str, destination: str, payload: str) -> None:
        raw = ack(source, destination, payload)
        self.assertEqual(decode(raw), Ack("2", source, destination, payload, str(len(payload))))
        self.assertEqual(peek_ack(raw), decode(raw))

    @given(ids | st.just(""), st.sampled_from(["bad-packet", "server-lost"]), st.sampled_from(["no", "unknown"]), texts)
    def test_error(self, destination: str, code: str, delivered: str, text: str) -> None:
        raw = error(PROXY_ID, destination, code, delivered, text)  # type: ignore[arg-type]
        expected = Error("3", PROXY_ID, destination, code, delivered, text, str(len(text)))  # type: ignore[arg-type]
        self.assertEqual(decode(raw), expected)

    def test_setup(self) -> None:
        self.assertEqual(json.loads(setup("100", "111", 5000)), SETUP)
        choices: tuple[dict[str, Any], ...] = (
            *({"pipeline": 16}, {"connections": 2}, {"lease": 30}, {"lease": 30.0}, {"lease": 0.5}, {"weight": 3}),
            *({"drain": True}, {"token": "secret"}, {"pipeline": 1, "connections": 1, "lease": 1, "weight": 1}),
        )
        for chosen in choices:
            raw = setup("100", "111", 5000, **chosen)
            self.assertEqual(json.loads(raw), {**SETUP, **chosen})
            self.assertEqual(decode(raw), decode(wire(SETUP, **chosen)))

    def test_as_deployed_peers_write_it(self) -> None:
        self.assertEqual(
            json.loads(data("1", "111", "x€😀")),
            {"type": "0", "srcid": "1", "privPoliId": "111", "payload": "x€😀", "payloadsize": "3"},
        )
        self.assertEqual(
            json.loads(ack("100", "1", '"')),
            {"type": "2", "srcid": "100", "destid": "1", "payload": '"', "payloadsize": "1"},
        )
        self.assertEqual(
            json.loads(error("rproxy", "1", "timeout", "unknown", "Late.")),
            {**ERROR, "error": "timeout", "delivered": "unknown", "payload": "Late.", "payloadsize": "5"},
        )


class SizeTests(SynchronousTestCase):
    """``payloadsize`` is the number of the payload's characters, as a text or an integer, or isn't there."""

    def test_right(self) -> None:
        for size in (UNSET, 3, "3"):
            self.assertFalse(size_is_wrong(Data("0", "1", "111", "x€😀", size)))
            self.assertFalse(size_is_wrong(Ack("2", "100", "1", "x€😀", size)))
        self.assertFalse(size_is_wrong(Data("0", "1", "111", "", 0)))
        self.assertFalse(size_is_wrong(Data("0", "1", "111", "", "0")))

    def test_wrong(self) -> None:
        for size in (2, 4, 0, -3, 8, "8", "4", "", "03", " 3", "3.0", "payloadsize", "three"):
            self.assertTrue(size_is_wrong(Data("0", "1", "111", "x€😀", size)))
            self.assertTrue(size_is_wrong(Ack("2", "100", "1", "x€😀", size)))

    @given(texts)
    def test_of_what_is_written(self, payload: str) -> None:
        for packet in (decode(data("1", "111", payload)), decode(ack("100", "1", payload))):
            assert isinstance(packet, Data | Ack)
            self.assertFalse(size_is_wrong(packet))
